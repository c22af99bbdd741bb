"""Batches made ahead of time by a background thread, where a device computes meanwhile."""

from __future__ import annotations

import queue
import threading
import time
from types import TracebackType

import torch

from hyperkit.contracts import Batch
from hyperkit.tasks.base import TrainingData


class Prefetcher:
    """Gives the batches of consecutive micro-steps, on the device, ``depth`` of them made ahead.

    With a CPU as the device nothing is made ahead: the thread would take the cores from the training itself (150 ms a
    step instead of 120 on two cores, where a batch takes 3 ms to make).

    An error in the data is raised again by ``next_batch``. Use it as a context manager: leaving it ends the thread.

    Attributes:
        waited: seconds that ``next_batch`` spent waiting for data.
    """

    def __init__(
        self,
        data: TrainingData,
        first: int,
        last: int,
        batch_size: int,
        rank: int,
        world: int,
        device: torch.device,
        depth: int = 3,
    ) -> None:
        self.waited = 0.0
        self._data = data
        self._range = range(first, last)
        self._share = (batch_size, rank, world)
        self._device = device
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=depth)
        self._closing = threading.Event()
        self._steps = iter(self._range)
        self._thread = threading.Thread(target=self._work, name="hyperkit-prefetch", daemon=True)

    def __enter__(self) -> Prefetcher:
        if self._device.type != "cpu":
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        while self._thread.is_alive():
            try:  # make room, so that a thread that waits in put() sees that it is to end
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.02)

    def next_batch(self) -> Batch:
        """Return the next batch, waiting for it where it is not ready."""
        start = time.perf_counter()
        ahead = self._device.type != "cpu"
        item = self._queue.get() if ahead else self._data.train_batch(next(self._steps), *self._share)
        self.waited += time.perf_counter() - start
        if isinstance(item, BaseException):
            raise item
        return item

    def _work(self) -> None:
        try:
            for micro_step in self._range:
                if self._closing.is_set():
                    return
                self._queue.put(self._data.train_batch(micro_step, *self._share).to(self._device))
        except BaseException as error:  # it belongs to the thread that asks for the batch
            self._queue.put(error)
