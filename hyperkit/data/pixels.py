"""Reading packed pictures at random: gathering uint8 pixels, then compositing them on a background."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hyperkit.contracts import Cameras
from hyperkit.data.pack import Pack
from hyperkit.randomness import numpy_rng

Background = Literal["white", "black"]


def composite(rgba: Tensor, background: Background) -> Tensor:
    """Lay straight-alpha pixels on a background: ``colour * alpha + background * (1 - alpha)``.

    Args:
        rgba: (B, 4, N), values 0 to 255 in float32; overwritten.
        background: white is 1, black is 0.

    Returns:
        (B, 3, N) in [0, 1]; exactly the background where alpha is 0.
    """
    colour, alpha = rgba[:, :3], rgba[:, 3:].mul_(1.0 / 65025.0)
    if background == "black":
        return colour.mul_(alpha)
    return colour.sub_(255.0).mul_(alpha).add_(1.0)


def opacity(rgba: np.ndarray, opaque: np.ndarray) -> Tensor:
    """Return the alpha of gathered pixels, (B, N) float32 in [0, 1], as ``Batch.opacity`` holds it.

    Args:
        rgba: (B, N, 4) uint8.
        opaque: (B,) bool, items whose pictures have no alpha; they get NaN.
    """
    alpha = torch.from_numpy(rgba[..., 3]).float().div_(255.0)
    alpha[torch.from_numpy(opaque)] = float("nan")
    return alpha


def planes(rgba: np.ndarray) -> Tensor:
    """Turn gathered pixels (B, N, 4) uint8 into float32 planes (B, 4, N), values 0 to 255."""
    return torch.from_numpy(rgba).permute(0, 2, 1).contiguous().float()


class PixelReader:
    """Random access to a pack's pixels; whole pixels are moved as 32-bit words.

    Args:
        pack: the packed data set.
        background: what the pictures are composited on.
    """

    def __init__(self, pack: Pack, background: Background) -> None:
        self.pack = pack
        self.background: Background = background
        self.area = pack.size * pack.size
        self.index = {name: index for index, name in enumerate(pack.ids)}
        # As a plain array: a memmap's own indexing is slower.
        self._words = np.asarray(pack.pixels).view(np.uint32).reshape(len(pack.pixels), self.area)

    def words(self, rows: np.ndarray) -> np.ndarray:
        """Return whole views as words (..., S * S) uint32."""
        return self._words[rows]

    def pixels(self, rows: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Return chosen pixels (B, R, 4) uint8 of views ``rows`` (B,); ``pixels`` (B, R) are row * S + column."""
        return unpack_words(self._words[rows[:, None], pixels])

    def pictures(self, rows: np.ndarray) -> Tensor:
        """Return whole views on the background, (B, 3, S, S) float32 in [0, 1]."""
        size = self.pack.size
        return composite(planes(unpack_words(self.words(rows))), self.background).reshape(-1, 3, size, size)

    def foreground(self, row: int, opaque: bool) -> np.ndarray:
        """Return the indices of a view's foreground pixels: those with alpha, or, without alpha, off the background."""
        words = self._words[row]
        channels = words.view(np.uint8).reshape(-1, 4)
        if not opaque:
            return np.flatnonzero(channels[:, 3])
        return np.flatnonzero(words != (0xFFFFFFFF if self.background == "white" else _OPAQUE_BLACK))

    def cameras(self, rows: np.ndarray, objects: np.ndarray) -> Cameras:
        """Return the cameras (...) of views ``rows`` (...) that belong to ``objects`` (...)."""
        pack = self.pack
        poses, focal = torch.from_numpy(pack.poses[rows]), torch.from_numpy(pack.focal[objects])
        return Cameras(poses, focal, pack.size, pack.size, pack.near, pack.far)


_OPAQUE_BLACK = int(np.array([0, 0, 0, 255], np.uint8).view(np.uint32)[0])


def unpack_words(words: np.ndarray) -> np.ndarray:
    """Return words (B, N) uint32 as pixels (B, N, 4) uint8."""
    return np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, 4)


def recolour(rgba: Tensor, matrices: Tensor, opaque: Tensor) -> Tensor:
    """Multiply colours (B, 4, N), 0 to 255, by (B, 3, 3), clipped; alpha and an opaque picture's pure white stay.

    Args:
        rgba: float32 planes; overwritten.
        matrices: one colour matrix for each item.
        opaque: (B,) bool, items whose pictures have no alpha, so that white is their background.
    """
    # One item at a time: its planes stay in cache, and no large temporary has to be paged in.
    for item, matrix, plain in zip(rgba, matrices, opaque.tolist(), strict=True):
        colour = (matrix @ item[:3]).clamp_(0.0, 255.0)
        if plain:
            colour = torch.where(item[:3].amin(0) >= 255.0, item[:3], colour)
        item[:3] = colour
    return rgba


def colour_matrices(count: int, *key: int | str) -> Tensor:
    """Draw colour changes (count, 3, 3): a permutation of the channels, a turn of the hue, a gain in [0.7, 1.3].

    Hues turn around the grey axis, so grey stays grey and white stays white up to the gain; nothing is inverted.
    """
    rng = numpy_rng(*key, "colour")
    order = np.argsort(rng.random((count, 3)), axis=1)
    permutation = np.eye(3)[order]
    angle, gain = 2 * np.pi * rng.random((count, 1, 1)), 0.7 + 0.6 * rng.random((count, 1, 1))
    third = np.full((3, 3), 1.0 / 3.0)
    cross = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3.0)
    turn = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) * third + np.sin(angle) * cross
    return torch.from_numpy((gain * (turn @ permutation)).astype(np.float32))
