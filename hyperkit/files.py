"""Writing files so that a crash, a signal or a full disk never leaves half of one; and the cache folder."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hyperkit.errors import HyperkitError, RunFailed


def cache_dir() -> Path:
    """Return hyperkit's cache folder: ``HYPERKIT_CACHE``, else the platform's own place for caches."""
    if chosen := os.environ.get("HYPERKIT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "hyperkit"


def disk_error(path: Path, error: OSError) -> HyperkitError | None:
    """Return the clear error for a failed write that the user can mend, or None for any other."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunFailed(
            f"The disk is full: {path} could not be written.",
            "Nothing was left half-written. Free some space, or choose another place with --out or HYPERKIT_CACHE.",
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return RunFailed(f"{path} could not be written: {error.strerror}.", "Choose another place with --out.")
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return HyperkitError(
            f"{path} could not be written: a file is where a folder is needed, or the other way round.",
            "Choose another place with --out.",
        )
    return None


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that replaces it when the block ends well, and vanishes when it does not.

    The temporary name keeps the suffix, for libraries that choose a format by it. The file and its folder are fsynced.

    Raises:
        RunFailed: the disk is full or the place cannot be written.
    """
    final = Path(path)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=final.parent, prefix=f".{final.stem}-", suffix=final.suffix)
    except OSError as error:
        raise (disk_error(final, error) or error) from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; results are to be read by others
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, final)
        _fsync_dir(final.parent)
    except OSError as error:
        raise (disk_error(final, error) or error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _fsync_dir(folder: Path) -> None:
    with suppress(OSError):  # Windows cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` at once or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, at once or not at all."""
    write_bytes(path, text.encode())


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
