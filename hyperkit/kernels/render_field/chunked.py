"""Rendering of generated fields on a CPU: the reference, or its form in bf16, a part of the rays at a time.

Activations of all points at once are larger than what the allocator keeps: every layer then costs page faults, which
took as long as the arithmetic (forward and backward pass of 65,536 points at width 256: 1.9 times the time of 16,384
at once). Where even the parts together would keep too much for the backward pass, they are computed again in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hyperkit.kernels.render_field import cpu_layers, reference
from hyperkit.kernels.render_field.reference import FieldShape, Sampling

CHUNK_POINTS = 16384
"""Points evaluated at once; in bf16 on a CPU with bf16 twice as many, which are as many bytes."""

KEPT_VALUES = 1 << 29
"""Activations, over all points and layers, that are kept for the backward pass: 1 GiB in bf16, 2 GiB in float32."""


def render_field(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    shape: FieldShape,
    samples: int,
    sampling: Sampling,
    jitter: Tensor | None = None,
    limit: Tensor | float = 6.0,
    background: Tensor | float = 1.0,
    precision: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Render B fields along their rays; arguments and results are those of ``reference.render_field``.

    Memory is bounded without gradients, and with them up to what the rays themselves take.
    """
    items, count = origins.shape[:2]
    per_ray = max(1, items * samples)
    lowered = cpu_layers.supports(weights, precision or weights[0].dtype, origins.device)
    step = max(1, (2 if lowered else 1) * CHUNK_POINTS // per_ray)

    def part(start: int) -> tuple[Tensor, Tensor, Tensor]:
        own = slice(start, start + step)
        moved = None if jitter is None else jitter[:, own]
        ends = (_part(limit, own, count), _part(background, own, count))
        rays = (origins[:, own], directions[:, own], near[:, own], far[:, own])
        if lowered:
            return cpu_layers.render_field(weights, biases, *rays, shape, samples, sampling, moved, *ends)
        return reference.render_field(weights, biases, *rays, shape, samples, sampling, moved, *ends, precision)

    run: Callable[[int], tuple[Tensor, Tensor, Tensor]] = part
    if torch.is_grad_enabled() and count * per_ray * sum(weight.shape[-1] for weight in weights) > KEPT_VALUES:
        run = partial(checkpoint, part, use_reentrant=False, preserve_rng_state=False)
    if count <= step:
        return run(0)
    rgb, depth, opacity = zip(*(run(start) for start in range(0, count, step)), strict=True)
    return torch.cat(rgb, 1), torch.cat(depth, 1), torch.cat(opacity, 1)


def _part(values: Tensor | float, own: slice, count: int) -> Tensor | float:
    """Cut what has a value for each ray, (B, R) or (B, R, C); the rest fits any number of rays."""
    each = isinstance(values, Tensor) and values.ndim >= 2 and values.shape[1] == count
    return values[:, own] if each else values  # type: ignore[index]
