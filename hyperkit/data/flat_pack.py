"""Signals of any size, decoded once into one memory-mapped file that training reads from.

Beside the data, in ``<root>/.hyperkit/<name>/``: ``values-*.bin``, the values of all items one after the other, and
``index.npz``. Where the data cannot be written to, both lie in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hyperkit.data.folders import SourceFile
from hyperkit.data.layout import Problem
from hyperkit.data.places import folder_lock, side_folder, writable
from hyperkit.data.workers import run_all
from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.files import atomic_path, disk_error, write_text

log = logging.getLogger("hyperkit")
VERSION = 1
DTYPES = (np.dtype(np.uint8), np.dtype(np.int16), np.dtype(np.float32))
ALIGN = 4
CHUNK = 32
"""Files that a worker decodes at a time."""
MANY = 256
"""From so many files on, several processes decode them."""


class BadFile(Exception):
    """A file that cannot be used; the text says why, and continues a sentence that begins with the file's name."""


@dataclass(frozen=True)
class Decoded:
    """What is kept of one file.

    Attributes:
        values: array of one of the ``DTYPES``.
        marks: words about it, such as "silent".
    """

    values: np.ndarray
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class FlatPack:
    """The decoded items of a data set, ready to be read at random.

    Attributes:
        folder: where the packed files lie.
        ids: items that could be decoded.
        hashes: SHA-256 of each item's source file.
        first: (O,) int64, each item's first byte.
        shapes: (O, K) int64, each item's shape.
        types: (O,) index into ``DTYPES``.
        marks: word -> ids that it was said of.
        left_out: what could not be decoded.
        fingerprint: hash of the source's file names, sizes and times, and of how they are decoded.
    """

    folder: Path
    ids: tuple[str, ...]
    hashes: tuple[str, ...]
    first: np.ndarray
    shapes: np.ndarray
    types: np.ndarray
    marks: dict[str, tuple[str, ...]]
    left_out: tuple[Problem, ...]
    fingerprint: str
    _bytes: np.ndarray

    def values(self, row: int) -> np.ndarray:
        """Return an item's values without copying them; they cannot be written to."""
        shape, dtype = tuple(self.shapes[row]), DTYPES[self.types[row]]
        first = int(self.first[row])
        size = int(np.prod(shape)) * dtype.itemsize
        return self._bytes[first : first + size].view(dtype).reshape(shape)


def open_flat_pack(
    root: Path,
    name: str,
    files: Sequence[SourceFile],
    decode: Callable[[bytes], Decoded],
    progress: Callable[[int, int], None] | None = None,
) -> FlatPack:
    """Open the decoded files; decode them first if that was not done or a file has changed.

    Files that are broken do not stop the others: they are in ``left_out``, for the caller to refuse.

    Args:
        root: the data set's folder.
        name: names the folder of the pack; it must tell all that changes what ``decode`` returns.
        files: what to decode.
        decode: makes values of a file's bytes; raises ``BadFile``. A module's function or a ``partial`` of one.
        progress: called with (files done, files in all).

    Raises:
        RunFailed: the disk is full or the place cannot be written.
    """
    fingerprint = _fingerprint(name, files)
    beside = root / ".hyperkit" / name
    if not writable(beside) and (pack := _load(beside, fingerprint)) is not None:
        return pack  # packed earlier, by somebody who could write here
    folder = side_folder(root) / name
    with folder_lock(folder):
        pack = _load(folder, fingerprint)
        if pack is None:
            try:
                _pack(folder, files, decode, fingerprint, progress)
            except OSError as error:
                raise (disk_error(folder, error) or error) from error
            pack = _load(folder, fingerprint)
    if pack is None:
        raise RunFailed(f"The packed files of {root} changed while they were opened.", "Run the command again.")
    return pack


def _fingerprint(name: str, files: Sequence[SourceFile]) -> str:
    digest = hashlib.sha256(f"hyperkit-flat-pack-{VERSION} {name}".encode())
    for file in files:
        with suppress(OSError):  # a link that leads nowhere; reading it will say so
            status = file.path.stat()
            digest.update(f"\n{file.id} {status.st_size} {status.st_mtime_ns}".encode())
            continue
        digest.update(f"\n{file.id}".encode())
    return digest.hexdigest()


def _load(folder: Path, fingerprint: str) -> FlatPack | None:
    try:
        with open(folder / "index.npz", "rb") as handle, np.load(handle, allow_pickle=False) as index:
            arrays = {name: index[name] for name in index.files}
        meta: dict[str, Any] = json.loads(arrays.pop("meta").tobytes())
        path = folder / meta["values"]
        if meta["fingerprint"] != fingerprint or path.stat().st_size != meta["bytes"]:
            return None
        # As a plain array: a memmap's own indexing is slower. An empty file cannot be mapped.
        mapped = np.asarray(np.memmap(path, dtype=np.uint8, mode="r")) if meta["bytes"] else np.empty(0, np.uint8)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return FlatPack(
        folder=folder,
        ids=tuple(meta["ids"]),
        hashes=tuple(meta["hashes"]),
        marks={word: tuple(names) for word, names in meta["marks"].items()},
        left_out=tuple(Problem(**problem) for problem in meta["left_out"]),
        fingerprint=fingerprint,
        _bytes=mapped,
        **arrays,
    )


def _pack(
    folder: Path,
    files: Sequence[SourceFile],
    decode: Callable[[bytes], Decoded],
    fingerprint: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    for stale in folder.glob(".values-*"):  # of a process that was killed; the lock says that it is gone
        stale.unlink(missing_ok=True)
    final = folder / f"values-{fingerprint[:12]}.bin"
    temporary = folder / f".{final.name}"
    try:
        # Written, not mapped: a full disk is then an error and not a signal.
        with open(temporary, "wb") as handle:
            index, meta = _write_values(handle, files, decode, progress)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
    problems = meta["left_out"]
    meta |= {"fingerprint": fingerprint, "values": final.name, "bytes": final.stat().st_size}
    with atomic_path(folder / "index.npz") as written, open(written, "wb") as handle:
        np.savez(handle, meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8), **index)  # type: ignore[arg-type]
    for old in folder.glob("values-*.bin"):
        if old != final:
            old.unlink(missing_ok=True)
    manifest = folder / "left-out.json"
    if problems:
        write_text(manifest, json.dumps(problems, indent=1))
    else:
        manifest.unlink(missing_ok=True)


def _write_values(
    handle: Any,
    files: Sequence[SourceFile],
    decode: Callable[[bytes], Decoded],
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    paths = [[file.path for file in chunk] for chunk in chunks]
    good: dict[str, tuple[str, int, tuple[int, ...], int]] = {}  # id -> hash, first byte, shape, type
    marks: dict[str, list[str]] = {}
    bad: dict[str, Problem] = {}
    place = done = 0
    for number, outcomes in run_all(partial(_read_files, decode), paths, None if len(files) >= MANY else 1):
        for file, (digest, outcome) in zip(chunks[number], outcomes, strict=True):
            if isinstance(outcome, str):
                bad[file.id] = Problem(str(file.path), outcome)
                continue
            values = np.ascontiguousarray(outcome.values)
            handle.write(values.tobytes() + b"\0" * (-values.nbytes % ALIGN))
            good[file.id] = (digest, place, values.shape, DTYPES.index(values.dtype))
            place += values.nbytes + -values.nbytes % ALIGN
            for mark in outcome.marks:
                marks.setdefault(mark, []).append(file.id)
        done += len(outcomes)
        if progress is not None:
            progress(done, len(files))
    ids = sorted(good)  # workers finish in any order
    index = {
        "first": np.array([good[name][1] for name in ids], dtype=np.int64),
        "shapes": np.array([good[name][2] for name in ids], dtype=np.int64),
        "types": np.array([good[name][3] for name in ids], dtype=np.int64),
    }
    meta = {
        "ids": ids,
        "hashes": [good[name][0] for name in ids],
        "marks": {word: sorted(names) for word, names in marks.items()},
        "left_out": [asdict(bad[name]) for name in sorted(bad)],
    }
    return index, meta


def _read_files(decode: Callable[[bytes], Decoded], paths: Sequence[Path]) -> list[tuple[str, Decoded | str]]:
    """Decode some files, in a worker: (SHA-256, what came of it, or why nothing did) for each."""
    results: list[tuple[str, Decoded | str]] = []
    for path in paths:
        digest, outcome = "", ""  # type: str, Decoded | str
        try:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            outcome = decode(content) if content else "is empty (0 bytes)"
        except BadFile as error:
            outcome = str(error)
        except OSError as error:
            outcome = f"cannot be read: {error.strerror or error}"
        results.append((digest, outcome))
    return results


def refuse(root: Path, problems: Sequence[Problem], count: int, hints: Mapping[str, str]) -> HyperkitError:
    """Build the error that names all files that cannot be used.

    Args:
        root: the data set's folder.
        problems: what is wrong; at least one.
        count: number of files in the data set.
        hints: beginning of a reason -> what helps against it, beyond mending or removing files.
    """

    def short(path: str) -> str:
        with suppress(ValueError):
            return Path(path).relative_to(root).as_posix()
        return path

    ordered = sorted(problems, key=lambda problem: problem.path)
    lines = [f"  {short(problem.path)}: {problem.reason}" for problem in ordered[:20]]
    if len(ordered) > 20:
        manifest = side_folder(root) / "left-out.json"
        write_text(manifest, json.dumps([asdict(problem) for problem in ordered], indent=1))
        lines.append(f"  ... and {len(ordered) - 20} more, listed in {manifest}")
    advice = [hint for reason, hint in hints.items() if any(p.reason.startswith(reason) for p in problems)]
    if len(problems) < count:
        advice.append("Leave them out with --skip-bad (prepare) or --set data.skip_bad=true (train).")
    return HyperkitError(
        f"{len(problems)} of {count} files in {root} cannot be used:\n" + "\n".join(lines),
        " ".join(["Mend or remove them.", *advice]),
    )
