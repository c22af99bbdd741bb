"""Progress of work that is counted."""

from __future__ import annotations

import sys
from typing import Any


class CountedProgress:
    """A callback (done, total): a bar on the terminal, or a line at every tenth where stderr is not one.

    Nothing is shown before the first call. Work of several stages begins a new bar with each.

    Args:
        title: what is being done.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None
        self._task: Any = None
        self._tenth = -1

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done."""
        if sys.stderr.isatty():
            self._move(done, total)
            return
        tenth = 10 * done // max(total, 1)
        if tenth < self._tenth:
            self._tenth = -1
        if tenth > self._tenth:
            self._tenth = tenth
            sys.stderr.write(f"{self._title}: {done} of {total}\n")

    def _move(self, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._bar is None:
            columns = (TextColumn(self._title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._title, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
