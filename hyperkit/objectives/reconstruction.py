"""Reconstruction losses."""

from __future__ import annotations

from torch import Tensor


def mse(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return the mean squared error of each item, (B,)."""
    return (prediction.float() - truth.float()).square().flatten(1).mean(1)


def foggy(opacity: Tensor) -> Tensor:
    """Return the mean of 4 a (1 - a) over the rays of each item (B, R) -> (B,): 0 for fields without fog, at most 1.

    White fog on a white background costs no reconstruction error; this makes opacities decide.
    """
    return (4 * opacity * (1 - opacity)).mean(1)
