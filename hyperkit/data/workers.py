"""Work on many independent items in several single-threaded processes."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

import torch

from hyperkit.errors import HyperkitError, RunFailed

Item = TypeVar("Item")
Result = TypeVar("Result")


QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""What a container may use of the CPUs: microseconds in each period, and the period."""


def available_cores() -> int:
    """Return how many CPUs this process may use, by its affinity and by the quota of its container; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # not Linux, no such group, or "max": no quota
        used, period = QUOTA.read_text().split()
        cores = min(cores, math.ceil(int(used) / int(period)))
    return max(1, cores)


def worker_count(workers: int | None) -> int:
    """Return ``workers``, or the number of CPUs this process may use when it is None.

    Raises:
        HyperkitError: ``workers`` is below 1.
    """
    if workers is None:
        return available_cores()
    if workers < 1:
        raise HyperkitError(f"The number of workers is {workers}.", "It must be at least 1.")
    return workers


def run_all(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int | None = None,
    method: Literal["fork", "spawn"] | None = None,
) -> Iterator[tuple[int, Result]]:
    """Yield (index, function(item)) for all items as they finish; errors of ``function`` are raised here.

    With one worker, or fewer than two items, the work is done in this process. When the caller stops early or an error
    is raised, work that has not begun is dropped.

    Args:
        function: of one item; it can be pickled, as the items can.
        items: what there is to do.
        workers: processes; None: one for each CPU that this process may use.
        method: how processes begin; ``spawn`` where the work computes gradients, whose threads a fork does not bring
            along. None: ``fork`` on Linux, ``spawn`` elsewhere.

    Raises:
        RunFailed: a worker process died.
    """
    count = min(worker_count(workers), len(items))
    if count <= 1:
        for index, item in enumerate(items):
            yield index, function(item)
        return
    # Forked workers have torch imported already, which takes seconds otherwise. They are safe here: a worker uses one
    # thread and none of the parent's thread pools or devices.
    context = multiprocessing.get_context(method or ("fork" if sys.platform == "linux" else "spawn"))
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin)
    try:
        with warnings.catch_warnings():
            # Python 3.12 and later warn about forking a process with threads; see above.
            warnings.filterwarnings("ignore", message=".*multi-?threaded.*fork.*", category=DeprecationWarning)
            futures: dict[Future[Result], int] = {
                pool.submit(function, item): index for index, item in enumerate(items)
            }
        for future in as_completed(futures):
            index = futures.pop(future)
            yield index, future.result()
    except BrokenProcessPool as error:
        raise RunFailed(
            "A worker process died, perhaps because memory ran out.",
            "What was finished is kept. Run the same command again, if need be with fewer workers.",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    # The parent decides what a signal means; a worker finishes its item, or ends at once when it is told to.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
