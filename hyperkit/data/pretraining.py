"""What small backbones are pretrained on: procedural objects of other classes, and pictures; made on first use."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from hyperkit.config import PartConfig
from hyperkit.contracts import Batch
from hyperkit.data.builtin import made_once
from hyperkit.data.crops import Looks, crop, draw_boxes, recolour
from hyperkit.data.epochs import EpochOrder
from hyperkit.data.places import new_folder
from hyperkit.data.procedural.others import HELD_OUT_CLASSES, PRETRAINING_CLASSES, make_other_object
from hyperkit.data.procedural.pictures import picture
from hyperkit.data.raster import CAMERA_ANGLE_X, render_mesh, sphere_poses
from hyperkit.data.workers import run_all
from hyperkit.randomness import numpy_rng

log = logging.getLogger("hyperkit")

VERSION = 1
"""Raised whenever objects, pictures or cameras change: sets of another version are made anew."""

SUPERSAMPLE = 2
PICTURES = ("landscapes", "still_lifes", "textures")
PICTURE_SEED = 7919
"""Not that of the built-in set of pictures, so that none of those is seen in pretraining."""

Bytes = NDArray[np.uint8]


class PretrainingDataConfig(PartConfig):
    """How much there is to see, and how crops are drawn from it.

    Attributes:
        objects: of each class that is trained on.
        held_out: objects of each class that is not, half of them the bank and half the queries of nearest neighbours.
        views: pictures of each object.
        pictures: photograph-like pictures, over all kinds.
        stored: pixels a side of the pictures that crops are drawn from.
        size: pixels a side of a global crop, and of what is judged.
        local_size: of a local crop.
        local_crops: of each picture, beside the two global ones.
        global_scale: part of the picture's area that a global crop shows, from and to.
        local_scale: part of the square around the object that a local crop shows, from and to.
        colour: brightness, contrast and saturation of a crop are multiplied by 1 - colour to 1 + colour.
        grey: part of the crops that lose their colours.
        blur: part of the crops that are blurred.
        mirror: part of the crops that are mirrored, left to right.
        backgrounds: part of the objects that are shown before a picture; the others stand before white.
        workers: processes that make the set; None: one per CPU.
    """

    objects: int = Field(default=150, ge=1)
    held_out: int = Field(default=40, ge=2)
    views: int = Field(default=8, ge=1)
    pictures: int = Field(default=3000, ge=1)
    stored: int = Field(default=80, ge=8)
    size: int = Field(default=64, ge=8)
    local_size: int = Field(default=32, ge=8)
    local_crops: int = Field(default=4, ge=0)
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.1, 0.4)
    colour: float = Field(default=0.3, ge=0, lt=1)
    grey: float = Field(default=0.1, ge=0, le=1)
    blur: float = Field(default=0.3, ge=0, le=1)
    mirror: float = Field(default=0.5, ge=0, le=1)
    backgrounds: float = Field(default=0.3, ge=0, le=1)
    workers: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class _Job:
    """One object, or one picture where ``views`` is 0."""

    class_name: str
    index: int
    views: int
    size: int


def _make(job: _Job) -> Bytes:
    if not job.views:
        return picture(job.class_name, job.index, job.size, PICTURE_SEED)
    poses = sphere_poses(numpy_rng("pretraining", "views", job.class_name, job.index), job.views)
    mesh = make_other_object(job.class_name, 0, job.index)
    return render_mesh(mesh, poses, CAMERA_ANGLE_X, job.size, SUPERSAMPLE, cull=True)


def pretraining_root(config: PretrainingDataConfig, progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the folder of the set in the cache, made first if it is not there; a second process waits for the first.

    It holds ``objects.npy`` (N, V, S, S, 4) uint8, alpha not premultiplied, and ``pictures.npy`` (P, S, S, 3) uint8.
    Each is a pure function of its class, number and size.

    Args:
        config: how much of everything.
        progress: called with (objects and pictures done, in all).

    Raises:
        RunFailed: the cache folder is full or cannot be written.
    """
    sizes = (config.objects, config.held_out, config.views, config.pictures, config.stored)
    folder = f"pretraining-v{VERSION}-" + "-".join(map(str, sizes))

    def make(root: Path) -> None:
        log.info("making the pictures for pretraining in %s", root)
        with new_folder(root) as part:
            (part / "data").mkdir()
            _write(part / "data", config, progress)
            (part / "data").rename(root)

    return made_once(folder, make)


def _write(folder: Path, config: PretrainingDataConfig, progress: Callable[[int, int], None] | None) -> None:
    names = [f"{name}/{index}" for name, index in _objects(config)]
    jobs = [_Job(name, index, config.views, config.stored) for name, index in _objects(config)]
    shapes = [(PICTURES[k % len(PICTURES)], k // len(PICTURES)) for k in range(config.pictures)]
    jobs += [_Job(name, index, 0, config.stored) for name, index in shapes]
    side = (config.stored, config.stored)

    def array(name: str, *shape: int) -> Bytes:
        return np.lib.format.open_memmap(folder / name, mode="w+", dtype=np.uint8, shape=shape)

    objects = array("objects.npy", len(names), config.views, *side, 4)
    pictures = array("pictures.npy", config.pictures, *side, 3)
    for done, (index, made) in enumerate(run_all(_make, jobs, config.workers), start=1):
        if index < len(names):
            objects[index] = made
        else:
            pictures[index - len(names)] = made
        if progress is not None:
            progress(done, len(jobs))
    for written in (objects, pictures):
        written.flush()  # type: ignore[attr-defined]


def _objects(config: PretrainingDataConfig) -> list[tuple[str, int]]:
    counts = [(name, config.objects) for name in PRETRAINING_CLASSES]
    counts += [(name, config.held_out) for name in HELD_OUT_CLASSES]
    return [(name, index) for name, count in counts for index in range(count)]


class PretrainingData:
    """Crops of pictures to train on, and whole pictures of classes that are never trained on.

    Training batches hold ``context`` (B, G, 3, size, size), the global crops, and ``query`` (B, L, 3, local_size,
    local_size), the local ones; ``truth`` is the context. All that is drawn for an item is a function of the seed, the
    step and its place in the joined batch.

    Args:
        config: how much there is, and how crops are drawn.
        seed: of the order and the crops; the set itself is always the same.
        plain: one global crop, no local ones, and colours as they are, for masked reconstruction; else two global ones.
        progress: called with (done, in all) while the set is made.
    """

    def __init__(
        self,
        config: PretrainingDataConfig,
        seed: int,
        plain: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.config, self.seed, self.plain = config, seed, plain
        self.root = pretraining_root(config, progress)
        self.objects: Bytes = np.load(self.root / "objects.npy", mmap_mode="r")
        self.pictures: Bytes = np.load(self.root / "pictures.npy", mmap_mode="r")
        self._named = _objects(config)
        self.views = len(PRETRAINING_CLASSES) * config.objects * config.views
        """Views of objects that are trained on; they come before the pictures."""
        self._order = EpochOrder(np.arange(self.views + config.pictures), seed)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return after how many batches every view and every picture has come."""
        return self._order.steps(batch_size)

    def train_batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return the crops of the items ``rank, rank + world, ...`` of a step."""
        config = self.config
        places = np.arange(rank, batch_size, world)
        rows = self._order.at(step, batch_size, places)
        rngs = [numpy_rng(self.seed, "crops", step * batch_size + int(place)) for place in places]
        sources, frames, ids = zip(*map(self._source, rows, rngs), strict=True)
        source = torch.from_numpy(np.stack(sources)).permute(0, 3, 1, 2).float().div_(255)
        whole = np.tile((0.0, 0.0, 1.0), (len(rows), 1))
        wide = self._crops(source, whole, rngs, 1 if self.plain else 2, config.global_scale, config.size)
        count = 0 if self.plain else config.local_crops
        near = self._crops(source, np.stack(frames), rngs, count, config.local_scale, config.local_size)
        return Batch(wide, near, wide, ids, tuple(name.partition("/")[0] for name in ids))

    def _source(self, row: np.int64, rng: np.random.Generator) -> tuple[Bytes, NDArray[np.float64], str]:
        """Return a picture (S, S, 3), the square (x, y, half a side) in [-1, 1] around what it shows, and its id."""
        chance, which = rng.random(2)
        if row >= self.views:
            index = int(row) - self.views
            return self.pictures[index], np.array((0.0, 0.0, 1.0)), f"pictures/{index}"
        number, view = divmod(int(row), self.config.views)
        rgba = self.objects[number, view]
        behind = self.pictures[int(which * len(self.pictures))] if chance < self.config.backgrounds else None
        name, index = self._named[number]
        return laid_on(rgba, behind), frame_of(rgba[..., 3]), f"{name}/{index}/{view}"

    def _crops(
        self,
        source: Tensor,
        frames: NDArray[np.float64],
        rngs: list[np.random.Generator],
        count: int,
        scale: tuple[float, float],
        size: int,
    ) -> Tensor:
        config = self.config
        if not count:
            return source.new_empty(len(source), 0, 3, size, size)
        boxes = np.stack([draw_boxes(rng, frame, count, scale) for rng, frame in zip(rngs, frames, strict=True)])
        looks = np.stack([rng.random((count, Looks.DRAWS)) for rng in rngs])
        mirrored = torch.from_numpy(looks[..., 0].reshape(-1) < config.mirror)
        pictures = crop(source.repeat_interleave(count, 0), boxes.reshape(-1, 4), size, mirrored)
        if not self.plain:
            pictures = recolour(
                pictures, Looks(config.colour, config.grey, config.blur), looks.reshape(-1, Looks.DRAWS)
            )
        return pictures.clamp_(0, 1).unflatten(0, (-1, count))  # interpolation and blur round

    @cached_property
    def held_out(self) -> Batch:
        """Whole pictures of the held-out classes before white: the queries, and in ``query`` the bank, another batch.

        ``context`` is (N, 1, 3, size, size) in both. The first half of each class's objects is the bank.
        """
        half, views = self.config.held_out // 2, min(self.config.views, JUDGED)
        chosen: tuple[list[int], list[int]] = ([], [])
        for number, (name, index) in enumerate(self._named):
            if name in HELD_OUT_CLASSES:
                chosen[index >= half].append(number)
        bank, queries = (self._whole(numbers, views) for numbers in chosen)
        return Batch(queries.context, bank, queries.truth, queries.ids, queries.classes)

    def _whole(self, numbers: list[int], views: int) -> Batch:
        shown = np.stack([laid_on(self.objects[n, v], None) for n in numbers for v in range(views)])
        pictures = torch.from_numpy(shown).permute(0, 3, 1, 2).float().div_(255)
        side = (self.config.size, self.config.size)
        pictures = F.interpolate(pictures, side, mode="bicubic", antialias=True, align_corners=False).clamp_(0, 1)
        ids = [f"{self._named[n][0]}/{self._named[n][1]}/{v}" for n in numbers for v in range(views)]
        classes = tuple(name.partition("/")[0] for name in ids)
        return Batch(pictures[:, None], None, pictures[:, None], tuple(ids), classes)


JUDGED = 4
"""Views of each held-out object that are judged, at most."""


def laid_on(rgba: Bytes, behind: Bytes | None) -> Bytes:
    """Return a picture (S, S, 4) with straight alpha on another one (S, S, 3), or on white, rounded to bytes."""
    colours, alpha = rgba[..., :3].astype(np.uint32), rgba[..., 3:].astype(np.uint32)
    other = np.uint32(255) if behind is None else behind.astype(np.uint32)
    return ((colours * alpha + other * (255 - alpha) + 127) // 255).astype(np.uint8)


def frame_of(alpha: Bytes) -> NDArray[np.float64]:
    """Return the square (x, y, half a side) around the pixels (S, S) that are not clear, in [-1, 1] over the picture.

    Where all are clear it is the whole picture.
    """
    side = len(alpha)
    seen = [np.flatnonzero(alpha.any(axis=axis)) for axis in (0, 1)]
    if not len(seen[0]):
        return np.array((0.0, 0.0, 1.0))
    (left, right), (top, bottom) = ((int(s[0]), int(s[-1]) + 1) for s in seen)
    half = max(right - left, bottom - top) / side
    return np.array(((left + right) / side - 1, (top + bottom) / side - 1, half))
