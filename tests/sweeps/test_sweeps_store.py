"""The folder of a sweep: cells that change their settings or become possible, and runs taken over from another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sweeps_driver import fake_sweep

from hyperkit.errors import HyperkitError
from hyperkit.sweeps.cell import Cell
from hyperkit.sweeps.local import LocalEngine
from hyperkit.sweeps.store import SweepDirectory

CELL = Cell("nvs", "quickstart", {"training": {"steps": 10, "threads": 1}}, {"backbone": "a"}).with_seed(0)


def test_other_settings_under_the_same_labels_are_refused_and_named(tmp_path: Path) -> None:
    SweepDirectory.create(tmp_path / "sweep", [CELL])
    longer = replace(CELL, overrides={"training": {"steps": 20, "threads": 1, "seed": 0}})
    with pytest.raises(HyperkitError, match=r"training\.steps: 10 -> 20"):
        SweepDirectory.create(tmp_path / "sweep", [longer])
    assert len(SweepDirectory.open(tmp_path / "sweep").entries()) == 1
    assert not (tmp_path / "sweep" / "cells" / longer.folder_name).exists()


def test_resolved_settings_are_compared_where_they_are_known(tmp_path: Path) -> None:
    known = replace(CELL, parameters={"training": {"steps": 10, "save_every": 5}, "algorithm": "ipc"})
    SweepDirectory.create(tmp_path / "sweep", [known])
    saved_oftener = replace(known, parameters={"training": {"steps": 10, "save_every": 1}, "algorithm": "ipc"})
    assert len(SweepDirectory.create(tmp_path / "sweep", [saved_oftener]).entries()) == 1
    with pytest.raises(HyperkitError, match="algorithm: 'ipc' -> 'ponp'"):
        SweepDirectory.create(
            tmp_path / "sweep", [replace(known, parameters={**known.parameters, "algorithm": "ponp"})]
        )


def test_a_cell_that_became_possible_takes_the_place_of_one_that_was_not(tmp_path: Path) -> None:
    SweepDirectory.create(tmp_path / "sweep", [replace(CELL, not_applicable="no such backbone yet")])
    sweep = SweepDirectory.create(tmp_path / "sweep", [CELL])
    assert [entry.status() for entry in sweep.entries()] == ["pending"]


def test_finished_runs_of_another_sweep_are_taken_over(tmp_path: Path) -> None:
    first = fake_sweep(tmp_path / "first", 3, fates=("ends well", "fails", "ends well"))
    LocalEngine(first, jobs=2).run()
    second = fake_sweep(tmp_path / "second", 4)
    assert second.adopt(first) == 2  # the failed one is not
    assert [folder.status() for folder in second.folders()] == ["done", "pending", "done", "pending"]
    (tmp_path / "mended").touch()
    LocalEngine(second, jobs=2).run()
    assert [folder.result()["test"]["all"]["psnr"] for folder in second.folders()] == [20, 21, 22, 23]  # type: ignore[index]
    begun = [line for line in (tmp_path / "log.jsonl").read_text().splitlines() if '"started"' in line]
    assert len(begun) == 3 + 2
    assert second.adopt(first) == 0


def test_taking_over_leaves_the_other_sweep_as_it_was(tmp_path: Path) -> None:
    first = fake_sweep(tmp_path / "first", 1)
    LocalEngine(first).run()
    before = {path: path.read_bytes() for path in (tmp_path / "first").rglob("*") if path.is_file()}
    second = fake_sweep(tmp_path / "second", 1)
    second.adopt(first)
    claim = second.folders()[0].claim()
    assert claim is not None
    claim.fail("as if something went wrong here")
    claim.release()
    assert {path: path.read_bytes() for path in (tmp_path / "first").rglob("*") if path.is_file()} == before
