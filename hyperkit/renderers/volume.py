"""Volume rendering of radiance fields by quadrature (NeRF, eq. 3): stateless functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hyperkit.config import PartConfig
from hyperkit.contracts import Rays, Rendered

LAST_INTERVAL = 1e-3
"""Length of the last interval with ``endpoints`` sampling, as in Trans-INR's public implementation."""


class RendererConfig(PartConfig):
    """How rays become colours.

    Attributes:
        samples: S, samples per ray.
        sampling: ``endpoints``: S points from near to far, both included, as Trans-INR does; ``bins``: the middles of
            S equal intervals, which converges at second order.
        bounds: ``range``: from the rays' near to their far; ``sphere``: the part of it inside the sphere of
            ``radius`` around the origin, where the objects are; rays that miss it are background.
        radius: of that sphere.
        background: colour behind everything.
        jitter: move the samples at random within their intervals while training.
        chunk_points: points evaluated at once when no gradient is needed; bounds the memory.
    """

    samples: int = Field(default=128, ge=0)
    sampling: Literal["endpoints", "bins"] = "endpoints"
    bounds: Literal["range", "sphere"] = "range"
    radius: float = Field(default=1.0, gt=0)
    background: Literal["white", "black"] = "white"
    jitter: bool = True
    chunk_points: int = Field(default=16384, ge=1)


Field_ = Callable[[Tensor], Tensor]
"""Evaluates B fields at points (B, N, 6) = position and direction, giving rgb and density (B, N, 4)."""


def ray_range(rays: Rays, config: RendererConfig) -> tuple[Tensor, Tensor]:
    """Return the first and last t (B, R) of each ray; they are equal where the ray misses the sphere."""
    near = torch.full(rays.origins.shape[:-1], float(rays.near), dtype=rays.origins.dtype, device=rays.origins.device)
    far = torch.full_like(near, float(rays.far))
    if config.bounds == "range":
        return near, far
    a = (rays.directions**2).sum(-1)
    b = (rays.origins * rays.directions).sum(-1)
    c = (rays.origins**2).sum(-1) - config.radius**2
    discriminant = b * b - a * c
    root = discriminant.clamp_min(0).sqrt()
    hit = discriminant > 0
    enter = torch.maximum(near, (-b - root) / a)
    leave = torch.minimum(far, (-b + root) / a)
    hit = hit & (leave > enter)
    return torch.where(hit, enter, far), torch.where(hit, leave, far)


def sample_along(
    near: Tensor, far: Tensor, config: RendererConfig, jitter: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Place the samples of each ray.

    Args:
        near, far: (B, R).
        jitter: (B, R, S) in [0, 1), or None for the regular places.

    Returns:
        t (B, R, S), increasing, and the length (B, R, S) of the interval that each sample stands for.
    """
    count = config.samples
    index = torch.arange(count, dtype=near.dtype, device=near.device)
    span = (far - near).unsqueeze(-1)
    if config.sampling == "bins":
        width = span / max(count, 1)
        offset = 0.5 if jitter is None else jitter
        return near.unsqueeze(-1) + (index + offset) * width, width.expand(*near.shape, count)
    step = span / max(count - 1, 1)
    t = near.unsqueeze(-1) + (index if jitter is None else index + jitter) * step
    last = torch.full_like(t[..., :1], LAST_INTERVAL)[..., : min(count, 1)]
    return t, torch.cat((t.diff(dim=-1), last), dim=-1)


def composite(
    density: Tensor, colour: Tensor, t: Tensor, lengths: Tensor, far: Tensor, background: Tensor | float
) -> Rendered:
    """Sum colours along rays: w_i = exp(-sum_{j<i} sigma_j d_j) (1 - exp(-sigma_i d_i)) (NeRF, eq. 3).

    Args:
        density: (B, R, S), not negative.
        colour: (B, R, S, C).
        t, lengths: (B, R, S), as ``sample_along`` gives them.
        far: (B, R), the depth of what passes through.
        background: colour (C,) or a number.

    Returns:
        ``Rendered``, float32 or wider. The weights and the transmittance that is left add up to 1 exactly in theory.

    Example:
        One sample of density ln 2 over a length of 1 has weight 1/2: half its colour, half background.
    """
    kind = torch.promote_types(density.dtype, torch.float32)
    thickness = density.to(kind) * lengths.to(kind)
    total = thickness.cumsum(-1)
    weights = torch.exp(-(total - thickness)) * -torch.expm1(-thickness)
    opacity = -torch.expm1(-thickness.sum(-1))
    through = 1 - opacity
    rgb = (weights.unsqueeze(-1) * colour.to(kind)).sum(-2)
    rgb = rgb + through.unsqueeze(-1) * torch.as_tensor(background, dtype=kind, device=rgb.device)
    depth = (weights * t.to(kind)).sum(-1) + through * far.to(kind)
    return Rendered(rgb, depth, opacity)


def render_rays(field: Field_, rays: Rays, config: RendererConfig, jitter: Tensor | None = None) -> Rendered:
    """Render B fields along their rays.

    With gradients enabled all rays are evaluated at once; without, ``config.chunk_points`` points at a time, so that
    memory does not grow with the number of rays.

    Args:
        field: evaluates the B fields at (B, N, 6); see ``Field_``.
        rays: (B, R, 3); R may be 0.
        jitter: (B, R, S) in [0, 1), or None.
    """
    items, count = rays.origins.shape[:2]
    if torch.is_grad_enabled() or count == 0:
        return _render(field, rays, config, jitter)
    per_chunk = max(1, config.chunk_points // max(1, items * config.samples))
    parts = []
    for start in range(0, count, per_chunk):
        chunk = slice(start, start + per_chunk)
        parts.append(_render(field, rays[chunk], config, None if jitter is None else jitter[:, chunk]))
    return Rendered(
        torch.cat([p.rgb for p in parts], 1),
        torch.cat([p.depth for p in parts], 1),
        torch.cat([p.opacity for p in parts], 1),
    )


def _render(field: Field_, rays: Rays, config: RendererConfig, jitter: Tensor | None) -> Rendered:
    near, far = ray_range(rays, config)
    t, lengths = sample_along(near, far, config, jitter)
    directions = rays.directions.unsqueeze(-2).expand(*t.shape, 3)
    points = torch.addcmul(rays.origins.unsqueeze(-2), t.unsqueeze(-1), directions)
    values = field(torch.cat((points, directions), dim=-1).flatten(1, 2)).unflatten(1, t.shape[1:])
    background = 1.0 if config.background == "white" else 0.0
    limit = torch.full_like(far, float(rays.far))
    return composite(values[..., 3], values[..., :3], t, lengths, limit, background)
