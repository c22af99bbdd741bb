"""Volume rendering of radiance fields by quadrature (NeRF, eq. 3): stateless functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hyperkit.config import PartConfig
from hyperkit.contracts import Rays, Rendered
from hyperkit.kernels.render_field import reference
from hyperkit.kernels.render_field.reference import place_samples, ray_weights, to_the_next
from hyperkit.renderers.chunks import in_chunks
from hyperkit.renderers.hierarchical import cells, draw_fine, merge


class RendererConfig(PartConfig):
    """How rays become colours.

    Attributes:
        samples: S, samples per ray; of the first pass where there are two.
        fine_samples: drawn in a second pass where the first one found something (NeRF, section 5.2; see
            ``renderers.hierarchical``). A ray costs ``samples + fine_samples`` evaluations. 0: one pass.
        sampling: ``endpoints``: S points from near to far, both included, as Trans-INR does; ``bins``: the middles of
            S equal intervals, which converges at second order.
        bounds: ``range``: from the rays' near to their far; ``sphere``: the part of it inside the sphere of
            ``radius`` around the origin, where the objects are; rays that miss it are background.
        radius: of that sphere.
        background: colour behind everything.
        background_deviation: deviation of that colour, where the field gives deviations: a ray through empty space has
            exactly this one.
        jitter: move the samples at random within their intervals while training.
        chunk_points: points evaluated at once when no gradient is needed; bounds the memory.
    """

    samples: int = Field(default=128, ge=0)
    fine_samples: int = Field(default=0, ge=0)
    sampling: Literal["endpoints", "bins"] = "endpoints"
    bounds: Literal["range", "sphere"] = "range"
    radius: float = Field(default=1.0, gt=0)
    background: Literal["white", "black"] = "white"
    background_deviation: float = Field(default=0.01, gt=0)
    jitter: bool = True
    chunk_points: int = Field(default=16384, ge=1)

    @model_validator(mode="after")
    def _first_pass(self) -> RendererConfig:
        if self.fine_samples and not self.samples:
            raise ValueError("fine_samples needs samples >= 1: the first pass says where the fine ones go")
        return self

    @property
    def draws(self) -> int:
        """Random numbers that ``jitter`` needs for each ray, which is also its number of field evaluations."""
        return self.samples + self.fine_samples


Field_ = Callable[[Tensor], Tensor]
"""Evaluates B fields at points (B, N, 6) = position and direction.

It gives rgb and density (B, N, 4), or (B, N, 7) with the deviation of each colour behind them. Where a function takes
``extra``, the field gives so many features more, the last ones.
"""


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
    return place_samples(near, far, config.samples, config.sampling, jitter)


def sample_lengths(t: Tensor, near: Tensor, far: Tensor, config: RendererConfig) -> Tensor:
    """Return the lengths (B, R, N) of the intervals of samples t (B, R, N) at any increasing places.

    With ``bins`` each sample stands for what is nearer to it than to the others, from near to far, which for regular
    samples is what ``sample_along`` gives; with ``endpoints`` for what lies between it and the next one.
    """
    return cells(t, near, far).diff(dim=-1) if config.sampling == "bins" else to_the_next(t, near, far)


def composite(
    density: Tensor,
    colour: Tensor,
    t: Tensor,
    lengths: Tensor,
    far: Tensor,
    background: Tensor | float,
    deviation: Tensor | None = None,
    background_deviation: float = 0.01,
    features: Tensor | None = None,
) -> Rendered:
    """Sum colours, their deviations, and features along rays by ``ray_weights``.

    Args:
        density: (B, R, S), not negative.
        colour: (B, R, S, C).
        t, lengths: (B, R, S), as ``sample_along`` gives them.
        far: (B, R), the depth of what passes through.
        background: colour (C,) or a number.
        deviation: (B, R, S, C), of the colours; composited with the same weights (PONP).
        background_deviation: of the background.
        features: (B, R, S, F), composited with the same weights; the background has none, which is 0. Probabilities of
            F classes that add up to 1 at each sample add up to the opacity.

    Returns:
        ``Rendered``, float32 or wider. The weights and the transmittance that is left add up to 1 exactly in theory.

    Example:
        One sample of density ln 2 over a length of 1 has weight 1/2: half its colour, half background.
    """
    if deviation is None and features is None:
        return Rendered(*reference.composite(density, colour, t, lengths, far, background))
    own = torch.as_tensor(background, dtype=torch.float64, device=colour.device).expand(colour.shape[-1])
    parts, behind = [colour], [own]
    if deviation is not None:
        parts.append(deviation)
        behind.append(torch.full_like(own, background_deviation))
    if features is not None:
        parts.append(features)
        behind.append(own.new_zeros(features.shape[-1]))
    joined, depth, opacity = reference.composite(density, torch.cat(parts, -1), t, lengths, far, torch.cat(behind))
    rgb, *rest = joined.split([len(part) for part in behind], dim=-1)
    return Rendered(rgb, depth, opacity, None if deviation is None else rest[0], None if features is None else rest[-1])


def render_rays(
    field: Field_, rays: Rays, config: RendererConfig, jitter: Tensor | None = None, extra: int = 0
) -> Rendered:
    """Render B fields along their rays.

    With gradients enabled all rays are evaluated at once; without, ``config.chunk_points`` points at a time, so that
    memory does not grow with the number of rays. Not differentiable: where the samples of a second pass lie.

    Args:
        field: evaluates the B fields at (B, N, 6); see ``Field_``.
        rays: (B, R, 3); R may be 0.
        jitter: (B, R, ``config.draws``) in [0, 1), or None. The first S move the samples within their intervals; the
            others are the uniform numbers that the fine samples are drawn with.
        extra: number of features that the field gives at each point.

    Raises:
        ValueError: ``jitter`` has another shape, or the field gives another number of values.
    """
    items, count = rays.origins.shape[:2]
    if jitter is not None and jitter.shape != (items, count, config.draws):
        raise ValueError(f"jitter has shape {tuple(jitter.shape)}, expected {(items, count, config.draws)}")

    def render(part: slice) -> Rendered:
        return _render(field, rays[part], config, None if jitter is None else jitter[:, part], extra)

    return in_chunks(render, count, max(1, config.chunk_points // max(1, items * config.draws)))


def _render(field: Field_, rays: Rays, config: RendererConfig, jitter: Tensor | None, extra: int) -> Rendered:
    near, far = ray_range(rays, config)
    t, lengths = sample_along(near, far, config, None if jitter is None else jitter[..., : config.samples])
    values = evaluate_samples(field, rays, t, extra)
    if config.fine_samples:
        with torch.no_grad():
            weights, _ = ray_weights(values[..., 3], lengths)
            uniform = None if jitter is None else jitter[..., config.samples :]
            fine = draw_fine(t, weights, near, far, config.fine_samples, uniform)
        t, values = merge(t, values, fine, evaluate_samples(field, rays, fine, extra))
        lengths = sample_lengths(t, near, far, config)
    return composite_samples(values, t, lengths, rays, config, extra)


def composite_samples(
    values: Tensor, t: Tensor, lengths: Tensor, rays: Rays, config: RendererConfig, extra: int = 0
) -> Rendered:
    """Composite what a field gives at the samples of rays, values (B, R, S, 4 or 7, + extra), on the background."""
    limit = torch.full(t.shape[:-1], float(rays.far), dtype=t.dtype, device=t.device)
    count = values.shape[-1] - extra
    deviation = values[..., 4:7] if count == 7 else None
    features = values[..., count:] if extra else None
    background = background_value(config)
    return composite(
        values[..., 3], values[..., :3], t, lengths, limit, background, deviation, config.background_deviation, features
    )


def background_value(config: RendererConfig) -> float:
    """Return the value of the background's colour channels."""
    return 1.0 if config.background == "white" else 0.0


def sample_points(rays: Rays, t: Tensor) -> Tensor:
    """Return the positions (B, R, S, 3) at t (B, R, S)."""
    return torch.addcmul(rays.origins.unsqueeze(-2), t.unsqueeze(-1), rays.directions.unsqueeze(-2))


def evaluate_samples(field: Field_, rays: Rays, t: Tensor, extra: int = 0) -> Tensor:
    """Evaluate the fields at the samples t (B, R, S) of their rays -> (B, R, S, 4), or 7, and ``extra`` more.

    Raises:
        ValueError: the field gives another number of values.
    """
    directions = rays.directions.unsqueeze(-2).expand(*t.shape, 3)
    points = torch.cat((sample_points(rays, t), directions), dim=-1)
    values = field(points.flatten(1, 2)).unflatten(1, t.shape[1:])
    if values.shape[-1] - extra not in (4, 7):
        more = f", and {extra} more" if extra else ""
        raise ValueError(f"the field gives {values.shape[-1]} values per point, expected 4, or 7 with deviations{more}")
    return values
