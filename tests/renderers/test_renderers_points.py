"""Signals at points: the field's own values whatever the chunk, the deviation split off."""

import pytest
import torch

from hyperkit.renderers import PointsConfig, evaluate_points


def wave(coordinates: torch.Tensor) -> torch.Tensor:
    """Mean (sin x, cos y) and deviation (1 + x^2, 2 + y^2)."""
    x, y = coordinates.unbind(-1)
    return torch.stack((x.sin(), y.cos(), 1 + x * x, 2 + y * y), dim=-1)


@pytest.mark.parametrize("chunk", [1, 3, 34, 40, 10**6])
@pytest.mark.parametrize("points", [0, 1, 17])
@pytest.mark.parametrize("grad", [False, True])
def test_values_and_deviations_are_the_fields_whatever_the_chunk(chunk: int, points: int, grad: bool) -> None:
    coordinates = torch.rand(2, points, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x, y = coordinates.unbind(-1)
    with torch.set_grad_enabled(grad):
        both = evaluate_points(wave, coordinates, PointsConfig(chunk_points=chunk), outputs=2, deviation=True)
        mean = evaluate_points(lambda p: wave(p)[..., :2], coordinates, PointsConfig(chunk_points=chunk), outputs=2)
    assert torch.equal(both.values, torch.stack((x.sin(), y.cos()), dim=-1))
    assert both.deviation is not None
    assert torch.equal(both.deviation, torch.stack((1 + x * x, 2 + y * y), dim=-1))
    assert torch.equal(mean.values, both.values)
    assert mean.deviation is None


def test_the_field_never_sees_more_points_than_the_chunk_without_gradients() -> None:
    seen: list[int] = []

    def field(coordinates: torch.Tensor) -> torch.Tensor:
        seen.append(coordinates.shape[0] * coordinates.shape[1])
        return coordinates

    with torch.no_grad():
        evaluate_points(field, torch.rand(3, 1000, 1), PointsConfig(chunk_points=500), outputs=1)
    assert max(seen) <= 500
    assert sum(seen) == 3000
    seen.clear()
    evaluate_points(field, torch.rand(3, 1000, 1), PointsConfig(chunk_points=500), outputs=1)
    assert seen == [3000]


def test_the_gradient_is_that_of_the_field() -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    coordinates = torch.rand(2, 5, 2)
    signal = evaluate_points(lambda p: wave(p) * scale, coordinates, PointsConfig(chunk_points=1), 2, deviation=True)
    assert signal.deviation is not None
    (signal.values.sum() + signal.deviation.sum()).backward()
    torch.testing.assert_close(scale.grad, wave(coordinates).sum())


@pytest.mark.parametrize(("outputs", "deviation"), [(4, True), (2, False), (1, True)])
def test_a_field_of_another_width_is_an_error(outputs: int, deviation: bool) -> None:
    with pytest.raises(ValueError, match="gives 4 values per point, expected"):
        evaluate_points(wave, torch.rand(1, 3, 2), PointsConfig(), outputs, deviation)


def test_low_precision_values_come_back_in_float32() -> None:
    signal = evaluate_points(lambda p: p.bfloat16(), torch.rand(1, 3, 2), PointsConfig(), outputs=2)
    assert signal.values.dtype == torch.float32
