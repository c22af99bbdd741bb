"""Runs a sweep on this machine: so many cells at a time, each in a process of its own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hyperkit.data.workers import available_cores
from hyperkit.sweeps.engine import Engine
from hyperkit.sweeps.state import CellFolder
from hyperkit.sweeps.store import SweepDirectory

_LOG = logging.getLogger("hyperkit")


def places(threads: int, devices: Sequence[str] = (), devices_per_cell: int = 1, jobs: int | None = None) -> int:
    """Return how many cells run at a time: ``jobs``, else so many that none slows another by its threads.

    With GPUs there is a place for each group of them and no more.

    Args:
        threads: of each cell.
        devices: names of the GPUs, as in CUDA_VISIBLE_DEVICES.
        devices_per_cell: GPUs of each cell.
        jobs: what was asked for.
    """
    groups = len(devices) // devices_per_cell if devices else None
    if jobs is not None:
        return jobs if groups is None else min(jobs, groups)
    cores = available_cores()
    return max(1, min(cores if groups is None else groups, cores // max(1, threads)))


class LocalEngine(Engine):
    """Runs the cells of a sweep that are not done, in order; several engines may work on one folder.

    Args:
        sweep: the sweep.
        jobs: cells at a time; None: see ``places``.
        devices: names of the GPUs to share out; none leaves the environment as it is.
        devices_per_cell: GPUs of each cell.
        watch: called now and then with the sweep, for a live table.
        poll: seconds between looks.

    Raises:
        ValueError: there are fewer GPUs than one cell is to have, or ``jobs`` is less than 1.
    """

    def __init__(
        self,
        sweep: SweepDirectory,
        *,
        jobs: int | None = None,
        devices: Sequence[str] = (),
        devices_per_cell: int = 1,
        watch: Callable[[SweepDirectory], None] | None = None,
        poll: float = 0.1,
    ) -> None:
        super().__init__(sweep, watch, poll)
        if devices and len(devices) < devices_per_cell:
            raise ValueError(f"{devices_per_cell} devices per cell, but only {len(devices)}")
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs must be at least 1, found {jobs}")
        threads = max((int(f.definition()["threads"]) for f in sweep.to_run()), default=1)
        self.jobs = places(threads, devices, devices_per_cell, jobs)
        self._groups = groups_of(devices, devices_per_cell)
        if not self._groups and self.jobs * threads > places(1):
            _LOG.warning("%d cells of %d threads are more than this machine has cores", self.jobs, threads)
        self._working: dict[CellFolder, tuple[Any, str | None]] = {}

    def _has_room(self) -> bool:
        return len(self._working) < self.jobs

    def _in_hand(self) -> bool:
        return bool(self._working)

    def _start(self, folder: CellFolder) -> None:
        environment = dict(os.environ)
        used = {group for _, group in self._working.values()}
        group = next((g for g in self._groups if g not in used), None)
        if group is not None:
            environment["CUDA_VISIBLE_DEVICES"] = group
        process = subprocess.Popen(
            [sys.executable, "-m", "hyperkit.sweeps.worker", str(folder.path), "--stop-with-parent"],
            stdin=subprocess.PIPE,  # nobody writes to it; its end tells the worker that the engine has gone
            stdout=subprocess.DEVNULL,
            stderr=None,
            env=environment,
            start_new_session=True,  # the terminal's SIGINT comes to the engine alone, which passes it on
        )
        self._working[folder] = (process, group)

    def _ended(self) -> Iterator[tuple[CellFolder, int | str]]:
        for folder, (process, _) in list(self._working.items()):
            if (code := process.poll()) is not None:
                process.stdin.close()
                del self._working[folder]
                yield folder, code

    def _stop(self) -> None:
        for process, _ in self._working.values():
            if process.poll() is None:
                process.stdin.close()
        for process, _ in self._working.values():
            process.wait()
        self._working.clear()


def groups_of(devices: Sequence[str], size: int) -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES is set to for each of the cells that have room on these GPUs."""
    return [",".join(devices[i : i + size]) for i in range(0, len(devices) - size + 1, size)]
