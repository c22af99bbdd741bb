"""Fields that give features beside colour and density: where they come from, and how they are composited."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperkit.contracts import Rays, TargetParams
from hyperkit.geometry import picture_rays
from hyperkit.models.field import Field, Framing, part_labels
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.renderers.fused import is_fusible
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig

WITHOUT = dict(depth=3, width=16)


def drawn(target: RadianceField, seed: int = 0) -> TargetParams:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: 0.4 * torch.randn((1, *spec.shape), generator=generator, dtype=torch.float64)
        for name, spec in target.spec.tensors.items()
    }
    return TargetParams(tensors, target.spec)


@pytest.mark.parametrize("directions", [False, True])
@pytest.mark.parametrize("deviation", [False, True])
def test_further_values_leave_the_others_as_they_are(directions: bool, deviation: bool) -> None:
    options = dict(WITHOUT, view_directions=directions, deviation=deviation)
    plain = RadianceField(RadianceFieldConfig(**options))  # type: ignore[arg-type]
    more = RadianceField(RadianceFieldConfig(**options, extra=5, extra_activation="softmax"))  # type: ignore[arg-type]
    full = drawn(more)
    last = "density" if directions else "layer2"
    cut = dict(full.tensors)
    for part in ("weight", "bias"):
        cut[f"{last}.{part}"] = full[f"{last}.{part}"][..., :-5]
    points = torch.rand(1, 40, 6, dtype=torch.float64) - 0.5
    points = points if directions else points[..., :3]
    whole = more(full, points)
    # products of other widths may be summed in another order
    assert torch.allclose(whole[..., :-5], plain(TargetParams(cut, plain.spec), points), rtol=1e-12, atol=1e-12)
    assert whole[..., -5:].sum(-1) == pytest.approx(torch.ones(1, 40).numpy())
    assert torch.allclose(more.to_module(full)(points[0]), whole[0], atol=1e-12)
    if directions:  # what a thing is does not depend on where it is seen from
        turned = torch.cat((points[..., :3], -points[..., 3:]), -1)
        assert torch.equal(more(full, turned)[..., -5:], whole[..., -5:])
        assert not torch.equal(more(full, turned)[..., :3], whole[..., :3])


def test_without_an_activation_they_are_the_networks_own() -> None:
    target = RadianceField(RadianceFieldConfig(**WITHOUT, extra=2))  # type: ignore[arg-type]
    params = drawn(target)
    points = torch.rand(1, 7, 3, dtype=torch.float64)
    h = torch.relu(target.encoding(points) @ params["layer0.weight"] + params["layer0.bias"])
    h = torch.relu(h @ params["layer1.weight"] + params["layer1.bias"])
    expected = h @ params["layer2.weight"][..., 4:] + params["layer2.bias"][..., 4:]
    assert torch.allclose(target(params, points)[..., 4:], expected)


def rays() -> Rays:
    generator = torch.Generator().manual_seed(1)
    origins = torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64).expand(1, 9, 3)
    aims = 0.5 * torch.randn(1, 9, 3, generator=generator, dtype=torch.float64)
    return Rays(origins, (aims - origins) / 4)


@pytest.mark.parametrize("fine", [0, 6])
@pytest.mark.parametrize("deviation", [False, True])
def test_features_are_composited_with_the_colours_weights(fine: int, deviation: bool) -> None:
    """Features that are the colours come out as the colours do on black."""

    def field(points: Tensor) -> Tensor:
        colour = 0.5 + 0.4 * torch.sin(3 * points[..., :3])
        density = 2 + torch.cos(4 * points[..., :1])
        parts = [colour, density, *([colour + 1] if deviation else []), colour, 1 - colour]
        return torch.cat(parts, -1)

    config = RendererConfig(samples=8, fine_samples=fine, bounds="sphere", background="white")
    found = render_rays(field, rays(), config, extra=6)
    assert found.features is not None
    assert torch.allclose(found.features[..., :3] + (1 - found.opacity).unsqueeze(-1), found.rgb)
    # what adds up to 1 at each sample adds up to the opacity
    assert torch.allclose(
        found.features[..., :3] + found.features[..., 3:], found.opacity.unsqueeze(-1).expand(1, 9, 3)
    )
    assert (found.deviation is not None) == deviation
    plain = render_rays(lambda points: field(points)[..., :-6], rays(), config)
    assert torch.equal(found.rgb, plain.rgb)
    assert torch.equal(found.depth, plain.depth)
    with pytest.raises(ValueError, match="and 5 more"):
        render_rays(field, rays(), config, extra=5)


def test_such_fields_are_not_rendered_without_their_features() -> None:
    config = RendererConfig(samples=8)
    assert is_fusible(RadianceField(RadianceFieldConfig(**WITHOUT)), config)  # type: ignore[arg-type]
    assert not is_fusible(RadianceField(RadianceFieldConfig(**WITHOUT, extra=3)), config)  # type: ignore[arg-type]


def test_a_field_renders_its_label_maps(tmp_path: object) -> None:
    target = RadianceField(RadianceFieldConfig(**WITHOUT, extra=3, extra_activation="softmax"))  # type: ignore[arg-type]
    params = drawn(target).map(lambda t: t.float())
    config = RendererConfig(samples=12, sampling="bins", bounds="sphere", chunk_points=100)
    made = Field(target, params, config, Framing(size=8), parts=("a", "b", "c"))
    views = made.render(3, quality="exact")
    rendered = render_rays(lambda p: target(params.select(0), p[..., :3]), picture_rays(views.cameras), config, extra=3)
    assert rendered.features is not None
    maps = part_labels(rendered.features, rendered.opacity).reshape(3, 8, 8)
    assert torch.equal(views.labels().long(), maps)
    assert len(maps.unique()) > 1
    # bf16 where the hardware has it: 2^-8 relative to 1
    assert torch.allclose(made.render(3, quality="fast").features, views.features, atol=0.02)  # type: ignore[arg-type]
    made.save(f"{tmp_path}/field.safetensors")
    again = Field.load(f"{tmp_path}/field.safetensors")
    assert again.parts == ("a", "b", "c")
    assert torch.equal(again.render(3, quality="exact").labels(), views.labels())


def test_half_of_the_light_decides_between_the_parts_and_the_background() -> None:
    probabilities = torch.tensor([[0.3, 0.25], [0.1, 0.6], [0.25, 0.2]])  # of the first, 0.45 passes through
    assert part_labels(probabilities, probabilities.sum(-1)).tolist() == [1, 2, 0]
