"""How a sweep is getting on, while it runs: a table on a terminal, a line for every change elsewhere."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any

from hyperkit.metrics.catalogue import CATALOGUE, metric_value
from hyperkit.reports.words import duration
from hyperkit.sweeps.state import CellFolder, Status
from hyperkit.sweeps.store import SweepDirectory

_EVERY_SECONDS = 1.0
_SIGNS: dict[Status, tuple[str, str]] = {
    "done": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "running": ("▶", "cyan"),
    "pending": ("·", "dim"),
    "not applicable": ("–", "dim"),
}
_OVER: frozenset[Status] = frozenset({"done", "failed", "not applicable"})
_AROUND = 6
"""Lines of the terminal that are not rows of the table."""


@dataclass(eq=False)
class _Followed:
    """What is known of one run, so that only what has changed is read again."""

    folder: CellFolder
    status: Status = "pending"
    signature: tuple[int, int] | None = None
    started: float = 0.0
    seconds: float | None = None
    steps: int | None = None
    step: int = 0
    value: str = ""
    reason: str = ""
    offset: int = 0
    rest: bytes = field(default=b"", repr=False)

    @property
    def name(self) -> str:
        return self.folder.path.name.rsplit("-", 1)[0]

    def look(self) -> bool:
        """Bring everything up to date and return whether the status changed."""
        if self.status == "done":  # for good; one that failed may be run again
            return False
        signature = _signature(self.folder)
        if self.status != "running" and signature == self.signature:
            return False
        before, written = self.status, signature != self.signature
        self.signature, self.status = signature, self.folder.status()
        if (written or self.status != before) and self.status != "pending":
            self._read_state()
        if self.status == "running":
            self._read_metrics()
        return self.status != before

    def _read_state(self) -> None:
        state = self.folder.state()
        self.started = float(state.get("started", 0.0))
        self.reason = " ".join(str(state.get("reason", "")).split())
        if self.status == "done":
            result = self.folder.result() or {}
            self.seconds = (result.get("cost") or {}).get("seconds")
            self.value = _value_of((result.get("test") or {}).get("all") or {})
            self.step = int(result.get("steps") or self.step)
        elif self.status == "running" and self.steps is None:
            definition = self.folder.definition()
            values = definition.get("parameters") or definition.get("overrides") or {}
            self.steps = (values.get("training") or {}).get("steps")

    def _read_metrics(self) -> None:
        """Read what was added to the run's metrics; a run that was resumed may have written the file anew."""
        path = self.folder.run / "metrics.jsonl"
        try:
            with open(path, "rb") as handle:
                if os.fstat(handle.fileno()).st_size < self.offset:
                    self.offset, self.rest = 0, b""
                handle.seek(self.offset)
                added = handle.read()
        except FileNotFoundError:
            return
        self.offset += len(added)
        *lines, self.rest = (self.rest + added).split(b"\n")
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            self.step = int(record.get("step", self.step))
            if record.get("split") == "val":
                self.value = _value_of(record) or self.value

    def progress(self) -> float | None:
        """Return the share of the training steps that are done, or None where it is not known."""
        return min(1.0, self.step / self.steps) if self.steps and self.step else None


class LiveTable:
    """Shows a sweep's progress: ``with LiveTable() as watch: LocalEngine(sweep, watch=watch).run()``.

    On a terminal it is a table, refreshed at most once a second; where the cells are more than the lines of the
    terminal, it scrolls to those that are running. Elsewhere a line is written whenever a cell changes its state.
    Finished cells are read once, waiting ones only when their files have changed, and metrics where they were left.

    Args:
        stream: where to write; None: the standard error.
        clock: seconds since 1970, as the cells write them.
    """

    def __init__(self, stream: IO[str] | None = None, clock: Callable[[], float] = time.time) -> None:
        self._stream = stream
        self._clock = clock
        self._cells: dict[str, _Followed] = {}
        self._others = 0
        self._next = 0.0
        self._jobs = 1
        self._began = clock()
        self._sweep: SweepDirectory | None = None
        self._live: Any = None

    def __enter__(self) -> LiveTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sweep is not None:
            self._next = 0.0
            self(self._sweep)
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, sweep: SweepDirectory) -> None:
        """Show where the sweep stands, unless that was done less than a second ago."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + _EVERY_SECONDS
        first = sweep is not self._sweep
        if first:
            self._follow(sweep)
        changed = [cell for cell in self._cells.values() if cell.look()]
        self._jobs = max(self._jobs, sum(cell.status == "running" for cell in self._cells.values()))
        stream = self._stream or sys.stderr
        if stream.isatty():
            self._show(stream)
            return
        if first:
            stream.write(f"{self.summary()}\n")
            changed = [cell for cell in changed if cell.status not in _OVER]  # those were so before
        over = sum(cell.status in _OVER for cell in self._cells.values() if cell not in changed)
        for cell in changed:
            over += cell.status in _OVER
            stream.write(self._line(cell, over) + "\n")
        stream.flush()

    def _follow(self, sweep: SweepDirectory) -> None:
        self._sweep = sweep
        self._cells = {str(folder.path): _Followed(folder) for folder in sweep.folders()}
        self._others = sum(entry.not_applicable is not None for entry in sweep.entries())

    def summary(self) -> str:
        """Return one line on the whole sweep: how many cells stand where, elapsed time and what is left."""
        counts = Counter(cell.status for cell in self._cells.values())
        parts = [f"{counts[status]} {status}" for status in ("done", "running", "pending", "failed") if counts[status]]
        parts += [f"{self._others} not applicable"] if self._others else []
        left = self.seconds_left()
        tail = f"; about {duration(left)} left" if left else ""
        return f"{len(self._cells)} runs: {', '.join(parts) or 'none'}; {duration(self._clock() - self._began)}{tail}"

    def seconds_left(self) -> float | None:
        """Return the estimate of the time that is left, or None before anything is known.

        A run takes as long as the mean of those that are done; before one is, as long as those that are running will
        take by their steps. As many run at a time as have been seen to.
        """
        now = self._clock()
        cells = self._cells.values()
        running = [cell for cell in cells if cell.status == "running"]
        known = [cell.seconds for cell in cells if cell.status == "done" and cell.seconds]
        ahead = [(now - cell.started) / p for cell in running if (p := cell.progress())]
        if not known and not ahead:
            return None
        whole = statistics.fmean(known or ahead)
        left = sum(max(0.0, whole - (now - cell.started)) for cell in running)
        left += whole * sum(cell.status == "pending" for cell in cells)
        return left / self._jobs

    def _line(self, cell: _Followed, over: int) -> str:
        text = f"[{over}/{len(self._cells)}] {cell.name}: {cell.status}"
        details = [cell.value] if cell.status == "done" and cell.value else []
        details += [duration(cell.seconds)] if cell.status == "done" and cell.seconds else []
        details += [cell.reason[:200]] if cell.status == "failed" and cell.reason else []
        left = self.seconds_left()
        tail = f"; about {duration(left)} left" if left and cell.status in _OVER else ""
        return text + (f" ({', '.join(details)})" if details else "") + tail

    def _show(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=Console(file=stream), auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        self._live.update(self._table(self._live.console.size.height), refresh=True)

    def _table(self, height: int) -> Any:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now = self._clock()
        cells = list(self._cells.values())
        begin, end = window([cell.status for cell in cells], max(3, height - _AROUND))
        caption = self.summary()
        if begin or end < len(cells):
            caption = f"{begin} above, {len(cells) - end} below. {caption}"
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("run", overflow="ellipsis", no_wrap=True, ratio=1)
        for name in ("status", "step", "value", "time"):
            table.add_column(name, no_wrap=True, justify="left" if name == "status" else "right")
        for cell in cells[begin:end]:
            sign, style = _SIGNS[cell.status]
            step = f"{cell.step} of {cell.steps}" if cell.steps and cell.step else str(cell.step or "")
            seconds = now - cell.started if cell.status == "running" else cell.seconds
            shown = duration(seconds) if seconds else ""
            table.add_row(cell.name, f"[{style}]{sign} {cell.status}[/]", step, cell.value, shown)
        return Group(table, Text(caption, style="dim"))


def window(states: list[Status], rows: int) -> tuple[int, int]:
    """Return the first and the end of the ``rows`` cells to show: those that run in the middle.

    Where none runs, the middle is the first that waits, and the last cell where none waits either.
    """
    if len(states) <= rows:
        return 0, len(states)
    running = [index for index, state in enumerate(states) if state == "running"]
    waiting = [index for index, state in enumerate(states) if state == "pending"]
    middle = (running[0] + running[-1]) // 2 if running else (waiting[0] if waiting else len(states) - 1)
    begin = min(max(0, middle - rows // 2), len(states) - rows)
    return begin, begin + rows


def _signature(folder: CellFolder) -> tuple[int, int] | None:
    try:
        found = os.stat(folder.path / "state.json")
    except FileNotFoundError:
        return (0, 0) if (folder.path / "result.json").exists() else None
    return found.st_mtime_ns, found.st_ino


def _value_of(values: dict[str, Any]) -> str:
    """Return the first metric that has a value, with its unit."""
    for name, value in values.items():
        if name in CATALOGUE and isinstance(value, (int, float)):
            return metric_value(name, value)
    return ""
