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


def begin(sweep: SweepDirectory) -> None:
    for folder in sweep.to_run():
        claim = folder.claim()
        assert claim is not None
        claim.start()
        claim.put_back("stopped")
        claim.release()


def test_other_settings_under_the_same_labels_are_refused_and_named(tmp_path: Path) -> None:
    begin(SweepDirectory.create(tmp_path / "sweep", [CELL]))
    longer = replace(CELL, overrides={"training": {"steps": 20, "threads": 1, "seed": 0}})
    with pytest.raises(HyperkitError, match=r"training\.steps: 10 -> 20"):
        SweepDirectory.create(tmp_path / "sweep", [longer])
    assert len(SweepDirectory.open(tmp_path / "sweep").entries()) == 1
    assert not (tmp_path / "sweep" / "cells" / longer.folder_name).exists()


def test_resolved_settings_are_compared_where_they_are_known(tmp_path: Path) -> None:
    known = replace(CELL, parameters={"training": {"steps": 10, "save_every": 5}, "algorithm": "ipc"})
    begin(SweepDirectory.create(tmp_path / "sweep", [known]))
    saved_oftener = replace(known, parameters={"training": {"steps": 10, "save_every": 1}, "algorithm": "ipc"})
    assert len(SweepDirectory.create(tmp_path / "sweep", [saved_oftener]).entries()) == 1
    with pytest.raises(HyperkitError, match="algorithm: 'ipc' -> 'ponp'"):
        SweepDirectory.create(
            tmp_path / "sweep", [replace(known, parameters={**known.parameters, "algorithm": "ponp"})]
        )


def test_a_cell_that_was_never_started_gives_way(tmp_path: Path) -> None:
    SweepDirectory.create(tmp_path / "sweep", [CELL])  # as by a command with a slip in it, refused a moment later
    longer = replace(CELL, overrides={"training": {"steps": 20, "threads": 1, "seed": 0}})
    sweep = SweepDirectory.create(tmp_path / "sweep", [longer])
    assert [folder.identity for folder in sweep.folders()] == [longer.identity]


def test_a_folder_belongs_to_one_study_at_one_scale(tmp_path: Path) -> None:
    about = {"study": "table1", "scale": "debug"}
    SweepDirectory.create(tmp_path / "sweep", [CELL], about)
    for other, said in (({"study": "table1", "scale": "quick"}, "table1 debug, not table1 quick"), ({}, "not a grid")):
        with pytest.raises(HyperkitError, match=said):
            SweepDirectory.create(tmp_path / "sweep", [CELL], other)
    SweepDirectory.create(tmp_path / "sweep", [CELL], about)


def test_engines_run_what_was_asked_for_and_reports_know_all(tmp_path: Path) -> None:
    fake_sweep(tmp_path / "sweep", 3)
    sweep = fake_sweep(tmp_path / "sweep", 1)
    LocalEngine(sweep, jobs=2).run()
    assert [folder.status() for folder in sweep.folders()] == ["done", "pending", "pending"]
    LocalEngine(SweepDirectory.open(tmp_path / "sweep"), jobs=2).run()
    assert sweep.counts() == {"done": 3}


def test_a_cell_that_says_done_without_a_result_is_not(tmp_path: Path) -> None:
    sweep = fake_sweep(tmp_path / "sweep", 1)
    LocalEngine(sweep).run()
    folder = sweep.folders()[0]
    (folder.path / "result.json").unlink()
    assert folder.status() == "pending"
    LocalEngine(sweep).run()
    assert folder.status() == "done"


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
    run = first.folders()[0].run
    for name in ("checkpoints/last.pt", "metrics.jsonl", ".lock"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("as it was")
    before = {path: path.read_bytes() for path in (tmp_path / "first").rglob("*") if path.is_file()}
    second = fake_sweep(tmp_path / "second", 1)
    second.adopt(first)
    copy = second.folders()[0].run
    assert (copy / "checkpoints" / "last.pt").stat().st_ino == (run / "checkpoints" / "last.pt").stat().st_ino
    assert not (copy / ".lock").exists()
    with open(copy / "metrics.jsonl", "a") as handle:
        handle.write("one line more")
    claim = second.folders()[0].claim()
    assert claim is not None
    claim.fail("as if something went wrong here")
    claim.release()
    assert {path: path.read_bytes() for path in (tmp_path / "first").rglob("*") if path.is_file()} == before
