"""A grid of trainings as one command: planned, estimated, run on this machine or a cluster, and reported."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hyperkit.config import merge
from hyperkit.errors import HyperkitError, unknown_name
from hyperkit.sweeps import layout
from hyperkit.sweeps.cell import Cell
from hyperkit.sweeps.grid import expand, parse_axis
from hyperkit.sweeps.local import LocalEngine
from hyperkit.sweeps.ray_engine import RayEngine
from hyperkit.sweeps.report import write_report
from hyperkit.sweeps.store import SweepDirectory
from hyperkit.sweeps.studies import STUDIES, about, find_study, study_cells
from hyperkit.sweeps.table import tidy_rows
from hyperkit.workflows.configure import from_recipe

Engine = Literal["local", "ray"]
Watch = Callable[[SweepDirectory], None]

_NOTHING = ("", "n/a", "–")


@dataclass(frozen=True)
class Plan:
    """The cells of a sweep, before anything is run.

    Attributes:
        cells: in order, those that are not applicable among them.
        about: name, source and notes of the study, or the title of the grid.
        out: folder of the sweep.
        reuse: sweeps whose finished runs are taken over.
    """

    cells: Sequence[Cell]
    about: Mapping[str, Any]
    out: Path
    reuse: Sequence[Path] = ()

    @property
    def on_cpu(self) -> bool:
        """Whether all cells are told to run on the CPU, whatever else there is."""
        return all(cell.parameters["training"]["device"] == "cpu" for cell in self.cells if cell.parameters is not None)

    @property
    def devices(self) -> list[str]:
        """The GPUs of this machine that the cells share."""
        return [] if self.on_cpu else visible_gpus()


def plan_sweep(
    task: str | None = None,
    *,
    study: str | None = None,
    scale: str | None = None,
    axes: Sequence[str] = (),
    recipe: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    seeds: int = 1,
    threads: int = 1,
    devices_per_cell: int | None = None,
    data: str | None = None,
    out: str | os.PathLike[str] | None = None,
    reuse: Sequence[str | os.PathLike[str]] = (),
    command: str | None = None,
) -> Plan:
    """Return the cells of a study, or of a grid of a task's settings.

    Args:
        task: "nvs", "segment", "image" or "audio", of a grid.
        study: name of a table or figure, in the place of a grid.
        scale: of the study: "debug", "quick" or "paper"; None: quick.
        axes: what varies in a grid, each as "name=value,value".
        recipe: of a grid: what all cells start from; None: quickstart.
        overrides: nested values laid over all cells.
        seeds: runs of each cell, with the seeds 0, 1, ...
        threads: CPU threads of each run. They belong to the cell: sums depend on them in their last bits.
        devices_per_cell: GPUs of each run; None: one where there are any.
        data: folder of the data; built-in by default.
        out: folder of the sweep; ``runs/sweep-...`` after the study or the axes by default. What is there goes on.
        reuse: folders of sweeps whose finished runs of the same settings are not run again.
        command: what asked for the sweep, for its report.

    Raises:
        HyperkitError: neither or both of study and grid, an unknown name, or a cell whose configuration is not valid.
    """
    if threads < 1 or (devices_per_cell or 1) < 1 or seeds < 1:
        raise HyperkitError("--seeds, --threads and --devices-per-cell are at least 1.")
    common, runs = dict(overrides or {}), {"seeds": seeds, "threads": threads}
    if (devices_per_cell or 1) > 1:
        common = merge(common, {"training": {"devices": devices_per_cell}})
    _check_asked(task, study, scale, axes, recipe)
    folders = [SweepDirectory.open(path).path for path in reuse]
    asked = {} if command is None else {"command": command}
    # a sweep may be gone on with from elsewhere, and its cells may run on other machines
    data = str(Path(data).absolute()) if data is not None and Path(data).exists() else data
    recipe = str(Path(recipe).absolute()) if recipe is not None and Path(recipe).is_file() else recipe
    if study is not None:
        size: Any = scale or "quick"
        found = find_study(study)
        cells = study_cells(found, size, **runs, data=data, overrides=common, resolve=_parameters)
        return Plan(cells, about(found, size, data, common) | asked, Path(out or f"runs/sweep-{study}-{size}"), folders)
    assert task is not None
    if data is not None:
        common = merge(common, {"data": {"root": data}})
    parsed = [parse_axis(text) for text in axes]
    names = [axis.name for axis in parsed]
    cells = expand(task, parsed, **runs, recipe=recipe or "quickstart", overrides=common, resolve=_parameters)
    asked["title"] = f"{task}: {', '.join(names)}"
    return Plan(cells, asked, Path(out or f"runs/sweep-{task}-{'-'.join(names)}"), folders)


def _check_asked(
    task: str | None, study: str | None, scale: str | None, axes: Sequence[str], recipe: str | None
) -> None:
    """Raise an error unless exactly one of a study and a grid is asked for."""
    if study is not None:
        found = find_study(study)
        given = {"--axis": axes, "--recipe": recipe, f"the task {task}": task not in (None, found.task)}
        if clash := [name for name, value in given.items() if value]:
            raise HyperkitError(
                f"--study {study} says what varies, and on which task: {' and '.join(clash)} cannot be given with it.",
                f"Leave that out, or leave out --study: hyperkit scale-sweep {found.task} --axis NAME=A,B",
            )
    elif task is None:
        raise HyperkitError(
            "A sweep needs a study, or a task with what is to vary.",
            f"Studies: {', '.join(STUDIES)}: hyperkit scale-sweep --study table1. "
            "Or: hyperkit scale-sweep nvs --axis algorithm=trans-inr,ipc,ponp --seeds 3",
        )
    elif scale is not None:
        raise HyperkitError(
            f"--scale {scale} belongs to a study, and none is given.",
            f"Add --study NAME ({', '.join(STUDIES)}), or choose a grid's size with --recipe debug|quickstart|FILE.",
        )
    elif not axes:
        raise HyperkitError(
            "Nothing varies: there is no --axis.",
            "Example: --axis algorithm=trans-inr,ipc,ponp --axis data_fraction=0.1,1. For one run: hyperkit train.",
        )


def _parameters(cell: Cell) -> Mapping[str, Any]:
    config: Any = from_recipe(cell.task, cell.recipe, cell.overrides, "train")[1]
    values: Mapping[str, Any] = config.model_dump(mode="json")
    return values


@dataclass(frozen=True)
class SweepResult:
    """What a sweep has produced.

    Attributes:
        sweep: its folder.
        files: what was written, by name.
        counts: status -> number of runs.
    """

    sweep: SweepDirectory
    files: Mapping[str, Path]
    counts: Mapping[str, int]

    @property
    def failed(self) -> int:
        """Number of runs that failed."""
        return self.counts.get("failed", 0)

    def show(self) -> None:
        """Print the tables and the files, for people, on stderr."""
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        scores = layout.scores(self.sweep, tidy_rows(self.sweep)).table
        assert scores is not None
        # what no cell has is in the report, with its reason; here it would only be in the way
        rows = [row for row in scores.rows if row[0] != layout.NOT_RUN]
        kept = [i for i in range(len(scores.headings)) if any(row[i] not in _NOTHING for row in rows)]
        table = Table(*(scores.headings[i] for i in kept), box=SIMPLE, pad_edge=False)
        for row in rows:
            table.add_row(*(Text(str(row[i])) for i in kept))
        console.print(table)
        for entry in self.sweep.entries():
            if entry.status() == "failed":
                reason = " ".join(str(entry.folder.state().get("reason", "")).split())
                console.print(f"{entry.folder.path.name} failed: {reason}")
        if self.failed:
            console.print("Run the same command with --retry-failed to run failed cells again.")
        for name in ("markdown", "csv", "html"):
            console.print(f"{name}: {self.files[name]}")

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        files = {name: str(path) for name, path in self.files.items()}
        return {"sweep": str(self.sweep.path), "files": files, "cells": dict(self.counts)}


@dataclass(frozen=True)
class Resources:
    """Where a sweep runs, and how much of it at a time.

    Attributes:
        engine: "local", a process per cell on this machine, or "ray", a task per cell on a Ray cluster.
        jobs: local: cells at a time; None: as many as do not slow each other.
        ray_address: ray: of the cluster; None: the one that RAY_ADDRESS names, else one on this machine.
        devices_per_cell: GPUs of each run; None: one where there are any.
    """

    engine: str = "local"
    jobs: int | None = None
    ray_address: str | None = None
    devices_per_cell: int | None = None

    def check(self) -> None:
        """Raise an error where the settings do not go together, or this machine does not have what they ask for."""
        if self.engine not in get_args(Engine):
            raise unknown_name("engine", self.engine, get_args(Engine))
        if self.engine == "ray" and self.jobs is not None:
            raise HyperkitError(
                "--jobs belongs to --engine local; Ray runs as many cells as its cluster has room for.",
                "Leave it out.",
            )
        if self.engine == "local" and self.ray_address is not None:
            raise HyperkitError("--ray-address belongs to --engine ray.", "Add --engine ray.")
        if self.jobs is not None and self.jobs < 1:
            raise HyperkitError(f"--jobs {self.jobs} is less than 1.", "Give 1 or more.")
        there = len(visible_gpus())
        if self.engine == "local" and self.devices_per_cell is not None and self.devices_per_cell > there:
            raise HyperkitError(
                f"--devices-per-cell {self.devices_per_cell}: this machine has {there} GPUs.",
                "Give at most as many, or leave it out.",
            )


def scale_sweep(
    plan: Plan, resources: Resources | None = None, *, retry_failed: bool = False, watch: Watch | None = None
) -> SweepResult:
    """Run what is not done of a sweep, and report all of it.

    Args:
        plan: of ``plan_sweep``.
        resources: where it runs; None: on this machine.
        retry_failed: run those again that failed before.
        watch: called now and then with the sweep.

    Raises:
        HyperkitError: bad usage, or the folder holds something else.
        RunInterrupted: SIGINT or SIGTERM; the same call goes on. The report of what there is has been written.
    """
    resources = resources or Resources()
    resources.check()
    sweep = open_sweep(plan)
    try:
        _engine(plan, sweep, resources, watch).run(retry_failed)
    finally:
        files = write_report(sweep)
    return SweepResult(sweep, files, {str(name): count for name, count in sweep.counts().items()})


def _engine(plan: Plan, sweep: SweepDirectory, resources: Resources, watch: Watch | None) -> LocalEngine | RayEngine:
    per_cell = resources.devices_per_cell
    if resources.engine == "ray":
        per_cell = 0 if plan.on_cpu else per_cell
        return RayEngine(sweep, address=resources.ray_address, devices_per_cell=per_cell, watch=watch)
    return LocalEngine(sweep, jobs=resources.jobs, devices=plan.devices, devices_per_cell=per_cell or 1, watch=watch)


def open_sweep(plan: Plan) -> SweepDirectory:
    """Make or extend the folder of a sweep, and take over what other sweeps have finished."""
    sweep = SweepDirectory.create(plan.out.absolute(), plan.cells, plan.about)
    for path in plan.reuse:
        sweep.adopt(SweepDirectory.open(path))
    return sweep


def visible_gpus() -> list[str]:
    """Return the names of this machine's GPUs, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named and count else [str(index) for index in range(count)]
