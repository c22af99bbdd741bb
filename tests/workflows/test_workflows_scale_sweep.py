"""A grid as one command: what is refused, what is planned, and a small sweep from its estimate to its report."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperkit.data.workers import available_cores
from hyperkit.errors import HyperkitError
from hyperkit.sweeps.estimate import Probe
from hyperkit.sweeps.local import LocalEngine
from hyperkit.workflows import estimate_sweep
from hyperkit.workflows.estimate_sweep import estimate
from hyperkit.workflows.scale_sweep import Resources, _engine, open_sweep, plan_sweep, scale_sweep

GRID: dict[str, Any] = {"axes": ["hypernet.groups=1,2"], "recipe": "debug"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "needs a study, or a task"),
        ({"task": "image"}, "Nothing varies"),
        ({"task": "image", "axes": ["backbone=nano"], "scale": "quick"}, "--scale quick belongs to a study"),
        ({"study": "table1", "axes": ["backbone=nano"]}, "--axis cannot be given with it"),
        ({"study": "table1", "recipe": "debug"}, "--recipe cannot be given with it"),
        ({"study": "table1", "task": "audio"}, "the task audio cannot be given with it"),
        ({"study": "table7"}, "There is no study 'table7'"),
        ({"study": "table1", "scale": "papper"}, "There is no scale 'papper'. Did you mean 'paper'"),
        ({"study": "table1", "scale": "paper"}, "needs the paper's data"),
        ({"task": "image", "axes": ["bakcbone=nano"]}, "Did you mean 'backbone'"),
        ({"task": "image", "axes": ["backbone=nanoo"]}, "Did you mean 'nano'"),
        ({"task": "imag", "axes": ["backbone=nano"]}, "There is no task 'imag'"),
        ({"task": "distill", "axes": ["hypernet.static=true"]}, "has no train"),
        ({"task": "image", **GRID, "overrides": {"training": {"stepps": 3}}}, "stepps"),
        ({"task": "image", **GRID, "seeds": 0}, "at least 1"),
        ({"task": "image", **GRID, "reuse": ["nowhere"]}, "nowhere is not the folder of a sweep"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_run(
    asked: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(HyperkitError, match=said):
        plan_sweep(**asked, out=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_the_folder_follows_from_the_question_so_that_the_same_command_goes_on() -> None:
    assert plan_sweep(study="groups", scale="debug").out == Path("runs/sweep-groups-debug")
    assert plan_sweep("image", **GRID, seeds=3).out == plan_sweep("image", **GRID).out
    assert plan_sweep("image", **GRID).out == Path("runs/sweep-image-hypernet.groups")


def test_a_study_may_be_trained_shorter_and_its_cells_know_it() -> None:
    cells = plan_sweep(study="groups", scale="quick", overrides={"training": {"steps": 7}}, seeds=2).cells
    assert len(cells) == 4 * 2
    assert all(cell.parameters is not None and cell.parameters["training"]["steps"] == 7 for cell in cells)


def test_engines_and_their_options_are_checked(tmp_path: Path) -> None:
    plan = plan_sweep("image", **GRID, out=tmp_path / "sweep")
    for options, said in (
        ({"engine": "slurm"}, "There is no engine 'slurm'"),
        ({"engine": "ray", "jobs": 2}, "--jobs belongs to --engine local"),
        ({"ray_address": "auto"}, "--ray-address belongs to --engine ray"),
        ({"devices_per_cell": 99}, "this machine has"),
        ({"jobs": 0}, "--jobs 0 is less than 1"),
    ):
        with pytest.raises(HyperkitError, match=said):
            scale_sweep(plan, Resources(**options))
        with pytest.raises(HyperkitError, match=said):
            estimate(plan, Resources(**options))
    assert not plan.out.exists()


def test_several_devices_belong_to_the_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperkit.workflows.scale_sweep.visible_gpus", lambda: ["0", "1", "2", "3"])
    plan = plan_sweep("image", **GRID, devices_per_cell=2, out=tmp_path / "sweep")
    assert {cell.parameters["training"]["devices"] for cell in plan.cells if cell.parameters} == {2}
    sweep = open_sweep(plan)
    engine = _engine(plan, sweep, Resources(devices_per_cell=2), None)
    assert isinstance(engine, LocalEngine)
    assert (engine._groups, engine.jobs) == (["0,1", "2,3"], min(2, available_cores()))
    assert "--set training.devices=2" in " ".join(sweep.folders()[0].definition()["command"])
    on_cpu = plan_sweep("image", **GRID, overrides={"training": {"device": "cpu"}}, out=tmp_path / "cpu")
    engine = _engine(on_cpu, open_sweep(on_cpu), Resources(jobs=7), None)
    assert isinstance(engine, LocalEngine)
    assert (engine._groups, engine.jobs) == ([], 7)  # GPUs that cells do not use are no bound


PROBE = Probe(2.0, 0.5, 0.0, 1.0, 1.0, 3, 1_400_000, 1_500_000, 10**9, first_use=30.0)


def test_an_estimate_counts_what_is_left_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def probe(cell: Any, devices: str | None) -> Probe | str:
        asked.append(cell.folder_name)
        return "no such weights" if cell.labels["hypernet.groups"] == 2 else PROBE

    monkeypatch.setattr(estimate_sweep, "_probe", probe)
    steps = {"training": {"steps": 10}}
    plan = plan_sweep("image", **GRID, overrides=steps, seeds=2, out=tmp_path / "sweep")
    found = estimate(plan, Resources(jobs=2))
    assert len(asked) == 2  # one of each kind, whatever the seed
    assert found.left == [9.0, 9.0]
    assert (found.seconds, found.alone) == (39.0, 48.0)  # the data is made once
    assert [cell.reason for cell in found.cells] == ["", "", "no such weights", "no such weights"]
    assert not plan.out.exists()
    # a finished cell costs nothing, and twice the same cell is one
    folder = open_sweep(plan).folders()[0]
    claim = folder.claim()
    assert claim is not None
    claim.finish({}, {})
    claim.release()
    again = estimate(replace(plan, cells=[*plan.cells, plan.cells[1]]), Resources(jobs=1))
    assert again.left == [9.0]
    assert [cell.status for cell in again.cells] == ["done", "pending", "pending", "pending", "pending"]
    assert estimate(plan, Resources(engine="ray")).seconds is None
    claim = open_sweep(plan).folders()[1].claim()
    assert claim is not None
    claim.fail("as if [/it] had [red]failed")
    claim.release()
    assert estimate(plan).left == []
    assert estimate(plan, retry_failed=True).left == [9.0]
    found.show()
    assert json.dumps(again.to_json())


def test_a_run_that_cannot_be_measured_says_why(tmp_path: Path) -> None:
    plan = plan_sweep("image", **GRID, data=str(tmp_path / "nowhere"), out=tmp_path / "sweep")
    outcome = estimate_sweep._probe(plan.cells[0])
    assert isinstance(outcome, str)
    assert "nowhere" in outcome


def test_a_sweep_is_measured_run_reported_and_gone_on_with(tmp_path: Path) -> None:
    plan = plan_sweep("image", **GRID, out=tmp_path / "sweep", command="hyperkit scale-sweep image ...")
    measured = estimate_sweep._probe(plan.cells[0])
    assert isinstance(measured, Probe)
    assert measured.encoder_parameters < measured.parameters
    assert 0 < measured.step < measured.start_up
    result = scale_sweep(plan, Resources(jobs=2))
    assert (result.counts, result.failed) == ({"done": 2}, 0)
    with open(result.files["csv"]) as handle:
        rows = [
            row
            for row in csv.DictReader(handle)
            if (row["split"], row["class"], row["metric"]) == ("test", "all", "psnr")
        ]
    stored = [folder.result() for folder in result.sweep.folders()]
    assert [float(row["value"]) for row in rows] == [r["test"]["all"]["psnr"] for r in stored if r is not None]
    assert "hyperkit scale-sweep image ..." in result.files["html"].read_text()
    result.show()
    # the same cells in another sweep are not run again; the new one is
    more = plan_sweep("image", axes=["hypernet.groups=1,2,4"], recipe="debug", out=tmp_path / "more", reuse=[plan.out])
    states = [folder.status() for folder in open_sweep(more).folders()]
    assert states == ["done", "done", "pending"]
