"""What every engine does: cells in order, each in one pair of hands, those that come to no end tried again."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable

from hyperkit.errors import RunInterrupted
from hyperkit.sweeps.state import CellFolder
from hyperkit.sweeps.store import SweepDirectory
from hyperkit.sweeps.worker import EXIT_CODES
from hyperkit.training.signals import StopSignals

_CRASHES = 3
"""A cell whose process was killed so often, not by us, has failed."""

_ASK_AGAIN_SECONDS = 1.0


class Engine(ABC):
    """Runs the cells of a sweep that are not done, in order; several engines may work on one folder.

    Args:
        sweep: the sweep.
        watch: called now and then with the sweep, for a live table.
        poll: seconds between looks.
        retries: how often a cell is tried again whose machine was lost.
    """

    def __init__(
        self, sweep: SweepDirectory, watch: Callable[[SweepDirectory], None] | None, poll: float, retries: int = 0
    ) -> None:
        self.sweep, self.watch, self.poll, self.retries = sweep, watch, poll, retries
        self._waiting: dict[CellFolder, float] = {}
        self._crashes: Counter[CellFolder] = Counter()
        self._losses: Counter[CellFolder] = Counter()

    def run(self, retry_failed: bool = False) -> None:
        """Run until every cell that the sweep was asked for is done or has failed.

        Args:
            retry_failed: run those again that failed before.

        Raises:
            RunInterrupted: SIGINT or SIGTERM; the running cells have saved their state and go on at the next start.
        """
        if retry_failed:
            self.sweep.retry_failed()
        self._waiting = dict.fromkeys(self.sweep.to_run(), 0.0)
        with StopSignals() as stop:
            try:
                while self._waiting or self._in_hand():
                    if stop.received:
                        self._stop()
                        raise RunInterrupted(
                            f"The sweep was stopped by a signal; its state is saved in {self.sweep.path}.",
                            "The same command goes on with it.",
                            signal_number=stop.received,
                        )
                    for folder, end in self._ended():
                        self._take_back(folder, end)
                    self._fill()
                    if self.watch is not None:
                        self.watch(self.sweep)
                    time.sleep(self.poll)
            finally:
                self._stop()

    def _fill(self) -> None:
        for folder, after in list(self._waiting.items()):
            if not self._has_room():
                return
            if after > time.monotonic():
                continue
            status = folder.status()
            if status == "pending":
                del self._waiting[folder]
                self._start(folder)
            elif status == "running":  # in the hands of another engine, or of one that was killed and winds up
                self._ask_again(folder)
            else:
                del self._waiting[folder]

    def _take_back(self, folder: CellFolder, end: int | str) -> None:
        if isinstance(end, str):
            self._losses[folder] += 1
            times = self._losses[folder]
            self._try_again(folder, times > self.retries, f"Its machine was lost {times} times, the last time: {end}")
        elif end in (EXIT_CODES["busy"], EXIT_CODES["put back"]):
            self._ask_again(folder)
        elif folder.status() in ("pending", "running"):  # it recorded no end
            self._crashes[folder] += 1
            reason = f"The process of the cell ended {_CRASHES} times without a word, the last time with code {end}."
            self._try_again(folder, self._crashes[folder] >= _CRASHES, reason)

    def _try_again(self, folder: CellFolder, enough: bool, reason: str) -> None:
        if enough and (claim := folder.claim()) is not None:
            if folder.result() is None:
                claim.fail(reason)
            claim.release()
        else:
            self._ask_again(folder)

    def _ask_again(self, folder: CellFolder) -> None:
        self._waiting[folder] = time.monotonic() + _ASK_AGAIN_SECONDS

    def _has_room(self) -> bool:
        return True

    @abstractmethod
    def _in_hand(self) -> bool:
        """Return whether cells were started that have not ended."""

    @abstractmethod
    def _start(self, folder: CellFolder) -> None:
        """Have a cell run by ``worker.run_cell`` somewhere."""

    @abstractmethod
    def _ended(self) -> Iterable[tuple[CellFolder, int | str]]:
        """Return the cells that ended since the last call: the worker's exit code, or how it was lost."""

    @abstractmethod
    def _stop(self) -> None:
        """Have all running cells save their state and end, and wait for it."""
