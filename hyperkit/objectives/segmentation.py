"""The likelihood of part labels along rays."""

from __future__ import annotations

import torch
from torch import Tensor


def part_nll(probabilities: Tensor, opacity: Tensor, labels: Tensor, noise: float = 0.01) -> Tensor:
    """Return each item's negative log-likelihood of the labels of its rays, in nats per ray.

    A ray ends at sample i with the probability w_i that its colour is weighed by (NeRF, eq. 3), and what it meets there
    is part k with probability p_ik: so it shows part k with probability P_k = sum_i w_i p_ik, and the background with
    P_0 = 1 - sum_i w_i, what passes through. These add up to 1. Compositing logits instead would let a sample that is
    hardly there outvote the surface. A share ``noise`` of the labels is taken to be arbitrary, as at the parts' borders
    they nearly are: -log((1 - noise) P_label + noise / (K + 1)), which also bounds the gradient.

    Args:
        probabilities: (B, R, K), composited; they add up to the opacity.
        opacity: (B, R).
        labels: (B, R) int64: 0 for the background, k for part k.
        noise: in [0, 1).

    Returns:
        (B,).

    Example:
        An opaque ray whose samples are surely of its part costs -log(1 - noise + noise / (K + 1)), nearly 0.
    """
    everything = torch.cat(((1 - opacity).unsqueeze(-1), probabilities), dim=-1).float()
    given = everything.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return -torch.log((1 - noise) * given + noise / everything.shape[-1]).mean(1)
