"""What a sweep will cost: a short run of each kind of cell, on this machine, as many at a time as cells would run."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from hyperkit.config import merge
from hyperkit.reports.words import duration
from hyperkit.sweeps.cell import Cell
from hyperkit.sweeps.estimate import Probe, kind_of, time_of_all
from hyperkit.sweeps.local import groups_of, places
from hyperkit.sweeps.store import SweepDirectory
from hyperkit.workflows.scale_sweep import Plan, Resources

_LONGEST_PROBE = 300.0
_NONE = "–"
_SHORT = {"not applicable": "n/a"}


@dataclass(frozen=True)
class CellEstimate:
    """What is known about a cell before it is run.

    Attributes:
        cell: the cell.
        status: where it stands.
        probe: what a short run of its kind took; None where there was none.
        reason: why there was none, if it failed.
        waits: whether it is still to be run.
    """

    cell: Cell
    status: str
    probe: Probe | None
    reason: str
    waits: bool

    @property
    def seconds(self) -> float | None:
        """How long the whole cell takes; None where that is not known."""
        return None if self.probe is None else self.probe.seconds(self.cell.parameters or {})

    @property
    def steps(self) -> int | None:
        """Optimizer steps; None where they are not known, because the data says how long an epoch is."""
        if self.probe is not None:
            return self.probe.steps(self.cell.parameters or {})
        steps: int | None = (self.cell.parameters or {}).get("training", {}).get("steps")
        return steps

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        probe = self.probe
        return {
            "labels": dict(self.cell.labels),
            "status": self.status,
            "not_applicable": self.cell.not_applicable,
            "steps": self.steps,
            "seconds": self.seconds,
            "parameters": None if probe is None else probe.parameters,
            "encoder_parameters": None if probe is None else probe.encoder_parameters,
            "peak_memory_bytes": None if probe is None else probe.peak_memory_bytes,
            "not_measured": self.reason or None,
        }


@dataclass(frozen=True)
class Estimate:
    """What a sweep will cost on this machine.

    Attributes:
        out: folder of the sweep.
        cells: in order.
        jobs: cells at a time; None where a cluster decides that.
    """

    out: Path
    cells: Sequence[CellEstimate]
    jobs: int | None

    @property
    def left(self) -> list[float]:
        """Seconds of each run that waits, in order, each run once; those that nothing is known about are left out."""
        runs = {c.cell.identity: c.seconds for c in self.cells if c.waits and c.seconds is not None}
        return list(runs.values())

    @property
    def first_use(self) -> float:
        """Seconds that making the data took, or opening it where it was there; cells of all kinds share it."""
        return max((c.probe.first_use for c in self.cells if c.waits and c.probe is not None), default=0.0)

    @property
    def alone(self) -> float:
        """Seconds of the whole sweep from now on, one cell after another."""
        return self.first_use + sum(self.left) if self.left else 0.0

    @property
    def seconds(self) -> float | None:
        """Seconds of the whole sweep from now on; None on a cluster."""
        if self.jobs is None:
            return None
        return self.first_use + time_of_all(self.left, self.jobs) if self.left else 0.0

    def show(self) -> None:
        """Print the cells and their cost, for people, on stderr."""
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        axes = list(dict.fromkeys(name for c in self.cells for name in c.cell.labels if name != "seed"))
        table = Table(*axes, "seeds", "encoder", "all", "steps", "each", "GB", "status", box=SIMPLE, pad_edge=False)
        for line in self._lines(axes):
            table.add_row(*map(Text, line))
        console.print(table)
        for reason in dict.fromkeys(c.cell.not_applicable for c in self.cells if c.cell.not_applicable):
            console.print(f"Not applicable: {reason}.")
        for reason in dict.fromkeys(c.reason for c in self.cells if c.reason):
            console.print(f"Not measured: {reason}")
        counts = Counter(c.status for c in self.cells)
        console.print(f"{len(self.cells)} cells: {', '.join(f'{count} {name}' for name, count in counts.items())}.")
        unknown = sum(c.waits and c.seconds is None for c in self.cells)
        without = f", without {unknown} that could not be measured" if unknown else ""
        if self.left and self.seconds is None:
            console.print(
                f"About {duration(self.alone)} one after another on this machine, by a short run of each kind of cell"
                f"{without}. The cluster runs as many at a time as it has room for."
            )
        elif self.left and self.seconds is not None:
            console.print(
                f"About {duration(self.seconds)} on this machine, {self.jobs} at a time, by a short run of each kind "
                f"of cell ({duration(self.alone)} one after another){without}."
            )

    def _lines(self, axes: Sequence[str]) -> Iterable[list[str]]:
        def labels(c: CellEstimate) -> list[str]:
            return ["" if c.cell.labels.get(axis) is None else str(c.cell.labels[axis]) for axis in axes]

        for values, group in groupby(self.cells, labels):
            seeds = list(group)
            first = seeds[0]
            probe = first.probe
            yield [
                *values,
                str(len(seeds)),
                _NONE if probe is None else _millions(probe.encoder_parameters),
                _NONE if probe is None else _millions(probe.parameters),
                _NONE if first.steps is None else str(first.steps),
                _NONE if first.seconds is None else duration(first.seconds),
                _NONE if probe is None else f"{probe.peak_memory_bytes / 1e9:.1f}",
                ", ".join(dict.fromkeys(_SHORT.get(c.status, c.status) for c in seeds)),
            ]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        total = {"seconds": self.seconds, "seconds_one_after_another": self.alone, "jobs": self.jobs}
        return {"sweep": str(self.out), "cells": [c.to_json() for c in self.cells], **total}


def estimate(
    plan: Plan,
    resources: Resources | None = None,
    retry_failed: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Estimate:
    """Find out what a sweep will cost, by a short run of each kind of cell; nothing of the sweep itself is run.

    As many short runs go at a time as cells would on this machine, since they slow each other.

    Args:
        plan: of ``plan_sweep``.
        resources: where it is to run.
        retry_failed: count those that failed before.
        progress: called with (short runs done, in all).

    Raises:
        HyperkitError: the resources do not go together, or are not there.
    """
    resources = resources or Resources()
    resources.check()
    devices, per_cell = plan.devices, resources.devices_per_cell or 1
    threads = max((cell.threads for cell in plan.cells), default=1)
    jobs = places(threads, devices, min(per_cell, max(1, len(devices))), resources.jobs)
    status = _statuses(plan)
    to_run = {"pending", "running"} | ({"failed"} if retry_failed else set())
    kinds: dict[str, Cell] = {}
    for cell in plan.cells:
        if cell.parameters is not None and status[cell.identity] in to_run:
            kinds.setdefault(kind_of(cell.task, cell.parameters), cell)
    groups: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    shared: list[str | None] = [*groups_of(devices, per_cell)]
    for group in shared or [None] * jobs:
        groups.put(group)
    found: dict[str, Probe | str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for name, outcome in zip(kinds, pool.map(partial(_in_turn, groups), kinds.values()), strict=True):
            found[name] = outcome
            if progress is not None:
                progress(len(found), len(kinds))

    def known(cell: Cell) -> CellEstimate:
        state = status[cell.identity]
        outcome = None if cell.parameters is None else found.get(kind_of(cell.task, cell.parameters))
        measured, reason = (None, outcome) if isinstance(outcome, str) else (outcome, "")
        return CellEstimate(cell, state, measured, reason, state in to_run)

    return Estimate(plan.out, [known(cell) for cell in plan.cells], None if resources.engine == "ray" else jobs)


def _statuses(plan: Plan) -> dict[str, str]:
    """Return identity -> where a cell stands, in the sweep's own folder or as a finished run of one that is reused."""
    status = {c.identity: "not applicable" if c.not_applicable else "pending" for c in plan.cells}
    for path in (*plan.reuse, plan.out):
        if (path / "sweep.json").is_file():
            for folder in SweepDirectory.open(path).folders():
                state, known = folder.status(), status.get(folder.identity)
                if known not in (None, "done") and (path == plan.out or state == "done"):
                    status[folder.identity] = state
    return status


def _in_turn(groups: queue.SimpleQueue[str | None], cell: Cell) -> Probe | str:
    """Probe a cell on the next GPUs that are free."""
    group = groups.get()
    try:
        return _probe(cell, group)
    finally:
        groups.put(group)


def _probe(cell: Cell, devices: str | None = None) -> Probe | str:
    """Return what a short run of a cell took, or why there is none."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(cell.threads)}
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cell.json"
        overrides = merge(cell.overrides, {"training": {"threads": cell.threads}})
        content = {"task": cell.task, "recipe": cell.recipe, "overrides": overrides, "began": time.time()}
        file.write_text(json.dumps(content), encoding="utf-8")
        command = [sys.executable, "-m", "hyperkit.workflows.probe", str(file)]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_LONGEST_PROBE)
        except subprocess.TimeoutExpired:
            return f"a short run of {cell.folder_name} took longer than {duration(_LONGEST_PROBE)}"
    try:
        said = json.loads(ended.stdout.strip().splitlines()[-1])
    except (json.JSONDecodeError, IndexError):
        words = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
        return f"a short run of {cell.folder_name} failed: {words[-1]}"
    return f"a short run of {cell.folder_name} failed: {said['error']}" if "error" in said else Probe(**said)


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M"
