"""DINO's objective: against sums written out in float64, its fixed points, and its schedules."""

import math

import pytest
import torch
from torch import nn

from hyperkit.objectives.self_distillation import (
    dino_loss,
    entropy,
    teacher_momentum,
    teacher_probabilities,
    teacher_temperature,
    update_centre,
    update_teacher,
)


def by_hand(student: torch.Tensor, teacher: torch.Tensor, centre: torch.Tensor, ts: float, tt: float) -> list[float]:
    losses = []
    for item in range(student.shape[1]):
        terms = []
        for g in range(len(teacher)):
            weights = [math.exp(x / tt) for x in (teacher[g, item] - centre).tolist()]
            for s in range(len(student)):
                if s == g:
                    continue
                scaled = [x / ts for x in student[s, item].tolist()]
                norm = math.log(sum(math.exp(x) for x in scaled))
                terms.append(-sum(w / sum(weights) * (x - norm) for w, x in zip(weights, scaled, strict=True)))
        losses.append(sum(terms) / len(terms))
    return losses


def test_the_loss_is_the_mean_cross_entropy_of_all_pairs_of_different_crops() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3, 7, dtype=torch.float64), torch.randn(2, 3, 7, dtype=torch.float64)
    centre = torch.randn(7, dtype=torch.float64)
    found = dino_loss(student, teacher, centre, 0.5, 0.3)
    assert found.tolist() == pytest.approx(by_hand(student, teacher, centre, 0.5, 0.3), rel=2e-6)  # float32 inside


def test_two_global_crops_alone_are_compared_crosswise() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 4, 5)
    swapped = dino_loss(logits.flip(0), logits, torch.zeros(5), 0.2, 0.2)  # each meets its own
    torch.testing.assert_close(swapped, entropy(torch.softmax(logits / 0.2, -1)).mean(0))
    assert bool((dino_loss(logits, logits, torch.zeros(5), 0.2, 0.2) > swapped).all())  # Gibbs' inequality


def test_the_gradient_is_that_of_a_softmax_and_reaches_the_student_alone() -> None:
    torch.manual_seed(2)
    student = torch.randn(3, 2, 6, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 2, 6, dtype=torch.float64, requires_grad=True)
    dino_loss(student, teacher, torch.zeros(6), 0.4, 0.1).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    targets, guess = torch.softmax(teacher / 0.1, -1), torch.softmax(student / 0.4, -1)
    others = [targets[1:], targets[:1], targets]  # which teachers each crop of the student meets
    for crop, met in enumerate(others):
        expected = sum(guess[crop] - t for t in met) / (0.4 * 4)
        torch.testing.assert_close(student.grad[crop], expected.detach(), rtol=1e-5, atol=1e-6)


def test_equal_outputs_cost_log_k_and_a_constant_added_to_them_changes_nothing() -> None:
    torch.manual_seed(3)
    teacher = torch.randn(2, 3, 11)
    loss = dino_loss(torch.full((4, 3, 11), 2.5), teacher, torch.randn(11), 0.1, 0.04)
    assert loss.tolist() == pytest.approx([math.log(11)] * 3, rel=1e-5)
    student = torch.randn(4, 3, 11)
    shifted = dino_loss(student + torch.randn(4, 3, 1), teacher + 3.0, torch.zeros(11), 0.1, 0.04)
    torch.testing.assert_close(shifted, dino_loss(student, teacher, torch.zeros(11), 0.1, 0.04), rtol=1e-4, atol=1e-4)


def test_a_centre_takes_away_what_all_pictures_share() -> None:
    # every picture's largest output is the first: the centre, once it has settled, makes the rest decide
    torch.manual_seed(4)
    logits = torch.randn(2, 64, 8) + 20 * torch.eye(8)[0]
    centre = torch.zeros(8)
    assert float(teacher_probabilities(logits, centre, 0.1).mean((0, 1))[0]) > 0.99
    for _ in range(200):
        update_centre(centre, logits, 0.9)
    torch.testing.assert_close(centre, logits.mean((0, 1)), rtol=0, atol=1e-4)
    assert float(teacher_probabilities(logits, centre, 0.1).mean((0, 1)).max()) < 0.3


def test_centre_and_teacher_are_running_means() -> None:
    centre = torch.tensor([1.0, 2.0])
    update_centre(centre, torch.tensor([[[3.0, 0.0], [5.0, 0.0]], [[3.0, 4.0], [5.0, 4.0]]]), 0.75)
    assert centre.tolist() == pytest.approx([0.75 + 0.25 * 4, 0.75 * 2 + 0.25 * 2])
    torch.manual_seed(5)
    teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    first = teacher.weight.detach().clone()
    for _ in range(3):
        update_teacher(teacher, student, 0.9)
    expected = 0.9**3 * first + (1 - 0.9**3) * student.weight.detach()
    torch.testing.assert_close(teacher.weight.detach(), expected)
    with pytest.raises(ValueError, match="bias"):
        update_teacher(teacher, nn.Linear(3, 2, bias=False), 0.9)


def test_schedules_start_and_end_where_they_should() -> None:
    assert [teacher_momentum(p, 0.99) for p in (0.0, 0.5, 1.0, 2.0)] == pytest.approx([0.99, 0.995, 1.0, 1.0])
    found = [teacher_temperature(p, 0.04, 0.07, 0.3) for p in (0.0, 0.1, 0.3, 1.0)]
    assert found == pytest.approx([0.04, 0.05, 0.07, 0.07])
    assert teacher_temperature(0.0, 0.04, 0.07, 0.0) == 0.07


def test_entropy_of_certain_and_of_equal_outputs() -> None:
    assert entropy(torch.tensor([[0.0, 1.0, 0.0], [1 / 3] * 3])).tolist() == pytest.approx([0.0, math.log(3)])


@pytest.mark.parametrize(("crops", "views"), [(1, 1), (2, 3), (3, 0)])
def test_crops_that_cannot_be_compared_are_refused(crops: int, views: int) -> None:
    with pytest.raises(ValueError, match="crops"):
        dino_loss(torch.zeros(crops, 1, 4), torch.zeros(views, 1, 4), torch.zeros(4), 0.1, 0.1)
