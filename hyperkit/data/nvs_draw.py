"""What training on views draws at random: objects, context views, target view, rays, mirroring and colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from hyperkit import randomness
from hyperkit.config import PartConfig
from hyperkit.data import pixels
from hyperkit.data.epochs import EpochOrder
from hyperkit.data.pack import Pack


class NVSDataConfig(PartConfig):
    """Which pictures are read and how training batches are drawn from them.

    Attributes:
        root: a data set in the LearnIt ShapeNet layout; None: the built-in procedural set, made on first use.
        builtin: which built-in set, where ``root`` is None.
        resolution: pictures are resized to this size by area; None: as stored.
        classes: classes that are trained on; None: all.
        test_classes: classes that the test split is evaluated on, trained on or not; None: ``classes``. Validation
            stays with ``classes``.
        train_fraction: part of each class's training objects that is used; 0.01 is contained in 0.1.
        train_views: half-open range of the views that training draws from.
        views: V, context views of an item, in training and in evaluation.
        fewest_views: each training step draws its number of context views from ``fewest_views`` to ``views``, so that
            one model serves them all; None: always ``views``.
        rays_per_item: R, rays of one target view.
        foreground_epochs: for so many epochs a part of the rays starts from the foreground.
        foreground_share: that part; the others start from anywhere.
        background: what transparent pixels are laid on.
        augment: mirror at x = 0, change colours, or both; the same for all of an item's views.
        skip_bad: leave broken objects out instead of refusing the data set.
    """

    root: str | None = None
    builtin: Literal["quickstart", "debug"] = "quickstart"
    resolution: int | None = Field(default=None, ge=1, le=4096)
    classes: tuple[str, ...] | None = None
    test_classes: tuple[str, ...] | None = None
    train_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    train_views: tuple[int, int] = (0, 25)
    views: int = Field(default=1, ge=1, le=8)
    fewest_views: int | None = Field(default=None, ge=1)
    rays_per_item: int = Field(default=128, ge=0)
    foreground_epochs: float = Field(default=1.0, ge=0.0)
    foreground_share: float = Field(default=0.5, ge=0.0, le=1.0)
    background: Literal["white", "black"] = "white"
    augment: Literal["none", "mirror", "colour", "all"] = "none"
    skip_bad: bool = False

    @field_validator("train_views")
    @classmethod
    def _range(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] < value[1]:
            raise ValueError("train_views must be a range (first, end) with 0 <= first < end")
        return value

    @model_validator(mode="after")
    def _fewest(self) -> NVSDataConfig:
        if self.fewest_views is not None and self.fewest_views > self.views:
            raise ValueError(f"fewest_views must be at most views, which is {self.views}; found {self.fewest_views}")
        return self


@dataclass(frozen=True)
class Draw:
    """What is drawn for the items of one joined batch, or of one process's part of it.

    Attributes:
        objects: (B,) index into the pack.
        contexts: (B, V) rows of the pack.
        target: (B,) row of the pack.
        rays: (B, R) in [0, 1).
        foreground: (B,) bool, whether a part of the rays is to start from the foreground.
        mirror: (B,) bool.
        colour: (B, 3, 3), or None where colours stay.
    """

    objects: np.ndarray
    contexts: np.ndarray
    target: np.ndarray
    rays: np.ndarray
    foreground: np.ndarray
    mirror: np.ndarray
    colour: Tensor | None

    def part(self, rank: int, world: int) -> Draw:
        """Return items ``rank, rank + world, ...``."""
        own = slice(rank, None, world)
        return Draw(
            self.objects[own],
            self.contexts[own],
            self.target[own],
            self.rays[own],
            self.foreground[own],
            self.mirror[own],
            None if self.colour is None else self.colour[own],
        )


class Draws:
    """The draws of all training steps, each a function of the seed and the step.

    Args:
        pack: the packed data set.
        objects: (O,) indices into the pack of the objects that are trained on.
        config: how to draw.
        seed: seed of everything that is drawn.
    """

    def __init__(self, pack: Pack, objects: np.ndarray, config: NVSDataConfig, seed: int) -> None:
        self._pack, self._objects, self._config, self._seed = pack, objects, config, seed
        self._order = EpochOrder(objects, seed)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of steps after which every object has been drawn."""
        return self._order.steps(batch_size)

    def views(self, step: int) -> int:
        """Return the number of context views of a step."""
        most, fewest = self._config.views, self._config.fewest_views
        if fewest is None or fewest == most:
            return most
        return int(randomness.numpy_rng(self._seed, "train", step, "number of views").integers(fewest, most + 1))

    def at(self, step: int, batch_size: int) -> Draw:
        """Draw the joined batch of a step.

        The first context and the target are the same for every number of views.
        """
        count, config = len(self._objects), self._config
        objects = self._order.at(step, batch_size, np.arange(batch_size))
        rng = randomness.numpy_rng(self._seed, "train", step)
        first, end = config.train_views
        usable = np.minimum(self._pack.views[objects], end) - first
        one, two = rng.random((2, batch_size))
        context = np.floor(one * usable).astype(np.int64)
        target = np.floor(two * np.maximum(usable - 1, 1)).astype(np.int64)
        target += (target >= context) & (usable > 1)  # another view than the context's, where there is one
        contexts = self._contexts(step, context, target, usable)
        start = self._pack.first[objects] + first
        rays = rng.random((batch_size, config.rays_per_item))
        mirror = (rng.random(batch_size) < 0.5) & (config.augment in ("mirror", "all"))
        recoloured = config.augment in ("colour", "all")
        colour = pixels.colour_matrices(batch_size, self._seed, "train", step) if recoloured else None
        early = (step * batch_size + np.arange(batch_size)) < config.foreground_epochs * count
        return Draw(objects, start[:, None] + contexts, start + target, rays, early, mirror, colour)

    def _contexts(self, step: int, context: np.ndarray, target: np.ndarray, usable: np.ndarray) -> np.ndarray:
        # (B, V): the first context, then others in a random order; never the target where there are views enough
        further = self.views(step) - 1
        if not further:
            return context[:, None]
        items = np.arange(len(context))
        rank = randomness.numpy_rng(self._seed, "train", step, "further views").random((len(context), usable.max()))
        rank[np.arange(rank.shape[1]) >= usable[:, None]] = np.inf
        rank[items, context] = np.inf
        enough = usable > further + 1
        rank[items[enough], target[enough]] = np.inf
        return np.concatenate((context[:, None], np.argsort(rank, axis=1)[:, :further]), axis=1)
