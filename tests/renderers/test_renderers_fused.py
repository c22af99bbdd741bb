import pytest
import torch

from hyperkit.contracts import Rays, TargetParams
from hyperkit.kernels.render_field import chunked
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.renderers.fused import is_fusible, render_fused
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig


def random_params(target: RadianceField, items: int, seed: int = 0) -> TargetParams:
    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, spec in target.spec.tensors.items():
        values = torch.randn(1 if spec.shared else items, *spec.shape, generator=rng, dtype=torch.float64)
        tensors[name] = (values * (1.5 / spec.shape[0] ** 0.5)).requires_grad_()
    return TargetParams(tensors, target.spec)


def random_rays(items: int, count: int) -> Rays:
    rng = torch.Generator().manual_seed(count)
    origins = 4 * torch.nn.functional.normalize(
        torch.randn(items, count, 3, generator=rng, dtype=torch.float64), dim=-1
    )
    aim = 0.8 * (2 * torch.rand(items, count, 3, generator=rng, dtype=torch.float64) - 1)
    return Rays(origins, (aim - origins) / 4)


@pytest.mark.parametrize("density", ["relu", "softplus"])
@pytest.mark.parametrize(
    "settings",
    [
        {"sampling": "endpoints", "bounds": "range", "background": "white"},
        {"sampling": "bins", "bounds": "sphere", "background": "black"},
    ],
    ids=["endpoints", "bins"],
)
@pytest.mark.parametrize("jittered", [False, True])
def test_it_gives_the_values_and_gradients_of_the_general_renderer(
    density: str, settings: dict[str, str], jittered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_POINTS", 100)  # several chunks, the last one smaller
    encoding = EncodingConfig(frequencies=3, max_log2=2.0, include_input=True)
    target = RadianceField(
        RadianceFieldConfig.model_validate(
            {"depth": 3, "width": 8, "encoding": encoding, "density": density, "density_scale": 2.0}
        )
    )
    config = RendererConfig.model_validate({"samples": 7, **settings})
    params, rays = random_params(target, 2), random_rays(2, 17)
    jitter = torch.rand(2, 17, 7, dtype=torch.float64) if jittered else None
    results = []
    for rendered in (
        render_fused(target, params, rays, config, jitter),
        render_rays(lambda points: target(params, points[..., :3]), rays, config, jitter),
    ):
        score = (rendered.rgb.square().sum(-1) + 0.3 * rendered.depth + torch.sin(rendered.opacity)).sum()
        gradients = torch.autograd.grad(score, list(params.tensors.values()))
        results.append([rendered.rgb, rendered.depth, rendered.opacity, *gradients])
    for found, truth in zip(*results, strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9)  # measured: 1e-13


def test_what_it_cannot_do_goes_another_way() -> None:
    plain, config = RadianceFieldConfig(), RendererConfig()
    assert is_fusible(RadianceField(plain), config)
    for change in ({"view_directions": True}, {"deviation": True}):
        assert not is_fusible(RadianceField(plain.model_copy(update=change)), config)
    assert not is_fusible(RadianceField(plain), RendererConfig(fine_samples=8))


def test_jitter_of_another_shape_is_refused() -> None:
    target = RadianceField(RadianceFieldConfig(depth=2, width=4))
    with pytest.raises(ValueError, match="jitter has shape"):
        render_fused(
            target, random_params(target, 1), random_rays(1, 3), RendererConfig(samples=4), torch.rand(1, 3, 5)
        )
