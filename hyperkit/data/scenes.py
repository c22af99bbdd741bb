"""Captioned scenes: a data set in the LearnIt layout whose ``captions.json`` says what each scene shows.

``<root>/<class>/<scene>/{transforms.json, *.png}``, ``<root>/<class>_splits.json`` and ``<root>/captions.json``, a
mapping of "<class>/<scene>" to a sentence. Scenes of the layout's test split are unseen; all others train.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hyperkit.config import PartConfig
from hyperkit.contracts import Cameras
from hyperkit.data.builtin_scenes import builtin_scenes_root
from hyperkit.data.layout import find_objects, read_picture, read_scene
from hyperkit.data.pack import Pack, open_pack
from hyperkit.data.pixels import Background
from hyperkit.data.splits import read_splits
from hyperkit.errors import HyperkitError, RunFailed, unknown_name
from hyperkit.geometry import focal_from_angle

log = logging.getLogger("hyperkit")
CAPTIONS = "captions.json"
SPLITS = ("train", "unseen")
_SHAPE = f'{CAPTIONS} lies in the data folder and gives every scene a sentence: {{"chair/red": "a red chair", ...}}.'


class ScenesConfig(PartConfig):
    """Which captioned scenes are read, and which of their views are held out for measuring.

    Attributes:
        root: captioned scenes in the LearnIt ShapeNet layout; None: a built-in set, made on first use.
        builtin: which built-in set, where ``root`` is None.
        resolution: pictures are resized to this size by area; None: as stored, all of one size.
        background: what transparent pixels are laid on.
        test_fraction: part of each scene's views that is held out, spread evenly over their order.
    """

    root: str | None = None
    builtin: Literal["quickstart", "hyperfields", "novel", "debug"] = "quickstart"
    resolution: int | None = Field(default=None, ge=1, le=4096)
    background: Literal["white", "black"] = "white"
    test_fraction: float = Field(default=0.2, gt=0.0, lt=1.0)


@dataclass(frozen=True)
class SceneViews:
    """Posed pictures of one scene.

    Attributes:
        rgba: (V, 4, S, S) float32 in [0, 1], straight (not premultiplied) alpha.
        cameras: shape (V,).
        opaque: True where the scene's pictures have no alpha, so that nothing is known of its opacity.
    """

    rgba: Tensor
    cameras: Cameras
    opaque: bool

    def __len__(self) -> int:
        return len(self.rgba)

    def pictures(self, background: Background = "white") -> Tensor:
        """Return the pictures (V, 3, S, S) laid on a background, exactly the background where alpha is 0."""
        colour, alpha = self.rgba[:, :3], self.rgba[:, 3:]
        return colour * alpha + (1.0 - alpha) * float(background == "white")


class SceneSet:
    """Captioned scenes with their training views and the views that are held out for measuring.

    Attributes:
        root: the folder.
        size: S, width and height of the pictures.
        near, far: range of the ray parameter that holds every scene.
        background: what transparent pixels are laid on.
        captions: id "<class>/<scene>" -> sentence, in order of id.
        notes: sentences for the user about the splits.
    """

    def __init__(
        self, pack: Pack, captions: Mapping[str, str], splits: Mapping[str, Sequence[str]], config: ScenesConfig
    ) -> None:
        self.root, self.size, self.near, self.far = pack.root, pack.size, pack.near, pack.far
        self.background: Background = config.background
        self.captions = dict(captions)
        self.notes: tuple[str, ...] = ()
        self._pack, self._fraction = pack, config.test_fraction
        self._index = {name: index for index, name in enumerate(pack.ids)}
        self._splits = {name: tuple(splits[name]) for name in SPLITS}
        self._means: dict[bytes, Tensor] = {}

    @classmethod
    def open(cls, config: ScenesConfig, progress: Callable[[int, int], None] | None = None) -> SceneSet:
        """Open a set of captioned scenes; pictures are packed on first use.

        Args:
            config: what to read.
            progress: called with (scenes done, scenes in all) while a built-in set is made, or (pictures done,
                pictures in all) while pictures are packed.

        Raises:
            HyperkitError: it is not such a set, or captions or pictures are wrong; everything wrong is listed at once.
            RunFailed: the disk is full.
        """
        root = Path(config.root).expanduser() if config.root else builtin_scenes_root(config.builtin, progress)
        objects = find_objects(root)
        complete = [name for name, folder in objects.items() if (folder / "transforms.json").is_file()]
        captions, problems = read_captions(root, complete)
        try:
            pack = open_pack(root, config.resolution, progress=progress)
        except RunFailed:
            raise
        except HyperkitError as error:
            raise _refused(root, [*problems, error.what]) from error
        if problems:
            raise _refused(root, problems)
        splits = read_splits(root, pack.ids, validation=False)
        for note in splits.notes:
            log.info("%s: %s", root, note)
        train = sorted((*splits.ids["train"], *splits.ids["val"]))
        scenes = cls(pack, captions, {"train": train, "unseen": splits.ids["test"]}, config)
        scenes.notes = splits.notes
        return scenes

    def split(self, name: Literal["train", "unseen"]) -> tuple[str, ...]:
        """Return the ids of a split: "train" (the layout's val scenes among them) or "unseen" (its test scenes)."""
        if name not in self._splits:
            raise unknown_name("split of scenes", name, SPLITS)
        return self._splits[name]

    def views(self, scene: str) -> SceneViews:
        """Return the views that a scene's field is fitted to."""
        return self._read(scene, held_out=False)

    def test_views(self, scene: str) -> SceneViews:
        """Return the views of a scene that are held out for measuring."""
        return self._read(scene, held_out=True)

    def hash(self, scene: str) -> str:
        """Return a SHA-256 of all that a field fitted to a scene depends on: its training views and their cameras."""
        index, rows = self._rows(scene, held_out=False)
        pack = self._pack
        numbers = (pack.size, pack.near, pack.far, float(pack.focal[index]))
        digest = hashlib.sha256(" ".join(map(repr, numbers)).encode())
        digest.update(np.ascontiguousarray(pack.pixels[rows]).tobytes())
        digest.update(np.ascontiguousarray(pack.poses[rows]).tobytes())
        return digest.hexdigest()

    @property
    def shared_cameras(self) -> bool:
        """Whether all scenes have the same held-out cameras in the same order: their pictures can then be compared."""
        rows = [self._rows(name, held_out=True) for name in self.captions]
        cameras = [(self._pack.poses[own], float(self._pack.focal[index])) for index, own in rows]
        return all(len(poses) == len(cameras[0][0]) and _same(poses, f, *cameras[0]).all() for poses, f in cameras)

    def mean_pictures(self, scene: str) -> Tensor:
        """Return the mean image of the training scenes for each held-out view of a scene, (T, 3, S, S).

        It is the best constant answer (in mean squared error, over the training scenes) of somebody who knows the
        camera but not the caption: the mean over the training scenes of their pictures from the very same camera,
        which may be one of their held-out views. Where some training scene has no picture from one of the cameras, the
        answer knows neither: the mean over all training views of all training scenes.

        Raises:
            HyperkitError: no scene trains.
        """
        index, rows = self._rows(scene, held_out=True)
        pack, train = self._pack, self.split("train")
        if not train:
            raise HyperkitError(f"{self.root} has no training scenes.", "Their mean image is taken over another set.")
        key = pack.poses[rows].tobytes() + pack.focal[index].tobytes()
        if key not in self._means:
            places = np.stack([self._rows_from(name, pack.poses[rows], float(pack.focal[index])) for name in train])
            self._means[key] = self._mean_at(places) if (places >= 0).all() else self._mean_of_all(len(rows))
        return self._means[key]

    def _rows_from(self, scene: str, poses: np.ndarray, focal: float) -> np.ndarray:
        """Return the row of a scene's view from each of the given cameras (T, 4, 4), -1 where it has none."""
        index = self._index[scene]
        first, count = int(self._pack.first[index]), int(self._pack.views[index])
        own = self._pack.poses[first : first + count]
        same = _same(own[None], float(self._pack.focal[index]), poses[:, None], focal)
        return np.where(same.any(axis=1), first + same.argmax(axis=1), -1)

    def _mean_at(self, rows: np.ndarray) -> Tensor:
        total = torch.zeros(rows.shape[1], 3, self.size, self.size, dtype=torch.float64)
        for scene in rows:
            total += self._composited(scene)
        return (total / len(rows)).float()

    def _mean_of_all(self, count: int) -> Tensor:
        total, number = torch.zeros(3, self.size, self.size, dtype=torch.float64), 0
        for name in self.split("train"):
            _, rows = self._rows(name, held_out=False)
            total, number = total + self._composited(rows).sum(dim=0), number + len(rows)
        return (total / number).float().expand(count, -1, -1, -1)

    def _composited(self, rows: np.ndarray) -> Tensor:
        rgba = _planes(self._pack.pixels[rows]).double()
        return rgba[:, :3] * rgba[:, 3:] + (1.0 - rgba[:, 3:]) * float(self.background == "white")

    def _rows(self, scene: str, held_out: bool) -> tuple[int, np.ndarray]:
        if scene not in self._index:
            raise unknown_name("scene", scene, self.captions)
        index = self._index[scene]
        chosen = held_out_views(int(self._pack.views[index]), self._fraction) == held_out
        return index, self._pack.first[index] + np.flatnonzero(chosen)

    def _read(self, scene: str, held_out: bool) -> SceneViews:
        index, rows = self._rows(scene, held_out)
        pack = self._pack
        focal = torch.full((len(rows),), float(pack.focal[index]))
        cameras = Cameras(torch.from_numpy(pack.poses[rows]), focal, pack.size, pack.size, pack.near, pack.far)
        return SceneViews(_planes(pack.pixels[rows]), cameras, bool(pack.opaque[index]))


def open_scene(
    folder: Path, resolution: int | None = None, test_fraction: float = 0.2
) -> tuple[SceneViews, SceneViews]:
    """Read one scene's folder: the views that a field is fitted to, and those that are held out for measuring.

    Args:
        folder: holds ``transforms.json`` and its pictures.
        resolution: pictures are resized to this size by area; None: as stored, all of one size.
        test_fraction: part of the views that is held out, spread evenly over their order.

    Raises:
        HyperkitError: there is no scene, or something is wrong with it; everything wrong is listed.
    """
    folder = Path(folder).expanduser()
    if not (folder / "transforms.json").is_file():
        raise HyperkitError(
            f"{folder} is not a scene: it has no transforms.json.",
            "A scene's folder holds transforms.json and its pictures, as <root>/<class>/<scene> of a data set does.",
        )
    scene, problems = read_scene(folder.name, folder)
    found = [f"{problem.path}: {problem.reason}" for problem in problems]
    sizes = sorted({size[0] for size in scene.sizes}) if scene else []
    if len(sizes) > 1 and resolution is None:
        found.append(f"its pictures are of different sizes: {', '.join(map(str, sizes))} pixels; --resolution resizes")
    pictures = []
    for path in scene.pictures if scene else ():
        try:
            pictures.append(read_picture(path, resolution or sizes[0]))
        except Exception as error:  # Pillow raises many kinds for broken files
            found.append(f"{path}: cannot be decoded: {error}")
    if found or scene is None:
        raise _refused(folder, found)
    pixels, size = np.stack(pictures), resolution or sizes[0]
    held = held_out_views(len(pixels), test_fraction)
    focal, opaque = focal_from_angle(scene.camera_angle_x, size), bool(pixels[..., 3].min() == 255)
    parts = []
    for chosen in (~held, held):
        focals = torch.full((int(chosen.sum()),), focal)
        cameras = Cameras(torch.from_numpy(scene.poses[chosen]), focals, size, size, scene.near, scene.far)
        parts.append(SceneViews(_planes(pixels[chosen]), cameras, opaque))
    return parts[0], parts[1]


def held_out_views(views: int, fraction: float) -> np.ndarray:
    """Return which of a scene's views (V,) are held out: at least one, at most V - 1, spread evenly over their order.

    Views that were taken along a path are held out all along it: of 40 views and 0.2, views 2, 7, 12, ..., 37.
    """
    count = min(max(1, round(fraction * views)), views - 1)
    held = np.zeros(views, dtype=bool)
    held[((np.arange(count) + 0.5) * views / max(count, 1)).astype(int)] = True
    return held


def read_captions(root: Path, scenes: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Read the captions of scenes: id -> sentence in order of id, and everything that is wrong with them.

    Args:
        root: the folder with ``captions.json``.
        scenes: the ids that are there.

    Raises:
        HyperkitError: there is no such file, or it is not a mapping of names to sentences.
    """
    path = Path(root) / CAPTIONS
    if not path.is_file():
        raise HyperkitError(f"The scenes in {root} have no captions: there is no {CAPTIONS}.", _SHAPE)
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HyperkitError(f"The captions {path} cannot be read: {error}", _SHAPE) from error
    if not isinstance(content, dict):
        raise HyperkitError(f"{path} holds {type(content).__name__}, not a mapping.", _SHAPE)
    empty = [name for name, text in content.items() if isinstance(text, str) and not text.strip()]
    others = [name for name, text in content.items() if not isinstance(text, str)]
    kinds = {
        "captions that are empty": empty,
        "captions that are not a sentence": others,
        "captions without a scene": sorted(set(content) - set(scenes)),
        "scenes without a caption": sorted(set(scenes) - set(content)),
    }
    problems = [f"{kind} ({len(names)}): {', '.join(names)}" for kind, names in kinds.items() if names]
    return {name: content[name].strip() for name in sorted(scenes) if isinstance(content.get(name), str)}, problems


def _refused(root: Path, problems: Sequence[str]) -> HyperkitError:
    lines = "\n".join(f"  {line}" for problem in problems for line in problem.splitlines())
    return HyperkitError(
        f"{root} cannot be used:\n{lines}",
        f"{_SHAPE}\nPictures of different sizes are made equal with --resolution.",
    )


def _same(poses: np.ndarray, focal: float, others: np.ndarray, other_focal: float) -> np.ndarray:
    # Poses are read from decimals: 1e-5 is far above their rounding, and moves no point by a hundredth of a pixel.
    return (np.abs(poses - others).max(axis=(-2, -1)) < 1e-5) & (abs(focal - other_focal) < 1e-5 * focal)


def _planes(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(255.0).contiguous()
