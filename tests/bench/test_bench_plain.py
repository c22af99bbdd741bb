"""The baseline computes what the package's exact path computes: a ratio of their times compares equals."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hyperkit.bench.plain import PlainField, PlainSettings, plain_adaptation, plain_rays, plain_render, plain_view
from hyperkit.bench.plain_model import PlainModel
from hyperkit.bench.settings import Bench, sizes_for
from hyperkit.bench.trained_field import psnr
from hyperkit.bench.training import Setting, plain_observations
from hyperkit.contracts import Cameras, Rays, TargetParams
from hyperkit.errors import HyperkitError
from hyperkit.geometry import picture_rays, turntable
from hyperkit.models.field import Field, Framing
from hyperkit.randomness import StepRandom
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig

CPU = torch.device("cpu")
POSE = turntable(5, 0.4)[2:3]


def random_field(**options: Any) -> Field:
    """A field with parts that are empty, foggy and opaque."""
    renderer = {name: options.pop(name) for name in ("sampling", "bounds", "background") if name in options}
    target = RadianceField(RadianceFieldConfig(depth=4, width=32, **options))
    generator = torch.Generator().manual_seed(3)
    tensors = {n: torch.randn(1, *t.shape, generator=generator) * 0.4 for n, t in target.spec.tensors.items()}
    tensors["layer3.weight"][..., 3] *= 60
    return Field(target, TargetParams(tensors, target.spec), RendererConfig(samples=24, **renderer), Framing(size=20))


def test_rays_are_those_of_the_geometry() -> None:
    cameras = Cameras(turntable(3), torch.tensor([20.0, 25.0, 30.0]), 7, 5)
    rays = picture_rays(cameras)
    origins, directions = plain_rays(cameras.poses, cameras.focal, 5, 7)
    assert torch.equal(origins, rays.origins)
    torch.testing.assert_close(directions, rays.directions, atol=3e-7, rtol=0)  # worst seen 6e-8


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bounds": "sphere", "background": "black"},
        {"sampling": "bins", "density": "softplus", "density_scale": 10.0, "density_shift": 0.0},
        {"sampling": "bins", "bounds": "sphere", "encoding": EncodingConfig(frequencies=5, include_input=True)},
    ],
    ids=["papers", "sphere", "bins", "quickstart"],
)
def test_a_view_is_that_of_the_exact_path(options: dict[str, Any]) -> None:
    field = random_field(**options)
    exact = field.render(poses=POSE, quality="exact")
    assert exact.opacity.min() < 0.05  # else fog hides what is wrong
    assert exact.opacity.max() > 0.95
    settings = PlainSettings.of(field.target, field.renderer)
    rays = plain_rays(POSE, exact.cameras.focal.cpu(), 20, 20)
    found = plain_render(PlainField.of(field.params), *rays, settings)
    assert psnr(found[0][0], exact.rgb.reshape(-1, 3)) > 75  # worst seen 84 dB: frequencies of 256 see every last bit
    double = field.params.map(torch.Tensor.double)
    wide = [t.double() for t in rays]
    found64 = plain_render(PlainField.of(double), *wide, settings)
    own64 = render_rays(lambda points: field.target(double, points[..., :3]), Rays(*wide), field.renderer)
    for plain, own in zip(found64, (own64.rgb, own64.depth, own64.opacity), strict=True):
        assert plain.dtype == torch.float64
        torch.testing.assert_close(plain, own, atol=2e-8, rtol=0)  # worst seen 3.4e-9, by the 1e-10 in the products
    rgb = found[0]
    whole = plain_view(PlainField.of(field.params), POSE[0], float(exact.cameras.focal[0]), 20, settings)
    torch.testing.assert_close(whole, rgb.reshape(20, 20, 3), atol=1e-6, rtol=0)
    part = plain_view(PlainField.of(field.params), POSE[0], float(exact.cameras.focal[0]), 20, settings, rays=30)
    torch.testing.assert_close(part.reshape(-1, 3)[:30], whole.reshape(-1, 3)[:30], atol=1e-6, rtol=0)
    assert (part.reshape(-1, 3)[30:] == 1).all()


def test_fields_that_it_does_not_know_are_refused() -> None:
    field = random_field()
    target = RadianceField(RadianceFieldConfig(depth=2, width=8, view_directions=True))
    with pytest.raises(HyperkitError, match="The baseline knows radiance fields"):
        PlainSettings.of(target, field.renderer)
    with pytest.raises(HyperkitError, match="in one pass"):
        PlainSettings.of(field.target, RendererConfig(samples=8, fine_samples=8))


@pytest.fixture(scope="module")
def setting(bench_cache: Path) -> Setting:
    sizes = sizes_for(CPU, debug=True)
    made = Setting.open(Bench(CPU, torch.float32, 1, sizes), sizes.batch, sizes.rays)
    torch.manual_seed(1)
    for parameter in made.model.parameters():  # what starts at zero or one would hide a part that is left out
        if parameter.numel() == max(parameter.shape, default=1):
            torch.nn.init.normal_(parameter, std=0.3)
    return made


def test_a_training_step_has_the_same_loss_and_gradients(setting: Setting) -> None:
    plain = PlainModel(setting.model)
    batch = setting.task.data().train_batch(3, 2)
    losses = []
    for model in (setting.model, plain):
        loss, _ = setting.task.loss(model, batch, StepRandom(0, 3))
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    own, other = setting.model.hypernet, plain.hypernet
    block, copy = setting.model.backbone.trunk.blocks[0], plain.backbone.blocks[0]
    pairs = [(own.weight_tokens, other.weight_tokens), (block.mlp.fc1.weight, copy.up.weight)]
    pairs += [(own.base[name], other.base[name]) for name in own.base]
    joined = torch.cat([layer.weight.grad for layer in (copy.query, copy.key, copy.value)])
    grads = [(a.grad, b.grad) for a, b in pairs] + [(block.attn.qkv.weight.grad, joined)]
    for a, b in grads:
        assert a.abs().max() > 0
        torch.testing.assert_close(b, a, atol=2e-5 * a.abs().max().item(), rtol=0)  # worst seen 2e-6
    setting.model.zero_grad(set_to_none=True)
    # a copy: training the one leaves the other as it is
    shared = {id(p) for p in setting.model.parameters()} & {id(p) for p in plain.parameters()}
    assert not shared
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in setting.model.parameters())


def test_evaluation_renders_the_same(setting: Setting) -> None:
    batch = setting.task.data().pairs("test").batch([0, 1])
    own, _ = setting.task.predict(setting.model.eval(), batch)
    plain, _ = setting.task.predict(PlainModel(setting.model).eval(), batch)
    torch.testing.assert_close(plain.values, own.values, atol=1e-5, rtol=0)  # worst seen 1e-6


def test_test_time_optimisation_goes_to_the_same_fields(setting: Setting) -> None:
    task, model = setting.task, setting.model.eval()
    batch = task.data().train_batch(1, 2)
    cameras = batch.context_cameras
    tto = task.config.evaluation.tto.model_copy(update={"steps": 4, "rays": 32, "learning_rate": 0.01})
    with torch.no_grad():
        start = model.generate(batch.context, cameras)
        fitted = task.adapted(model, batch.context, cameras, tto)
    settings = PlainSettings.of(model.target, setting.renderer, cameras.near, cameras.far)
    observe = plain_observations(batch.context[:, 0], cameras, 32)
    found = plain_adaptation(start, observe, settings, 4, 0.01)
    rays = observe(0, 99)[:2]
    for item, plain in enumerate(found):
        got, want, before = (
            plain_render(field, *rays, settings)[0]
            for field in (plain, PlainField.of(fitted.select(item)), PlainField.of(start.select(item)))
        )
        assert (want - before).abs().max() > 0.01
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0)  # worst seen 1e-5: Adam divides by small gradients


def test_a_model_that_it_does_not_know_is_refused(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    model = setting.model
    monkeypatch.setattr(model.backbone, "prefix_tokens", 5)
    with pytest.raises(HyperkitError, match="no transformer like the backbone 'nano'"):
        PlainModel(model)
