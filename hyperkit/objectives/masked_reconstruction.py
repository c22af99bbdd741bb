"""Masked reconstruction (MAE, He et al. 2022): from a few patches of a picture, the pixels of all others."""

from __future__ import annotations

import torch
from torch import Tensor


def patchify(pictures: Tensor, patch: int) -> Tensor:
    """Cut pictures (B, C, H, W) into patches (B, N, C * patch * patch), row by row, channel by channel within each.

    Raises:
        ValueError: height or width is no multiple of ``patch``.
    """
    if pictures.shape[-2] % patch or pictures.shape[-1] % patch:
        raise ValueError(f"pictures of {tuple(pictures.shape[-2:])} cannot be cut into patches of {patch}")
    grid = pictures.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, C, rows, patch, columns, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch: int, rows: int) -> Tensor:
    """Put patches (B, N, C * patch * patch) together to pictures (B, C, H, W); the inverse of ``patchify``."""
    grid = patches.unflatten(2, (-1, patch, patch)).unflatten(1, (rows, -1))
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def random_mask(scores: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Choose which patches are seen: those of the smallest scores.

    Args:
        scores: (B, N), drawn independently from U[0, 1).
        ratio: part of the patches that is hidden; at least one is seen and, unless it is 0, one hidden.

    Returns:
        Indices (B, K) of the seen patches in ascending order, and a mask (B, N), True where a patch is hidden.
    """
    count = scores.shape[1]
    hidden = round(ratio * count)
    hidden = min(max(hidden, 1 if ratio > 0 else 0), count - 1)
    seen = scores.argsort(dim=1, stable=True)[:, : count - hidden].sort(dim=1).values
    return seen, torch.ones_like(scores, dtype=torch.bool).scatter(1, seen, False)


def normalise_patches(patches: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Give each patch (..., P) mean 0 and variance 1 over its values: (x - mean) / sqrt(var + epsilon) (MAE, sec. 3).

    The variance is that of a sample, over P - 1. A patch of one colour becomes 0.
    """
    variance, mean = torch.var_mean(patches.float(), dim=-1, keepdim=True)
    return (patches.float() - mean) / (variance + epsilon).sqrt()


def masked_loss(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Return each item's mean squared error over its hidden patches alone; what is seen costs nothing.

    Args:
        prediction, target: (B, N, P).
        hidden: (B, N) bool, at least one True for each item.

    Returns:
        (B,), computed in float32.
    """
    error = (prediction.float() - target.float()).square().mean(-1)
    return (error * hidden).sum(1) / hidden.sum(1)
