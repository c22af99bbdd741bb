import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hyperkit.config import PartConfig
from hyperkit.contracts import TargetParams, TargetSpec, TensorSpec
from hyperkit.errors import HyperkitError
from hyperkit.geometry import picture_rays
from hyperkit.models import Field, PictureINR
from hyperkit.models.field import Framing
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.targets.base import Target
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig

CENTRE = torch.tensor([0.3, 0.0, 0.2])


class Ball(Target):
    """A dense ball of radius 0.4 at CENTRE: red where x is large, blue where z is."""

    kind = "ball"
    config_model = PartConfig

    def __init__(self) -> None:
        self.spec = TargetSpec({"scale": TensorSpec((1, 1))}, self.kind, {})

    def __call__(self, params: TargetParams, query: torch.Tensor, state: object = None) -> torch.Tensor:
        distance = (query - CENTRE).norm(dim=-1, keepdim=True)
        density = 400 * torch.sigmoid((0.4 - distance) * 60) * params["scale"]
        colour = torch.stack((query[..., 0] > 0.3, torch.zeros_like(query[..., 0]), query[..., 2] > 0.2), -1).float()
        return torch.cat((colour, density), dim=-1)

    def to_module(self, params: TargetParams) -> nn.Module:
        raise AssertionError("not used")


def ball(scale: float = 1.0) -> Field:
    target = Ball()
    renderer = RendererConfig(samples=64, sampling="bins", bounds="sphere")
    return Field(target, TargetParams({"scale": torch.full((1, 1, 1), scale)}, target.spec), renderer, Framing(size=48))


def test_mesh_is_the_surface_with_its_colours_y_up() -> None:
    mesh = ball().mesh(resolution=64)
    centre = np.array([0.3, 0.2, 0.0])  # z up became y up
    radii = np.linalg.norm(mesh.vertices - centre, axis=1)
    # the density falls to ln 2 / 0.05 at 0.456
    np.testing.assert_allclose(radii, 0.456, atol=0.012)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.456**3, rel=0.03)  # positive: faces point outward
    colours = mesh.visual.vertex_colors
    right = mesh.vertices[:, 0] > 0.33
    assert (colours[right, 0] == 255).all()
    assert (colours[mesh.vertices[:, 1] < 0.17, 2] == 0).all()


def test_an_empty_field_has_no_surface() -> None:
    with pytest.raises(HyperkitError, match="no surface at density"):
        ball(0.0).mesh(resolution=16)


def test_turntable_shows_the_ball_where_it_is() -> None:
    views = ball().render(views=4, elevation=0.0)
    assert views.rgb.shape == (4, 48, 48, 3)
    mass = views.opacity.flatten(1).sum(1)
    columns = (views.opacity.sum(1) * (torch.arange(48) + 0.5)).sum(1) / mass
    rows = (views.opacity.sum(2) * (torch.arange(48) + 0.5)).sum(1) / mass
    # camera 0 stands at +x and sees the ball in the middle, nearer than from -x; camera 1 at +y sees +x on its left
    assert columns[0] == pytest.approx(24, abs=0.3)
    assert columns[1] < 24 < columns[3]
    assert (rows < 24).all()
    assert mass[0] > mass[2]
    near = views.depth[0][24 - 3, 24]
    assert near == pytest.approx(4 - 0.3 - 0.4, abs=0.1)
    assert views.opacity[:, 0, 0].max() < 1e-6
    assert views.frames()[0].dtype == np.uint8


def test_size_background_and_no_views() -> None:
    field = ball()
    assert field.render(views=1, size=20, background="black").rgb[0, 0, 0].tolist() == [0.0, 0.0, 0.0]
    assert field.render(views=0, size=8).rgb.shape == (0, 8, 8, 3)


def test_saved_field_renders_the_same(tmp_path: Path) -> None:
    target = RadianceField(RadianceFieldConfig(depth=2, width=8, encoding=EncodingConfig(frequencies=2)))
    params = TargetParams({n: torch.randn(1, *t.shape) for n, t in target.spec.tensors.items()}, target.spec)
    field = Field(target, params, RendererConfig(samples=8), Framing(size=8))
    field.save(tmp_path / "f.safetensors")
    again = Field.load(tmp_path / "f.safetensors")
    assert torch.equal(again.render(2).rgb, field.render(2).rgb)
    points = torch.rand(5, 3)
    torch.testing.assert_close(field.to_module()(points), field.query(points))
    PictureINR(target, params, torch.float32).save(tmp_path / "p.safetensors")
    with pytest.raises(HyperkitError, match="p.safetensors holds a PictureINR, not a Field") as caught:
        Field.load(tmp_path / "p.safetensors")
    assert caught.value.hint == "Load it with PictureINR.load."


def test_fast_is_close_to_exact_and_leaves_most_out() -> None:
    made = ball()
    fast, exact = made.render(views=3, quality="fast"), made.render(views=3, quality="exact")
    assert exact.culled == 0
    assert fast.culled > 0.85
    # measured: 63.4 dB; the ball itself computes in float32
    assert -10 * math.log10(float((fast.rgb - exact.rgb).square().mean())) > 50
    dense = render_rays(lambda p: made.target(made.params, p[..., :3]), picture_rays(exact.cameras), made.renderer)
    torch.testing.assert_close(exact.rgb.flatten(1, 2), dense.rgb, rtol=0, atol=1e-6)


def test_a_field_with_a_second_pass_is_rendered_densely() -> None:
    made = replace(ball(), renderer=RendererConfig(samples=32, fine_samples=32, sampling="bins", bounds="sphere"))
    fast, exact = made.render(views=2, quality="fast"), made.render(views=2, quality="exact")
    torch.testing.assert_close(fast.rgb, exact.rgb, rtol=0, atol=1e-5)
    assert fast.culled == 0


def test_an_unknown_quality_names_the_known_ones() -> None:
    with pytest.raises(HyperkitError, match="no quality 'best'") as caught:
        ball().render(views=1, quality="best")  # type: ignore[arg-type]
    assert "fast, exact" in caught.value.hint
