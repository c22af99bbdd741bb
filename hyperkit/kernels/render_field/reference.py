"""Volume rendering of generated radiance fields in plain PyTorch: the definition that the faster forms must match.

Every formula of the way from a ray to its colour stands here once: the encoding of positions, the activations of a
field's outputs, the places of the samples, and their weights (NeRF, eq. 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

LAST_INTERVAL = 1e-3
"""Length of the last interval with ``endpoints`` sampling, as in Trans-INR's public implementation."""

Density = Literal["relu", "softplus"]
Sampling = Literal["endpoints", "bins"]


@dataclass(frozen=True)
class FieldShape:
    """What a field is beside its weights.

    Attributes:
        bands: frequencies of the positional encoding, the common factor included, the same for each coordinate.
        include_input: the coordinates themselves are encoded values too, the first ones.
        density: activation of the density.
        density_scale, density_shift: factor on the density, and what is added before the activation.
    """

    bands: tuple[float, ...]
    include_input: bool = False
    density: Density = "relu"
    density_scale: float = 1.0
    density_shift: float = 0.0


def encode(x: Tensor, bands: Tensor, include_input: bool = False) -> Tensor:
    """Return [x, cos(f x), sin(f x)] for every frequency f and coordinate x, the first part only where it is asked for.

    Args:
        x: (..., C).
        bands: (F,), the frequencies.

    Returns:
        (..., C * 2 * F), or C more, float32 or wider: in bfloat16 the high frequencies would be noise. Each part goes
        by coordinate, then frequency.
    """
    bands = bands.to(x.device, torch.promote_types(x.dtype, torch.float32))
    angles = (x.to(bands.dtype).unsqueeze(-1) * bands).flatten(-2)
    parts = [torch.cos(angles), torch.sin(angles)]
    if include_input:
        parts.insert(0, x.to(bands.dtype))
    return torch.cat(parts, dim=-1)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply one layer of B networks to their own points: x (B, N, I), or (1, N, I), -> (B, N, O), in the dtype of x.

    One batched product where items have weights of their own (B, I, O); one plain product over all points where weight
    and bias have a leading axis of 1, which items share.
    """
    if len(weight) == len(bias) == 1:
        return torch.addmm(bias[0].to(x.dtype), x.flatten(0, 1), weight[0].to(x.dtype)).unflatten(0, x.shape[:2])
    items = max(x.shape[0], weight.shape[0])
    return torch.baddbmm(bias.to(x.dtype), x.expand(items, -1, -1), weight.to(x.dtype).expand(items, -1, -1))


def activate(raw: Tensor, density: Density, scale: float, shift: float) -> tuple[Tensor, Tensor]:
    """Turn raw outputs (..., 4) into the colour (..., 3) in [0, 1] and the density (...), float32 or wider."""
    raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
    shifted = raw[..., 3] + shift
    return torch.sigmoid(raw[..., :3]), scale * (torch.relu(shifted) if density == "relu" else F.softplus(shifted))


def place_samples(
    near: Tensor, far: Tensor, samples: int, sampling: Sampling, jitter: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Place the samples of each ray.

    Args:
        near, far: (B, R).
        samples: S.
        sampling: ``endpoints``: S points from near to far, both included; ``bins``: the middles of S equal intervals.
        jitter: (B, R, S) in [0, 1), or None for the regular places.

    Returns:
        t (B, R, S), increasing, and the length (B, R, S) of the interval that each sample stands for.
    """
    index = torch.arange(samples, dtype=near.dtype, device=near.device)
    span = (far - near).unsqueeze(-1)
    if sampling == "bins":
        width = span / max(samples, 1)
        offset = 0.5 if jitter is None else jitter
        return near.unsqueeze(-1) + (index + offset) * width, width.expand(*near.shape, samples)
    step = span / max(samples - 1, 1)
    t = near.unsqueeze(-1) + (index if jitter is None else index + jitter) * step
    return t, to_the_next(t, near, far)


def to_the_next(t: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """Return the distances (B, R, S) from each sample to the next; of the last one ``LAST_INTERVAL``.

    A ray without a length, one that misses the scene, has no last interval.
    """
    last = torch.full_like(far, LAST_INTERVAL) * (far > near)
    return torch.cat((t.diff(dim=-1), last.unsqueeze(-1)[..., : t.shape[-1]]), dim=-1)


def ray_weights(density: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return w_i = exp(-sum_{j<i} sigma_j d_j) (1 - exp(-sigma_i d_i)) (NeRF, eq. 3) and their sum, the opacity.

    Args:
        density, lengths: (B, R, S), not negative.

    Returns:
        (B, R, S) and (B, R), float32 or wider.
    """
    kind = torch.promote_types(density.dtype, torch.float32)
    thickness = density.to(kind) * lengths.to(kind)
    total = thickness.cumsum(-1)
    weights = torch.exp(-(total - thickness)) * -torch.expm1(-thickness)
    return weights, -torch.expm1(-thickness.sum(-1))


def composite(
    density: Tensor, colour: Tensor, t: Tensor, lengths: Tensor, limit: Tensor | float, background: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum colours along rays by ``ray_weights``.

    Args:
        density: (B, R, S), not negative.
        colour: (B, R, S, C).
        t, lengths: (B, R, S), as ``place_samples`` gives them.
        limit: (B, R) or a number, the depth of what passes through.
        background: colour (C,) or a number, or anything else that fits (B, R, C).

    Returns:
        Colour (B, R, C), depth (B, R) and opacity (B, R), float32 or wider. The weights and the transmittance that is
        left add up to 1 exactly in theory.

    Example:
        One sample of density ln 2 over a length of 1 has weight 1/2: half its colour, half background.
    """
    weights, opacity = ray_weights(density, lengths)
    kind = weights.dtype
    through = 1 - opacity
    limit, background = (x.to(kind) if isinstance(x, Tensor) else x for x in (limit, background))
    rgb = (weights.unsqueeze(-1) * colour.to(kind)).sum(-2) + through.unsqueeze(-1) * background
    depth = (weights * t.to(kind)).sum(-1) + through * limit
    return rgb, depth, opacity


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
    """Render B fields, each with its own weights, along their rays.

    Args:
        weights: for each of the L >= 2 layers (B, I, O), or (1, I, O) where items share it. ReLU lies between the
            layers; the last one gives the raw [red, green, blue, density].
        biases: for each layer (B, 1, O) or (1, 1, O).
        origins, directions: (B, R, 3); R may be 0.
        near, far: (B, R), the range of each ray; equal where it misses the scene.
        shape: the field's encoding and activations.
        samples: S per ray; may be 0.
        sampling, jitter: see ``place_samples``.
        limit, background: see ``composite``.
        precision: dtype of the factors of the matrix products; None: that of the weights. All else is in float32, or
            in the rays' dtype where that is wider.

    Returns:
        Colour (B, R, 3), depth (B, R) and opacity (B, R).
    """
    t, lengths = place_samples(near, far, samples, sampling, jitter)
    points = torch.addcmul(origins.unsqueeze(-2), t.unsqueeze(-1), directions.unsqueeze(-2))
    bands = torch.tensor(shape.bands, dtype=torch.float64, device=points.device)
    h = encode(points.flatten(1, 2), bands, shape.include_input).to(precision or weights[0].dtype)
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        h = torch.relu(h) if index else h
        h = linear(h, weight, bias)
    colour, density = activate(h.unflatten(1, t.shape[1:]), shape.density, shape.density_scale, shape.density_shift)
    return composite(density, colour, t, lengths, limit, background)
