"""Data of image regression: pictures in folders, random crops to train on, fixed ones to evaluate."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from hyperkit.data.flat_pack import BadFile, Decoded
from hyperkit.data.picture_files import (
    ENLARGED,
    PICTURES,
    Background,
    centre_crop,
    check_size,
    decoder,
    read_rgb,
    resize_shorter,
    rgb_of,
)
from hyperkit.data.places import side_folder, writable
from hyperkit.data.signals import SignalData, SignalDataConfig
from hyperkit.errors import HyperkitError
from hyperkit.files import atomic_path
from hyperkit.geometry import picture_coordinates

__all__ = ["ImageData", "ImageDataConfig", "prepare_picture", "read_rgb"]


class ImageDataConfig(SignalDataConfig):
    """Which pictures are read and how training batches are drawn from them.

    Attributes:
        root: a folder of pictures at any depth, in folders of classes if there are any, and these in train, val and
            test if there are such; None: the built-in set, made on first use.
        builtin: which built-in set, where ``root`` is None.
        classes: classes that are trained on; None: all.
        test_classes: classes that are evaluated on; None: those that are trained on.
        train_fraction: part of each class's training pictures that is used; 0.01 is contained in 0.1.
        test_fraction: part set aside for testing, where no folder is named test.
        val_fraction: part set aside for validation, where no folder is named val or dev.
        skip_bad: leave files that cannot be used out instead of refusing the data set.
        size: S, side in pixels of the square that the model sees.
        resize: pixels of the shorter side before the crop, at least ``size``; None: ``size``.
        pixels_per_item: N, random pixels of a picture that a training batch asks for; None: all S * S.
        augment: mirror half of the training pictures, left to right.
        background: what transparent pixels are laid on.
    """

    size: int = Field(default=64, ge=4, le=4096)
    resize: int | None = Field(default=None, ge=4, le=8192)
    pixels_per_item: int | None = Field(default=None, ge=1)
    augment: Literal["none", "mirror"] = "none"
    background: Background = "white"

    @model_validator(mode="after")
    def _fits(self) -> ImageDataConfig:
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize ({self.resize}) must be at least size ({self.size})")
        if self.pixels_per_item is not None and self.pixels_per_item > self.size**2:
            raise ValueError(f"pixels_per_item must be at most size * size = {self.size**2}")
        return self


class ImageData(SignalData):
    """A data set of pictures. Batches hold context (B, 1, 3, S, S) in [0, 1], query (B, N, 2) and truth (B, N, 3).

    Training draws a random square of the resized picture; evaluation takes the middle one. See ``SignalData``.

    Attributes:
        size: S.
    """

    kind: ClassVar = PICTURES
    config: ImageDataConfig

    def __init__(self, config: ImageDataConfig, seed: int, progress: Callable[[int, int], None] | None = None) -> None:
        self.size = config.size
        super().__init__(config, seed, progress)

    def _pack_name(self) -> str:
        return f"pictures-{self.config.resize or self.size}-{self.config.background}"

    def _decoder(self) -> Callable[[bytes], Decoded]:
        return decoder(self.config.resize or self.size, self.config.background)

    def _framing(self) -> str:
        return f"{self._pack_name()} {self.size}"

    def read_as(self) -> str:
        """Say at which size files are decoded."""
        return f"squares of {self.size} pixels, from a shorter side of {self.config.resize or self.size}"

    def _mark_notes(self, marked: dict[str, list[str]]) -> list[str]:
        small = marked.get(ENLARGED, [])
        length = self.config.resize or self.size
        return [f"{len(small)} pictures have a shorter side below {length} and are enlarged"] if small else []

    def _grid(self) -> Tensor:
        return picture_coordinates(self.size, self.size)

    def _random_crop(self, row: int, rng: np.random.Generator) -> np.ndarray:
        picture = self.pack.values(row)
        top, left = rng.integers(0, np.array(picture.shape[:2]) - self.size + 1)
        crop = picture[top : top + self.size, left : left + self.size]
        return crop[:, ::-1] if self.config.augment == "mirror" and rng.random() < 0.5 else crop

    def _fixed_crop(self, row: int) -> np.ndarray:
        return centre_crop(self.pack.values(row), self.size)

    def _signals(self, crops: list[np.ndarray]) -> Tensor:
        return _planes(np.stack(crops) if crops else np.empty((0, self.size, self.size, 3), np.uint8))

    def _context(self, signals: Tensor) -> Tensor:
        return signals[:, None]

    def _points(self, signals: Tensor) -> Tensor:
        return signals.flatten(2).transpose(1, 2)

    @property
    def _points_per_item(self) -> int | None:
        return self.config.pixels_per_item

    @property
    def _query_size(self) -> tuple[int, int] | None:
        return self.size, self.size

    def constants(
        self, split: str = "test", classes: Sequence[str] | None = None, limit: int | None = None
    ) -> dict[str, dict[str, float]]:
        """Return the PSNR of constant answers over the items that ``pairs`` gives.

        Returns:
            {"mean": scores, "own mean": scores}: of the mean of all training pictures (their middle squares), where
            there are any, and of each picture's own mean colour; scores are class -> dB, and "all".
        """
        items = self.pairs(split, classes, limit=limit)
        found = {}
        if self.train_ids:
            mean = self.mean_picture().double()
            found["mean"] = items.scores(lambda pictures: (pictures - mean).square().mean(dim=(1, 2, 3)))

        def to_own(pictures: Tensor) -> Tensor:
            return pictures.double().var(dim=(2, 3), correction=0).mean(dim=1)

        return found | {"own mean": items.scores(to_own)}

    def mean_picture(self) -> Tensor:
        """Return the mean (3, S, S) of the middle squares of all training pictures; kept beside the packed ones."""
        key = "\n".join((self.pack.fingerprint, f"{self.size}", *self.train_ids))
        folder = self.pack.folder if writable(self.pack.folder) else side_folder(self.root) / self.pack.folder.name
        path = folder / f"mean-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        with suppress(OSError, ValueError):
            stored = np.load(path, allow_pickle=False)
            if stored.shape == (3, self.size, self.size):
                return torch.from_numpy(stored)
        total = np.zeros((self.size, self.size, 3), dtype=np.int64)
        for row in self._items:
            total += self._fixed_crop(int(row))
        mean = (total / (255.0 * len(self._items))).astype(np.float32).transpose(2, 0, 1)
        with atomic_path(path) as temporary:
            np.save(temporary, mean)
        return torch.from_numpy(np.ascontiguousarray(mean))

    def samples(self, count: int) -> list[dict[str, Any]]:
        """Return a few held-out pictures for a checkpoint, spread over the classes.

        Each holds ``id``, ``class`` and ``picture`` (3, S, S) uint8, the middle square.
        """
        rows = {name: np.ascontiguousarray(self._fixed_crop(self._rows[name])) for name in self._spread(count)}
        return [
            {"id": name, "class": self.class_of[name], "picture": torch.tensor(crop).permute(2, 0, 1).contiguous()}
            for name, crop in rows.items()
        ]


def prepare_picture(
    picture: str | Path | Image.Image | np.ndarray,
    size: int,
    resize: int | None = None,
    background: Background = "white",
) -> Tensor:
    """Bring a user's picture to the framing that a model is evaluated with: the middle square of the resized picture.

    Args:
        picture: a file, a Pillow image, or an array (H, W), (H, W, 3) or (H, W, 4) uint8.
        size: S, side of the square.
        resize: pixels of the shorter side before the crop; None: ``size``.
        background: what transparent pixels are laid on.

    Returns:
        (3, S, S) float32 in [0, 1].

    Raises:
        HyperkitError: the file cannot be read; see ``read_rgb``.
    """
    if isinstance(picture, str | Path):
        rgb = read_rgb(picture, background)
    else:
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8:
                raise ValueError(f"expected an array of uint8, got {picture.dtype}")
            picture = Image.fromarray(picture)
        try:
            check_size(picture)
            rgb = rgb_of(picture, background)
        except BadFile as error:
            raise HyperkitError(f"The picture {error}.") from error
    return _planes(centre_crop(resize_shorter(rgb, resize or size), size)[None])[0]


def _planes(crops: np.ndarray) -> Tensor:
    """Return (B, H, W, 3) uint8 as (B, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))).float().div_(255.0)
