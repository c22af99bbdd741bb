"""How many processors this process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyperkit.data import workers
from hyperkit.data.workers import available_cores


@pytest.mark.parametrize(
    ("quota", "most"),
    [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("", 64), (None, 64)],
)
def test_a_container_may_use_what_its_quota_allows(
    quota: str | None, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(workers, "QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert available_cores() == most


def test_affinity_bounds_what_a_quota_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    monkeypatch.setattr(workers, "QUOTA", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text("800000 100000\n")
    assert available_cores() == 1
