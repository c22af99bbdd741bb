"""Test-time optimisation on views, pictures and sounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from hyperkit import geometry
from hyperkit.adapt import (
    Observations,
    TTOConfig,
    observed_picture,
    observed_sound,
    observed_views,
    optimise_on,
)
from hyperkit.contracts import Cameras, Rays, TargetParams, TargetSpec, TensorSpec
from hyperkit.objectives import mse
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig

FIELD = RadianceField(
    RadianceFieldConfig(depth=3, width=16, encoding=EncodingConfig(frequencies=3, max_log2=2), density="softplus")
)
RENDERER = RendererConfig(samples=8, sampling="bins", bounds="sphere")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def cameras(items: int, views: int, width: int = 6, height: int = 5) -> Cameras:
    angles = random(2, items, views, seed=1)
    poses = geometry.look_at(geometry.spherical(angles[0] * 6.28, angles[1], 4.0))
    focal = 8.0 + torch.arange(items * views).float().reshape(items, views)
    return Cameras(poses, focal, width, height, near=2.5, far=5.5)


def fields(items: int) -> TargetParams:
    """Fields of the size that a hypernetwork writes, with biases that all items share."""
    tensors = {}
    for index, (name, spec) in enumerate(FIELD.spec.tensors.items()):
        bound = 1 / math.sqrt(spec.shape[0])
        tensors[name] = (2 * random(1 if spec.shared else items, *spec.shape, seed=index) - 1) * bound
    return TargetParams(tensors, FIELD.spec)


def render(params: TargetParams, rays: Rays) -> Tensor:
    return render_rays(lambda points: FIELD(params, points[..., :3]), rays, RENDERER).rgb


def some(given: Cameras, items: slice = slice(None), views: slice = slice(None)) -> Cameras:
    return Cameras(
        given.poses[items, views], given.focal[items, views], given.width, given.height, given.near, given.far
    )


def test_an_observed_ray_shows_its_own_pixel_of_its_own_view() -> None:
    # Each pixel's colour says where it is, so that a ray's view, row and column can be found from its colour.
    height, width, given = 5, 6, cameras(2, 3)
    view, row, column = torch.meshgrid(torch.arange(3), torch.arange(height), torch.arange(width), indexing="ij")
    picture = torch.stack((view, row, column), dim=1).float()
    context = torch.stack((picture, picture + 10))
    rays, truth = observed_views(context, given, TTOConfig(rays=200))(4)
    assert (rays.near, rays.far) == (2.5, 5.5)
    seen = set()
    for item in range(2):
        for ray in range(200):
            v, r, c = (truth[item, ray] - 10 * item).long().tolist()
            seen.add((v, r, c))
            one = Cameras(given.poses[item, v][None], given.focal[item, v][None], width, height)
            point = rays.origins[item, ray] + 3.0 * rays.directions[item, ray]
            x, y, _ = geometry.project(one, point[None, None])[0, 0].tolist()
            # measured worst case 1e-6 pixels
            assert abs(x - c - 0.5) < 1e-4
            assert abs(y - r - 0.5) < 1e-4
            assert torch.equal(rays.origins[item, ray], given.poses[item, v, :3, 3])
    assert {v for v, _, _ in seen} == {0, 1, 2}
    assert len(seen) > 60  # of 90; 200 draws leave 10 out on average


def test_observed_pixels_and_samples_lie_at_their_coordinates() -> None:
    picture = random(2, 1, 3, 5, 6)
    coordinates, truth = observed_picture(picture, TTOConfig(rays=50))(0)
    column = ((coordinates[..., 0] + 1) / 2 * 6 - 0.5).round().long()
    row = ((coordinates[..., 1] + 1) / 2 * 5 - 0.5).round().long()
    for item in range(2):
        assert torch.equal(truth[item], picture[item, 0, :, row[item], column[item]].T)
    assert len({(r, c) for r, c in zip(row[0].tolist(), column[0].tolist(), strict=True)}) > 15
    sound = random(2, 40)
    times, values = observed_sound(sound, TTOConfig(rays=50))(0)
    sample = ((times[..., 0] + 1) / 2 * 40 - 0.5).round().long()
    assert torch.equal(values[..., 0], sound.gather(1, sample))
    with pytest.raises(ValueError, match="one picture, found 2"):
        observed_picture(random(2, 2, 3, 5, 6), TTOConfig())


def _views(items: slice) -> Observations:
    return observed_views(random(3, 2, 3, 5, 6)[items], some(cameras(3, 2), items), TTOConfig(rays=20))


def _picture(items: slice) -> Observations:
    return observed_picture(random(3, 1, 3, 5, 6)[items], TTOConfig(rays=20))


def _sound(items: slice) -> Observations:
    return observed_sound(random(3, 40)[items], TTOConfig(rays=20))


@pytest.mark.parametrize("observe", [_views, _picture, _sound])
def test_all_items_get_the_same_points_and_every_step_others(observe: Callable[[slice], Observations]) -> None:
    together, alone = observe(slice(None)), observe(slice(1, 2))
    for step in (0, 3):
        (query, truth), (own, own_truth) = together(step), alone(step)
        assert torch.equal(truth[1:2], own_truth)
        if isinstance(query, Rays):
            assert torch.equal(query.origins[1:2], own.origins)
            assert torch.equal(query.directions[1:2], own.directions)
        else:
            assert torch.equal(query[1:2], own)
        assert torch.equal(together(step)[1], truth)
    assert not torch.equal(together(0)[1], together(3)[1])


def test_a_fields_result_does_not_depend_on_its_batch() -> None:
    context, given, params = random(3, 2, 3, 5, 6), cameras(3, 2), fields(3)
    settings = TTOConfig(steps=10, learning_rate=1e-2, rays=32)
    together = optimise_on(params, render, observed_views(context, given, settings), settings)
    for item in range(3):
        own = slice(item, item + 1)
        observed = observed_views(context[own], some(given, own), settings)
        alone = optimise_on(params.select(item), render, observed, settings)
        for name, tensor in alone.tensors.items():
            # measured worst case 0: equal bit for bit
            torch.testing.assert_close(together[name][own], tensor, atol=1e-6, rtol=0)


def test_more_steps_fit_the_input_better_and_every_tensor_takes_part() -> None:
    context, given, params = random(2, 2, 3, 5, 6), cameras(2, 2), fields(2)
    rays = geometry.picture_rays(Cameras(given.poses.flatten(0, 1), given.focal.flatten(), 6, 5, 2.5, 5.5))
    whole = Rays(rays.origins.reshape(2, 60, 3), rays.directions.reshape(2, 60, 3), 2.5, 5.5)
    truth = context.permute(0, 1, 3, 4, 2).reshape(2, 60, 3)
    errors = []
    for steps in (0, 10, 40, 160):
        settings = TTOConfig(steps=steps, learning_rate=1e-2, rays=64)
        result = optimise_on(params, render, observed_views(context, given, settings), settings)
        errors.append(mse(render(result, whole), truth))
    assert all((later < earlier).all() for earlier, later in pairwise(errors))
    for name, tensor in result.tensors.items():
        assert tensor.shape[0] == 2  # shared ones, too: each item has a copy of its own
        assert not torch.equal(tensor[:1], params[name][:1])
        assert not torch.equal(tensor[0], tensor[1])
    assert any(tensor.shape[0] == 1 for tensor in params.tensors.values())


def test_only_the_context_is_read() -> None:
    # The context is part of larger tensors whose other views are NaN.
    context, given, params = random(2, 6, 3, 5, 6), cameras(2, 6), fields(2)
    settings = TTOConfig(steps=5, learning_rate=1e-2, rays=64)

    def fitted() -> Tensor:
        observed = observed_views(context[:, :2], some(given, views=slice(2)), settings)
        return optimise_on(params, render, observed, settings).pack()

    clean = fitted()
    assert clean.isfinite().all()
    context[:, 2:] = math.nan
    given.poses[:, 2:] = math.nan
    given.focal[:, 2:] = math.nan
    assert torch.equal(fitted(), clean)
    context[:, 1] = math.nan  # and poison is seen where it is read
    assert not fitted().isfinite().all()


def test_rays_keep_their_precision_under_autocast() -> None:
    observed = observed_views(random(2, 2, 3, 5, 6), cameras(2, 2), TTOConfig(rays=40))
    plain, _ = observed(0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = observed(0)
    assert torch.equal(plain.directions, mixed.directions)


@pytest.mark.parametrize("kind", ["picture", "sound"])
def test_signals_are_fitted_to_least_squares(kind: str) -> None:
    # The signal is linear in its coordinates, so that the best fit is known: the coefficients themselves.
    inputs, outputs = (2, 3) if kind == "picture" else (1, 1)
    spec = TargetSpec({"w": TensorSpec((inputs, outputs)), "b": TensorSpec((1, outputs), shared=True)})
    weight, bias = random(2, inputs, outputs) - 0.5, random(2, 1, outputs, seed=1)
    settings = TTOConfig(steps=600, learning_rate=0.02, rays=64)
    if kind == "picture":
        values = geometry.picture_coordinates(7, 9) @ weight + bias
        observed = observed_picture(values.transpose(1, 2).reshape(2, 1, 3, 7, 9), settings)
    else:
        values = geometry.time_coordinates(33) @ weight + bias
        observed = observed_sound(values[..., 0], settings)
    start = TargetParams({"w": torch.zeros(2, inputs, outputs), "b": torch.zeros(1, 1, outputs)}, spec)
    best = optimise_on(start, lambda p, query: query @ p["w"] + p["b"], observed, settings)
    # measured worst case 1.2e-7
    torch.testing.assert_close(best["w"], weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(best["b"], bias, atol=1e-5, rtol=0)


def test_another_loss_may_be_asked_for() -> None:
    # The median of 0, 0, 1 is what the absolute error prefers, the mean what the squared one does.
    spec = TargetSpec({"b": TensorSpec((1, 1))})
    start = TargetParams({"b": torch.full((1, 1, 1), 0.2)}, spec)
    sound = torch.tensor([[0.0, 0.0, 1.0]])
    settings = TTOConfig(steps=400, learning_rate=0.003, rays=300)
    found = {}
    for name, loss in (("squared", mse), ("absolute", lambda p, t: (p - t).abs().flatten(1).mean(1))):
        observed = observed_sound(sound, settings)
        found[name] = optimise_on(start, lambda p, query: p["b"].expand_as(query), observed, settings, loss)["b"].item()
    assert abs(found["squared"] - 1 / 3) < 0.03
    assert abs(found["absolute"]) < 0.03


def test_wrong_cameras_are_named() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 1\), expected \(2, 2\)"):
        observed_views(random(2, 2, 3, 5, 6), cameras(2, 1), TTOConfig())
    with pytest.raises(ValueError, match="of 6 x 5 pictures, found 7 x 5"):
        observed_views(random(2, 2, 3, 5, 7), cameras(2, 2), TTOConfig())
