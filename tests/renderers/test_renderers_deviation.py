"""The deviation of rays: the colours' weights, and the background's own deviation for what passes through."""

import math

import pytest
import torch

from hyperkit.contracts import Rays
from hyperkit.renderers import RendererConfig, composite, render_rays


def rays(count: int = 3, dtype: torch.dtype = torch.float64) -> Rays:
    origins = torch.tensor([0.0, 0.0, 4.0], dtype=dtype).expand(2, count, 3)
    return Rays(origins, torch.tensor([0.0, 0.0, -1.0], dtype=dtype).expand(2, count, 3))


def field(density: float, deviation: tuple[float, float, float]):
    def evaluate(points: torch.Tensor) -> torch.Tensor:
        values = torch.tensor([0.2, 0.4, 0.6, density, *deviation], dtype=points.dtype)
        return values.expand(*points.shape[:-1], 7)

    return evaluate


@pytest.mark.parametrize("fine", [0, 8])
@pytest.mark.parametrize("sampling", ["endpoints", "bins"])
def test_a_uniform_slab_mixes_its_deviation_with_that_of_the_background(sampling: str, fine: int) -> None:
    config = RendererConfig(samples=16, fine_samples=fine, sampling=sampling, background_deviation=0.03)
    rendered = render_rays(field(0.5, (0.1, 0.2, 0.4)), rays(), config)
    left = math.exp(-0.5 * (4.0 + (1e-3 if sampling == "endpoints" else 0.0)))
    assert rendered.deviation is not None
    want = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64) * (1 - left) + 0.03 * left
    # worst difference seen: 6e-17
    torch.testing.assert_close(rendered.deviation, want.expand(2, 3, 3), atol=1e-14, rtol=0)
    # the colours are those of the field without deviations
    plain = render_rays(lambda p: field(0.5, (0.0, 0.0, 0.0))(p)[..., :4], rays(), config)
    assert plain.deviation is None
    assert torch.equal(plain.rgb, rendered.rgb)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_space_has_exactly_the_deviation_of_the_background(dtype: torch.dtype) -> None:
    empty = field(0.0, (5.0, 5.0, 5.0))
    rendered = render_rays(empty, rays(dtype=dtype), RendererConfig(samples=16))
    assert rendered.deviation is not None
    assert torch.equal(rendered.deviation, torch.full((2, 3, 3), 0.01, dtype=dtype))
    # so has a ray that misses the sphere, however dense the field is there
    aside = Rays(rays(dtype=dtype).origins, torch.tensor([2.0, 0.0, -1.0], dtype=dtype).expand(2, 3, 3))
    for sampling in ("endpoints", "bins"):
        for fine in (0, 4):
            config = RendererConfig(samples=8, fine_samples=fine, bounds="sphere", sampling=sampling)
            missed = render_rays(field(50.0, (5.0, 5.0, 5.0)), aside, config)
            assert missed.deviation is not None
            assert torch.equal(missed.deviation, torch.full((2, 3, 3), 0.01, dtype=dtype))
            assert (missed.rgb == 1).all()
            assert (missed.depth == 6).all()


def test_two_samples_by_hand() -> None:
    # densities ln 2 and ln 4 over lengths of 1: weights 1/2 and 3/8, 1/8 is left
    rendered = composite(
        torch.tensor([[[math.log(2.0), math.log(4.0)]]], dtype=torch.float64),
        torch.zeros(1, 1, 2, 3),
        torch.ones(1, 1, 2),
        torch.ones(1, 1, 2),
        torch.ones(1, 1),
        0.0,
        torch.tensor([[[[1.0, 2.0, 4.0], [8.0, 16.0, 0.0]]]]),
        background_deviation=0.8,
    )
    assert rendered.deviation is not None
    torch.testing.assert_close(rendered.deviation[0, 0], torch.tensor([3.6, 7.1, 2.1], dtype=torch.float64))


@pytest.mark.parametrize("fine", [0, 3])
def test_chunks_carry_the_deviation(fine: int) -> None:
    def varied(points: torch.Tensor) -> torch.Tensor:
        return torch.cat((points[..., :3].sigmoid(), points[..., :1].abs(), points[..., 1:4].exp()), dim=-1)

    generator = torch.Generator().manual_seed(0)
    many = Rays(torch.randn(3, 17, 3, generator=generator), torch.randn(3, 17, 3, generator=generator))
    with torch.no_grad():
        whole = render_rays(varied, many, RendererConfig(samples=5, fine_samples=fine, chunk_points=10**6))
        assert whole.deviation is not None
        assert whole.deviation.shape == (3, 17, 3)
        for chunk in (1, 16, 40):
            part = render_rays(varied, many, RendererConfig(samples=5, fine_samples=fine, chunk_points=chunk))
            assert part.deviation is not None
            assert torch.equal(part.deviation, whole.deviation)
            assert torch.equal(part.rgb, whole.rgb)


def test_a_field_of_another_width_is_an_error() -> None:
    with pytest.raises(ValueError, match="gives 5 values per point, expected 4, or 7"):
        render_rays(lambda p: field(1.0, (0.0, 0.0, 0.0))(p)[..., :5], rays(), RendererConfig(samples=4))
