"""Calibration of predicted deviations against the normal distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from hyperkit.contracts import Metric, Scores
from hyperkit.metrics import Calibration, aggregate
from hyperkit.metrics.calibration import gaussian_share


def samples(items: int = 8, count: int = 20_000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return means, deviations that differ from value to value, and truths drawn from them."""
    rng = torch.Generator().manual_seed(0)
    mean = torch.rand(items, count, 3, generator=rng)
    deviation = 0.01 + torch.rand(items, count, 3, generator=rng)
    return mean, deviation, mean + deviation * torch.randn(items, count, 3, generator=rng)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_shares_are_those_of_the_normal_distribution(factor: float) -> None:
    """With deviations off by a factor, k of them hold erf(k factor / sqrt 2) of the values."""
    mean, deviation, truth = samples()
    calibration = Calibration()
    calibration.update(mean[:3], factor * deviation[:3], truth[:3])
    calibration.update(mean[3:], factor * deviation[3:], truth[3:])
    result = calibration.result()
    error = 4 * 0.5 / math.sqrt(result["values"])  # four standard errors of a share, 0.0029
    assert result["values"] == 8 * 60_000
    assert result["within_1"] == pytest.approx(math.erf(factor / math.sqrt(2)), abs=error)
    assert result["within_2"] == pytest.approx(math.erf(2 * factor / math.sqrt(2)), abs=error)
    limits, shares = calibration.reliability()
    assert limits[19] == 1.0
    assert limits[-1] == 4.0
    assert shares == pytest.approx([gaussian_share(factor * k) for k in limits], abs=error)


def test_the_likelihood_equals_that_of_an_independent_computation() -> None:
    mean, deviation, truth = samples(3, 50)
    calibration = Calibration()
    items = calibration.update(mean, deviation, truth)["nll"]
    m, d, t = (x.double().numpy().reshape(3, -1) for x in (mean, deviation, truth))
    expected = -np.log(np.exp(-(((t - m) / d) ** 2) / 2) / (d * math.sqrt(2 * math.pi))).mean(axis=1)
    assert items == pytest.approx(expected.tolist(), abs=1e-12)
    assert calibration.result()["nll"] == pytest.approx(expected.mean(), abs=1e-12)
    theirs = -Normal(mean.double(), deviation.double()).log_prob(truth.double()).mean()
    assert calibration.result()["nll"] == pytest.approx(theirs.item(), abs=1e-12)


def test_counts_by_hand_and_values_on_the_limit_lie_within() -> None:
    """Off by 0.5, 1, 1.5, 2, 2.5, 100 and nan deviations: two of seven within one, four within two."""
    off = torch.tensor([[0.5, -1.0, 1.5, -2.0, 2.5, 100.0, math.nan]])
    calibration = Calibration()
    items = calibration.update(torch.zeros(1, 7), torch.ones(1, 7), off)
    assert items["within_1"] == [2 / 7]
    assert items["within_2"] == [4 / 7]
    result = calibration.result()
    assert (result["within_1"], result["within_2"]) == (2 / 7, 4 / 7)
    assert math.isnan(result["nll"])
    _, shares = calibration.reliability()
    assert [round(7 * s) for s in (shares[8], shares[9], shares[18], shares[19], shares[-1])] == [0, 1, 1, 2, 5]
    edges, density = calibration.histogram()
    assert sum(d * (b - a) for a, b, d in zip(edges, edges[1:], density, strict=False)) == pytest.approx(5 / 7)


def test_pooled_and_mean_over_items_differ_where_items_differ_in_size() -> None:
    calibration = Calibration()
    calibration.update(torch.zeros(1, 3), torch.ones(1, 3), torch.tensor([[0.0, 0.0, 0.0]]))
    calibration.update(torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([[1.5]]))
    assert calibration.result()["within_1"] == 0.75
    assert calibration.values["within_1"] == [1.0, 0.0]
    half = 0.5 * math.log(2 * math.pi)
    assert calibration.result()["nll"] == pytest.approx(half + 1.5**2 / 2 / 4)


def test_values_join_the_scores_of_the_same_items() -> None:
    calibration = Calibration()
    calibration.update(torch.zeros(2, 2), torch.ones(2, 2), torch.tensor([[0.0, 1.5], [3.0, 1.5]]))
    scores = Scores({"psnr": [1.0, 2.0]}, ("a", "b"), ("x", "y"), {"psnr": Metric("PSNR", "dB")})
    joined = calibration.join(scores)
    assert joined.values["within_1"] == [0.5, 0.0]
    assert joined.values["within_2"] == [1.0, 0.5]
    assert list(joined.metrics) == ["psnr", "nll", "within_1", "within_2"]
    assert aggregate([joined])["all"]["within_2"] == 0.75
    with pytest.raises(ValueError, match="scores of 1 items, deviations of 2"):
        calibration.join(Scores({}, ("a",), ()))


def test_nothing_taken_in_and_bad_input() -> None:
    calibration = Calibration()
    assert math.isnan(calibration.result()["within_1"])
    assert calibration.result()["values"] == 0
    with pytest.raises(ValueError, match="one shape"):
        calibration.update(torch.zeros(1, 2), torch.ones(1, 3), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="above 0"):
        calibration.update(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2))
    assert calibration.update(torch.zeros(0, 2), torch.ones(0, 2), torch.zeros(0, 2)) == {
        "nll": [],
        "within_1": [],
        "within_2": [],
    }
