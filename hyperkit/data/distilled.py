"""Batches that teach a text-to-field model: captions as tokens, and rays of the pictures that their scenes show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hyperkit.config import PartConfig
from hyperkit.contracts import Batch, Cameras
from hyperkit.data.epochs import EpochOrder
from hyperkit.data.pixels import Background
from hyperkit.geometry import picture_rays, pixel_rays
from hyperkit.randomness import numpy_rng


class RaysConfig(PartConfig):
    """Which rays a training step takes of each scene.

    Attributes:
        cameras: pictures of a scene whose rays are taken together.
        rays: rays of each of them.
        foreground: share of the rays that are drawn among the pixels where something is; the others anywhere.
    """

    cameras: int = Field(default=4, ge=1)
    rays: int = Field(default=64, ge=1)
    foreground: float = Field(default=0.5, ge=0, le=1)


@dataclass(frozen=True)
class ShownScene:
    """What is known of one scene.

    Attributes:
        tokens: (T, D) of its caption, without padding.
        rgba: (K, 4, S, S) uint8, straight alpha.
        cameras: (K,).
    """

    tokens: Tensor
    rgba: Tensor
    cameras: Cameras


class DistilledData:
    """Training batches of captioned scenes, a pure function of the seed and the step.

    Args:
        scenes: id "<class>/<scene>" -> what its pictures show; all of one size.
        config: rays of a step.
        background: what transparent pixels are laid on.
        seed: of all draws.
        kept: so many pictures of each scene, the last ones, are kept for validation.

    Raises:
        ValueError: there is no scene, or one has no picture left to train on.
    """

    def __init__(
        self, scenes: Mapping[str, ShownScene], config: RaysConfig, background: Background, seed: int, kept: int = 0
    ) -> None:
        if not scenes or any(len(scene.rgba) <= kept for scene in scenes.values()):
            raise ValueError(f"{len(scenes)} scenes, of each of which {kept} pictures are kept, leave nothing")
        self.scenes, self.config, self.background, self.seed, self.kept = dict(scenes), config, background, seed, kept
        self.ids = tuple(self.scenes)
        self._order = EpochOrder(np.arange(len(self.ids)), seed)
        self._inside = {name: [_inside(picture) for picture in s.rgba] for name, s in self.scenes.items()}

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return how many batches hold every scene once."""
        return self._order.steps(batch_size)

    def train_batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return the scenes ``rank, rank + world, ...`` of the joined batch of a step, each with rays of some pictures.

        Returns:
            Batch with context (B, T, D) and its mask, rays (B, C * R, 3), truth (B, C * R, 3) and opacity (B, C * R).
        """
        places = np.arange(rank, batch_size, world)
        chosen = self._order.at(step, batch_size, places)
        return join([self._item(self.ids[i], step, int(p)) for i, p in zip(chosen, places, strict=True)])

    def _item(self, name: str, step: int, place: int) -> Batch:
        scene, config = self.scenes[name], self.config
        rng = numpy_rng(self.seed, "distil", step, place)
        usable = len(scene.rgba) - self.kept
        views = rng.permutation(usable)[np.arange(config.cameras) % usable]
        pixels = np.stack([self._pixels(self._inside[name][view], rng) for view in views])
        return self._batch(name, torch.from_numpy(views), torch.from_numpy(pixels))

    def _pixels(self, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        size = self.scenes[self.ids[0]].rgba.shape[-1]
        draws = rng.random(self.config.rays)
        pixels = (draws * size * size).astype(np.int64)
        count = round(self.config.foreground * self.config.rays) if len(inside) else 0
        pixels[:count] = inside[(draws[:count] * len(inside)).astype(np.int64)]
        return pixels

    def _batch(self, name: str, views: Tensor, pixels: Tensor) -> Batch:
        """Return the rays through pixels (C, R) of pictures (C,) of one scene, in one row."""
        scene = self.scenes[name]
        cameras = pick(scene.cameras, views)
        rays = pixel_rays(cameras, pixels)
        flat = scene.rgba.flatten(2)[views]
        rgba = flat.gather(2, pixels[:, None].expand(-1, 4, -1)).movedim(1, -1).float() / 255
        colour, alpha = rgba[..., :3], rgba[..., 3:]
        truth = colour * alpha + (1 - alpha) * float(self.background == "white")
        return Batch(
            context=scene.tokens[None],
            query=type(rays)(rays.origins.reshape(1, -1, 3), rays.directions.reshape(1, -1, 3), rays.near, rays.far),
            truth=truth.reshape(1, -1, 3),
            ids=(name,),
            classes=(name.split("/", 1)[0],),
            opacity=alpha.reshape(1, -1),
        )

    def validation(self) -> list[Batch]:
        """Return the pictures that are kept, one whole picture of one scene at a time."""
        return [
            whole_picture(name, scene, index, self.background)
            for name, scene in self.scenes.items()
            for index in range(len(scene.rgba) - self.kept, len(scene.rgba))
        ]


def whole_picture(name: str, scene: ShownScene, index: int, background: Background) -> Batch:
    """Return one picture of a scene as a query, with its caption's tokens."""
    rgba = scene.rgba[index].float() / 255
    truth = rgba[:3] * rgba[3:] + (1 - rgba[3:]) * float(background == "white")
    return Batch(
        context=scene.tokens[None],
        query=picture_rays(pick(scene.cameras, torch.tensor([index]))),
        truth=truth.flatten(1).T[None],
        ids=(name,),
        classes=(name.split("/", 1)[0],),
        query_size=(rgba.shape[1], rgba.shape[2]),
        opacity=rgba[3].flatten()[None],
        mask=torch.ones(1, len(scene.tokens), dtype=torch.bool),
    )


def pick(cameras: Cameras, index: Tensor) -> Cameras:
    """Return some of the cameras (K,)."""
    return Cameras(cameras.poses[index], cameras.focal[index], cameras.width, cameras.height, cameras.near, cameras.far)


def pad_tokens(sentences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the tokens (T_i, D) of B sentences as (B, T, D), padded with zeros, and where they are, (B, T) bool."""
    longest = max(len(tokens) for tokens in sentences)
    padded = sentences[0].new_zeros(len(sentences), longest, sentences[0].shape[-1])
    mask = torch.zeros(len(sentences), longest, dtype=torch.bool)
    for index, tokens in enumerate(sentences):
        padded[index, : len(tokens)], mask[index, : len(tokens)] = tokens, True
    return padded, mask


def join(items: Sequence[Batch]) -> Batch:
    """Return batches of one item each as one batch; their rays agree in number, their sentences need not."""
    context, mask = pad_tokens([item.context[0] for item in items])
    rays = items[0].query
    return Batch(
        context=context,
        query=type(rays)(
            torch.cat([item.query.origins for item in items]),
            torch.cat([item.query.directions for item in items]),
            rays.near,
            rays.far,
        ),
        truth=torch.cat([item.truth for item in items]),
        ids=tuple(item.ids[0] for item in items),
        classes=tuple(item.classes[0] for item in items),
        query_size=items[0].query_size,
        opacity=torch.cat([item.opacity for item in items if item.opacity is not None]),
        mask=mask,
    )


def _inside(rgba: Tensor) -> np.ndarray:
    found: np.ndarray = np.flatnonzero((rgba[3] > 0).numpy())
    return found
