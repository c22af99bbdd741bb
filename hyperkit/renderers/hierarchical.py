"""Hierarchical sampling (NeRF, section 5.2): more samples where a first pass over the ray found something.

NeRF fits a coarse network for the first pass and a fine one for the second. Here one network is generated for each
item, and two would double what the hypernetwork has to write; so the same one serves both passes. This has two
consequences. Its values at the first samples hold for the second pass as well and are not computed again: a ray costs
``samples + fine_samples`` evaluations. And a loss on the second pass alone is enough for training: NeRF adds one on the
first because its coarse network would get no gradient otherwise, while here the first samples are among those that
are composited. What the first samples all miss, such as a shell thinner than the distance between them, stays missed.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-5
"""Weight of a uniform density over the ray beside the first pass's weights, which add up to 1 for an opaque ray."""

_TINY = 1e-9


def cells(t: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """Return the edges (..., S + 1) of the parts of [near, far] (...) that lie nearest to each sample t (..., S).

    Args:
        t: increasing, S >= 1; a sample outside of the range gets a part of length 0, or what is left of its part.
    """
    middles = 0.5 * (t[..., 1:] + t[..., :-1])
    middles = torch.maximum(torch.minimum(middles, far.unsqueeze(-1)), near.unsqueeze(-1))
    return torch.cat((near.unsqueeze(-1), middles, far.unsqueeze(-1)), dim=-1)


def spread(weights: Tensor) -> Tensor:
    """Let each weight (..., S) reach its neighbours: (max(w_i-1, w_i) + max(w_i, w_i+1)) / 2 (Mip-NeRF, eq. 18).

    A surface between two samples is found by the one behind it alone, and half of the time it lies in the part of the
    other.
    """
    padded = torch.nn.functional.pad(weights, (1, 1))
    pairs = torch.maximum(padded[..., 1:], padded[..., :-1])
    return 0.5 * (pairs[..., 1:] + pairs[..., :-1])


def invert(edges: Tensor, weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw from the piecewise constant density with these weights, by its inverse distribution function.

    A uniform density of weight ``FLOOR`` is mixed in: where all weights are 0 the draws are uniform over the ray.

    Args:
        edges: (..., S + 1), not decreasing.
        weights: (..., S), not negative; part i has probability w_i / sum_j w_j.
        uniform: (..., N) in [0, 1).

    Returns:
        (..., N), in the order of ``uniform``.
    """
    lengths = edges.diff(dim=-1) + _TINY  # a ray that misses everything has parts too, all at one place
    mass = weights.to(edges.dtype) + FLOOR * lengths / lengths.sum(-1, keepdim=True)
    distribution = torch.nn.functional.pad(mass.cumsum(-1), (1, 0))
    distribution = distribution / distribution[..., -1:]
    uniform = uniform.to(edges.dtype).contiguous()
    part = (torch.searchsorted(distribution, uniform, right=True) - 1).clamp(0, weights.shape[-1] - 1)
    low, high = distribution.gather(-1, part), distribution.gather(-1, part + 1)
    share = ((uniform - low) / (high - low).clamp_min(torch.finfo(edges.dtype).tiny)).clamp(0, 1)
    start, end = edges.gather(-1, part), edges.gather(-1, part + 1)
    return torch.lerp(start, end, share)


def draw_fine(
    t: Tensor, weights: Tensor, near: Tensor, far: Tensor, count: int, uniform: Tensor | None = None
) -> Tensor:
    """Draw the samples of the second pass.

    Args:
        t, weights: (B, R, S), the samples of the first pass and their weights, without gradients.
        near, far: (B, R), the range of each ray.
        count: how many to draw for each ray.
        uniform: (B, R, count) in [0, 1), or None for the regular places (i + 1/2) / count.

    Returns:
        t (B, R, count), within the range, not sorted.
    """
    if uniform is None:
        regular = (torch.arange(count, dtype=t.dtype, device=t.device) + 0.5) / count
        uniform = regular.expand(*t.shape[:-1], count)
    return invert(cells(t, near, far), spread(weights), uniform)


def merge(t: Tensor, values: Tensor, fine_t: Tensor, fine_values: Tensor) -> tuple[Tensor, Tensor]:
    """Join two sets of samples of each ray, (B, R, S) with values (B, R, S, F), in the order of t."""
    t, order = torch.cat((t, fine_t), dim=-1).sort(dim=-1)
    values = torch.cat((values, fine_values), dim=-2)
    return t, values.gather(-2, order.unsqueeze(-1).expand_as(values))
