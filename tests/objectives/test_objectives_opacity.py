import pytest
import torch

from hyperkit.objectives import opacity_error

NAN = float("nan")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_zero_for_the_right_opacity_and_the_square_of_a_constant_difference(dtype: torch.dtype) -> None:
    truth = torch.tensor([[0.0, 0.25, 1.0], [0.5, 0.5, 0.0]])
    assert opacity_error(truth.to(dtype), truth).tolist() == [0.0, 0.0]
    shifted = torch.where(truth < 0.5, truth + 0.25, truth - 0.25)  # exact in both formats
    got = opacity_error(shifted.to(dtype), truth)
    assert got.dtype == torch.float32
    assert got.tolist() == [0.0625, 0.0625]


def test_equals_its_definition_and_its_gradient_in_float64() -> None:
    rng = torch.Generator().manual_seed(0)
    opacity, truth = (torch.rand((4, 70), generator=rng).requires_grad_(True) for _ in range(2))
    got = opacity_error(opacity, truth.detach())
    items = zip(opacity.tolist(), truth.tolist(), strict=True)
    want = [sum((a - t) ** 2 for a, t in zip(*rows, strict=True)) / 70 for rows in items]
    # worst difference seen: 2e-8
    assert got.tolist() == pytest.approx(want, abs=3e-7)
    (gradient,) = torch.autograd.grad(got.sum(), opacity)
    torch.testing.assert_close(gradient.double(), 2 * (opacity.double() - truth.double()) / 70, atol=1e-8, rtol=1e-6)


def test_rays_of_which_nothing_is_known_cost_nothing() -> None:
    opacity = torch.full((3, 4), 0.5, requires_grad=True)
    truth = torch.tensor([[NAN] * 4, [0.0] * 4, [NAN, 1.0, NAN, 1.0]])
    error = opacity_error(opacity, truth)
    assert error.tolist() == [0.0, 0.25, 0.125]
    error.sum().backward()
    assert opacity.grad is not None
    assert opacity.grad.tolist() == [[0.0] * 4, [0.25] * 4, [0.0, -0.25, 0.0, -0.25]]
