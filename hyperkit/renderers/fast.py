"""Rendering one field from many sides as fast as the machine allows, at a bounded error.

Empty space is left out by a grid that is made once for all views (``occupancy``), and what lies behind opaque things
as well (``culled``). Together they may cost ``occupancy.TOLERANCE`` of the light of a ray where the grid is right, and
the grid is measured against rays of the same views. Fields with a second pass of samples, or with features, are
rendered densely.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hyperkit.contracts import Cameras, Rays, Rendered
from hyperkit.kernels.tuning import CHUNKS, tuned_chunk
from hyperkit.renderers.culled import Tally, render_culled
from hyperkit.renderers.occupancy import build_occupancy
from hyperkit.renderers.volume import Field_, RendererConfig, render_rays


@torch.no_grad()
def fast_renderer(
    field: Field_,
    cameras: Cameras,
    config: RendererConfig,
    name: str,
    deviation: bool,
    tally: Tally,
    extra: int = 0,
) -> Callable[[Rays], Rendered]:
    """Prepare the rendering of one field in the views of some cameras (V,), and return what renders rays (1, R, 3).

    Args:
        field: evaluates it at (1, N, 6); see ``renderers.volume``.
        cameras: of the views, on the field's device.
        config: how they are rendered.
        name: what kind of field it is; the size of the pieces that suits it is measured once and kept by this name.
        deviation: whether it gives deviations of the colours.
        tally: counts the samples of all views.
        extra: number of features that the field gives at each point.
    """
    chunk = _chunk(field, name, cameras.poses.device)
    if config.fine_samples or extra or not len(cameras.poses) or not config.samples:
        dense = config.model_copy(update={"chunk_points": chunk})
        return lambda rays: render_rays(field, rays, dense, extra=extra)

    def in_chunks(points: Tensor) -> Tensor:
        return torch.cat([field(part) for part in points.split(chunk, dim=1)], dim=1)

    occupancy = build_occupancy(in_chunks, cameras, config)
    return lambda rays: render_culled(in_chunks, rays, config, occupancy, deviation, tally)


def _chunk(field: Field_, name: str, device: torch.device) -> int:
    # the same points at every size; where they lie does not matter for the time
    points = torch.linspace(-1, 1, 6 * max(CHUNKS), device=device).reshape(1, -1, 6)
    return tuned_chunk(name, device, lambda size: [field(part) for part in points.split(size, dim=1)])
