"""The likelihood of predictions that come with a deviation."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian_nll(mean: Tensor, deviation: Tensor, truth: Tensor, beta: float = 0.0) -> Tensor:
    """Return each item's negative log-likelihood under independent normal variables, in nats per value (PONP).

    log(deviation) + ((truth - mean) / deviation)^2 / 2 + log(2 pi) / 2, averaged over everything but the item axis. It
    can be negative: densities may exceed 1.

    Args:
        mean, deviation, truth: (B, ...); the deviation positive. Computed in float32 at least.
        beta: each value's term is multiplied by deviation^(2 beta), through which no gradient flows (Seitzer et al.
            2022). Above 0 this is no likelihood any more, but has the same best deviation; at 1 the mean's gradient is
            that of half the squared error, so that values which are hard to predict are not given up.

    Returns:
        (B,).

    Example:
        A truth at the mean with a deviation of 1 / sqrt(2 pi) costs 0: the density there is 1.
    """
    kind = torch.promote_types(torch.promote_types(mean.dtype, deviation.dtype), torch.float32)
    deviation = deviation.to(kind)
    standardised = (truth.to(kind) - mean.to(kind)) / deviation
    terms = deviation.log() + 0.5 * standardised.square() + 0.5 * math.log(2 * math.pi)
    if beta:
        terms = terms * deviation.detach() ** (2 * beta)
    return terms.flatten(1).mean(1)
