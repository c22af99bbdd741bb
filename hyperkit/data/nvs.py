"""Data of novel view synthesis: training batches by step, frozen evaluation pairs, constants to compare with."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hyperkit import randomness
from hyperkit.contracts import Batch, Cameras
from hyperkit.data import pixels
from hyperkit.data.builtin import builtin_root
from hyperkit.data.evaluation import EvalSet, FeatureReader, constant_scores, mean_picture
from hyperkit.data.nvs_draw import Draw, Draws, NVSDataConfig
from hyperkit.data.pack import open_pack
from hyperkit.data.pairs import Pair, PairSet, add_contexts, frozen_pairs, shuffle_contexts, too_few_views
from hyperkit.data.splits import SPLITS, read_splits
from hyperkit.errors import HyperkitError, unknown_name
from hyperkit.geometry import mirror_x, pixel_rays

log = logging.getLogger("hyperkit")


@dataclass(frozen=True)
class Sample:
    """One object with all its views.

    Attributes:
        id, class_name: "cars/0001", "cars".
        split: "train", "val", "test", or "" if it is in none.
        pictures: (V, 3, H, W) uint8 on the background.
        cameras: shape (V,).
    """

    id: str
    class_name: str
    split: str
    pictures: Tensor
    cameras: Cameras


class NVSData:
    """A data set for novel view synthesis.

    Args:
        config: what to read and how to draw from it.
        seed: seed of everything that training draws.
        progress: called with (pictures done, pictures in all) while pictures are packed, or (objects done, objects in
            all) while the built-in set is made.

    Attributes:
        root: the data set's folder.
        size: S, width and height of the pictures.
        near, far: range of the ray parameter.
        classes: classes that are trained on; ``test_classes``: those that the test split is evaluated on;
            ``all_classes``: those that are there.
        splits: split -> ids of the usable objects of all classes; ``train_ids``: those that are trained on.
        notes: sentences for the user about splits and objects left out.

    Raises:
        HyperkitError: the data set is broken, or nothing is left to train on.
        RunFailed: the disk is full.
    """

    def __init__(self, config: NVSDataConfig, seed: int, progress: Callable[[int, int], None] | None = None) -> None:
        self.config, self.seed = config, seed
        self.root = Path(config.root).expanduser() if config.root else self.builtin(config.builtin, progress)
        self.pack = open_pack(self.root, config.resolution, config.skip_bad, progress)
        self._reader = pixels.PixelReader(self.pack, config.background)
        self.size, self.near, self.far = self.pack.size, self.pack.near, self.pack.far
        self._label_maps = self.open_label_maps()
        splits = read_splits(self.root, self.pack.ids)
        self.splits, self.notes = splits.ids, splits.notes
        for note in splits.notes:
            log.info("%s: %s", self.root, note)
        self.all_classes = tuple(sorted({name.split("/", 1)[0] for name in self.pack.ids}))
        self.classes = self._check_classes(config.classes)
        self.test_classes = self._check_classes(config.test_classes) if config.test_classes else self.classes
        self.train_ids = nested_fraction(self._of("train", self.classes), config.train_fraction)
        self._check_training()
        objects = np.array([self._reader.index[name] for name in self.train_ids], dtype=np.int64)
        self._draws = Draws(self.pack, objects, config, seed)
        self._views_checked = False
        self._pairs: dict[str, PairSet] = {}

    def builtin(self, name: str, progress: Callable[[int, int], None] | None) -> Path:
        """Return the folder of a built-in set, made first if it is not there."""
        return builtin_root(name, progress)

    def open_label_maps(self) -> np.ndarray | None:
        """Return which part each pixel shows, (N, S, S) uint8, in the order of the pack's pictures, where known."""
        return None

    def features_at(self, views: np.ndarray, chosen: np.ndarray) -> Tensor | None:
        """Return an encoder's features at pixels (B, R) of views (B,) that are trained on, where some are distilled."""
        return None

    def feature_reader(self, split: str) -> FeatureReader | None:
        """Return what gives the features of all pixels of a split's target views, where some are distilled."""
        return None

    def _check_classes(self, names: Sequence[str] | None) -> tuple[str, ...]:
        for name in names or ():
            if name not in self.all_classes:
                raise unknown_name("class", name, self.all_classes, f"The data set is {self.root}.")
        return tuple(names) if names else self.all_classes

    def _of(self, split: str, classes: Sequence[str]) -> list[str]:
        if split not in self.splits:
            raise unknown_name("split", split, SPLITS)
        return [name for name in self.splits[split] if name.split("/", 1)[0] in classes]

    def _check_training(self) -> None:
        if not self.train_ids:
            raise HyperkitError(
                f"{self.root} has no training objects of the classes {', '.join(self.classes)}.",
                "Look at its splits files, or choose other classes.",
            )
        first = self.config.train_views[0]
        few = [name for name in self.train_ids if self._views_of(name) <= first]
        if few:
            raise HyperkitError(
                f"{len(few)} training objects have no view in {self.config.train_views}, such as {few[0]}.",
                "Choose train_views within the number of views of every object.",
            )

    def _check_views(self) -> None:
        # Only training needs it: a model that was trained on more views can be evaluated on data that has fewer.
        first, end = self.config.train_views
        usable = {name: min(self._views_of(name), end) - first for name in self.train_ids}
        few = {name: count for name, count in usable.items() if count < self.config.views}
        if few:
            raise too_few_views(
                few, f"training takes them from train_views {self.config.train_views}", self.config.views
            )
        for split in ("val", "test"):  # rather now than after hours
            if self._of(split, self._classes_of(split)):
                self.pairs(split)
        self._views_checked = True

    def _views_of(self, name: str) -> int:
        return int(self.pack.views[self._reader.index[name]])

    def _classes_of(self, split: str) -> tuple[str, ...]:
        return self.test_classes if split == "test" else self.classes

    @property
    def opaque_ids(self) -> tuple[str, ...]:
        """The training objects whose pictures have no alpha, so that nothing is known of their opacity."""
        return tuple(name for name in self.train_ids if self.pack.opaque[self._reader.index[name]])

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of steps after which every training object has been seen."""
        return self._draws.steps_per_epoch(batch_size)

    def train_batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return the training batch of a step; a pure function of the seed and the step.

        Args:
            step: counted from 0; batches follow one permutation of the training objects per epoch.
            batch_size: items of the joined batch.
            rank, world: this process takes items ``rank, rank + world, ...`` of the joined batch.

        Returns:
            Batch with context (B, V, 3, S, S), its cameras (B, V), rays (B, R, 3) of one target view, their truth and
            its opacity. The target is none of the context views unless an object has no more than V.

        Raises:
            HyperkitError: objects have too few views for V context views, in training or in evaluation.
        """
        if self.config.views > 1 and not self._views_checked:
            self._check_views()
        draw = self._draws.at(step, batch_size).part(rank, world)
        size, views = self.size, draw.contexts.shape[1]
        opaque = self.pack.opaque[draw.objects]
        context = self._reader.words(draw.contexts).reshape(-1, views, size, size)
        context[draw.mirror] = context[draw.mirror][..., ::-1]
        seen = self._choose_pixels(draw)
        # The pixel at column j of a picture is at column S - 1 - j of the flipped one.
        asked = np.where(draw.mirror[:, None], seen + (size - 1) - 2 * (seen % size), seen)
        cameras, ids = self._cameras(draw), tuple(self.pack.ids[i] for i in draw.objects)
        # All of an item's views are one row of pixels, so that they change their colours together.
        pictures = self._finish(pixels.unpack_words(context.reshape(-1, views * size * size)), draw.colour, opaque)
        sampled = self._reader.pixels(draw.target, seen)
        truth = self._finish(sampled, draw.colour, opaque)
        return Batch(
            context=pictures.reshape(-1, 3, views, size, size).transpose(1, 2).contiguous(),
            query=pixel_rays(
                replace(cameras, poses=cameras.poses[:, -1], focal=cameras.focal[:, -1]), torch.from_numpy(asked)
            ),
            truth=truth.transpose(1, 2).contiguous(),
            ids=ids,
            classes=tuple(name.split("/", 1)[0] for name in ids),
            context_cameras=replace(cameras, poses=cameras.poses[:, :-1], focal=cameras.focal[:, :-1]),
            opacity=pixels.opacity(sampled, opaque),
            labels=self._labels(draw.target, seen),
            features=self.features_at(draw.target, seen),
        )

    def _labels(self, rows: np.ndarray, chosen: np.ndarray) -> Tensor | None:
        if self._label_maps is None:
            return None
        y, x = np.divmod(chosen, self.size)
        return torch.from_numpy(np.asarray(self._label_maps)[rows[:, None], y, x]).long()

    def _cameras(self, draw: Draw) -> Cameras:
        # (B, V + 1): of the context views and the target
        rows = np.concatenate((draw.contexts, draw.target[:, None]), axis=1)
        cameras = self._reader.cameras(rows, np.broadcast_to(draw.objects[:, None], rows.shape))
        flip = torch.from_numpy(draw.mirror)[:, None, None, None]
        return replace(cameras, poses=torch.where(flip, mirror_x(cameras.poses), cameras.poses))

    def _finish(self, gathered: np.ndarray, colour: Tensor | None, opaque: np.ndarray) -> Tensor:
        rgba = pixels.planes(gathered)
        if colour is not None:
            rgba = pixels.recolour(rgba, colour, torch.from_numpy(opaque))
        return pixels.composite(rgba, self.config.background)

    def _choose_pixels(self, draw: Draw) -> np.ndarray:
        area = self.size * self.size
        chosen = np.floor(draw.rays * area).astype(np.int64)
        count = int(self.config.foreground_share * self.config.rays_per_item)
        for item in np.flatnonzero(draw.foreground):
            inside = self._reader.foreground(int(draw.target[item]), bool(self.pack.opaque[draw.objects[item]]))
            if len(inside):
                chosen[item, :count] = inside[np.floor(draw.rays[item, :count] * len(inside)).astype(np.int64)]
        return chosen

    def pairs(
        self,
        split: str = "test",
        classes: Sequence[str] | None = None,
        shuffle_context: Literal["none", "class", "all"] = "none",
        limit: int | None = None,
        batch_size: int = 8,
        views: int | None = None,
    ) -> EvalSet:
        """Return the frozen evaluation pairs of a split.

        Args:
            split: "test", "val" or "train".
            classes: classes to evaluate, whether trained on or not; None: ``test_classes`` for the test split, those
                that are trained on for the others.
            shuffle_context: give every object another object's context, within its class or over all.
            limit: at most so many items, spread evenly over the split.
            batch_size: items of a batch while iterating.
            views: V, context views of an item; None: as configured. The target views are the same for every number, and
                the contexts for fewer are the first of those for more; see ``add_contexts``.

        Raises:
            HyperkitError: the split has no such objects, the file of frozen pairs was changed, or objects have too few
                views; all are named.
        """
        chosen = self._check_classes(classes) if classes else self._classes_of(split)
        names = set(self._of(split, chosen))
        if not names:
            raise HyperkitError(
                f"The split {split!r} of {self.root} has no objects of the classes {', '.join(chosen)}.",
                f"It has: {self.counts()}.",
            )
        frozen = self.frozen(split)
        own = [pair for pair in frozen.pairs if pair.object in names]
        counts = {pair.object: self._views_of(pair.object) for pair in own}
        pairs = add_contexts(own, split, counts, self.config.views if views is None else views)
        if shuffle_context != "none":
            pairs = shuffle_contexts(pairs, within_class=shuffle_context == "class")
        if limit is not None and limit < len(pairs):
            pairs = [pairs[int(i)] for i in np.linspace(0, len(pairs) - 1, max(limit, 0)).round()]
        return EvalSet(self._reader, pairs, frozen.sha256, batch_size, self._label_maps, self.feature_reader(split))

    def frozen(self, split: str) -> PairSet:
        """Return the frozen pairs of a split, drawn and written on first use."""
        if split not in self._pairs:
            names = self._of(split, self.all_classes)
            self._pairs[split] = frozen_pairs(self.root, split, {name: self._views_of(name) for name in names})
        return self._pairs[split]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return split -> class -> number of usable objects."""
        return {s: dict(sorted(Counter(n.split("/", 1)[0] for n in self.splits[s]).items())) for s in SPLITS}

    def constants(
        self,
        split: str = "test",
        classes: Sequence[str] | None = None,
        mean: Literal["class", "all"] = "class",
        limit: int | None = None,
    ) -> dict[str, dict[str, float]]:
        """Return the PSNR of constant pictures over the same target views that ``pairs`` gives.

        Args:
            split, classes, limit: as for ``pairs``.
            mean: compare with the mean training picture of the item's class (of all classes for one that is not
                trained on), or of all classes for every item.

        Returns:
            {"white": scores, "mean": scores} (and "black" on a black background); scores are class -> dB, and "all".
        """
        evalset = self.pairs(split, classes, limit=limit, views=1)  # the targets are the same for every number
        shape = (3, self.size, self.size)
        white = dict.fromkeys(evalset.counts, torch.ones(shape))
        result = {"white": constant_scores(evalset, white)}
        if self.config.background == "black":
            result["black"] = constant_scores(evalset, {name: torch.zeros(shape) for name in white})
        own: dict[str, tuple[Tensor, int]] = {}
        for name in self.classes:
            objects = [item for item in self.train_ids if item.split("/", 1)[0] == name]
            if objects:
                own[name] = mean_picture(self._reader, objects, self.config.train_views)
        views = sum(count for _, count in own.values())
        overall = torch.stack([picture * (count / views) for picture, count in own.values()]).sum(0)
        given = {name: own[name][0] if mean == "class" and name in own else overall for name in white}
        result["mean"] = constant_scores(evalset, given)
        return result

    def object(self, name: str) -> Sample:
        """Return an object with all its views, by its id "<class>/<object>".

        Raises:
            HyperkitError: there is no such object; the nearest id is named.
        """
        if name not in self._reader.index:
            near = [other for other in self.pack.ids if other.split("/", 1)[1] == name]
            raise unknown_name("object", name, near or self.pack.ids[:20], f"The data set is {self.root}.")
        index = self._reader.index[name]
        rows = self.pack.first[index] + np.arange(self.pack.views[index])
        pictures = (self._reader.pictures(rows) * 255.0).round().to(torch.uint8)
        split = next((part for part, names in self.splits.items() if name in names), "")
        cameras = self._reader.cameras(rows, np.full(len(rows), index))
        return Sample(name, name.split("/", 1)[0], split, pictures, cameras)

    def samples(self, count: int) -> list[dict[str, Any]]:
        """Return a few held-out inputs, small enough to travel in a checkpoint, spread over the classes.

        Each holds plain values and tensors: ``id class split``; the context views, on the background, as ``pictures``
        (V, 3, S, S) uint8 with their ``poses`` (V, 4, 4), and the first of them also as ``picture`` and ``pose``;
        ``focal width near far``; and another view as ``target_picture`` and ``target_pose``.
        """
        split = next(part for part in ("test", "val", "train") if self._of(part, self._classes_of(part)))
        first: dict[str, Pair] = {}
        for pair in self.pairs(split).pairs:
            first.setdefault(pair.object, pair)
        by_class = [[name for name in first if name.split("/", 1)[0] == part] for part in self._classes_of(split)]
        turns = max(map(len, by_class))
        order = [names[turn] for turn in range(turns) for names in by_class if turn < len(names)]
        return [self._sample(first[name], split) for name in order[:count]]

    def _sample(self, pair: Pair, split: str) -> dict[str, Any]:
        index = self._reader.index[pair.object]
        rows = self.pack.first[index] + np.array([*pair.contexts, pair.target])
        pictures = (self._reader.pictures(rows) * 255.0).round().to(torch.uint8)
        poses = torch.from_numpy(self.pack.poses[rows])
        return {
            "id": pair.object,
            "class": pair.object.split("/", 1)[0],
            "split": split,
            "pictures": pictures[:-1].clone(),
            "poses": poses[:-1].clone(),
            "picture": pictures[0].clone(),
            "pose": poses[0].clone(),
            "focal": float(self.pack.focal[index]),
            "width": self.size,
            "near": self.near,
            "far": self.far,
            "target_picture": pictures[-1].clone(),
            "target_pose": poses[-1].clone(),
        }


def nested_fraction(names: Sequence[str], fraction: float) -> tuple[str, ...]:
    """Return a part of the objects of each class, in a hash's order: a smaller fraction is contained in a larger."""
    by_class: dict[str, list[str]] = {}
    for name in names:
        by_class.setdefault(name.split("/", 1)[0], []).append(name)
    kept: list[str] = []
    for members in by_class.values():
        order = sorted(members, key=lambda name: randomness.key("fraction", name))
        kept += order[: max(1, math.ceil(fraction * len(order) - 1e-9))]
    return tuple(sorted(kept))
