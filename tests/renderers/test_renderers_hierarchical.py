"""Two passes along a ray: where the second one samples, what it gains, and what it leaves as it was."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from hyperkit.config import validate
from hyperkit.contracts import Rays, Rendered
from hyperkit.errors import HyperkitError
from hyperkit.renderers import RendererConfig, composite, render_rays, sample_along
from hyperkit.renderers.hierarchical import cells, invert
from hyperkit.renderers.volume import ray_range


def parallel_rays(count: int, dtype: torch.dtype = torch.float64) -> Rays:
    """Rays down the z axis from z = 4, at x from 0 to 1."""
    x = torch.linspace(0, 1, count, dtype=dtype)
    origins = torch.stack((x, torch.zeros_like(x), torch.full_like(x, 4.0)), dim=-1)[None]
    return Rays(origins, torch.tensor([0.0, 0.0, -1.0], dtype=dtype).expand(1, count, 3))


def lump(points: torch.Tensor) -> torch.Tensor:
    """A smooth lump around z = x - 0.3, its colour changing with z."""
    z = points[..., 2]
    density = 8 * torch.exp(-((z - points[..., 0] + 0.3) ** 2) / 0.1)
    return torch.stack((torch.sigmoid(z), torch.sigmoid(-2 * z), torch.sigmoid(z * z), density), dim=-1)


@pytest.mark.parametrize(("sampling", "measured"), [("bins", 6.3), ("endpoints", 4.7)])
def test_a_thin_slab_is_seen_better_at_the_same_number_of_evaluations(sampling: str, measured: float) -> None:
    thickness, density = 0.1, 20.0
    rays = parallel_rays(1000)
    first = 4.5 - rays.origins[..., 0] - thickness / 2  # where the ray enters a slab around z = x - 0.5

    def slab(points: torch.Tensor) -> torch.Tensor:
        inside = (points[..., 2] - points[..., 0] + 0.5).abs() < thickness / 2
        return torch.cat((torch.zeros_like(points[..., :3]), density * inside[..., None]), dim=-1)

    left = math.exp(-density * thickness)
    depth = first * (1 - left) + (1 - left * (1 + density * thickness)) / density + 6.0 * left

    def errors(samples: int, fine: int) -> tuple[float, float]:
        rendered = render_rays(slab, rays, RendererConfig(samples=samples, fine_samples=fine, sampling=sampling))
        opacity = (rendered.opacity - (1 - left)).square().mean().sqrt().item()
        return opacity, (rendered.depth - depth).square().mean().sqrt().item()

    uniform, hierarchical = errors(128, 0), errors(64, 64)
    # root mean square over 1000 places of the slab: the factor measured for opacity; for depth 6.5 and 5.0
    assert uniform[0] / hierarchical[0] > 0.8 * measured
    assert uniform[1] / hierarchical[1] > 0.8 * measured


def by_hand(
    field: Any, rays: Rays, config: RendererConfig, jitter: torch.Tensor | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both passes of every ray in NumPy, with np.interp as the inverse; returns rgb, opacity and the merged t."""
    near, far = (a[0].numpy() for a in ray_range(rays, config))
    colours, opacities, places = [], [], []
    for ray in range(rays.origins.shape[1]):
        origin, direction = rays.origins[0, ray].numpy(), rays.directions[0, ray].numpy()

        def values(t: np.ndarray, origin: np.ndarray = origin, direction: np.ndarray = direction) -> np.ndarray:
            points = origin + t[:, None] * direction
            both = np.concatenate([points, np.broadcast_to(direction, points.shape)], 1)
            return np.asarray(field(torch.from_numpy(both)[None])[0])

        def weights(density: np.ndarray, lengths: np.ndarray) -> np.ndarray:
            alpha = 1 - np.exp(-density * lengths)
            return alpha * np.cumprod(np.concatenate([[1.0], 1 - alpha[:-1]]))

        count, span = config.samples, far[ray] - near[ray]
        number = np.arange(count)
        move = None if jitter is None else jitter[0, ray, :count].numpy()
        if config.sampling == "bins":
            t = near[ray] + (number + (0.5 if move is None else move)) * span / count
            lengths = np.full(count, span / count)
        else:
            t = near[ray] + (number + (0.0 if move is None else move)) * span / (count - 1)
            lengths = np.append(np.diff(t), 1e-3)
        w = weights(values(t)[:, 3], lengths)
        edges = np.clip(np.concatenate([[near[ray]], (t[1:] + t[:-1]) / 2, [far[ray]]]), near[ray], far[ray])
        around = np.concatenate([[0.0], w, [0.0]])
        w = (np.maximum(around[:-2], w) + np.maximum(w, around[2:])) / 2 + 1e-5 * np.diff(edges) / span
        chances = np.concatenate([[0.0], np.cumsum(w)]) / w.sum()
        fine = config.fine_samples
        uniform = (np.arange(fine) + 0.5) / fine if jitter is None else jitter[0, ray, count:].numpy()
        union = np.sort(np.concatenate([t, np.interp(uniform, chances, edges)]))
        middles = np.clip((union[1:] + union[:-1]) / 2, near[ray], far[ray])
        if config.sampling == "bins":
            lengths = np.diff(np.concatenate([[near[ray]], middles, [far[ray]]]))
        else:
            lengths = np.append(np.diff(union), 1e-3)
        found = values(union)
        w = weights(found[:, 3], lengths)
        colours.append(w @ found[:, :3] + 1 - w.sum())
        opacities.append(w.sum())
        places.append(union)
    return np.stack(colours), np.array(opacities), np.stack(places)


@pytest.mark.parametrize("sampling", ["endpoints", "bins"])
@pytest.mark.parametrize("bounds", ["range", "sphere"])
@pytest.mark.parametrize("jittered", [False, True])
def test_both_passes_against_numpy(sampling: str, bounds: str, jittered: bool) -> None:
    config = RendererConfig(samples=12, fine_samples=9, sampling=sampling, bounds=bounds, radius=1.4)
    rays = parallel_rays(7)
    generator = torch.Generator().manual_seed(0)
    jitter = torch.rand(1, 7, config.draws, generator=generator, dtype=torch.float64) if jittered else None
    rendered = render_rays(lump, rays, config, jitter)
    rgb, opacity, _ = by_hand(lump, rays, config, jitter)
    # worst difference seen: 5e-16
    np.testing.assert_allclose(rendered.rgb[0].numpy(), rgb, atol=1e-13)
    np.testing.assert_allclose(rendered.opacity[0].numpy(), opacity, atol=1e-13)
    assert opacity.max() - opacity.min() < 0.9 < opacity.max()


def test_one_pass_is_plain_rendering() -> None:
    config = RendererConfig(samples=9)
    rays = parallel_rays(4)
    near, far = torch.full((1, 4), 2.0).double(), torch.full((1, 4), 6.0).double()
    t, lengths = sample_along(near, far, config)
    points = rays.origins[:, :, None] + t[..., None] * rays.directions[:, :, None]
    values = lump(points)
    want = composite(values[..., 3], values[..., :3], t, lengths, far, 1.0)
    got = render_rays(lump, rays, config)
    for name in ("rgb", "depth", "opacity"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), atol=1e-15, rtol=0)


def test_a_ray_costs_as_many_evaluations_as_it_has_samples() -> None:
    seen: list[int] = []

    def field(points: torch.Tensor) -> torch.Tensor:
        seen.append(points.shape[0] * points.shape[1])
        return lump(points)

    config = RendererConfig(samples=10, fine_samples=6, chunk_points=100)
    assert config.draws == 16
    render_rays(field, parallel_rays(50), config)
    assert sum(seen) == 50 * 16
    seen.clear()
    with torch.no_grad():
        render_rays(field, parallel_rays(50), config)
    assert sum(seen) == 50 * 16
    # both passes of a chunk are in memory together
    assert max(first + fine for first, fine in zip(seen[::2], seen[1::2], strict=True)) <= 100


def test_draws_follow_the_distribution() -> None:
    edges = torch.tensor([2.0, 2.5, 2.6, 4.0, 5.0, 6.0], dtype=torch.float64)
    weights = torch.tensor([0.1, 0.4, 0.0, 0.3, 0.2], dtype=torch.float64)
    count = 20_000
    distribution = np.concatenate([[0.0], np.cumsum(weights.numpy())])

    def distance(drawn: torch.Tensor) -> float:
        # Kolmogorov-Smirnov: the largest difference between the two distribution functions
        expected = np.interp(np.sort(drawn.numpy()), edges.numpy(), distribution)
        return float(np.abs(expected - (np.arange(count) + 0.5) / count).max())

    regular = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    # the floor alone: 1e-5 of the mass lies elsewhere. Measured: 3.5e-6
    assert distance(invert(edges, weights, regular)) < 1e-5
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # measured: 0.0076; one sample in a thousand would exceed 1.95 / sqrt(count)
    assert distance(invert(edges, weights, drawn)) < 1.95 / math.sqrt(count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_weights_the_draws_are_uniform(dtype: torch.dtype) -> None:
    t = torch.tensor([[2.1, 2.2, 3.0, 5.9], [2.5, 3.5, 4.5, 5.5]], dtype=dtype)
    edges = cells(t, torch.full((2,), 2.0, dtype=dtype), torch.full((2,), 6.0, dtype=dtype))
    uniform = torch.tensor([0.0, 0.125, 0.5, 0.9999], dtype=dtype).expand(2, 4)
    got = invert(edges, torch.zeros_like(t), uniform)
    torch.testing.assert_close(got, 2 + 4 * uniform, atol=2e-6, rtol=0)


def test_cells_are_what_lies_nearest() -> None:
    near, far = torch.tensor([2.0]), torch.tensor([6.0])
    assert cells(torch.tensor([[3.0, 4.0, 5.5]]), near, far).tolist() == [[2.0, 3.5, 4.75, 6.0]]
    # jittered end points may lie beyond the far end: nothing beyond it is sampled
    assert cells(torch.tensor([[3.0, 5.9, 7.0]]), near, far).tolist() == [[2.0, 4.449999809265137, 6.0, 6.0]]


@pytest.mark.parametrize("sampling", ["endpoints", "bins"])
@pytest.mark.parametrize("density", [0.0, 0.7, 1e4])
def test_uniform_density_keeps_its_closed_form_in_the_sphere(sampling: str, density: float) -> None:
    def uniform(points: torch.Tensor) -> torch.Tensor:
        return torch.cat((torch.zeros_like(points[..., :3]), torch.full_like(points[..., :1], density)), dim=-1)

    rays = parallel_rays(9)
    config = RendererConfig(samples=5, fine_samples=7, bounds="sphere", radius=0.8, sampling=sampling)
    rendered = render_rays(uniform, rays, config)
    half = (0.64 - rays.origins[..., 0] ** 2).clamp_min(0).sqrt()
    hit = half > 0
    assert 0 < hit.sum() < 9
    chord = 2 * half + (1e-3 * hit.double() if sampling == "endpoints" else 0.0)
    # worst difference seen: 9e-16
    torch.testing.assert_close(rendered.opacity, 1 - torch.exp(-density * chord), atol=1e-13, rtol=0)
    assert (rendered.depth[~hit] == 6.0).all()


@pytest.mark.parametrize("jittered", [False, True])
def test_the_gradient_is_that_of_compositing_at_the_merged_samples(jittered: bool) -> None:
    config = RendererConfig(samples=6, fine_samples=5, sampling="bins")
    rays = parallel_rays(3)
    generator = torch.Generator().manual_seed(0)
    jitter = torch.rand(1, 3, 11, generator=generator, dtype=torch.float64) if jittered else None
    scale = torch.tensor([0.7, 1.3], dtype=torch.float64, requires_grad=True)
    passes: list[torch.Tensor] = []

    def field(points: torch.Tensor) -> torch.Tensor:
        values = lump(points)
        values = torch.cat((values[..., :3] * scale[0], values[..., 3:] * scale[1]), dim=-1)
        values.retain_grad()
        passes.append(values)
        return values

    def loss(rendered: Rendered) -> torch.Tensor:
        return (rendered.rgb * torch.tensor([1.0, 2.0, 3.0]).double()).sum() + rendered.depth.sum()

    loss(render_rays(field, rays, config, jitter)).backward()
    got = scale.grad
    assert got is not None
    assert len(passes) == 2
    for values in passes:  # both the first samples and the fine ones are trained
        assert values.grad is not None
        assert values.grad[..., :3].abs().max() > 1e-3
        assert values.grad[..., 3].abs().max() > 1e-3

    scale.grad = None
    scaled = scale.detach()
    _, _, union = by_hand(lambda p: lump(p) * torch.stack((*[scaled[0]] * 3, scaled[1])), rays, config, jitter)
    t = torch.from_numpy(union)[None]
    values = field(rays.origins[:, :, None] + t[..., None] * rays.directions[:, :, None])
    far = torch.full((1, 3), 6.0, dtype=torch.float64)
    lengths = cells(t, torch.full_like(far, 2.0), far).diff(dim=-1)
    loss(composite(values[..., 3], values[..., :3], t, lengths, far, 1.0)).backward()
    # worst difference seen: 8e-16
    torch.testing.assert_close(got, scale.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize("rays", [0, 1, 3])
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("sampling", ["endpoints", "bins"])
@pytest.mark.parametrize("grad", [False, True])
def test_few_rays_and_few_samples_are_ordinary(rays: int, samples: int, sampling: str, grad: bool) -> None:
    scale = torch.ones((), requires_grad=True)
    config = RendererConfig(samples=samples, fine_samples=3, sampling=sampling)
    jitter = torch.rand(1, rays, config.draws)
    with torch.set_grad_enabled(grad):
        rendered = render_rays(lambda p: lump(p) * scale, parallel_rays(rays, torch.float32), config, jitter)
    assert rendered.rgb.shape == (1, rays, 3)
    assert torch.isfinite(rendered.rgb).all()
    if grad:
        rendered.rgb.sum().backward()
        assert torch.isfinite(scale.grad)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(HyperkitError, match="fine_samples needs samples"):
        validate(RendererConfig, {"samples": 0, "fine_samples": 8})
    config = RendererConfig(samples=8, fine_samples=4)
    with pytest.raises(ValueError, match=r"jitter has shape \(1, 2, 8\), expected \(1, 2, 12\)"):
        render_rays(lump, parallel_rays(2), config, torch.rand(1, 2, 8))
