"""Volume rendering of one field without the samples that cannot be seen: in empty cells, and behind opaque ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperkit.contracts import Rays, Rendered
from hyperkit.kernels.render_field.reference import ray_weights
from hyperkit.renderers.occupancy import TOLERANCE, Occupancy
from hyperkit.renderers.volume import Field_, RendererConfig, background_value, ray_range, sample_along

BLOCK = 1 << 18
"""Samples that are placed and looked up at once: their places stay in the processor's cache."""

ROUNDS = (4, 4, 8, 8, 16, 32)
"""Samples of each ray that are evaluated in every round; rays that are opaque after one drop out. The last repeats."""


@dataclass
class Tally:
    """How many samples there were, and how many of them were evaluated."""

    samples: int = 0
    evaluated: int = 0

    @property
    def culled(self) -> float:
        """Share of the samples that were not evaluated."""
        return 1 - self.evaluated / self.samples if self.samples else 0.0


@dataclass(frozen=True)
class _Marching:
    """What stays the same over all rays."""

    field: Field_
    config: RendererConfig
    occupancy: Occupancy | None
    channels: int
    tally: Tally


@torch.no_grad()
def render_culled(
    field: Field_,
    rays: Rays,
    config: RendererConfig,
    occupancy: Occupancy | None,
    deviation: bool = False,
    tally: Tally | None = None,
) -> Rendered:
    """Render one field along its rays, evaluating what lies in occupied cells, until little light is left.

    A ray ends where less than ``TOLERANCE`` of its light passes on. Memory does not grow with the number of rays.
    Nothing is differentiable.

    Args:
        field: evaluates the field at (1, N, 6); see ``renderers.volume``.
        rays: (1, R, 3); R may be 0.
        config: with ``fine_samples`` = 0.
        occupancy: where the field may hold something; None: anywhere.
        deviation: whether the field gives deviations of the colours.
        tally: counts the samples.

    Raises:
        ValueError: more than one item, or fine samples.
    """
    if len(rays.origins) != 1 or config.fine_samples:
        raise ValueError("culled rendering is for one field at a time, without fine samples")
    marching = _Marching(field, config, occupancy, 7 if deviation else 4, tally or Tally())
    step = max(1, BLOCK // max(1, config.samples))
    starts = range(0, max(rays.origins.shape[1], 1), step)
    parts = [_march(marching, rays[start : start + step]) for start in starts]
    sums, through = (torch.cat(part) for part in zip(*parts, strict=True))
    behind = torch.full((marching.channels,), background_value(config), device=sums.device)
    behind[3], behind[4:] = float(rays.far), config.background_deviation
    values = (sums + through.unsqueeze(-1) * behind)[None]
    return Rendered(values[..., :3], values[..., 3], 1 - through[None], values[..., 4:] if deviation else None)


def _march(marching: _Marching, rays: Rays) -> tuple[Tensor, Tensor]:
    """Return [colour, depth, deviation] (R, 4 or 7), weighted and summed, and the light that passes on, (R,)."""
    config = marching.config
    near, far = ray_range(rays, config)
    t, lengths = (x[0] for x in sample_along(near, far, config))
    kept = lengths > 0
    if marching.occupancy is not None:
        kept &= marching.occupancy.along(rays, t)
    marching.tally.samples += t.numel()
    ray, sample = kept.nonzero(as_tuple=True)
    counts = kept.sum(1)
    place = torch.arange(len(ray), device=ray.device) - (counts.cumsum(0) - counts)[ray]  # among its ray's kept ones
    sums, through = t.new_zeros(len(t), marching.channels), t.new_ones(len(t))
    for start, width in _rounds(int(counts.max()) if len(counts) else 0):
        alive = ((counts > start) & (through > TOLERANCE)).nonzero()[:, 0]
        row = torch.full_like(counts, -1)
        row[alive] = torch.arange(len(alive), device=row.device)
        now = ((place >= start) & (place < start + width) & (row[ray] >= 0)).nonzero()[:, 0]
        r, s = ray[now], sample[now]
        values = _evaluate(marching, rays, r, t[r, s])
        cells = (row[r], place[now] - start)
        density, length = t.new_zeros(len(alive), width), t.new_zeros(len(alive), width)
        density[cells], length[cells] = values[:, 3], lengths[r, s]
        values[:, 3] = t[r, s]
        placed = values.new_zeros(len(alive), width, marching.channels)
        placed[cells] = values
        weights, opacity = ray_weights(density, length)
        sums[alive] += through[alive].unsqueeze(-1) * torch.bmm(weights.unsqueeze(1), placed)[:, 0]
        through[alive] *= 1 - opacity
    return sums, through


def _rounds(most: int) -> Iterator[tuple[int, int]]:
    """Yield the first sample and the number of samples of each round, until ``most`` are covered."""
    start = 0
    for number in itertools.count():
        if start >= most:
            return
        width = ROUNDS[min(number, len(ROUNDS) - 1)]
        yield start, width
        start += width


def _evaluate(marching: _Marching, rays: Rays, ray: Tensor, t: Tensor) -> Tensor:
    """Evaluate the field at one sample t (M,) of each of the rays (M,) -> (M, channels), float32."""
    directions = rays.directions[0, ray]
    points = torch.addcmul(rays.origins[0, ray], t.unsqueeze(-1), directions)
    marching.tally.evaluated += len(t)
    return marching.field(torch.cat((points, directions), dim=-1)[None])[0]
