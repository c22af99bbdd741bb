"""Closed forms: a uniform slab, an opaque sphere, orders of convergence, and empty input."""

import itertools
import math

import pytest
import torch

from hyperkit.contracts import Cameras, Rays
from hyperkit.geometry import focal_from_angle, picture_rays, turntable
from hyperkit.renderers import RendererConfig, composite, render_rays, sample_along
from hyperkit.renderers.volume import ray_range


def one_ray(direction: tuple[float, float, float] = (0.0, 0.0, -1.0), near: float = 2.0, far: float = 6.0) -> Rays:
    return Rays(
        torch.tensor([[[0.0, 0.0, 4.0]]], dtype=torch.float64),
        torch.tensor([[direction]], dtype=torch.float64),
        near,
        far,
    )


def uniform(density: float, colour: float = 0.25):
    def field(points: torch.Tensor) -> torch.Tensor:
        values = torch.full((*points.shape[:-1], 4), colour, dtype=points.dtype)
        values[..., 3] = density
        return values

    return field


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize("sampling", ["endpoints", "bins"])
def test_uniform_slab_has_its_transmittance_in_closed_form(density: float, background: str, sampling: str) -> None:
    config = RendererConfig(samples=64, background=background, sampling=sampling)
    rendered = render_rays(uniform(density), one_ray(), config)
    # endpoints: the last sample stands for an interval of 1e-3 beyond the far end
    length = 4.0 + (1e-3 if sampling == "endpoints" else 0.0)
    left = math.exp(-density * length)
    assert rendered.opacity.item() == pytest.approx(1 - left, abs=1e-12)
    want = 0.25 * (1 - left) + (1.0 if background == "white" else 0.0) * left
    torch.testing.assert_close(rendered.rgb, torch.full_like(rendered.rgb, want), atol=1e-12, rtol=0)


def test_weights_and_transmittance_add_up_to_one() -> None:
    rng = torch.Generator().manual_seed(0)
    density = torch.rand(2, 5, 9, generator=rng, dtype=torch.float64) * 10
    t, lengths = sample_along(
        torch.full((2, 5), 2.0).double(), torch.full((2, 5), 6.0).double(), RendererConfig(samples=9)
    )
    one = composite(density, torch.ones(2, 5, 9, 3).double(), t, lengths, t[..., -1], 0.0)
    torch.testing.assert_close(one.rgb[..., 0], one.opacity, atol=1e-14, rtol=0)
    white = composite(density, torch.ones(2, 5, 9, 3).double(), t, lengths, t[..., -1], 1.0)
    torch.testing.assert_close(white.rgb, torch.ones_like(white.rgb), atol=1e-14, rtol=0)


def test_half_of_a_colour() -> None:
    rendered = composite(
        torch.tensor([[[math.log(2.0)]]]),
        torch.zeros(1, 1, 1, 3),
        torch.ones(1, 1, 1),
        torch.ones(1, 1, 1),
        torch.full((1, 1), 3.0),
        1.0,
    )
    torch.testing.assert_close(rendered.rgb, torch.full((1, 1, 3), 0.5))
    torch.testing.assert_close(rendered.depth, torch.full((1, 1), 2.0))


def test_opaque_sphere_against_ray_sphere_intersection() -> None:
    radius, samples = 0.7, 512

    def sphere(points: torch.Tensor) -> torch.Tensor:
        inside = points[..., :3].norm(dim=-1) < radius
        colour = points[..., :3] * 0.5 + 0.5
        return torch.cat((colour, 1e5 * inside[..., None]), dim=-1)

    poses = turntable(1, 0.3).double()
    camera = Cameras(poses, torch.tensor([focal_from_angle(0.5, 33)], dtype=torch.float64), 33, 33)
    rays = picture_rays(camera)
    rays = Rays(rays.origins.double(), rays.directions.double())
    a = rays.directions.square().sum(-1)
    b = (rays.origins * rays.directions).sum(-1)
    root = b * b - a * (rays.origins.square().sum(-1) - radius**2)
    hit = root > 0
    first = (-b - root.clamp_min(0).sqrt()) / a
    for bounds, length in (("range", 4.0), ("sphere", 2.0)):
        rendered = render_rays(sphere, rays, RendererConfig(samples=samples, bounds=bounds, sampling="bins"))
        step = length / samples
        chord = 2 * root.clamp_min(0).sqrt() / a
        clear = hit & (chord > 2 * step)
        assert clear.sum() > 100
        torch.testing.assert_close(rendered.opacity[clear], torch.ones_like(rendered.opacity[clear]))
        assert (rendered.opacity[~hit] == 0).all()
        # the first sample inside lies at most one step behind the surface
        behind = rendered.depth[clear] - first[clear]
        assert behind.min() > -1e-6
        assert behind.max() < step * 1.01
        colour = (rays.origins + first[..., None] * rays.directions) * 0.5 + 0.5
        assert (rendered.rgb - colour)[clear].abs().max() < step


@pytest.mark.parametrize(("sampling", "order"), [("endpoints", 1), ("bins", 2)])
def test_quadrature_converges_at_its_order(sampling: str, order: int) -> None:
    def field(points: torch.Tensor) -> torch.Tensor:
        z = points[..., 2]
        density = 1.5 + torch.sin(2 * z)  # smooth and positive
        return torch.stack((0 * z, 0 * z, 0 * z, density), dim=-1)

    def error(samples: int) -> float:
        # an asymmetric range, or first-order errors cancel
        rays = one_ray(near=2.0, far=5.0)
        integral = 1.5 * 3 + 0.5 * (math.cos(-2.0) - math.cos(4.0))
        rendered = render_rays(field, rays, RendererConfig(samples=samples, sampling=sampling))
        return abs(math.log(1 - rendered.opacity.item()) + integral)

    errors = [error(n) for n in (20, 40, 80)]
    rates = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert rates[-1] == pytest.approx(order, abs=0.15)


def test_rays_that_miss_the_sphere_are_background() -> None:
    rays = Rays(torch.tensor([[[0.0, 0.0, 4.0]]]), torch.tensor([[[2.0, 0.0, -1.0]]]))
    rendered = render_rays(uniform(50.0), rays, RendererConfig(bounds="sphere", sampling="bins", samples=8))
    assert rendered.rgb.tolist() == [[[1.0, 1.0, 1.0]]]
    assert rendered.depth.item() == 6.0


def test_sphere_range_is_the_chord() -> None:
    near, far = ray_range(one_ray(), RendererConfig(bounds="sphere", radius=1.0))
    assert (near.item(), far.item()) == (3.0, 5.0)
    # a camera inside of the sphere starts at the rays' near
    inside = Rays(torch.zeros(1, 1, 3), torch.tensor([[[0.0, 0.0, -1.0]]]), near=0.1, far=6.0)
    near, far = ray_range(inside, RendererConfig(bounds="sphere"))
    assert (near.item(), far.item()) == pytest.approx((0.1, 1.0))


@pytest.mark.parametrize("rays", [0, 1, 5])
@pytest.mark.parametrize("samples", [0, 1, 2, 7])
@pytest.mark.parametrize("sampling", ["endpoints", "bins"])
@pytest.mark.parametrize("grad", [False, True])
def test_zero_rays_and_zero_samples_are_ordinary(rays: int, samples: int, sampling: str, grad: bool) -> None:
    origins = torch.zeros(2, rays, 3)
    directions = torch.ones(2, rays, 3)
    scale = torch.ones((), requires_grad=True)
    with torch.set_grad_enabled(grad):
        rendered = render_rays(
            lambda p: uniform(1.0)(p) * scale,
            Rays(origins, directions),
            RendererConfig(samples=samples, sampling=sampling),
        )
    assert rendered.rgb.shape == (2, rays, 3)
    assert torch.isfinite(rendered.rgb).all()
    if samples == 0:
        assert (rendered.rgb == 1).all()
    if grad:
        rendered.rgb.sum().backward()
        assert torch.isfinite(scale.grad)


def test_chunks_change_nothing() -> None:
    def field(points: torch.Tensor) -> torch.Tensor:
        return torch.cat((torch.sigmoid(points[..., :3]), points[..., :1].abs()), dim=-1)

    rays = Rays(torch.randn(3, 17, 3), torch.randn(3, 17, 3))
    with torch.no_grad():
        whole = render_rays(field, rays, RendererConfig(samples=5, chunk_points=10**6))
        for chunk in (1, 16, 40):
            part = render_rays(field, rays, RendererConfig(samples=5, chunk_points=chunk))
            assert torch.equal(part.rgb, whole.rgb)
            assert torch.equal(part.depth, whole.depth)


def test_the_field_never_sees_more_points_than_the_chunk() -> None:
    seen = []

    def field(points: torch.Tensor) -> torch.Tensor:
        seen.append(points.shape[0] * points.shape[1])
        return uniform(1.0)(points)

    with torch.no_grad():
        render_rays(
            field, Rays(torch.randn(2, 1000, 3), torch.randn(2, 1000, 3)), RendererConfig(samples=10, chunk_points=500)
        )
    assert max(seen) <= 500


def test_jittered_samples_stay_in_order_and_in_their_bins() -> None:
    near, far = torch.full((1, 3), 2.0), torch.full((1, 3), 6.0)
    jitter = torch.rand(1, 3, 16, generator=torch.Generator().manual_seed(0))
    for sampling in ("endpoints", "bins"):
        t, lengths = sample_along(near, far, RendererConfig(samples=16, sampling=sampling), jitter)
        assert (t.diff(dim=-1) > 0).all()
        assert (lengths > 0).all()
    bins = torch.floor((t - 2.0) / 0.25)
    assert torch.equal(bins, torch.arange(16.0).expand_as(bins))
