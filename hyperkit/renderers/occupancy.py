"""Which parts of space a generated field leaves empty, so that nothing is computed there.

A grid is sampled from the field itself: the corners of coarse cells first, those of finer ones only near what was
found. It is then dilated until the error that it makes is bounded by measurement: random rays of the views that are to
be rendered are composited once with all of their samples and once with those that the grid keeps, and the two must
agree to ``AGREEMENT`` decibels. Where no dilation reaches that, there is no grid and everything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from hyperkit.contracts import Cameras, Rays
from hyperkit.geometry import pixel_rays, project
from hyperkit.renderers.volume import (
    Field_,
    RendererConfig,
    composite_samples,
    evaluate_samples,
    ray_range,
    sample_along,
    sample_points,
)

TOLERANCE = 2.0**-8
"""Opacity over a whole ray that counts as nothing: one step of an 8-bit picture."""

AGREEMENT = 50.0
"""PSNR, dB, that the probe rays must reach with the empty cells left out, against the same rays without leaving out."""

PROBES = 256
"""Probe rays: with all of their samples they cost a sixty-fourth of a 128x128 view."""

COARSE = (24, 32, 48, 64)
"""Cells per axis of the coarse grid over the unit sphere; the fine one has twice as many."""

GRID_SHARE = 1 / 16
"""The fine grid has at most this share of the samples of all views as cells, as far as ``COARSE`` goes."""

DILATIONS = (0, 1, 2, 3)
"""Cells by which the grid is grown, in the order in which they are tried."""

FEW_VIEWS = 8
"""Up to so many views, only the space that they show is sampled; with more, that would cost more than it spares."""

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Occupancy:
    """Cells of the cube [-extent, extent]^3 that may hold something.

    Attributes:
        cells: (N, N, N) bool, axes x, y, z.
        extent: half of the cube's side; points outside of it belong to the cell at the border.
        agreement: PSNR, dB, of the probe rays with the other cells left out.
    """

    cells: Tensor
    extent: float
    agreement: float

    def holds(self, points: Tensor) -> Tensor:
        """Tell for points (..., 3) whether their cells may hold something, (...) bool."""
        count = len(self.cells)
        place = ((points + self.extent) * (count / (2 * self.extent))).clamp_(0, count - 1).to(torch.int32)
        x, y, z = place.unbind(-1)
        index = (x * count + y) * count + z
        return self.cells.flatten().index_select(0, index.flatten()).reshape(index.shape)

    def along(self, rays: Rays, t: Tensor) -> Tensor:
        """Tell the same for the samples t (R, S) of rays (1, R, 3), without forming their positions."""
        count = len(self.cells)
        scale = count / (2 * self.extent)
        starts, steps = (rays.origins[0] + self.extent) * scale, rays.directions[0] * scale
        index: Tensor | None = None
        for axis in range(3):
            place = torch.addcmul(starts[:, axis : axis + 1], t, steps[:, axis : axis + 1])
            part = place.clamp_(0, count - 1).to(torch.int32)
            index = part if index is None else index.mul_(count).add_(part)
        assert index is not None
        return self.cells.flatten().index_select(0, index.flatten()).reshape(t.shape)

    @property
    def share(self) -> float:
        """Share of the cells that may hold something."""
        return float(self.cells.float().mean())


def density_limit(config: RendererConfig, near: float, far: float) -> float:
    """Return the density below which space counts as empty.

    A ray that stays in it from end to end collects an opacity of 1 - exp(-limit * length) = ``TOLERANCE``.
    """
    length = far - near
    if config.bounds == "sphere":
        length = min(length, 2 * config.radius)
    return -math.log1p(-TOLERANCE) / length


def view_extent(cameras: Cameras, config: RendererConfig) -> float:
    """Return the half side of a cube around the origin that holds all samples of the views (V,)."""
    if config.bounds == "sphere":
        return config.radius
    width, height = cameras.width, cameras.height
    corners = torch.tensor([(0.0, 0.0), (width, 0.0), (0.0, height), (width, height)], device=cameras.poses.device)
    rays = pixel_rays(cameras, corners.expand(len(cameras.poses), 4, 2))
    # what is seen of the planes at near and far ends at the corners' rays, and with it the space between
    ends = [rays.origins + t * rays.directions for t in (rays.near, rays.far)]
    return max(float(end.abs().max()) for end in ends)


def probe_rays(cameras: Cameras, count: int = PROBES) -> Rays:
    """Return rays (1, count, 3) through pixels that are spread evenly over all views (V,)."""
    pixels = cameras.width * cameras.height
    # multiples of the golden ratio, modulo 1, leave no gaps and fall into no pattern with rows of pixels
    spread = (torch.arange(count, dtype=torch.float64) * _GOLDEN) % 1
    chosen = (spread * (len(cameras.poses) * pixels)).long().to(cameras.poses.device)
    view = torch.div(chosen, pixels, rounding_mode="floor")
    own = replace(cameras, poses=cameras.poses[view], focal=cameras.focal[view])
    rays = pixel_rays(own, (chosen % pixels)[:, None])
    return replace(rays, origins=rays.origins[:, 0][None], directions=rays.directions[:, 0][None])


def build_occupancy(field: Field_, cameras: Cameras, config: RendererConfig) -> Occupancy | None:
    """Find the cells of one field that may hold something that the views show.

    Args:
        field: gives (1, N, 4 or 7) at (1, N, 6); see ``renderers.volume``.
        cameras: of the views (V,) that will be rendered.
        config: how they will be rendered.

    Returns:
        The grid, or None where no dilation keeps the probe rays within ``AGREEMENT``.
    """
    probes = probe_rays(cameras)
    limit, extent = density_limit(config, cameras.near, cameras.far), view_extent(cameras, config)
    samples = len(cameras.poses) * cameras.width * cameras.height * config.samples
    cells = _fine_cells(
        _coarse_cells(samples, extent),
        lambda points: _density(field, points),
        extent,
        limit,
        lambda points, margin: _seen(points, cameras, config, margin),
    )
    near, far = ray_range(probes, config)
    t, lengths = sample_along(near, far, config)
    values = evaluate_samples(field, probes, t)
    full = composite_samples(values, t, lengths, probes, config)
    points = sample_points(probes, t)
    for dilation in DILATIONS:
        grown = Occupancy(_dilate(cells, dilation), extent, math.inf)
        kept = values * grown.holds(points).unsqueeze(-1)
        part = composite_samples(kept, t, lengths, probes, config)
        error = float((part.rgb - full.rgb).square().mean())
        agreement = -10 * math.log10(error) if error else math.inf
        if agreement >= AGREEMENT:
            return Occupancy(grown.cells, extent, agreement)
    return None


def _coarse_cells(samples: int, extent: float) -> int:
    """Return the cells per axis of the coarse grid that pays for so many samples of all views."""
    count = max((c for c in COARSE if (2 * c) ** 3 <= samples * GRID_SHARE), default=COARSE[0])
    return count if extent <= 1.25 else 2 * count


def _fine_cells(
    count: int,
    density: Callable[[Tensor], Tensor],
    extent: float,
    limit: float,
    seen: Callable[[Tensor, float], Tensor],
) -> Tensor:
    """Evaluate the corners of coarse cells, then those of the parts of the cells that are near an occupied one.

    Args:
        count: coarse cells per axis.
        density: (N, 3) -> (N,).
        extent, limit: see ``build_occupancy``.
        seen: tells for points (N, 3), and a distance that they may be off by, which of them matter.
    """
    corners = _corners(count, extent).reshape(-1, 3)
    wanted = seen(corners, 2 * extent / count * math.sqrt(3))
    occupied = torch.zeros_like(wanted)
    occupied[wanted] = density(corners[wanted.cpu()].to(wanted.device)) > limit
    near = _dilate(_cells_of(occupied.reshape((count + 1,) * 3)), 1)
    for axis in range(3):
        near = near.repeat_interleave(2, axis)
    # a corner is evaluated where one of the cells around it is a candidate
    candidates = _cells_of(F.pad(near, (1,) * 6))
    fine = torch.zeros_like(candidates)
    fine[candidates] = density(_corners(2 * count, extent)[candidates.cpu()].to(fine.device)) > limit
    return _cells_of(fine)


def _seen(points: Tensor, cameras: Cameras, config: RendererConfig, margin: float) -> Tensor:
    """Tell which points (N, 3) lie where a ray of the views may pass, or no more than ``margin`` away from there."""
    points = points.to(cameras.poses.device)
    if config.bounds == "sphere":
        return points.norm(dim=-1) <= config.radius + margin
    if len(cameras.poses) > FEW_VIEWS:
        return torch.ones_like(points[:, 0], dtype=torch.bool)
    x, y, distance = project(cameras, points.expand(len(cameras.poses), -1, 3)).unbind(-1)
    around = margin * cameras.focal[:, None] / distance.clamp_min(1e-3)  # the margin in pixels
    inside = (distance >= cameras.near - margin) & (distance <= cameras.far + margin)
    inside &= (x >= -around) & (x <= cameras.width + around) & (y >= -around) & (y <= cameras.height + around)
    return inside.any(0)


def _corners(count: int, extent: float) -> Tensor:
    axis = torch.linspace(-extent, extent, count + 1)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)


def _cells_of(corners: Tensor) -> Tensor:
    """Return the cells (N, N, N) of which a corner (N + 1, N + 1, N + 1) is marked."""
    return F.max_pool3d(corners[None, None].float(), 2, stride=1)[0, 0] > 0


def _density(field: Field_, points: Tensor) -> Tensor:
    with_direction = torch.cat((points, torch.zeros_like(points)), dim=-1)
    return field(with_direction[None])[0, :, 3]


def _dilate(cells: Tensor, by: int) -> Tensor:
    if not by:
        return cells
    grown = F.max_pool3d(cells[None, None].float(), 2 * by + 1, stride=1, padding=by)
    return grown[0, 0] > 0
