"""Random crops of pictures, and changes of how they look, for many pictures at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

ASPECTS = (3 / 4, 4 / 3)
"""Width over height of a crop, from and to; its logarithm is drawn evenly."""

GREY = (0.299, 0.587, 0.114)
SIGMAS = (0.3, 1.2)
"""Deviation of the blur in pixels, from and to."""

_REACH = 3  # taps to either side; at a deviation of 1.2 the next would weigh 0.1 %


def draw_boxes(
    rng: np.random.Generator, frame: NDArray[np.float64], count: int, scale: tuple[float, float]
) -> NDArray[np.float64]:
    """Draw boxes (count, 4) within a square: x, y of the middle, half the width and half the height.

    Args:
        rng: where they come from.
        frame: (3,), x and y of the square's middle and half its side, in [-1, 1] over the picture.
        count: of boxes.
        scale: part of the square's area, from and to; less where the box would be wider or higher than the square.
    """
    area, aspect, x, y = rng.random((4, count))
    share = scale[0] + (scale[1] - scale[0]) * area
    low, high = (math.log(a) for a in ASPECTS)
    ratio = np.exp(low + (high - low) * aspect)
    half = frame[2] * np.minimum(np.sqrt(share * np.stack((ratio, 1 / ratio))), 1.0)
    middle = frame[:2, None] + (frame[2] - half) * (2 * np.stack((x, y)) - 1)
    return np.concatenate((middle, half)).T


def crop(pictures: Tensor, boxes: NDArray[np.float64], size: int, mirrored: Tensor) -> Tensor:
    """Cut a box out of each picture and bring it to ``size`` pixels a side.

    Four samples per pixel are interpolated and averaged, so that a box up to twice as large as the crop in pixels does
    not alias. Beyond the picture its border goes on.

    Args:
        pictures: (N, C, H, W).
        boxes: (N, 4): x, y of the middle, half the width and half the height, in [-1, 1] over the picture.
        size: pixels of the crops.
        mirrored: (N,) bool, which crops are mirrored, left to right.

    Returns:
        (N, C, size, size).
    """
    values = torch.from_numpy(boxes).to(pictures)
    theta = values.new_zeros(len(values), 2, 3)
    theta[:, 0, 0] = torch.where(mirrored, -values[:, 2], values[:, 2])
    theta[:, 1, 1] = values[:, 3]
    theta[:, :, 2] = values[:, :2]
    grid = F.affine_grid(theta, [len(values), pictures.shape[1], 2 * size, 2 * size], align_corners=False)
    samples = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(samples, 2)


@dataclass(frozen=True)
class Looks:
    """How much crops may change: see the fields of ``PretrainingDataConfig``.

    ``DRAWS`` numbers from U[0, 1) decide for each crop: mirror, brightness, contrast, saturation, grey, blur, its
    deviation.
    """

    colour: float
    grey: float
    blur: float
    DRAWS: ClassVar[int] = 7


def recolour(pictures: Tensor, looks: Looks, draws: NDArray[np.float64]) -> Tensor:
    """Change brightness, contrast and saturation of pictures, take the colours of some, and blur some.

    Args:
        pictures: (N, 3, H, W) in [0, 1].
        looks: how much.
        draws: (N, ``Looks.DRAWS``); the first one of each row is not used here.

    Returns:
        (N, 3, H, W) in [0, 1].
    """
    u = torch.from_numpy(draws).to(pictures)
    brightness, contrast, saturation = (1 + looks.colour * (2 * u[:, k] - 1) for k in (1, 2, 3))
    saturation = torch.where(u[:, 4] < looks.grey, 0.0, saturation)
    result = pictures * _planes(brightness)
    mean = grey_of(result).mean((2, 3), keepdim=True)
    result = mean + _planes(contrast) * (result - mean)
    grey = grey_of(result)
    result = (grey + _planes(saturation) * (result - grey)).clamp(0, 1)
    blurred = torch.nonzero(u[:, 5] < looks.blur)[:, 0]
    if len(blurred):
        sigma = SIGMAS[0] + (SIGMAS[1] - SIGMAS[0]) * u[blurred, 6]
        result[blurred] = blur(result[blurred], sigma)
    return result


def grey_of(pictures: Tensor) -> Tensor:
    """Return the brightness (N, 1, H, W) of colours (N, 3, H, W), by the weights of ITU-R BT.601."""
    return (pictures * pictures.new_tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)


def blur(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Return pictures (N, C, H, W), each blurred by a Gaussian of its own deviation (N,) in pixels; borders go on."""
    count, channels = pictures.shape[:2]
    taps = torch.arange(-_REACH, _REACH + 1, device=pictures.device)
    kernel = torch.softmax(-0.5 * (taps / sigma[:, None]) ** 2, dim=1).repeat_interleave(channels, 0)
    flat = F.pad(pictures.reshape(1, count * channels, *pictures.shape[2:]), (_REACH,) * 4, mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=count * channels)
    return F.conv2d(flat, kernel[:, None, :, None], groups=count * channels).view_as(pictures)


def _planes(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
