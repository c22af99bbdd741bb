"""Sizes that depend on the machine: measured once, then read from the cache folder."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hyperkit.errors import HyperkitError
from hyperkit.files import cache_dir, write_text
from hyperkit.kernels.hardware import device_name

log = logging.getLogger("hyperkit")

CHUNKS = (1024, 2048, 4096, 8192, 16384, 32768)
"""Points that a network may be evaluated at at once: smaller ones are all overhead, larger ones leave the caches."""

_known: dict[str, int] = {}


def tuned_chunk(name: str, device: torch.device, evaluate: Callable[[int], object]) -> int:
    """Return the fastest of ``CHUNKS`` for one kind of work on this machine.

    It is measured at the first call and kept in the cache folder (``tuning.json``) under the device, torch's version,
    the number of threads and ``name``. Where the folder cannot be written it is measured once in every process.
    Results must not depend on the size beyond rounding: it is for rendering, never for training.

    Args:
        name: what the work is: kind, widths, dtype.
        device: where it runs.
        evaluate: does a fixed amount of the work, so many points at once.
    """
    key = f"{device_name(device)}|torch {torch.__version__}|{torch.get_num_threads()} threads|{name}"
    if key not in _known:
        stored = _read(_path())
        if stored.get(key) not in CHUNKS:
            stored[key] = fastest(CHUNKS, evaluate, device)
            log.debug("%s: %d points at once", key, stored[key])
            _write(_path(), stored)
        _known[key] = stored[key]
    return _known[key]


def fastest(sizes: Sequence[int], evaluate: Callable[[int], object], device: torch.device, rounds: int = 3) -> int:
    """Return the size whose best time over a few rounds, taken in turn, is the shortest."""
    best = dict.fromkeys(sizes, float("inf"))
    evaluate(sizes[0])  # libraries set themselves up at the first call
    for _ in range(rounds):
        for size in sizes:
            start = time.perf_counter()
            evaluate(size)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best[size] = min(best[size], time.perf_counter() - start)
    return min(sizes, key=best.__getitem__)


def _path() -> Path:
    return cache_dir() / "tuning.json"


def _read(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):  # none yet, or damaged: measured again
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, values: dict[str, int]) -> None:
    try:
        write_text(path, json.dumps(values, indent=1, sort_keys=True))
    except HyperkitError as error:
        log.debug("the measured sizes are not kept: %s", error.what)
