"""How well features tell classes apart without any training: weighted k nearest neighbours, as DINO reports it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def knn_votes(
    bank: Tensor, labels: Tensor, queries: Tensor, classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Return how much the k most similar features of the bank speak for each class.

    Features are compared by cosine, and a neighbour of similarity s votes for its class with exp(s / temperature)
    (Wu et al. 2018; Caron et al. 2021, with k = 20 and 0.07).

    Args:
        bank: (N, D), with labels (N,) in 0 ... classes - 1.
        queries: (Q, D).
        k: neighbours that vote; all, where the bank has fewer.

    Returns:
        (Q, classes), float32, not negative.

    Raises:
        ValueError: shapes do not match, or the bank is empty.
    """
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1] or labels.shape != bank.shape[:1]:
        raise ValueError(
            "expected a bank (N, D), labels (N,) and queries (Q, D), "
            f"got {tuple(bank.shape)}, {tuple(labels.shape)} and {tuple(queries.shape)}"
        )
    if not len(bank) or k < 1:
        raise ValueError(f"expected a bank with features and at least one neighbour, got {len(bank)} and k = {k}")
    similarity = F.normalize(queries.float(), dim=1) @ F.normalize(bank.float(), dim=1).T
    nearest, index = similarity.topk(min(k, len(bank)), dim=1)
    votes = similarity.new_zeros(len(queries), classes)
    # relative to similarity 1, so that the largest weight is 1
    return votes.scatter_add_(1, labels[index], torch.exp((nearest - 1) / temperature))


def knn_correct(
    bank: Tensor, labels: Tensor, queries: Tensor, truth: Tensor, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Return for each query 1 where the class with the most votes is its own, else 0; see ``knn_votes``.

    Args:
        bank, labels, queries, k, temperature: as for ``knn_votes``.
        truth: (Q,), the queries' classes.

    Returns:
        (Q,), float32; its mean is the accuracy.
    """
    classes = int(torch.cat((labels, truth)).max()) + 1 if len(truth) else 1
    return (knn_votes(bank, labels, queries, classes, k, temperature).argmax(1) == truth).float()
