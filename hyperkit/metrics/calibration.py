"""How honest predicted deviations are: likelihood, and how often the truth lies within so many deviations."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from hyperkit.contracts import Scores
from hyperkit.metrics.catalogue import DEVIATION_METRICS
from hyperkit.objectives import gaussian_nll

STEPS, WIDEST = 80, 4.0
"""Shares are counted within k deviations for k = 0.05, 0.1, ..., 4."""


def gaussian_share(deviations: float) -> float:
    """Return the share of a normal distribution within so many deviations of its mean: erf(k / sqrt 2)."""
    return math.erf(deviations / math.sqrt(2))


class Calibration:
    """Compares predicted means and deviations with the truth, batch by batch.

    A model that predicts a normal distribution N(mean, deviation^2) for each value is honest where 68.3 % of the
    values lie within one deviation and 95.4 % within two. Fewer: it is too sure of itself; more: too careful.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {name: [] for name in DEVIATION_METRICS}
        """Metric -> one value per item, in order."""
        self._count = 0
        self._nll = 0.0
        self._inside = torch.zeros(STEPS, dtype=torch.int64)

    def update(self, mean: Tensor, deviation: Tensor, truth: Tensor) -> dict[str, list[float]]:
        """Take in one batch and return the values of its items: "nll", "within_1", "within_2".

        Args:
            mean, deviation, truth: (B, N, F) or any equal shapes (B, ...) with values; deviations above 0.

        Raises:
            ValueError: shapes differ, items are empty, or a deviation is not above 0.
        """
        shapes = {tuple(x.shape) for x in (mean, deviation, truth)}
        if len(shapes) > 1 or mean.ndim < 2 or not math.prod(mean.shape[1:]):
            raise ValueError(f"mean, deviation and truth must have one shape (B, N, F), got {sorted(shapes)}")
        if (deviation <= 0).any():
            raise ValueError("deviations must be above 0")
        mean, deviation, truth = (x.detach().double().flatten(1) for x in (mean, deviation, truth.to(mean.device)))
        off = ((truth - mean) / deviation).abs()
        batch = {
            "nll": gaussian_nll(mean, deviation, truth).tolist(),
            "within_1": (off <= 1).double().mean(1).tolist(),
            "within_2": (off <= 2).double().mean(1).tolist(),
        }
        for name, values in batch.items():
            self.values[name].extend(values)
        self._count += off.numel()
        self._nll += sum(batch["nll"]) * off.shape[1]
        limits = torch.tensor(self.reliability()[0], dtype=torch.float64, device=off.device)
        # values beyond the last limit, and those that are no numbers, come after all
        first = torch.searchsorted(limits, off.flatten().nan_to_num(nan=math.inf))
        self._inside += torch.bincount(first, minlength=STEPS + 1)[:STEPS].cumsum(0).cpu()
        return batch

    def result(self) -> dict[str, float]:
        """Return "nll" (nats), "within_1" and "within_2" over all values so far, and their number as "values"."""
        if not self._count:
            return {"nll": math.nan, "within_1": math.nan, "within_2": math.nan, "values": 0}
        one, two = (self._inside[round(k * STEPS / WIDEST) - 1].item() / self._count for k in (1, 2))
        return {"nll": self._nll / self._count, "within_1": one, "within_2": two, "values": self._count}

    def reliability(self) -> tuple[list[float], list[float]]:
        """Return numbers of deviations k and the share of all values so far that lie within k."""
        limits = [(i + 1) * WIDEST / STEPS for i in range(STEPS)]
        return limits, (self._inside.double() / max(self._count, 1)).tolist()

    def histogram(self) -> tuple[list[float], list[float]]:
        """Return edges of bins of |truth - mean| / deviation and the density of all values so far in each."""
        limits, shares = self.reliability()
        edges = [0.0, *limits]
        inside = [0.0, *shares]
        return edges, [(b - a) * STEPS / WIDEST for a, b in pairwise(inside)]

    def join(self, scores: Scores) -> Scores:
        """Return the scores of the same items, in the same order, with these metrics beside them.

        Raises:
            ValueError: the numbers of items differ.
        """
        if len(self.values["nll"]) != len(scores.ids):
            raise ValueError(f"scores of {len(scores.ids)} items, deviations of {len(self.values['nll'])}")
        values = {**scores.values, **{name: list(v) for name, v in self.values.items()}}
        return replace(scores, values=values, metrics={**scores.metrics, **DEVIATION_METRICS})
