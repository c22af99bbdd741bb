"""Data of part segmentation: views of objects with a label map beside each picture, and features where distilled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pydantic import field_validator
from torch import Tensor

from hyperkit.data.builtin import BuiltinSet, made_once
from hyperkit.data.evaluation import FeatureReader
from hyperkit.data.feature_maps import FeatureMaps, FeatureStore
from hyperkit.data.nvs import NVSData
from hyperkit.data.nvs_draw import NVSDataConfig
from hyperkit.data.parts import Parts, Table, open_labels, parts_problems, read_parts
from hyperkit.data.places import new_folder
from hyperkit.errors import HyperkitError, RunFailed

log = logging.getLogger("hyperkit")

BUILTIN_PARTS = {
    "quickstart": BuiltinSet("segment-procedural-v1", (250, 8, 20), 64, 24, 64),
    "debug": BuiltinSet("segment-procedural-v1-debug", (4, 1, 2), 32, 8, 32),
}
"""More objects with fewer views than for novel view synthesis, and pictures no larger than they are read: what limits
the parts of a new object is how many others were seen."""


class SegmentDataConfig(NVSDataConfig):
    """Which pictures and label maps are read, and how training batches are drawn from them.

    Mirroring leaves labels as they are: with parts that are "left" and "right", choose ``augment`` without it.

    Attributes:
        parts: class -> part -> its label; None: as the data's ``parts.json`` says.
        root: a data set in the LearnIt ShapeNet layout with label maps; None: the built-in procedural set, made on
            first use.
        builtin: which built-in set, where ``root`` is None.
        resolution: pictures are resized to this size by area; None: as stored.
        classes: classes that are trained on; None: all.
        test_classes: classes that the test split is evaluated on, trained on or not; None: ``classes``.
        train_fraction: part of each class's training objects that is used; 0.01 is contained in 0.1.
        train_views: half-open range of the views that training draws from.
        views: V, context views of an item, in training and in evaluation.
        fewest_views: each training step draws its number of context views from ``fewest_views`` to ``views``.
        rays_per_item: R, rays of one target view.
        foreground_epochs: for so many epochs a part of the rays starts from the foreground.
        foreground_share: that part; the others start from anywhere.
        background: what transparent pixels are laid on.
        augment: mirror at x = 0, change colours, or both; the same for all of an item's views.
        skip_bad: leave broken objects out instead of refusing the data set.
    """

    parts: Table | None = None

    @field_validator("parts")
    @classmethod
    def _parts(cls, value: Table | None) -> Table | None:
        problems = parts_problems(value) if value is not None else []
        if problems:
            raise ValueError("; ".join(line.strip() for line in problems))
        return value


def parts_of(root: str | None) -> Table:
    """Return the parts of a data set, or of the built-in sets."""
    if root is not None:
        return read_parts(Path(root))
    from hyperkit.data.procedural.objects import PARTS

    return {name: dict(parts) for name, parts in PARTS.items()}


class SegmentData(NVSData):
    """A data set for part segmentation; batches have ``labels`` beside the truth, and ``features`` where distilled.

    Features are those of whole pictures as they are: a mirrored picture has its own, mirrored, and one whose colours
    are changed keeps those of the true colours.

    Args:
        config, seed, progress: as for ``NVSData``; ``config.parts`` must be given.
        distilled: makes the feature maps when they are first asked for.

    Attributes:
        parts: the parts that are known, those of ``config.parts``.
        without_features: why evaluation has no features, where it was to have some.

    Raises:
        HyperkitError: the data set or its label maps are broken, or its parts are not those of ``config.parts``.
    """

    config: SegmentDataConfig

    def __init__(
        self,
        config: SegmentDataConfig,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
        distilled: FeatureStore | None = None,
    ) -> None:
        self.distilled, self.without_features = distilled, ""
        self._maps: dict[str, FeatureMaps] = {}
        super().__init__(config, seed, progress)

    def builtin(self, name: str, progress: Callable[[int, int], None] | None) -> Path:
        """Return the folder of a built-in set with label maps, made first if it is not there."""
        spec = BUILTIN_PARTS[name]

        def make(root: Path) -> None:
            from hyperkit.data import procedural

            log.info("making the built-in data set with label maps (%s) in %s", name, root)
            counts = dict.fromkeys(procedural.CLASSES, spec.counts)
            with new_folder(root) as part:
                procedural.generate(part / "data", counts, spec.size, spec.views, progress=progress, labels=True)
                (part / "data").rename(root)

        return made_once(spec.folder, make)

    def open_label_maps(self) -> np.ndarray:
        """Open the label maps, packed on first use; see ``parts.open_labels``."""
        assert self.config.parts is not None
        self.parts = Parts(self.config.parts)
        own = read_parts(self.root)
        used = {name.split("/", 1)[0] for name in self.pack.ids}
        differ = [name for name in sorted(used & set(own)) if dict(self.config.parts.get(name, {})) != own[name]]
        if differ:
            lines = [f"  {name}: {own[name]}, expected {self.config.parts.get(name, 'none')}" for name in differ]
            raise HyperkitError(
                f"The parts of {self.root} are not those that the model knows:\n" + "\n".join(lines),
                "Give its objects the same parts with the same labels, or train a new model on them.",
            )
        return open_labels(self.pack, self.parts)

    def trained_views(self) -> np.ndarray:
        """Return the rows of the pack of all views that are trained on."""
        first, end = self.config.train_views
        objects = np.array([self._reader.index[name] for name in self.train_ids])
        counts = np.minimum(self.pack.views[objects], end)
        pairs = zip(self.pack.first[objects], counts, strict=True)
        return np.concatenate([start + np.arange(first, count) for start, count in pairs])

    def features_at(self, views: np.ndarray, chosen: np.ndarray) -> Tensor | None:
        """Return the features at pixels (B, R) of views (B,) that are trained on, (B, R, F), 0 on the background."""
        if self.distilled is None:
            return None
        return self._masked(self._open_maps("trained", self.trained_views()), views, chosen)

    def feature_reader(self, split: str) -> FeatureReader | None:
        """Return what gives the features of a split's target views; None of it where the encoder cannot be had."""
        if self.distilled is None:
            return None

        def read(views: np.ndarray) -> Tensor | None:
            if self.without_features:
                return None
            pairs = self.frozen(split).pairs
            targets = np.array([self.pack.first[self._reader.index[pair.object]] + pair.target for pair in pairs])
            try:
                maps = self._open_maps(split, targets)
            except RunFailed:
                raise
            except HyperkitError as error:  # what else there is to measure is measured
                self.without_features = str(error)
                return None
            return self._masked(maps, views, np.broadcast_to(np.arange(self.size**2), (len(views), self.size**2)))

        return read

    def _open_maps(self, name: str, views: np.ndarray) -> FeatureMaps:
        if name not in self._maps:
            assert self.distilled is not None
            assert self._label_maps is not None
            self._maps[name] = self.distilled.open(self._reader, self._label_maps, views, self.trained_views())
        return self._maps[name]

    def _masked(self, maps: FeatureMaps, views: np.ndarray, chosen: np.ndarray) -> Tensor:
        labels = self._labels(views, chosen)
        assert labels is not None
        return maps.read(views, chosen) * (labels > 0).unsqueeze(-1)

    def mean_labels(self) -> dict[str, Tensor]:
        """Return class -> (S, S) uint8, the most frequent part of each pixel over the training views.

        It is the best label map of somebody who knows the object's class, but neither the object nor the camera.
        """
        assert self._label_maps is not None
        found = {}
        for name in self.all_classes:
            objects = [item for item in self.train_ids if item.split("/", 1)[0] == name]
            counts = np.zeros((len(self.parts) + 1, self.size, self.size), np.int64)
            for item in objects:
                index = self._reader.index[item]
                end = min(int(self.pack.views[index]), self.config.train_views[1])
                maps = self._label_maps[self.pack.first[index] + np.arange(self.config.train_views[0], end)]
                for label in np.unique(maps):
                    counts[label] += (maps == label).sum(axis=0)
            found[name] = torch.from_numpy(counts.argmax(axis=0).astype(np.uint8))
        return found
