"""The LearnIt ShapeNet layout: class folders of object folders with pictures and a ``transforms.json``.

``<root>/<class>/[<synset>/]<object>/{transforms.json, *.png}`` and ``<root>/<class>_splits.json`` (for ``cars``,
``chairs`` and ``lamps`` the published names, ``car_splits.json`` and so on).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hyperkit import randomness
from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.files import write_text

SPLITS = ("train", "val", "test")
SINGULAR = {"cars": "car", "chairs": "chair", "lamps": "lamp"}
NEAR, FAR = 2.0, 6.0


def write_scene(
    folder: Path,
    images: np.ndarray,
    poses: np.ndarray,
    camera_angle_x: float,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write one object: its pictures as PNG and its cameras as ``transforms.json``, all at once or not at all.

    Args:
        folder: the object's folder; one that exists is replaced.
        images: (V, H, W, 4) uint8, straight (not premultiplied) alpha.
        poses: (V, 4, 4) camera to world, OpenGL axes.
        camera_angle_x: horizontal field of view in radians.
        extra: further entries of ``transforms.json``; ``near`` and ``far`` default to 2 and 6.

    Raises:
        RunFailed: the disk is full or the place cannot be written.
    """
    if images.ndim != 4 or images.shape[3] != 4 or images.dtype != np.uint8 or len(poses) != len(images):
        raise ValueError(f"expected images (V, H, W, 4) uint8 and V poses, got {images.shape} and {poses.shape}")
    folder = Path(folder)
    names = [f"r_{index:03d}.png" for index in range(len(images))]
    frames = [
        {"file_path": name, "transform_matrix": np.asarray(pose, dtype=np.float64).tolist()}
        for name, pose in zip(names, poses, strict=True)
    ]
    content = {"camera_angle_x": float(camera_angle_x), "near": NEAR, "far": FAR, **(extra or {}), "frames": frames}
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        for name, image in zip(names, images, strict=True):
            Image.fromarray(np.ascontiguousarray(image)).save(temporary / name, compress_level=3)
        (temporary / "transforms.json").write_text(json.dumps(content))
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(temporary, folder)
    except OSError as error:
        raise RunFailed(
            f"The object {folder} could not be written: {error}.",
            "Nothing of it was left half-written. Free some space, or choose another place with --out.",
        ) from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def splits_path(root: Path, class_name: str) -> Path:
    """Return where a class's splits are written: ``car_splits.json`` for cars, ``<class>_splits.json`` for others."""
    return Path(root) / f"{SINGULAR.get(class_name, class_name)}_splits.json"


def write_splits(root: Path, class_name: str, splits: Mapping[str, Sequence[str]]) -> None:
    """Write a class's splits: ``train``, ``val`` and ``test``, each a list of object folder names."""
    unknown = set(splits) - set(SPLITS)
    if unknown:
        raise ValueError(f"splits are {SPLITS}, got {sorted(unknown)}")
    content = {name: list(splits.get(name, ())) for name in SPLITS}
    write_text(splits_path(root, class_name), json.dumps(content, indent=1))


def make_splits(
    ids: Sequence[str],
    seed: int,
    fractions: tuple[float, float, float] = (0.8, 0.05, 0.15),
    groups: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """Divide objects into ``train``, ``val`` and ``test`` by a hash of their names; a group is never divided.

    Groups (an object without one is a group by itself) are lined up by hash; the test set takes the first part of the
    line, then val, then train; a group goes where its middle falls. Every set with a positive fraction gets at least
    one group while there are enough groups for all of them.

    Args:
        ids: object names; the order does not matter.
        seed: seed of the hash.
        fractions: (train, val, test), parts of the number of objects; they are normalised to sum 1.
        groups: object name -> group name.
    """
    total = float(sum(fractions))
    if len(fractions) != 3 or min(fractions) < 0 or total <= 0:
        raise HyperkitError(f"The fractions of train, val and test must be positive, found {tuple(fractions)}.")
    units: dict[str, list[str]] = {}
    for name in sorted(set(ids)):
        group = (groups or {}).get(name)
        units.setdefault(f"object {name}" if group is None else f"group {group}", []).append(name)
    order = sorted(units, key=lambda unit: randomness.key("split", seed, unit))
    count, position = len(set(ids)), 0
    test_end, val_end = fractions[2] / total, (fractions[2] + fractions[1]) / total
    placed: dict[str, list[str]] = {name: [] for name in SPLITS}
    for unit in order:
        middle = (position + 0.5 * len(units[unit])) / count
        placed["test" if middle < test_end else "val" if middle < val_end else "train"].append(unit)
        position += len(units[unit])
    wanted = [name for name, part in zip(SPLITS, fractions, strict=True) if part > 0]
    if len(order) >= len(wanted):
        _fill_empty(placed, wanted)
    return {name: sorted(member for unit in placed[name] for member in units[unit]) for name in SPLITS}


def _fill_empty(placed: dict[str, list[str]], wanted: Sequence[str]) -> None:
    for name in wanted:
        if not placed[name]:
            richest = max(SPLITS, key=lambda other: len(placed[other]))
            placed[name].append(placed[richest].pop())
