import math

import pytest
import torch
from torch import Tensor

from hyperkit.contracts import Cameras, Rays
from hyperkit.geometry import look_at, picture_rays
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.renderers import occupancy as occ
from hyperkit.renderers.culled import Tally, render_culled
from hyperkit.renderers.occupancy import (
    TOLERANCE,
    Occupancy,
    build_occupancy,
    density_limit,
    probe_rays,
    view_extent,
)
from hyperkit.renderers.volume import Field_, ray_range, sample_along, sample_points

SPHERE = RendererConfig(samples=96, sampling="bins", bounds="sphere")
RANGE = RendererConfig(samples=128)


def cameras(views: int = 3, size: int = 40) -> Cameras:
    eyes = torch.nn.functional.normalize(torch.randn(views, 3, generator=torch.Generator().manual_seed(views)), dim=-1)
    return Cameras(look_at(4 * eyes), torch.full((views,), size / 0.6), size, size, 2.0, 6.0)


def views_of(seen: Cameras) -> Rays:
    rays = picture_rays(seen)
    return Rays(rays.origins.flatten(0, 1)[None], rays.directions.flatten(0, 1)[None], rays.near, rays.far)


def balls(*spheres: tuple[float, float, float, float], density: float = 60.0, deviation: bool = False) -> Field_:
    """Balls (x, y, z, radius) with soft edges, coloured by position."""

    def field(points: Tensor) -> Tensor:
        position = points[..., :3]
        inside = torch.zeros_like(position[..., 0])
        for *centre, radius in spheres:
            distance = (position - torch.tensor(centre)).norm(dim=-1)
            inside = torch.maximum(inside, (0.5 + (radius - distance) / 0.02).clamp(0, 1))
        values = torch.cat((0.5 + 0.5 * torch.sin(3 * position), density * inside[..., None]), dim=-1)
        return torch.cat((values, 0.1 + values[..., :3]), dim=-1) if deviation else values

    return field


TWO = balls((0.3, 0.1, -0.2, 0.35), (-0.4, -0.3, 0.3, 0.2))


@pytest.mark.parametrize("config", [SPHERE, RANGE], ids=["sphere", "range"])
@pytest.mark.parametrize("deviation", [False, True])
def test_it_stays_within_the_tolerance_of_all_samples(config: RendererConfig, deviation: bool) -> None:
    field, seen = balls((0.3, 0.1, -0.2, 0.35), (-0.4, -0.3, 0.3, 0.2), deviation=deviation), cameras()
    grid = build_occupancy(field, seen, config)
    assert grid is not None
    tally, rays = Tally(), views_of(seen)
    found = render_culled(field, rays, config, grid, deviation, tally)
    truth = render_rays(field, rays, config)
    # measured: 0.0039, 0.0039 (deviations, which reach 1.1) and 0.011 in depth, over up to 4 units
    assert (found.rgb - truth.rgb).abs().max() <= TOLERANCE
    assert (found.opacity - truth.opacity).abs().max() <= TOLERANCE
    assert (found.depth - truth.depth).abs().max() <= 4 * TOLERANCE
    if deviation:
        assert found.deviation is not None
        assert truth.deviation is not None
        assert (found.deviation - truth.deviation).abs().max() <= 1.1 * TOLERANCE
    else:
        assert found.deviation is None
    assert tally.samples == rays.origins.shape[1] * config.samples
    assert tally.culled > 0.9


def test_without_a_grid_only_what_lies_behind_opaque_things_is_left_out() -> None:
    rays = views_of(cameras(1))
    everywhere = balls((0.0, 0.0, 0.0, 2.0), density=200.0)
    opaque, clear = Tally(), Tally()
    found = render_culled(everywhere, rays, SPHERE, None, tally=opaque)
    assert (found.rgb - render_rays(everywhere, rays, SPHERE).rgb).abs().max() <= TOLERANCE
    assert opaque.culled > 0.8
    nothing = render_culled(balls(density=0.0), rays, SPHERE, None, tally=clear)
    near, far = ray_range(rays, SPHERE)
    assert clear.evaluated == int((far > near).sum()) * SPHERE.samples  # rays that miss the sphere cost nothing
    assert (nothing.rgb == 1).all()
    assert (nothing.opacity == 0).all()
    assert (nothing.depth == 6).all()


def test_the_grid_holds_all_that_is_dense_enough() -> None:
    seen = cameras()
    limit = density_limit(SPHERE, 2.0, 6.0)
    assert 1 - math.exp(-limit * 2) == pytest.approx(TOLERANCE)
    grid = build_occupancy(TWO, seen, SPHERE)
    assert grid is not None
    assert grid.agreement >= occ.AGREEMENT
    points = 2 * torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0)) - 1
    dense = TWO(points[None])[0, :, 3] > limit
    assert grid.holds(points[dense]).float().mean() > 0.999  # a sliver between the corners of a cell may be missed
    assert 0.03 < grid.share < 0.08  # the balls and their edges fill 2.6 % of the cube


def test_probes_decide_how_far_the_grid_is_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wires that fall between the corners of all cells: no grid is better than a wrong one."""
    monkeypatch.setattr(occ, "COARSE", (32,))

    def wires(points: Tensor) -> Tensor:
        offset = (points[..., :2] * 32 - 0.5).frac().abs()  # every 1/32, in the middle of the fine cells
        offset = torch.minimum(offset, 1 - offset)
        inside = (offset.amax(-1) < 0.2) & (points[..., :2].abs().amax(-1) < 0.8)
        return torch.cat((torch.zeros_like(points[..., :3]), 300.0 * inside[..., None]), dim=-1)

    seen = cameras()
    assert (wires(torch.cat((occ._corners(64, 1.0).reshape(1, -1, 3),) * 2, -1))[..., 3] == 0).all()
    assert build_occupancy(wires, seen, SPHERE) is None
    sparse = build_occupancy(TWO, seen, SPHERE)
    assert sparse is not None


def test_places_on_rays_are_looked_up_as_points_are() -> None:
    cells = torch.rand(12, 12, 12, generator=torch.Generator().manual_seed(1)) < 0.5
    grid, rays = Occupancy(cells, 0.9, math.inf), views_of(cameras(2, 16))
    t, _ = sample_along(*ray_range(rays, RANGE), RANGE)
    points = sample_points(rays, t)[0]
    direct = grid.holds(points)
    assert (grid.along(rays, t[0]) != direct).float().mean() < 1e-4  # rounding at the cells' borders
    index = ((points + 0.9) / 1.8 * 12).long().clamp(0, 11)
    assert (cells[index[..., 0], index[..., 1], index[..., 2]] != direct).float().mean() < 1e-4


@pytest.mark.parametrize("config", [SPHERE, RANGE], ids=["sphere", "range"])
def test_the_extent_covers_all_samples(config: RendererConfig) -> None:
    seen = cameras(5, 9)
    rays = views_of(seen)
    t, lengths = sample_along(*ray_range(rays, config), config)
    reach = float((sample_points(rays, t).abs().amax(-1) * (lengths > 0)).max())
    extent = view_extent(seen, config)
    assert reach <= extent + 1e-5
    assert extent < 1.3 * reach


def test_probes_are_rays_of_the_views() -> None:
    seen = cameras(4, 10)
    probes, rays = probe_rays(seen, 400), views_of(seen)
    both = [torch.cat((r.origins, r.directions), dim=-1)[0] for r in (probes, rays)]
    distance = torch.cdist(*both, compute_mode="donot_use_mm_for_euclid_dist")
    assert distance.min(1).values.max() < 1e-5
    nearest = distance.argmin(1)
    assert len(nearest.unique()) > 300  # of 400 rays, nearly all are different
    assert torch.bincount(nearest // 100).tolist() == pytest.approx([100] * 4, abs=2)


def test_no_rays_no_samples_and_several_items() -> None:
    rays = views_of(cameras(1, 4))
    none = render_culled(TWO, rays[0:0], SPHERE, None)
    assert none.rgb.shape == (1, 0, 3)
    assert none.opacity.shape == (1, 0)
    empty = render_culled(TWO, rays, SPHERE.model_copy(update={"samples": 0}), None)
    assert (empty.rgb == 1).all()
    assert (empty.depth == 6).all()
    several = Rays(rays.origins.expand(2, -1, -1), rays.directions.expand(2, -1, -1))
    with pytest.raises(ValueError, match="one field at a time"):
        render_culled(TWO, several, SPHERE, None)


@pytest.mark.parametrize("config", [SPHERE, RANGE], ids=["sphere", "range"])
def test_no_sample_of_a_view_is_taken_for_unseen(config: RendererConfig) -> None:
    seen = cameras(2, 9)
    rays = views_of(seen)
    t, lengths = sample_along(*ray_range(rays, config), config)
    points = sample_points(rays, t)[lengths > 0]
    assert occ._seen(points, seen, config, 1e-4).all()
    away = points + 0.1 * torch.nn.functional.normalize(torch.randn(points.shape), dim=-1)
    assert occ._seen(away, seen, config, 0.1 + 1e-4).all()
    cube = 5 * torch.rand(10_000, 3, generator=torch.Generator().manual_seed(0)) - 2.5
    assert occ._seen(cube, seen, config, 0.1).float().mean() < 0.4


def test_the_grid_is_as_fine_as_pays() -> None:
    assert occ._coarse_cells(128 * 128 * 128, 1.0) == 24  # one view: 48^3 cells are 5 % of its samples
    assert occ._coarse_cells(50 * 128 * 128 * 128, 1.0) == 64
    assert occ._coarse_cells(100, 1.0) == 24
    assert occ._coarse_cells(128 * 128 * 128, 2.5) == 48
