"""Self-distillation (DINO, Caron et al. 2021): a student learns what its own running mean, the teacher, says.

Both give K logits for each crop. The teacher's are centred and sharpened, and no gradient flows to it:

    P_t = softmax((g_t - c) / tau_t),    P_s = softmax(g_s / tau_s)

The centre c keeps one output from dominating, the low temperature tau_t keeps all outputs from becoming equal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def dino_loss(
    student: Tensor, teacher: Tensor, centre: Tensor, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Return each item's cross-entropy -sum P_t log P_s, averaged over all pairs of different crops (DINO, eq. 3).

    The teacher sees the first G of the student's S crops, the global ones; a crop is not compared with itself.

    Args:
        student: logits (S, B, K).
        teacher: logits (G, B, K), G <= S; taken as constants.
        centre: c, (K,).
        student_temperature, teacher_temperature: tau_s and tau_t.

    Returns:
        (B,), computed in float32.

    Raises:
        ValueError: there are no two different crops to compare.

    Example:
        A student whose outputs are all alike costs log K, whatever the teacher says.
    """
    crops, views = len(student), len(teacher)
    pairs = views * (crops - 1)
    if pairs < 1 or views > crops:
        raise ValueError(f"expected at least two crops and at most as many of the teacher, got {crops} and {views}")
    targets = teacher_probabilities(teacher, centre, teacher_temperature)
    logs = torch.log_softmax(student.float() / student_temperature, dim=-1)
    everything = -torch.einsum("gbk,bk->b", targets, logs.sum(0))
    own = -torch.einsum("gbk,gbk->b", targets, logs[:views])
    return (everything - own) / pairs


def teacher_probabilities(teacher: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Return P_t = softmax((g_t - c) / tau_t) over the last axis, in float32 and without gradient."""
    return torch.softmax((teacher.detach().float() - centre.float()) / temperature, dim=-1)


@torch.no_grad()
def update_centre(centre: Tensor, teacher: Tensor, momentum: float = 0.9) -> None:
    """Replace c by m c + (1 - m) times the mean of the teacher's logits (..., K), in place (DINO, eq. 4)."""
    centre.lerp_(teacher.float().flatten(0, -2).mean(0), 1 - momentum)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Replace the teacher's parameters by l theta_t + (1 - l) theta_s, in place (DINO, section 3.1).

    Raises:
        ValueError: the two are not of one kind.
    """
    ours, theirs = dict(teacher.named_parameters()), dict(student.named_parameters())
    if ours.keys() != theirs.keys():
        raise ValueError(f"parameters differ: {sorted(ours.keys() ^ theirs.keys())}")
    torch._foreach_lerp_(list(ours.values()), [theirs[name] for name in ours], 1 - momentum)


def teacher_momentum(progress: float, start: float = 0.996) -> float:
    """Return l, which rises from ``start`` to 1 along half a cosine while ``progress`` goes from 0 to 1."""
    return 1 - (1 - start) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def teacher_temperature(progress: float, start: float = 0.04, end: float = 0.07, warmup: float = 0.3) -> float:
    """Return tau_t, which goes evenly from ``start`` to ``end`` over the part ``warmup`` of the run, and stays."""
    part = 1.0 if warmup <= 0 else min(max(progress, 0.0) / warmup, 1.0)
    return start + part * (end - start)


def entropy(probabilities: Tensor) -> Tensor:
    """Return -sum P log P over the last axis, in nats; 0 where one output has everything, log K where all are alike."""
    return torch.special.entr(probabilities.float()).sum(-1)
