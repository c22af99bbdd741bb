"""The likelihood of part labels: by hand, and that it is one."""

import math

import pytest
import torch

from hyperkit.objectives import part_nll


def test_the_likelihood_by_hand() -> None:
    # two samples of weights 1/2 and 1/4, with parts (0.9, 0.1) and (0.2, 0.8): (0.5, 0.25), and 1/4 passes through
    probabilities = torch.tensor([[[0.5, 0.25]] * 3])
    opacity, labels = torch.full((1, 3), 0.75), torch.tensor([[0, 1, 2]])
    expected = -(math.log(0.25) + math.log(0.5) + math.log(0.25)) / 3
    assert part_nll(probabilities, opacity, labels, 0.0).item() == pytest.approx(expected, rel=1e-6)
    noisy = -sum(math.log(0.9 * p + 0.1 / 3) for p in (0.25, 0.5, 0.25)) / 3
    assert part_nll(probabilities, opacity, labels, 0.1).item() == pytest.approx(noisy, rel=1e-6)


def test_the_likelihoods_of_all_labels_add_up_to_one() -> None:
    torch.manual_seed(0)
    opacity = torch.rand(4, 1, dtype=torch.float64)
    probabilities = torch.rand(4, 1, 6, dtype=torch.float64).softmax(-1) * opacity.unsqueeze(-1)
    for noise in (0.0, 0.3):
        each = [part_nll(probabilities, opacity, torch.full((4, 1), k), noise) for k in range(7)]
        total = torch.stack(each).neg().exp().sum(0)
        assert total == pytest.approx(torch.ones(4).numpy(), abs=1e-6)  # float32 inside


def test_what_is_surely_wrong_costs_a_finite_amount() -> None:
    probabilities = torch.zeros(1, 1, 3, requires_grad=True)
    opacity = torch.zeros(1, 1, requires_grad=True)
    loss = part_nll(probabilities, opacity, torch.tensor([[2]]), 0.01)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-math.log(0.01 / 4), rel=1e-6)
    assert probabilities.grad is not None
    # d/dP of -log(0.99 P + 0.0025) at 0
    assert probabilities.grad[0, 0].tolist() == pytest.approx([0, -0.99 / 0.0025, 0])
