"""Where files about a data set are kept, and who may write them at a time."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.files import cache_dir

try:
    import fcntl
except ImportError:  # Windows: no locks, renames alone keep files whole
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("hyperkit")


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the exclusive lock of a folder; wait, and say so, while another process holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "a")  # noqa: SIM115
    except OSError as error:
        raise RunFailed(
            f"{folder} cannot be written: {error}.", "Choose another place for the cache with HYPERKIT_CACHE."
        ) from error
    with handle:
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


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``out`` to build in; what is built is renamed to ``out`` by the caller.

    The temporary folder vanishes in any case, and those of processes that were killed as well.

    Raises:
        HyperkitError: ``out`` exists and is not an empty folder.
        RunFailed: the place cannot be written, or the disk is full.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise HyperkitError(f"{out} exists and is not empty.", "Give --out a new folder, or remove this one.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for stale in out.parent.glob(f".{out.name}-part-*"):
            shutil.rmtree(stale, ignore_errors=True)
        part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-part-"))
        part.chmod(0o755)
    except OSError as error:
        raise RunFailed(f"{out} cannot be made: {error}.", "Choose another place with --out.") from error
    try:
        if out.exists():
            out.rmdir()
        yield part
    except OSError as error:
        raise RunFailed(
            f"The data could not be written to {out}: {error}.", "Nothing was left half-written. Free some space."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
