"""How well parts are told apart: intersection over union, per part, per class of object and per view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperkit.contracts import Scores
from hyperkit.data.parts import Parts
from hyperkit.metrics.aggregate import ALL, mean
from hyperkit.metrics.catalogue import PART_METRICS
from hyperkit.metrics.evaluator import ImageMetrics


def confusion(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Count pixels by their label and what was predicted, (..., N) each -> (..., K, K) int64 for K classes.

    Row i, column j holds the pixels of label i that were predicted as j.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"predictions {tuple(prediction.shape)} and labels {tuple(truth.shape)} differ")
    index = truth.long() * classes + prediction.long()
    counts = torch.zeros(*index.shape[:-1], classes * classes, dtype=torch.int64, device=index.device)
    counts.scatter_add_(-1, index, torch.ones_like(index))
    return counts.unflatten(-1, (classes, classes))


def iou(counts: Tensor) -> Tensor:
    """Return intersection over union of each class, (..., K, K) -> (..., K) float64; nan where the union is empty."""
    hits = counts.diagonal(dim1=-2, dim2=-1).double()
    return hits / (counts.sum(-1) + counts.sum(-2) - hits)


def mean_iou(counts: Tensor, parts: Sequence[int]) -> float | None:
    """Return the mean of ``iou`` over some classes; those with an empty union are left out. None where all are."""
    values = iou(counts)[list(parts)]
    values = values[~values.isnan()]
    return mean(values.tolist()) if len(values) else None


class PartMetrics:
    """Collects the metrics of pictures and of label maps, batch by batch; the interface of ``ImageMetrics``.

    ``miou`` is taken on all pixels of a class together, over the parts of that class; for "all", on those of all
    classes, over all of their parts. A prediction of another class's part is an error like any other.
    ``object_miou`` is that of one view, over the parts of its class that it shows or is said to show; 1 where there are
    none. The background counts in neither.

    Args:
        images: collects the metrics of the pictures.
        parts: which there are.
        constants: class -> (S, S), a label map to compare with.

    Attributes:
        unavailable, weights: those of ``images``.
        notes: metric -> what to keep in mind when reading its value; of the mIoU: every part's (filled by
            ``distribution``).
    """

    def __init__(self, images: ImageMetrics, parts: Parts, constants: Mapping[str, Tensor] | None = None) -> None:
        self.images, self.parts = images, parts
        self.constants = dict(constants or {})
        self.unavailable, self.weights = images.unavailable, images.weights
        self.notes: dict[str, str] = {}
        self._counts: dict[str, Tensor] = {}
        self._of_constants: dict[str, Tensor] = {}
        self._objects: list[float] = []

    def update(
        self,
        prediction: Tensor,
        truth: Tensor,
        labels: Tensor,
        true_labels: Tensor,
        ids: Sequence[str],
        classes: Sequence[str],
    ) -> Scores:
        """Take in one batch and return its scores.

        Args:
            prediction, truth: (B, 3, H, W).
            labels, true_labels: (B, H * W), 0 to K.
            ids, classes: one per item.
        """
        scores = self.images.update(prediction, truth, ids, classes)
        values: list[float] = []
        each = confusion(labels, true_labels, len(self.parts) + 1).cpu()
        for counts, name, shown in zip(each, classes, true_labels, strict=True):
            self._counts[name] = self._counts.get(name, 0) + counts
            own = mean_iou(counts, tuple(self.parts.of_class(name).values()))
            values.append(1.0 if own is None else own)
            if name in self.constants:
                given = confusion(self.constants[name].flatten().to(shown.device), shown, len(self.parts) + 1).cpu()
                self._of_constants[name] = self._of_constants.get(name, 0) + given
        self._objects += values
        return self._joined(scores, values)

    def _joined(self, scores: Scores, values: Sequence[float]) -> Scores:
        metrics = {**scores.metrics, "object_miou": PART_METRICS["object_miou"]}
        joined = {**scores.values, "object_miou": list(values)}
        return Scores(joined, scores.ids, scores.classes, metrics, scores.unavailable)

    def scores(self) -> Scores:
        """Return the per-item values of all batches so far, in their order."""
        return self._joined(self.images.scores(), self._objects)

    def distribution(self) -> dict[str, dict[str, float | None]]:
        """Return the metrics of whole sets: name -> "all" or a class -> value."""
        found = {name: dict(values) for name, values in self.images.distribution().items()}
        for name, counts in (("miou", self._counts), ("miou_of_mean", self._of_constants)):
            if counts:
                found[name] = self._grouped(counts)
        self.notes = {**self.images.notes, "miou": f"over all pixels, without background. {self._listed()}"}
        return found

    def _listed(self) -> str:
        lines = []
        for name, parts in self.by_part().items():
            listed = [f"{part} {'n/a' if e['iou'] is None else format(e['iou'], '.3f')}" for part, e in parts.items()]
            lines.append(f"{name}: {', '.join(listed)}")
        return "; ".join(lines)

    def _grouped(self, counts: Mapping[str, Tensor]) -> dict[str, float | None]:
        numbers = {name: tuple(self.parts.of_class(name).values()) for name in counts}
        everything = sorted({number for own in numbers.values() for number in own})
        groups: dict[str, float | None] = {ALL: mean_iou(torch.stack(list(counts.values())).sum(0), everything)}
        return groups | {name: mean_iou(own, numbers[name]) for name, own in counts.items()}

    def by_part(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return class -> part -> ``iou``, ``iou_of_mean`` (None where nobody has the part) and ``pixels`` of truth."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for name, counts in self._counts.items():
            own = iou(counts).tolist()
            constant = iou(self._of_constants[name]).tolist() if name in self._of_constants else None
            found[name] = {}
            for part, number in self.parts.of_class(name).items():
                entry = {"iou": _known(own[number]), "pixels": int(counts[number].sum())}
                if constant is not None:
                    entry["iou_of_mean"] = _known(constant[number])
                found[name][part] = entry
        return found


def _known(value: float) -> float | None:
    return value if value == value else None
