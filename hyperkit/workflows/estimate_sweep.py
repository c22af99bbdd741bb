"""What a sweep will cost: a short run of each kind of cell, on this machine, as many at a time as cells would run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from hyperkit.config import merge
from hyperkit.sweeps.cell import Cell
from hyperkit.sweeps.estimate import Probe, kind_of, time_of_all
from hyperkit.sweeps.local import default_jobs
from hyperkit.sweeps.store import SweepDirectory
from hyperkit.workflows.scale_sweep import Plan, visible_gpus

_LONGEST_PROBE = 300.0
_REASON = 300
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
    """

    cell: Cell
    status: str
    probe: Probe | None = None
    reason: str = ""

    @property
    def waits(self) -> bool:
        """Whether it is still to be run."""
        return self.status in ("pending", "running")

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
        jobs: cells at a time.
    """

    out: Path
    cells: Sequence[CellEstimate]
    jobs: int

    @property
    def left(self) -> list[float]:
        """Seconds of each run that waits, in order, each run once; those that nothing is known about are left out."""
        runs = {c.cell.identity: c.seconds for c in self.cells if c.waits and c.seconds is not None}
        return list(runs.values())

    @property
    def seconds(self) -> float:
        """Seconds of the whole sweep from now on."""
        return time_of_all(self.left, self.jobs)

    def show(self) -> None:
        """Print the cells and their cost, for people, on stderr."""
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table

        console = Console(stderr=True, highlight=False, soft_wrap=True)
        axes = list(dict.fromkeys(name for c in self.cells for name in c.cell.labels if name != "seed"))
        table = Table(*axes, "seeds", "encoder", "all", "steps", "each", "GB", "status", box=SIMPLE, pad_edge=False)
        for line in self._lines(axes):
            table.add_row(*line)
        console.print(table)
        for reason in dict.fromkeys(c.cell.not_applicable for c in self.cells if c.cell.not_applicable):
            console.print(f"Not applicable: {reason}.")
        for reason in dict.fromkeys(c.reason for c in self.cells if c.reason):
            console.print(f"Not measured: {reason}")
        counts = Counter(c.status for c in self.cells)
        console.print(f"{len(self.cells)} cells: {', '.join(f'{count} {name}' for name, count in counts.items())}.")
        if self.left:
            unknown = sum(c.waits and c.seconds is None for c in self.cells)
            console.print(
                f"About {duration(self.seconds)} on this machine, {self.jobs} at a time, "
                f"by a short run of each kind of cell ({duration(sum(self.left))} one after another)"
                + (f", without {unknown} that could not be measured." if unknown else ".")
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
        total = {"seconds": self.seconds, "seconds_one_after_another": sum(self.left), "jobs": self.jobs}
        return {"sweep": str(self.out), "cells": [c.to_json() for c in self.cells], **total}


def estimate(plan: Plan, jobs: int | None = None, progress: Callable[[int, int], None] | None = None) -> Estimate:
    """Find out what a sweep will cost, by a short run of each kind of cell; nothing of the sweep itself is run.

    As many short runs go at a time as cells would, since they slow each other.

    Args:
        plan: of ``plan_sweep``.
        jobs: cells at a time; None: as many as do not slow each other.
        progress: called with (short runs done, in all).
    """
    threads = max((cell.threads for cell in plan.cells), default=1)
    jobs = jobs or default_jobs(threads, visible_gpus())
    status = _statuses(plan)
    kinds: dict[str, Cell] = {}
    for cell in plan.cells:
        if cell.parameters is not None and status[cell.identity] != "done":
            kinds.setdefault(kind_of(cell.task, cell.parameters), cell)
    found: dict[str, Probe | str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for name, outcome in zip(kinds, pool.map(_probe, kinds.values()), strict=True):
            found[name] = outcome
            if progress is not None:
                progress(len(found), len(kinds))

    def known(cell: Cell) -> CellEstimate:
        outcome = None if cell.parameters is None else found.get(kind_of(cell.task, cell.parameters))
        if isinstance(outcome, str):
            return CellEstimate(cell, status[cell.identity], None, outcome)
        return CellEstimate(cell, status[cell.identity], outcome)

    return Estimate(plan.out, [known(cell) for cell in plan.cells], jobs)


def _statuses(plan: Plan) -> dict[str, str]:
    """Return identity -> where a cell stands, in the sweep's own folder or as a finished run of one that is reused."""
    status = {c.identity: "not applicable" if c.not_applicable else "pending" for c in plan.cells}
    for path in (*plan.reuse, plan.out):
        if (path / "sweep.json").is_file():
            for folder in SweepDirectory.open(path).folders():
                identity, state = folder.path.name.rsplit("-", 1)[-1], folder.status()
                if identity in status and (path == plan.out or state == "done") and status[identity] != "done":
                    status[identity] = state
    return status


def _probe(cell: Cell) -> Probe | str:
    """Return what a short run of a cell took, or why there is none."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(cell.threads)}
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
    with suppress(json.JSONDecodeError, IndexError, TypeError):
        return Probe(**json.loads(ended.stdout.strip().splitlines()[-1]))
    said = [line for line in ended.stderr.splitlines() if line.strip()] or [f"exit code {ended.returncode}"]
    return f"a short run of {cell.folder_name} failed: {said[-1][:_REASON]}"


def duration(seconds: float) -> str:
    """Return a time as people say it: "45 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M"
