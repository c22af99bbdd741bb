"""A user's own picture, brought to the framing of the training data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hyperkit.data.flat_pack import BadFile
from hyperkit.data.picture_files import check_size, rgba_of
from hyperkit.errors import HyperkitError

PLAIN = 12
"""A background is plain if nine tenths of the border differ from its median colour by at most this, of 255."""


def foreground(rgba: np.ndarray) -> np.ndarray:
    """Return how much each pixel belongs to the object, (H, W) in [0, 1].

    The alpha channel where it says something; otherwise the distance from the border's colour.

    Raises:
        HyperkitError: there is no alpha and the border is not of one colour, or nothing is in front of it.
    """
    alpha = rgba[..., 3] / 255.0
    if alpha.min() < 0.95:
        return alpha
    rgb = rgba[..., :3].astype(np.float64)
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    colour = np.median(border, axis=0)
    away = np.abs(border - colour).max(-1)
    if np.mean(away > PLAIN) > 0.1:
        raise HyperkitError(
            f"The picture's background is not plain: {np.mean(away > PLAIN):.0%} of its border differ from "
            f"rgb({', '.join(str(int(v)) for v in colour)}).",
            "Cut the object out and save it as a PNG with alpha, or photograph it before a plain background.",
        )
    distance = np.abs(rgb - colour).max(-1)
    return np.clip((distance - PLAIN) / PLAIN, 0.0, 1.0)


def frame_picture(picture: Any, size: int, fill: float = 0.8, background: float = 1.0) -> Tensor:
    """Crop a picture to its object and pad it to the framing of the training data.

    Args:
        picture: a Pillow image, or an array (H, W), (H, W, 3) or (H, W, 4) uint8.
        size: side of the result in pixels.
        fill: share of the side that the object's longer extent takes.
        background: grey level behind the object, 1 is white.

    Returns:
        (3, size, size) float32 in [0, 1].

    Raises:
        HyperkitError: the picture is too small, its values have no known range, or no object can be told from the
            background.
    """
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    try:
        check_size(picture)
        rgba = rgba_of(picture)
    except BadFile as error:
        raise HyperkitError(f"The picture {error}.", "Give a larger one, or one with 8 or 16 bits.") from error
    weight = foreground(rgba)
    rows, columns = np.flatnonzero((weight > 0.5).any(1)), np.flatnonzero((weight > 0.5).any(0))
    if len(rows) == 0:
        raise HyperkitError(
            "No object can be seen in the picture: it is empty or all of one colour.",
            "Give a picture of one object, with alpha or before a plain background of another colour.",
        )
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    side = max(1, round(max(box[2] - box[0], box[3] - box[1]) / fill))
    colour = rgba[..., :3] / 255.0
    premultiplied = np.concatenate([colour * weight[..., None], weight[..., None]], axis=-1).astype(np.float32)
    planes = [_crop_resize(premultiplied[..., channel], box, side, size) for channel in range(4)]
    result = torch.from_numpy(np.stack(planes))
    return (result[:3] + background * (1 - result[3:])).clamp(0, 1)


def _crop_resize(plane: np.ndarray, box: tuple[int, int, int, int], side: int, size: int) -> np.ndarray:
    """Put the part ``box`` (left, top, right, bottom) of a plane amid an empty square, and scale that to ``size``."""
    part = plane[box[1] : box[3], box[0] : box[2]]
    top, left = (side - part.shape[0]) // 2, (side - part.shape[1]) // 2
    square = np.zeros((side, side), dtype=np.float32)
    square[top : top + part.shape[0], left : left + part.shape[1]] = part
    scaled = Image.fromarray(square).resize((size, size), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(scaled, dtype=np.float32), 0.0, 1.0)
