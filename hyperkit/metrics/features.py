"""How well rendered features agree with those of the encoder that taught them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from hyperkit.contracts import Scores
from hyperkit.metrics.aggregate import ALL
from hyperkit.metrics.catalogue import DISTILLED_METRICS
from hyperkit.metrics.segmentation import PartMetrics


class FeatureMetrics:
    """Collects the error of features over objects' pixels, batch by batch, beside the metrics of parts.

    ``feature_error`` is one view's mean squared error in units of the variance over the views that were trained on: 1
    for somebody who always says the mean, and None of a view that shows no object, which ``aggregate`` leaves out.
    ``feature_explained`` is the share of the variance over a whole set that is explained,
    1 - sum |F - F_t|^2 / sum |F_t - mean F_t|^2, for each class about its own mean.

    Args:
        parts: collects the others.

    Attributes:
        unavailable, weights: those of ``parts``.
        notes: metric -> what to keep in mind when reading its value.
    """

    def __init__(self, parts: PartMetrics) -> None:
        self.parts = parts
        self.unavailable, self.weights = parts.unavailable, parts.weights
        self.notes: dict[str, str] = {}
        self._errors: list[float | None] = []
        self._sums: dict[str, Tensor] = {}

    def update(
        self, scores: Scores, found: Tensor, truth: Tensor | None, shown: Tensor, classes: Sequence[str], reason: str
    ) -> Scores:
        """Take in one batch whose other metrics have been taken, and return all of its scores.

        Args:
            scores: the others.
            found, truth: (B, R, F); the truth None where it cannot be had.
            shown: (B, R) bool, the pixels that show an object.
            classes: one per item.
            reason: why there is no truth, where there is none.
        """
        if truth is None:
            self.unavailable.update(dict.fromkeys(DISTILLED_METRICS, reason))
            return self._joined(scores, [])
        values: list[float | None] = []
        for prediction, target, inside, name in zip(found.double(), truth.double(), shown, classes, strict=True):
            own, aim = prediction[inside], target[inside]
            error = (own - aim).square().sum()
            values.append(float(error) / aim.numel() if aim.numel() else None)
            # pixels, error, sum of squares, sum: all that the shares need, of one class or of all together
            sums = torch.cat((torch.stack((aim.new_tensor(float(len(aim))), error, aim.square().sum())), aim.sum(0)))
            self._sums[name] = self._sums.get(name, 0) + sums.cpu()
        self._errors += values
        return self._joined(scores, values)

    def _joined(self, scores: Scores, values: Sequence[float | None]) -> Scores:
        metrics = {**scores.metrics, "feature_error": DISTILLED_METRICS["feature_error"]}
        if "feature_error" in self.unavailable:
            missing = {**scores.unavailable, "feature_error": self.unavailable["feature_error"]}
            return replace(scores, metrics=metrics, unavailable=missing)
        kept = cast("list[float]", list(values))
        return replace(scores, values={**scores.values, "feature_error": kept}, metrics=metrics)

    def scores(self) -> Scores:
        """Return the per-item values of all batches so far, in their order."""
        return self._joined(self.parts.scores(), self._errors)

    def distribution(self) -> dict[str, dict[str, float | None]]:
        """Return the metrics of whole sets: name -> "all" or a class -> value."""
        found = self.parts.distribution()
        self.notes = self.parts.notes
        if self._sums and "feature_explained" not in self.unavailable:
            everything = {ALL: torch.stack(list(self._sums.values())).sum(0), **self._sums}
            found["feature_explained"] = {name: explained(sums) for name, sums in everything.items()}
            shown = "over the pixels that show an object"
            own = {"feature_error": shown, "feature_explained": f"{shown}; 0 for their mean, in each row its own"}
            self.notes = {**self.notes, **own}
        elif "feature_explained" in self.unavailable:
            found["feature_explained"] = {}
        return found


def explained(sums: Tensor) -> float | None:
    """Return the share of the variance that is explained, from pixels, error, sum of squares and sum; None of none."""
    count, error, squares, total = sums[0], sums[1], sums[2], sums[3:]
    variance = squares - total.square().sum() / count.clamp_min(1)
    return float(1 - error / variance) if variance > 0 else None
