"""Where files about a data set are kept, and who may write them at a time."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperkit.files import cache_dir

try:
    import fcntl
except ImportError:  # Windows: no locks, renames alone keep files whole
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("hyperkit")


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the exclusive lock of a folder; wait, and say so, while another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as handle:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                log.info("waiting for another process that works in %s", folder)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield  # closing the file gives the lock back, also when the process is killed


def side_folder(root: Path) -> Path:
    """Return where files about a data set are kept: ``<root>/.hyperkit``, or the cache if that cannot be written."""
    beside = Path(root) / ".hyperkit"
    return beside if writable(beside) else _cache_folder(root)


def _cache_folder(root: Path) -> Path:
    name = hashlib.sha256(str(Path(root).resolve()).encode()).hexdigest()[:16]
    return cache_dir() / "data" / f"{Path(root).resolve().name}-{name}"


def writable(folder: Path) -> bool:
    """Tell whether a folder can be written to, or made."""
    place = folder
    while not place.exists():
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
