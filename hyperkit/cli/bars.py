"""Progress bars of work that is counted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Give a callback (done, total) that moves a bar on stderr; without a terminal a line at every tenth."""
    if not sys.stderr.isatty():
        shown = [-1]

        def plain(done: int, total: int) -> None:
            tenth = 10 * done // max(total, 1)
            if tenth < shown[0]:
                shown[0] = -1  # the next part of the work begins
            if tenth > shown[0]:
                shown[0] = tenth
                sys.stderr.write(f"{title}: {done} of {total}\n")

        yield plain
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
