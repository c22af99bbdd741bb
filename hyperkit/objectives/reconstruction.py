"""Reconstruction losses."""

from __future__ import annotations

import torch
from torch import Tensor


def mse(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return the mean squared error of each item, (B,)."""
    return (prediction.float() - truth.float()).square().flatten(1).mean(1)


def opacity_error(opacity: Tensor, truth: Tensor) -> Tensor:
    """Return the mean over rays of (a - alpha)^2 of each item, (B, R) -> (B,).

    White fog on a white background costs no reconstruction error; it costs this.

    Args:
        opacity: a, of the rendered rays.
        truth: alpha; rays where it is NaN, not known, cost 0 and give no gradient.
    """
    error = opacity.float() - truth.float()
    return torch.where(truth.isnan(), 0.0, error).square().mean(1)


def foggy(opacity: Tensor) -> Tensor:
    """Return the mean of 4 a (1 - a) over the rays of each item (B, R) -> (B,): 0 for fields without fog, at most 1.

    White fog on a white background costs no reconstruction error; this makes opacities decide.
    """
    return (4 * opacity * (1 - opacity)).mean(1)
