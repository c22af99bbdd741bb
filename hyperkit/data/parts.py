"""Parts of objects: which there are (``parts.json``), and label maps that say which part each pixel shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from hyperkit.data.layout import Problem, find_objects
from hyperkit.data.pack import Pack
from hyperkit.data.places import folder_lock, side_folder, writable
from hyperkit.data.workers import available_cores
from hyperkit.errors import HyperkitError
from hyperkit.files import atomic_path

FILE = "parts.json"
VERSION = 1
_SHAPE = (
    'Expected: <root>/parts.json as {"chairs": {"seat": 1, "legs": 2}, ...}, and beside each picture of an object an '
    "8-bit grey PNG of these labels, 0 for the background: the frame's label_path in transforms.json, or "
    "label_000.png, label_001.png, ... in the order of the frames."
)

Table = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Parts:
    """The parts of the objects of each class, numbered from 1 to K in the order of their labels.

    Attributes:
        by_class: class -> part -> label in the label maps, 1 to 255. Parts of one label are the same part.
    """

    by_class: Mapping[str, Mapping[str, int]]

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """The labels, in order; part i has ``labels[i - 1]``."""
        return tuple(sorted({label for parts in self.by_class.values() for label in parts.values()}))

    def __len__(self) -> int:
        """Return K."""
        return len(self.labels)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of parts 1 to K; with their classes where different parts have one name."""
        given: dict[int, dict[str, str]] = {}
        for class_name, parts in self.by_class.items():
            for part, label in parts.items():
                given.setdefault(label, {}).setdefault(part, class_name)
        plain = ["/".join(given[label]) for label in self.labels]
        return tuple(
            name if plain.count(name) == 1 else f"{name} of {next(iter(given[label].values()))}"
            for name, label in zip(plain, self.labels, strict=True)
        )

    def of_class(self, class_name: str) -> dict[str, int]:
        """Return part -> number of a class's parts."""
        return {part: self.labels.index(label) + 1 for part, label in self.by_class.get(class_name, {}).items()}

    def numbers(self, class_name: str) -> np.ndarray:
        """Return the number of each label (256,) uint8 in a class's label maps: 0 for 0, 255 where it is no part."""
        table = np.full(256, 255, np.uint8)
        table[0] = 0
        for label in self.by_class.get(class_name, {}).values():
            table[label] = self.labels.index(label) + 1
        return table


def read_parts(root: Path) -> Table:
    """Read which parts the objects of a data set have: class -> part -> label.

    Raises:
        HyperkitError: there is no such file, or something is wrong with it; everything is listed.
    """
    root = Path(root).expanduser()
    path = root / FILE
    if not path.is_file():
        find_objects(root)  # whether it is a data set at all
        raise HyperkitError(f"The data set {root} has no label maps: there is no {FILE}.", _SHAPE)
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HyperkitError(f"{path} cannot be read: {error}", _SHAPE) from error
    problems = parts_problems(content)
    if problems:
        raise HyperkitError(f"{path} does not say which parts there are:\n" + "\n".join(problems), _SHAPE)
    return {name: dict(parts) for name, parts in content.items()}


def parts_problems(content: Any) -> list[str]:
    """Return what is wrong with a table class -> part -> label, one line each."""
    if not isinstance(content, Mapping) or not content:
        return [f"  it holds {type(content).__name__}, not a mapping of classes"]
    found = []
    for name, parts in content.items():
        if not isinstance(parts, Mapping) or not parts:
            found.append(f"  {name}: has no parts")
            continue
        for part, label in parts.items():
            if isinstance(label, bool) or not isinstance(label, int) or not 1 <= label <= 254:
                found.append(f"  {name}: the label of {part!r} must be a whole number from 1 to 254, found {label!r}")
        if len(set(map(str, parts.values()))) < len(parts):
            found.append(f"  {name}: two parts have one label")
    return found


def open_labels(pack: Pack, parts: Parts) -> np.ndarray:
    """Return which part each pixel of a packed data set shows, (N, S, S) uint8, 0 to K; packed on first use.

    They lie beside the packed pictures, and are made anew when the data, its size or the parts change. A map of
    another size is resized: a pixel gets the part that covers most of it, where parts cover at least half of it.

    Raises:
        HyperkitError: label maps are missing or broken, or hold labels that are no part; all are listed.
        RunFailed: the disk is full.
    """
    plain = json.dumps({name: dict(own) for name, own in parts.by_class.items()}, sort_keys=True)
    key = hashlib.sha256("\n".join((f"{VERSION}", pack.fingerprint, plain, *pack.ids)).encode()).hexdigest()
    folder = pack.folder if writable(pack.folder) else side_folder(pack.root) / pack.folder.name
    path = folder / f"labels-{key[:16]}.npy"
    if (stored := _stored(path, pack)) is not None:
        return stored
    with folder_lock(folder):
        if (stored := _stored(path, pack)) is not None:
            return stored
        with atomic_path(path) as temporary:
            maps = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=pack.pixels.shape[:3])
            problems = _decode(pack, parts, maps)
            if problems:
                raise _refused(pack.root, problems)
            maps.flush()
            del maps
        for old in folder.glob("labels-*.npy"):
            if old != path:
                old.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _stored(path: Path, pack: Pack) -> np.ndarray | None:
    with suppress(OSError, ValueError, EOFError):
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        if stored.shape == pack.pixels.shape[:3] and stored.dtype == np.uint8:
            return stored
    return None


def _decode(pack: Pack, parts: Parts, maps: np.ndarray) -> list[Problem]:
    folders = find_objects(pack.root)

    def one(index: int) -> list[Problem]:
        name, problems = pack.ids[index], []
        class_name = name.split("/", 1)[0]
        if class_name not in parts.by_class:
            return [Problem(name, f"its class {class_name} has no parts in {FILE}")]
        paths = label_paths(folders[name])
        if len(paths) != pack.views[index]:  # pictures and labels are matched by their place among the frames
            return [Problem(name, f"has {len(paths)} frames and {pack.views[index]} pictures")]
        numbers = parts.numbers(class_name)
        for view, path in enumerate(paths):
            try:
                maps[pack.first[index] + view] = read_labels(path, numbers, pack.size)
            except (OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError for broken PNG files
                reason = "is missing" if isinstance(error, FileNotFoundError) else str(error)
                problems.append(Problem(str(path.relative_to(pack.root)), reason))
        return problems

    with ThreadPoolExecutor(available_cores()) as pool:
        return [problem for found in pool.map(one, range(len(pack.ids))) for problem in found]


def label_paths(folder: Path) -> list[Path]:
    """Return where the label maps of an object's frames are to lie, in the order of the frames."""
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    paths = []
    for index, frame in enumerate(frames):
        name = PurePosixPath(str(frame.get("label_path") or f"label_{index:03d}.png").replace("\\", "/"))
        # a path that leads out of the object's folder is never followed
        paths.append(folder / (name.name if name.is_absolute() or ".." in name.parts else name))
    return paths


def read_labels(path: Path, numbers: np.ndarray, size: int) -> np.ndarray:
    """Read a label map as the numbers of its parts, (size, size) uint8.

    Args:
        path: an 8-bit grey (or palette) picture, square.
        numbers: (256,), the number of each label, 255 where it is none; see ``Parts.numbers``.

    Raises:
        ValueError: it is no such picture, or holds labels that are no part.
        OSError: it cannot be read.
    """
    with Image.open(path) as picture:
        if picture.mode not in ("L", "P"):
            raise ValueError(f"has pixels of kind {picture.mode}; label maps are 8-bit grey")
        raw = np.asarray(picture)
    if raw.shape[0] != raw.shape[1]:
        raise ValueError(f"is not square: {raw.shape[1]} x {raw.shape[0]} pixels")
    found = numbers[raw]
    if (found == 255).any():
        unknown = sorted(set(raw[found == 255].tolist()))
        raise ValueError(f"holds labels that are no part of its class in {FILE}: {', '.join(map(str, unknown))}")
    return resize_labels(found, size)


def resize_labels(labels: np.ndarray, size: int) -> np.ndarray:
    """Return a label map (H, H) uint8 at another size, by area; see ``open_labels``."""
    if labels.shape[0] == size:
        return labels
    present = [int(label) for label in np.unique(labels) if label]
    if not present:
        return np.zeros((size, size), np.uint8)
    shares = np.stack(
        [
            np.asarray(Image.fromarray((labels == label).astype(np.float32)).resize((size, size), Image.Resampling.BOX))
            for label in present
        ]
    )
    most = np.array(present, np.uint8)[shares.argmax(axis=0)]
    return np.where(shares.sum(axis=0) >= 0.5 - 1e-6, most, 0).astype(np.uint8)


def _refused(root: Path, problems: list[Problem]) -> HyperkitError:
    lines = [f"  {problem.path}: {problem.reason}" for problem in problems[:20]]
    if len(problems) > 20:
        lines.append(f"  ... and {len(problems) - 20} more")
    count = "1 problem was" if len(problems) == 1 else f"{len(problems)} problems were"
    return HyperkitError(f"{count} found in the label maps of {root}:\n" + "\n".join(lines), _SHAPE)
