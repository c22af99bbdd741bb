"""Data of part segmentation: views of objects, as for novel view synthesis, with a label map beside each picture."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pydantic import field_validator
from torch import Tensor

from hyperkit.data.builtin import BuiltinSet, made_once
from hyperkit.data.nvs import NVSData
from hyperkit.data.nvs_draw import NVSDataConfig
from hyperkit.data.parts import Parts, Table, open_labels, parts_problems, read_parts
from hyperkit.data.places import new_folder
from hyperkit.errors import HyperkitError

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
    """A data set for part segmentation; batches have ``labels`` beside the truth.

    Args:
        config, seed, progress: as for ``NVSData``; ``config.parts`` must be given.

    Attributes:
        parts: the parts that are known, those of ``config.parts``.

    Raises:
        HyperkitError: the data set or its label maps are broken, or its parts are not those of ``config.parts``.
    """

    config: SegmentDataConfig

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
