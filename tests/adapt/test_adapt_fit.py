"""Fitting one field to pictures: the loss by hand, the hull around a ball, resuming to the bit, and what is learned."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from hyperkit.adapt.fit import FieldFit, FitConfig, ViewsLoss, fit_field, random_start, visual_hull
from hyperkit.contracts import Cameras, TargetParams, TargetSpec, TensorSpec
from hyperkit.geometry import look_at, picture_rays, spherical
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.renderers.occupancy import Occupancy
from hyperkit.targets import Target
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.hash_grid import HashGridConfig, HashGridField
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig
from hyperkit.targets.skip_field import SkipField, SkipFieldConfig

GRID = {"levels": 4, "coarsest": 4, "finest": 24, "log2_table": 11, "width": 16}
SKIP = SkipField(SkipFieldConfig(**GRID, depth=4, encoding=EncodingConfig(frequencies=3, max_log2=2)))
HASH = HashGridField(HashGridConfig(**GRID, depth=2, density="softplus", density_scale=10))
RENDERER = RendererConfig(samples=24, sampling="bins", bounds="sphere")
RADIUS = 0.6


def cameras(views: int, size: int = 16, seed: int = 0) -> Cameras:
    angles = torch.rand(2, views, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    poses = look_at(spherical(angles[0] * 2 * math.pi, torch.asin(2 * angles[1] - 1), 4.0)).float()
    return Cameras(poses, torch.full((views,), size * 1.8), size, size)


def ball(cams: Cameras, white: bool = False) -> Tensor:
    """Pictures (V, 4, H, W) of a ball that is coloured by its normals, or white, with straight alpha 0 or 1."""
    rays = picture_rays(cams)
    a, b = (rays.directions**2).sum(-1), (rays.origins * rays.directions).sum(-1)
    discriminant = b * b - a * ((rays.origins**2).sum(-1) - RADIUS**2)
    t = (-b - discriminant.clamp(0).sqrt()) / a
    normal = (rays.origins + t[..., None] * rays.directions) / RADIUS
    alpha = (discriminant > 0).float()[..., None]
    colour = torch.ones_like(normal) if white else (0.5 + 0.5 * normal).clamp(0, 1)
    pixels = torch.cat((colour * alpha, alpha), dim=-1)
    return pixels.reshape(-1, cams.height, cams.width, 4).movedim(-1, 1)


def config(**options: object) -> FitConfig:
    return FitConfig.model_validate({"steps": 60, "rays": 128, "renderer": RENDERER} | options)


def rendered(target: Target, params: TargetParams, cams: Cameras) -> tuple[Tensor, Tensor]:
    """Colours (V, 3, H, W) on white and opacities (V, H, W), every sample evaluated."""
    shape = (-1, cams.height, cams.width)
    with torch.no_grad():
        got = render_rays(lambda points: target(params, points[..., :3]), picture_rays(cams), RENDERER)
    return got.rgb.reshape(*shape, 3).movedim(-1, 1), got.opacity.reshape(shape)


class Fog(Target):
    """Grey fog of one density everywhere, which is its only parameter; it notes where it was asked for it."""

    kind = "fog"
    config_model = RadianceFieldConfig
    spec = TargetSpec({"density": TensorSpec((1,), shared=True, bound=1.0)})
    asked: Tensor

    def __call__(self, params: TargetParams, query: Tensor, state: object = None) -> Tensor:
        self.asked = query
        density = params["density"].expand(*query.shape[:2], 1)
        return torch.cat((torch.full((*query.shape[:2], 3), 0.5), density), dim=-1)

    def to_module(self, params: TargetParams) -> torch.nn.Module:
        raise NotImplementedError


def fog(density: float) -> TargetParams:
    return TargetParams({"density": torch.tensor([[density]])}, Fog.spec)


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_loss_of_one_ray_equals_its_closed_form(alpha: float) -> None:
    # one pixel, one ray through the middle: of the sphere's diameter, half the cells are empty
    cams = Cameras(look_at(torch.tensor([[4.0, 0.0, 0.0]])), torch.ones(1), 1, 1)
    views = torch.tensor([0.9, 0.6, 0.2, alpha]).reshape(1, 4, 1, 1)
    loss = ViewsLoss(Fog(), views, cams, config(rays=3, opacity=0.7, empty=0.0))
    assert loss.hull.cells.all()
    cells = torch.ones(8, 8, 8, dtype=torch.bool)
    cells[:4] = False
    loss.hull = Occupancy(cells, 1.0, math.inf)
    opacity = 1 - math.exp(-1.5 * 1.0)
    colours = [0.5 * opacity + (1 - opacity) - (c * alpha + 1 - alpha) for c in (0.9, 0.6, 0.2)]
    want = sum(c * c for c in colours) / 3
    if alpha < 1:  # pictures that are opaque everywhere say nothing of opacity
        want += 0.7 * (opacity - alpha) ** 2
    # with 24 jittered samples on a ray, 11 to 13 of them in its second half; jitter is off for the exact value
    loss.config = config(rays=3, opacity=0.7, empty=0.0, renderer=RENDERER.model_copy(update={"jitter": False}))
    # worst difference seen: 3e-8
    assert float(loss(fog(1.5), 0)) == pytest.approx(want, abs=1e-6)


def test_space_that_pictures_show_to_be_empty_costs_its_density() -> None:
    cams = cameras(8)
    both = [ViewsLoss(Fog(), ball(cams), cams, config(empty=weight)) for weight in (0.0, 0.03)]
    for density in (0.5, 2.0):
        without, with_it = (float(loss(fog(density), 3)) for loss in both)
        assert with_it - without == pytest.approx(0.03 * density, abs=1e-6)
    opaque = ball(cams)
    opaque[:, 3] = 1
    nowhere = ViewsLoss(Fog(), opaque, cams, config(empty=0.03))
    assert nowhere.hull.cells.all()
    assert float(nowhere(fog(0.5), 3)) == float(ViewsLoss(Fog(), opaque, cams, config(empty=0.0))(fog(0.5), 3))


def test_samples_are_evaluated_within_the_hull_and_drawn_anew_in_each_step() -> None:
    cams, target = cameras(8), Fog()
    loss = ViewsLoss(target, ball(cams), cams, config(empty=0.0))
    seen = []
    for step in (0, 1, 0):
        loss(fog(1.0), step)
        seen.append(target.asked[0])
    inside = [loss.hull.holds(points) for points in seen]
    outside = [(~held).sum() for held in inside]
    # what is asked for outside is what ``empty`` weighs; all else is within
    assert all(0 < count <= 128 for count in outside)
    assert all(held[: len(held) - count].all() for held, count in zip(inside, outside, strict=True))
    assert torch.equal(seen[0], seen[2])
    assert seen[0].shape != seen[1].shape or not torch.equal(seen[0], seen[1])
    # a ray through a ball of 0.6 in a sphere of 1 has 60 % of its samples in it at most, and all rays meet the hull
    assert 128 < len(seen[0]) - outside[0] < 0.75 * 128 * 24


def test_the_hull_holds_a_ball_and_little_else() -> None:
    cams = cameras(40, size=64)
    hull = visual_hull(ball(cams)[:, 3], cams, 1.0, cells=32)
    axis = (torch.arange(32) + 0.5) / 16 - 1
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).norm(dim=-1)
    half = math.sqrt(3) / 32
    # every cell that the ball reaches by more than half a pixel, 1/57 there: a pixel shows what its middle meets
    assert hull.cells[radius - half < RADIUS - 1 / 57].all()
    # two pixels around a cell's own, each 1/29 wide at the ball, and what 40 views leave between their cones
    assert not hull.cells[radius > RADIUS + 0.25].any()
    assert visual_hull(torch.ones(40, 64, 64), cams, 1.0, cells=32).cells.all()


def test_what_no_picture_shows_may_be_anything() -> None:
    # one narrow view of nothing along x: cells that are partly beside it stay, and so do those behind the camera
    pose = look_at(torch.tensor([[4.0, 0.0, 0.0]]))
    narrow = Cameras(pose, torch.tensor([64.0]), 16, 16)  # half an angle of 1/8: 3/8 wide at a distance of 3
    cells = visual_hull(torch.zeros(1, 16, 16), narrow, 1.0, cells=32).cells
    axis = (torch.arange(32) + 0.5) / 16 - 1
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    off = torch.maximum(y.abs(), z.abs())
    half = 1 / 32
    shown = (off + half) / (4 - x - half) < 8 / 64
    assert cells[~shown].all()
    # those well within the picture are empty: reach is two pixels of 16
    assert not cells[(off + half) / (4 - x - half) < 5 / 64].any()
    within = replace(narrow, poses=look_at(torch.tensor([[0.5, 0.0, 0.0]])))
    assert visual_hull(torch.zeros(1, 16, 16), within, 1.0, cells=32).cells.all()


@pytest.mark.parametrize("target", [SKIP, HASH], ids=["skip", "hash"])
def test_a_field_learns_a_ball_that_it_sees_from_new_sides(target: Target) -> None:
    cams, new = cameras(12), cameras(4, seed=1)
    done: list[tuple[int, int]] = []
    params = fit_field(target, ball(cams), cams, config(steps=150), lambda *counts: done.append(counts))
    assert done == [(step + 1, 150) for step in range(150)]
    assert params.items == 1
    assert not any(tensor.requires_grad for tensor in params.tensors.values())
    truth = ball(new)
    rgb, opacity = rendered(target, params, new)
    on_white = truth[:, :3] * truth[:, 3:] + 1 - truth[:, 3:]
    psnr = -10 * math.log10(float((rgb - on_white).square().mean()))
    start = rendered(target, random_start(target.spec, 0), new)[0]
    before = -10 * math.log10(float((start - on_white).square().mean()))
    # measured: 8.0 to 26.0 dB with skips, 9.0 to 20.0 on the hash grid; opacities 0.003 and 0.007
    assert before < 12 < 18 < psnr
    assert float((opacity - truth[:, 3]).square().mean()) < 0.03


def test_white_things_on_white_are_found_by_their_opacity_alone() -> None:
    cams = cameras(12)
    views = ball(cams, white=True)
    target = HashGridField(HASH.config.model_copy(update={"density_shift": -5.0}))  # thin fog: 2 % of the light stops
    errors = []
    for weight in (1.0, 0.0):
        opacity = rendered(target, fit_field(target, views, cams, config(opacity=weight, empty=0.0)), cams)[1]
        errors.append(float((opacity - views[:, 3])[views[:, 3] == 1].square().mean()))
    assert errors[0] < 0.02  # measured: 0.006
    assert errors[1] > 0.5  # measured: 0.93


@pytest.mark.parametrize("stopped", [0, 1, 7])
def test_a_fit_that_is_resumed_ends_with_the_same_bits(stopped: int) -> None:
    cams, chosen = cameras(6), config(steps=12, rays=32)
    loss = ViewsLoss(SKIP, ball(cams), cams, chosen)
    want = fit_field(SKIP, ball(cams), cams, chosen)
    first = FieldFit(SKIP.spec, loss, chosen)
    for _ in range(stopped):
        first.advance()
    state = first.state()
    first.advance()  # what was saved does not change with the fit
    again = FieldFit(SKIP.spec, loss, chosen.model_copy(update={"seed": 5}))
    again.resume({name: tensor.clone() for name, tensor in state.items()})
    assert again.step == stopped
    while again.step < 12:
        again.advance()
    for name, tensor in want.tensors.items():
        assert torch.equal(again.params[name], tensor), name
    with pytest.raises(ValueError, match=r"state of .*layer1.bias"):
        again.resume(FieldFit(HASH.spec, loss, chosen).state())


def test_the_first_step_goes_as_far_as_the_rates_say() -> None:
    # Adam's first step is the learning rate itself, whatever the gradient: here a twentieth, as it rises from there
    chosen = config(steps=1000, learning_rate=0.2, table_learning_rate=0.4)

    def loss(params: TargetParams, step: int) -> Tensor:
        return params["table"].sum() + 1e-3 * sum(params[f"layer{i}.weight"].sum() for i in range(4))

    fit = FieldFit(SKIP.spec, loss, chosen)
    before = fit.params
    assert fit.advance() == pytest.approx(float(loss(before, 0)))
    for name, tensor in fit.params.tensors.items():
        step = before[name] - tensor
        want = 0.4 / 20 if name == "table" else 0.2 / 20
        torch.testing.assert_close(step, torch.full_like(step, want), atol=1e-6, rtol=1e-4)
    middle = FieldFit(SKIP.spec, loss, chosen)
    middle.step = 500  # half of the way down to a fiftieth
    middle.advance()
    moved = before["table"] - middle.params["table"]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.4 * 0.51), atol=1e-6, rtol=1e-4)


def test_a_start_is_taken_as_it_is_and_left_alone() -> None:
    cams = cameras(4)
    start = random_start(SKIP.spec, 3)
    kept = start.map(torch.clone)
    for steps in (0, 2):
        got = fit_field(SKIP, ball(cams), cams, config(steps=steps), start=start)
        for name, tensor in kept.tensors.items():
            assert torch.equal(start[name], tensor)
            assert torch.equal(got[name], tensor) == (steps == 0)


def test_random_starts_keep_to_the_bounds_and_to_their_seed() -> None:
    spec = RadianceField(RadianceFieldConfig(depth=3, width=50, encoding=EncodingConfig(frequencies=4))).spec
    torch.manual_seed(0)
    one = random_start(spec, 1)
    torch.manual_seed(1)
    assert all(torch.equal(random_start(spec, 1)[name], tensor) for name, tensor in one.tensors.items())
    assert not torch.equal(one["layer1.weight"], random_start(spec, 2)["layer1.weight"])
    for name, fan_in in {"layer0": 24, "layer1": 50, "layer2": 50}.items():
        for part, near in (("weight", 0.97), ("bias", 0.5)):
            largest = float(one[f"{name}.{part}"].abs().max()) * fan_in**0.5
            assert near < largest <= 1, f"{name}.{part}"
    table = random_start(SKIP.spec, 0)["table"]
    assert 0.99e-4 < float(table.abs().max()) <= 1e-4
    assert abs(float(table.mean())) < 2e-6


def test_what_cannot_be_fitted_is_refused() -> None:
    cams = cameras(3)
    for wrong in (ball(cams)[:, :3], ball(cams)[:2], ball(cams)[..., :8]):
        with pytest.raises(ValueError, match=r"expected views \(V, 4, 16, 16\) for \(3,\) cameras"):
            fit_field(SKIP, wrong, cams, config())
    away = replace(cams, poses=cams.poses @ torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0])))
    with pytest.raises(ValueError, match="no ray of these views meets the scene"):
        fit_field(SKIP, ball(away), away, config())
    for wrong_renderer in ({"samples": 0}, {"samples": 8, "fine_samples": 4}):
        with pytest.raises(ValidationError, match="fine_samples 0"):
            FitConfig.model_validate({"renderer": wrong_renderer})
