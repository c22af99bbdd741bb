"""Pictures of a data set, decoded once into one memory-mapped array that training reads from.

Beside the data, in ``<root>/.hyperkit/<resolution>/``: ``pixels-*.npy`` (N, S, S, 4) uint8 with straight alpha, and
``index.npz``. Where the data cannot be written to, both lie in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hyperkit.data.layout import Problem, Scene, find_objects, read_picture, read_scene
from hyperkit.data.places import folder_lock, side_folder, writable
from hyperkit.data.workers import available_cores
from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.files import atomic_path, write_text
from hyperkit.geometry import focal_from_angle

log = logging.getLogger("hyperkit")
VERSION = 1
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pack:
    """A data set's pictures and cameras, ready to be read at random.

    Attributes:
        root: the data set's folder.
        folder: where the packed files lie.
        size: S, width and height of every picture.
        pixels: (N, S, S, 4) uint8, memory-mapped, straight alpha; the views of one object lie together.
        poses: (N, 4, 4) float32, camera to world.
        ids: objects that can be used, "<class>/<object>", in order.
        first, views: (O,) int64, each object's first row and number of rows.
        focal: (O,) float32, in pixels of a picture S wide.
        opaque: (O,) bool, True where an object's pictures have no transparent pixel.
        near, far: range that holds every object.
        left_out: what was skipped because it is broken.
        without_transforms: objects that have no ``transforms.json``.
        fingerprint: hash of the source's file names, sizes and times.
    """

    root: Path
    folder: Path
    size: int
    pixels: np.ndarray
    poses: np.ndarray
    ids: tuple[str, ...]
    first: np.ndarray
    views: np.ndarray
    focal: np.ndarray
    opaque: np.ndarray
    near: float
    far: float
    left_out: tuple[Problem, ...]
    without_transforms: tuple[str, ...]
    fingerprint: str


def open_pack(
    root: Path, resolution: int | None = None, skip_bad: bool = False, progress: Progress | None = None
) -> Pack:
    """Open a data set's packed pictures; pack them first if that was not done or the source has changed.

    Args:
        root: a data set in the LearnIt ShapeNet layout.
        resolution: pictures are resized to this size by area; None: as stored, all of one size.
        skip_bad: leave broken objects out and list them in ``left-out.json`` instead of refusing the data set.
        progress: called with (pictures done, pictures in all).

    Raises:
        HyperkitError: not a data set, or some of it is broken; everything that is broken is listed.
        RunFailed: the disk is full.
    """
    root = Path(root)
    if resolution is not None and not 1 <= resolution <= 4096:
        raise HyperkitError(f"The resolution must lie between 1 and 4096 pixels, found {resolution}.")
    objects = find_objects(root)
    fingerprint = _fingerprint(objects)
    name = str(resolution or _stored_size(objects))
    beside = root / ".hyperkit" / name
    pack = None
    if not writable(beside):
        pack = _load(root, beside, fingerprint, resolution)  # packed earlier, by somebody who could write here
    if pack is None:
        folder = side_folder(root) / name
        with folder_lock(folder):
            pack = _load(root, folder, fingerprint, resolution)
            if pack is None:
                _pack(root, folder, objects, fingerprint, resolution, skip_bad, progress)
                pack = _load(root, folder, fingerprint, resolution)
    if pack is None:
        raise RunFailed(f"The packed pictures of {root} changed while they were opened.", "Run the command again.")
    if pack.left_out and not skip_bad:
        raise _broken(root, pack.left_out)
    return pack


def _fingerprint(objects: Mapping[str, Path]) -> str:
    digest = hashlib.sha256(f"hyperkit-pack-{VERSION}".encode())
    for name, folder in objects.items():
        digest.update(f"\n{name}\n".encode())
        digest.update("\n".join(sorted(_file_lines(str(folder), ""))).encode())
    return digest.hexdigest()


def _file_lines(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _file_lines(entry.path, f"{prefix}{entry.name}/")
            else:
                with suppress(OSError):  # a link that leads nowhere; reading it will say so
                    status = entry.stat()
                    yield f"{prefix}{entry.name} {status.st_size} {status.st_mtime_ns}"


def _stored_size(objects: Mapping[str, Path]) -> int:
    for name, folder in objects.items():
        scene, _ = read_scene(name, folder) if (folder / "transforms.json").is_file() else (None, [])
        if scene is not None:
            return scene.sizes[0][0]
    return 0


def _load(root: Path, folder: Path, fingerprint: str, resolution: int | None) -> Pack | None:
    try:
        with open(folder / "index.npz", "rb") as handle, np.load(handle, allow_pickle=False) as index:
            arrays = {name: index[name] for name in index.files}
        meta: dict[str, Any] = json.loads(arrays.pop("meta").tobytes())
        usable = (
            meta["fingerprint"] == fingerprint
            and (resolution is None or meta["size"] == resolution)
            and (not meta["resized"] if resolution is None else not meta["wrong_size"])
        )
        if not usable:
            return None
        pixels = np.load(folder / meta["pixels"], mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if pixels.shape != (len(arrays["poses"]), meta["size"], meta["size"], 4) or pixels.dtype != np.uint8:
        return None
    return Pack(
        root=root,
        folder=folder,
        size=meta["size"],
        pixels=pixels,
        ids=tuple(meta["ids"]),
        near=meta["near"],
        far=meta["far"],
        left_out=tuple(Problem(**problem) for problem in meta["left_out"]),
        without_transforms=tuple(meta["without_transforms"]),
        fingerprint=fingerprint,
        **arrays,
    )


def _pack(
    root: Path,
    folder: Path,
    objects: Mapping[str, Path],
    fingerprint: str,
    resolution: int | None,
    skip_bad: bool,
    progress: Progress | None,
) -> None:
    for stale in folder.glob(".pixels-*"):  # of a process that was killed; the lock says that it is gone
        stale.unlink(missing_ok=True)
    complete = {name: path for name, path in objects.items() if (path / "transforms.json").is_file()}
    without = [name for name in objects if name not in complete]
    if without:
        log.warning("%d objects have no transforms.json and are skipped: %s", len(without), ", ".join(without[:3]))
    scenes, partial, problems = _scan(complete)
    sizes = Counter(size[0] for scene in scenes for size in scene.sizes)
    size = resolution or (sizes.most_common(1)[0][0] if sizes else 0)
    wrong = [] if resolution else _wrong_sizes(scenes, size)
    if problems + wrong and not skip_bad:
        # Find what is wrong with the pixels as well: everything is listed at once.
        raise _broken(root, problems + wrong + _decode(scenes + partial, None, size, progress)[0])
    bad = {problem.path for problem in wrong}
    scenes = [scene for scene in scenes if not bad.intersection(map(str, scene.pictures))]
    final = folder / f"pixels-{fingerprint[:12]}.npy"
    found, opaque = _write_pixels(final, scenes, size, root, skip_bad, progress)
    problems += wrong + found
    meta = {
        "fingerprint": fingerprint,
        "pixels": final.name,
        "size": size,
        "resized": any(old[0] != size for scene in scenes for old in scene.sizes),
        "wrong_size": bool(wrong),
        "left_out": [asdict(problem) for problem in problems],
        "without_transforms": without,
    }
    if not _write_index(folder, scenes, {problem.path for problem in found}, opaque, meta):
        raise _broken(root, problems)
    for old in folder.glob("pixels-*.npy"):
        if old != final:
            old.unlink(missing_ok=True)
    manifest = folder / "left-out.json"
    if problems:
        write_text(manifest, json.dumps([asdict(problem) for problem in problems], indent=1))
        log.warning("broken objects were left out: %d problems, listed in %s", len(problems), manifest)
    else:
        manifest.unlink(missing_ok=True)


def _write_pixels(
    final: Path, scenes: Sequence[Scene], size: int, root: Path, skip_bad: bool, progress: Progress | None
) -> tuple[list[Problem], np.ndarray]:
    rows = sum(len(scene.pictures) for scene in scenes)
    _check_space(final.parent, rows * size * size * 4)
    temporary = final.parent / f".{final.name}"
    try:
        pixels = _allocate(temporary, (rows, size, size, 4))
        found, opaque = _decode(scenes, pixels, size, progress)
        if found and not skip_bad:
            raise _broken(root, found)
        pixels.flush()
        del pixels
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
    return found, opaque


def _scan(objects: Mapping[str, Path]) -> tuple[list[Scene], list[Scene], list[Problem]]:
    """Read all cameras and headers: the good scenes, what is left of the bad ones, and what is wrong with those."""
    with ThreadPoolExecutor(available_cores()) as pool:
        results = list(pool.map(lambda entry: read_scene(*entry), objects.items()))
    good = [scene for scene, found in results if scene and not found]
    partial = [scene for scene, found in results if scene and found]
    return good, partial, [problem for _, found in results for problem in found]


def _wrong_sizes(scenes: Sequence[Scene], size: int) -> list[Problem]:
    return [
        Problem(str(path), f"is {width} x {width} pixels where most are {size} x {size}; --resolution makes them equal")
        for scene in scenes
        for path, (width, _) in zip(scene.pictures, scene.sizes, strict=True)
        if width != size
    ]


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + (16 << 20) > free:
        raise RunFailed(
            f"Packing the pictures into {folder} needs {needed} bytes ({needed / 2**30:.2f} GiB), "
            f"but {free} bytes ({free / 2**30:.2f} GiB) are free.",
            "Free some space, or pack smaller pictures with --resolution.",
        )


def _allocate(path: Path, shape: tuple[int, ...]) -> np.memmap:
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # Writing to a mapped file on a full disk kills the process; reserve the blocks first.
        try:
            with open(path, "rb+") as handle:
                os.posix_fallocate(handle.fileno(), 0, max(path.stat().st_size, 1))
        except OSError as error:
            raise RunFailed(
                f"{path.parent} has no room for the packed pictures: {error}.", "Free some space."
            ) from error
    return pixels


def _decode(
    scenes: Sequence[Scene], pixels: np.ndarray | None, size: int, progress: Progress | None
) -> tuple[list[Problem], np.ndarray]:
    """Decode all pictures into ``pixels`` (only check them if None); return what is broken, and which are opaque."""
    first = np.cumsum([0] + [len(scene.pictures) for scene in scenes])

    def one(index: int) -> tuple[list[Problem], bool]:
        problems, opaque = [], True
        for view, path in enumerate(scenes[index].pictures):
            try:
                picture = read_picture(path, size)
            except Exception as error:  # Pillow raises many kinds for broken files
                problems.append(Problem(str(path), f"cannot be decoded: {error}"))
                continue
            opaque = opaque and bool(picture[..., 3].min() == 255)
            if pixels is not None:
                pixels[first[index] + view] = picture
        return problems, opaque

    problems: list[Problem] = []
    opaque = np.zeros(len(scenes), dtype=bool)
    pool = ThreadPoolExecutor(available_cores())
    try:
        for index, (found, clear) in enumerate(pool.map(one, range(len(scenes)))):
            problems += found
            opaque[index] = clear
            if progress is not None:
                progress(int(first[index + 1]), int(first[-1]))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return problems, opaque


def _write_index(
    folder: Path, scenes: Sequence[Scene], broken: set[str], opaque: np.ndarray, meta: dict[str, Any]
) -> bool:
    counts = np.array([len(scene.pictures) for scene in scenes], dtype=np.int64)
    first = np.cumsum(counts) - counts
    good = [i for i, scene in enumerate(scenes) if not broken.intersection(map(str, scene.pictures))]
    if not good:
        return False
    meta["ids"] = [scenes[i].id for i in good]
    meta["near"] = min(scenes[i].near for i in good)
    meta["far"] = max(scenes[i].far for i in good)
    with atomic_path(folder / "index.npz") as temporary, open(temporary, "wb") as handle:
        np.savez(
            handle,
            meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
            poses=np.concatenate([scene.poses for scene in scenes]),
            first=first[good],
            views=counts[good],
            focal=np.array([focal_from_angle(scenes[i].camera_angle_x, meta["size"]) for i in good], np.float32),
            opaque=opaque[good],
        )
    return True


def _broken(root: Path, problems: Sequence[Problem]) -> HyperkitError:
    def short(path: str) -> str:
        with suppress(ValueError):
            return str(Path(path).relative_to(root))
        return path

    lines = [f"  {short(problem.path)}: {problem.reason}" for problem in problems[:20]]
    if len(problems) > 20:
        lines.append(f"  ... and {len(problems) - 20} more")
    count = "1 problem was" if len(problems) == 1 else f"{len(problems)} problems were"
    return HyperkitError(
        f"{count} found in the data set {root}:\n" + "\n".join(lines),
        "Mend or remove them, or pass --skip-bad to leave these objects out (they are then listed in a file).",
    )
