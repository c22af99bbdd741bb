"""The LearnIt ShapeNet layout: class folders of object folders with pictures and a ``transforms.json``.

``<root>/<class>/[<synset>/]<object>/{transforms.json, *.png}`` and ``<root>/<class>_splits.json`` (for ``cars``,
``chairs`` and ``lamps`` the published names, ``car_splits.json`` and so on).
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hyperkit.data.splits import make_splits, write_splits
from hyperkit.errors import HyperkitError, RunFailed

__all__ = ["Problem", "Scene", "find_objects", "make_splits", "read_scene", "write_scene", "write_splits"]

NEAR, FAR = 2.0, 6.0
SYNSET = re.compile(r"n?\d{8}")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def write_scene(
    folder: Path,
    images: np.ndarray,
    poses: np.ndarray,
    camera_angle_x: float,
    extra: Mapping[str, Any] | None = None,
    labels: np.ndarray | None = None,
) -> None:
    """Write one object: its pictures as PNG and its cameras as ``transforms.json``, all at once or not at all.

    Args:
        folder: the object's folder; one that exists is replaced.
        images: (V, H, W, 4) uint8, straight (not premultiplied) alpha.
        poses: (V, 4, 4) camera to world, OpenGL axes.
        camera_angle_x: horizontal field of view in radians.
        extra: further entries of ``transforms.json``; ``near`` and ``far`` default to 2 and 6.
        labels: (V, H, W) uint8, what each pixel shows; written beside the pictures, each frame's ``label_path``.

    Raises:
        RunFailed: the disk is full or the place cannot be written.
    """
    if images.ndim != 4 or images.shape[3] != 4 or images.dtype != np.uint8 or len(poses) != len(images):
        raise ValueError(f"expected images (V, H, W, 4) uint8 and V poses, got {images.shape} and {poses.shape}")
    if labels is not None and (labels.shape != images.shape[:3] or labels.dtype != np.uint8):
        raise ValueError(f"expected labels {images.shape[:3]} uint8, got {labels.shape} {labels.dtype}")
    folder = Path(folder)
    names = [f"r_{index:03d}.png" for index in range(len(images))]
    frames: list[dict[str, Any]] = [
        {"file_path": name, "transform_matrix": np.asarray(pose, dtype=np.float64).tolist()}
        for name, pose in zip(names, poses, strict=True)
    ]
    files = dict(zip(names, images, strict=True))
    if labels is not None:
        for index, (frame, part) in enumerate(zip(frames, labels, strict=True)):
            frame["label_path"] = f"label_{index:03d}.png"
            files[frame["label_path"]] = part
    content = {"camera_angle_x": float(camera_angle_x), "near": NEAR, "far": FAR, **(extra or {}), "frames": frames}
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        for name, image in files.items():
            Image.fromarray(np.ascontiguousarray(image)).save(temporary / name, compress_level=3)
        (temporary / "transforms.json").write_text(json.dumps(content))
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as error:
        raise RunFailed(
            f"The object {folder} could not be written: {error}.",
            "Nothing of it was left half-written. Free some space, or choose another place with --out.",
        ) from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class Problem:
    """Something of a data set that cannot be used: which file or folder, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Scene:
    """One object as its ``transforms.json`` describes it.

    Attributes:
        id: "<class>/<object>".
        pictures: one file per view, in the order of the frames.
        sizes: (width, height) of each picture, from its header.
        poses: (V, 4, 4) float32, camera to world.
        camera_angle_x: horizontal field of view in radians.
        near, far: range of the ray parameter that holds the object.
    """

    id: str
    pictures: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    poses: np.ndarray
    camera_angle_x: float
    near: float
    far: float


def find_objects(root: Path) -> dict[str, Path]:
    """Find the object folders below ``root``: id "<class>/<object>" -> folder, in order of id.

    A folder in a class folder that is named by a WordNet number is a synset level and is looked into.

    Raises:
        HyperkitError: ``root`` is not a data set of this layout; what was found there is said.
    """
    root = Path(root)
    if not root.is_dir():
        kind = "is a file, not a folder" if root.exists() else "does not exist"
        raise HyperkitError(f"The data folder {root} {kind}.", _expected())
    found: dict[str, Path] = {}
    for class_folder in _folders(root):
        for folder in _folders(class_folder):
            below = _folders(folder)
            is_synset = SYNSET.fullmatch(folder.name) and below and not _holds_object(folder)
            for scene in below if is_synset else [folder]:
                name = scene.name
                if f"{class_folder.name}/{name}" in found:
                    name = f"{folder.name}-{scene.name}"
                found[f"{class_folder.name}/{name}"] = scene
    if not any((folder / "transforms.json").is_file() for folder in found.values()):
        raise _not_a_data_set(root)
    return dict(sorted(found.items()))


def _holds_object(folder: Path) -> bool:
    return any(
        child.name == "transforms.json" or (child.suffix.lower() in PICTURES and not child.name.startswith("."))
        for child in folder.iterdir()
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith((".", "__")))


def _expected() -> str:
    return (
        "Expected: <root>/<class>/<object>/transforms.json with its pictures (the LearnIt ShapeNet layout).\n"
        "Make one: `hyperkit prepare nvs --meshes DIR --out ROOT` from a folder of meshes, "
        "`hyperkit prepare nvs --learnit ARCHIVE --out ROOT` from the published archive; "
        "without --data the built-in procedural set is used."
    )


def _not_a_data_set(root: Path) -> HyperkitError:
    entries = sorted(child.name + ("/" if child.is_dir() else "") for child in root.iterdir())
    listing = ", ".join(entries[:10]) + (f" and {len(entries) - 10} more" if len(entries) > 10 else "")
    what = f"No object with a transforms.json was found in {root}; it holds {listing or 'nothing'}."
    if (root / "transforms.json").is_file() or any((child / "transforms.json").is_file() for child in _folders(root)):
        up = root.parent if not (root / "transforms.json").is_file() else root.parent.parent
        return HyperkitError(
            f"{root} is inside a data set, not its root.", f"Give the root: --data {up}\n{_expected()}"
        )
    for child in _folders(root):
        if any((scene / "transforms.json").is_file() for part in _folders(child) for scene in _folders(part)):
            return HyperkitError(what, f"{child} looks like a data set: try --data {child}\n{_expected()}")
    return HyperkitError(what, _expected())


def read_scene(object_id: str, folder: Path) -> tuple[Scene | None, list[Problem]]:
    """Read one object's cameras and the headers of its pictures; no pixel is decoded.

    Returns:
        The scene, and everything that is wrong with it; a scene with problems holds only the pictures that can be
        opened, and is None where there is nothing to look at. The pictures' sizes are compared by the caller, because
        they must agree over all objects.
    """
    source = folder / "transforms.json"
    try:
        content = json.loads(source.read_text())
        frames = content["frames"]
        angle, near, far = (
            float(content.get(k, d)) for k, d in (("camera_angle_x", "nan"), ("near", NEAR), ("far", FAR))
        )
        entries = [(str(frame["file_path"]), frame.get("transform_matrix")) for frame in frames]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return None, [Problem(str(source), f"cannot be read: {type(error).__name__}: {error}")]
    problems = []
    if not 0.0 < angle < np.pi:
        problems.append(
            Problem(str(source), f"camera_angle_x must lie between 0 and pi, found {content.get('camera_angle_x')}")
        )
    if not 0.0 <= near < far < np.inf:
        problems.append(Problem(str(source), f"near and far must satisfy 0 <= near < far, found {near} and {far}"))
    if len(entries) < 2:
        problems.append(Problem(str(source), f"at least two frames are needed, found {len(entries)}"))
    pictures, sizes, poses = [], [], []
    for index, (name, matrix) in enumerate(entries):
        path = _picture_path(folder, name)
        size, picture_problem = _header(path, index, source)
        pose, pose_problem = _rigid(matrix)
        if pose_problem:
            problems.append(Problem(str(source), f"frame {index}: {pose_problem}"))
        if picture_problem:
            problems.append(picture_problem)
            continue
        pictures.append(path)
        sizes.append(size)
        poses.append(pose)
    if not pictures:
        return None, problems
    return Scene(object_id, tuple(pictures), tuple(sizes), np.stack(poses), angle, near, far), problems


def _picture_path(folder: Path, name: str) -> Path:
    # As written, else beside transforms.json by its last part (archives are made on other machines); with or without
    # its extension. A path that leads out of the object's folder is never followed.
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    stems = [last] if Path(name).is_absolute() or ".." in Path(name).parts else [name, last]
    for stem in stems:
        for suffix in ("", *PICTURES):
            if (folder / (stem + suffix)).is_file():
                return folder / (stem + suffix)
    return folder / (last if Path(last).suffix else f"{last}.png")


def _header(path: Path, index: int, source: Path) -> tuple[tuple[int, int], Problem | None]:
    if not path.is_file():
        return (0, 0), Problem(str(source), f"frame {index}: its picture {path.name} is missing")
    try:
        with Image.open(path) as picture:
            size, mode = picture.size, picture.mode
    except Exception as error:  # Pillow raises many kinds for broken files
        return (0, 0), Problem(str(path), f"is not a picture: {type(error).__name__}")
    if mode not in ("RGBA", "RGB", "P", "L", "LA", "PA", "1"):
        return size, Problem(str(path), f"has pixels of kind {mode}; 8-bit RGBA or RGB are read")
    if size[0] != size[1]:
        return size, Problem(str(path), f"is not square: {size[0]} x {size[1]} pixels")
    return size, None


def _rigid(matrix: Any) -> tuple[np.ndarray, str | None]:
    nothing = np.eye(4, dtype=np.float32)
    try:
        pose = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        return nothing, "its transform_matrix is not a matrix of numbers"
    if pose.shape != (4, 4):
        return nothing, f"its transform_matrix must be 4 x 4, found shape {pose.shape}"
    if not np.isfinite(pose).all():
        return nothing, "its transform_matrix holds NaN or infinity"
    rotation = pose[:3, :3]
    # Tolerance: six decimals in a text file err by 1e-6; a scale or shear of 0.1 % is already a mistake.
    rigid = np.abs(rotation.T @ rotation - np.eye(3)).max() < 1e-3 and np.linalg.det(rotation) > 0
    if not rigid or np.abs(pose[3] - (0, 0, 0, 1)).max() > 1e-6:
        return nothing, "its transform_matrix is not a rotation and a translation"
    return pose.astype(np.float32), None


def read_picture(path: Path, size: int) -> np.ndarray:
    """Read a picture as (size, size, 4) uint8 with straight alpha; resized by area, in premultiplied colours."""
    with Image.open(path) as picture:
        rgba = np.asarray(picture.convert("RGBA"))
    if rgba.shape[:2] == (size, size):
        return rgba
    alpha = rgba[..., 3:].astype(np.float32)
    planes = np.concatenate((rgba[..., :3] * (alpha / 255.0), alpha), axis=2).astype(np.float32)
    small = np.stack(
        [
            np.asarray(Image.fromarray(np.ascontiguousarray(planes[..., c])).resize((size, size), Image.Resampling.BOX))
            for c in range(4)
        ],
        axis=2,
    )
    colours = small[..., :3] * (255.0 / np.maximum(small[..., 3:], 1e-6))
    return np.rint(np.concatenate((colours, small[..., 3:]), axis=2)).clip(0, 255).astype(np.uint8)
