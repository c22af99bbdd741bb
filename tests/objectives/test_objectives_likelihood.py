import math
from statistics import NormalDist, fmean

import pytest
import torch

from hyperkit.objectives import gaussian_nll


def numbers(shape: tuple[int, ...], least: float = 0.01) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    mean, truth = torch.rand(shape, generator=rng), torch.rand(shape, generator=rng)
    return mean, least + torch.rand(shape, generator=rng), truth


@pytest.mark.parametrize("shape", [(3, 50, 3), (2, 700, 1), (4, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_logarithm_of_the_density_in_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    mean, deviation, truth = (t.to(dtype) for t in numbers(shape, least=0.1))  # no density underflows
    got = gaussian_nll(mean, deviation, truth)
    assert got.dtype == dtype
    assert got.shape == shape[:1]
    for item in range(shape[0]):
        values = zip(*(t[item].flatten().tolist() for t in (mean, deviation, truth)), strict=True)
        want = -fmean(math.log(NormalDist(m, s).pdf(y)) for m, s, y in values)  # in Python's floats, float64
        # worst difference seen, relative: 2e-16 in float64, 8e-8 in float32
        assert got[item].item() == pytest.approx(want, rel=1e-6)


def test_equals_torchs_normal_distribution_gradients_too() -> None:
    leaves = [t.double().requires_grad_(True) for t in numbers((2, 40, 3))]
    mean, deviation, truth = leaves
    got = gaussian_nll(mean, deviation, truth)
    want = -torch.distributions.Normal(mean, deviation).log_prob(truth).flatten(1).mean(1)
    # worst difference seen, relative: 2e-16, gradients too
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(want.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-12)


def test_the_best_deviation_is_the_root_mean_square_error() -> None:
    mean, _, truth = (t.double() for t in numbers((1, 500, 1)))
    best = (truth - mean).square().mean().sqrt()
    costs = [gaussian_nll(mean, torch.full_like(mean, best * factor), truth).item() for factor in (0.99, 1.0, 1.01)]
    assert costs[1] < min(costs[0], costs[2])
    assert costs[1] == pytest.approx(0.5 + math.log(best) + 0.5 * math.log(2 * math.pi), rel=1e-12)


def test_units_shift_the_likelihood_by_their_logarithm() -> None:
    mean, deviation, truth = (t.double() for t in numbers((2, 30, 3)))
    shifted = gaussian_nll(255 * mean, 255 * deviation, 255 * truth)
    torch.testing.assert_close(shifted, gaussian_nll(mean, deviation, truth) + math.log(255))


def test_low_precision_is_computed_in_float32() -> None:
    mean, deviation, truth = (t.bfloat16() for t in numbers((2, 30, 3)))
    got = gaussian_nll(mean, deviation, truth)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, gaussian_nll(mean.float(), deviation.float(), truth.float()), atol=0, rtol=0)


def test_with_beta_one_the_mean_is_trained_as_by_the_squared_error() -> None:
    mean, deviation, truth = (t.double() for t in numbers((2, 30, 3)))
    mean.requires_grad_(True)
    deviation.requires_grad_(True)
    by_mean, by_deviation = torch.autograd.grad(gaussian_nll(mean, deviation, truth, beta=1.0).sum(), (mean, deviation))
    squared = 0.5 * (truth - mean).square().flatten(1).mean(1).sum()
    torch.testing.assert_close(by_mean, torch.autograd.grad(squared, mean)[0])
    plain = torch.autograd.grad(gaussian_nll(mean, deviation, truth).sum(), deviation)[0]
    torch.testing.assert_close(by_deviation, plain * deviation.detach() ** 2)
