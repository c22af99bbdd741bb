"""Weighted nearest neighbours: votes by hand, invariances, and accuracy at and above chance."""

import math

import pytest
import torch

from hyperkit.metrics.knn import knn_correct, knn_votes


def unit(angle: float) -> list[float]:
    return [math.cos(angle), math.sin(angle)]


def test_votes_by_hand() -> None:
    # at angles 0.1, 0.2, 0.3 and 2 from the query; the last is not among the three that vote
    bank = torch.tensor([unit(0.1), unit(-0.2), unit(0.3), unit(2.0)])
    votes = knn_votes(bank, torch.tensor([0, 1, 1, 0]), torch.tensor([[2.0, 0.0]]), 3, k=3, temperature=0.5)
    w = [math.exp((math.cos(a) - 1) / 0.5) for a in (0.1, 0.2, 0.3)]
    assert votes[0].tolist() == pytest.approx([w[0], w[1] + w[2], 0.0], rel=1e-5)


def test_two_far_neighbours_do_not_outvote_a_near_one_at_a_low_temperature() -> None:
    bank, labels = torch.tensor([unit(0.1), unit(0.9), unit(-0.9)]), torch.tensor([0, 1, 1])
    query, own = torch.tensor([unit(0.0)]), torch.tensor([0])
    assert knn_correct(bank, labels, query, own, k=3, temperature=0.07).tolist() == [1.0]
    assert knn_correct(bank, labels, query, own, k=3, temperature=10.0).tolist() == [0.0]


def test_neither_length_nor_order_nor_a_rotation_matters() -> None:
    torch.manual_seed(0)
    bank, queries, labels = torch.randn(60, 8), torch.randn(20, 8), torch.randint(0, 4, (60,))
    votes = knn_votes(bank, labels, queries, 4, k=7)
    order = torch.randperm(60)
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    changed = knn_votes((bank * torch.rand(60, 1).add(0.1))[order] @ turn, labels[order], 5 * queries @ turn, 4, k=7)
    torch.testing.assert_close(changed, votes, rtol=1e-3, atol=1e-7)


def test_separate_classes_are_told_apart_and_noise_is_not() -> None:
    torch.manual_seed(1)
    labels, truth = torch.arange(5).repeat(40), torch.arange(5).repeat(40)
    centres = torch.eye(16)[:5]
    near, far = (centres[labels] + s * torch.randn(200, 16) for s in (0.05, 0.05))
    assert float(knn_correct(near, labels, far, truth).mean()) == 1.0
    noise = knn_correct(torch.randn(200, 16), labels, torch.randn(200, 16), truth)
    assert float(noise.mean()) == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 200) ** 0.5)


def test_a_small_bank_votes_as_a_whole_and_an_empty_one_is_refused() -> None:
    bank, labels = torch.tensor([unit(0.0), unit(1.0)]), torch.tensor([1, 0])
    assert knn_correct(bank, labels, bank, labels, k=20).tolist() == [1.0, 1.0]
    assert knn_correct(bank, labels, bank[:0], labels[:0]).tolist() == []
    with pytest.raises(ValueError, match="bank"):
        knn_votes(bank[:0], labels[:0], bank, 2)
    with pytest.raises(ValueError, match="labels"):
        knn_votes(bank, labels[:1], bank, 2)
