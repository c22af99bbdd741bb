import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hyperkit.kernels import tuning

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(tuning, "_known", {})
    return tmp_path


def slow_but(best: int, calls: list[int]) -> Callable[[int], object]:
    def evaluate(size: int) -> None:
        calls.append(size)
        time.sleep(0.001 if size == best else 0.01)

    return evaluate


def test_the_fastest_is_found_once_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    assert tuning.tuned_chunk("a", CPU, slow_but(8192, calls)) == 8192
    measured = len(calls)
    assert measured > len(tuning.CHUNKS)
    assert tuning.tuned_chunk("a", CPU, slow_but(2048, calls)) == 8192
    monkeypatch.setattr(tuning, "_known", {})  # another process
    assert tuning.tuned_chunk("a", CPU, slow_but(2048, calls)) == 8192
    assert len(calls) == measured
    assert tuning.tuned_chunk("b", CPU, slow_but(2048, calls)) == 2048
    stored = json.loads((cache / "tuning.json").read_text())
    assert sorted(stored.values()) == [2048, 8192]
    assert all(torch.__version__ in key and "threads" in key for key in stored)


@pytest.mark.parametrize("content", ["not json", "[]", '{"x": "y"}'])
def test_a_damaged_file_is_measured_again(content: str, cache: Path) -> None:
    (cache / "tuning.json").write_text(content)
    assert tuning.tuned_chunk("a", CPU, slow_but(4096, [])) == 4096
    assert 4096 in json.loads((cache / "tuning.json").read_text()).values()


def test_a_size_that_is_not_offered_is_not_believed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning.tuned_chunk("a", CPU, slow_but(4096, []))
    path = cache / "tuning.json"
    path.write_text(path.read_text().replace("4096", "17"))
    monkeypatch.setattr(tuning, "_known", {})
    assert tuning.tuned_chunk("a", CPU, slow_but(2048, [])) == 2048


def test_without_a_cache_it_is_measured_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tuning, "_known", {})
    assert tuning.tuned_chunk("a", CPU, slow_but(4096, [])) == 4096
