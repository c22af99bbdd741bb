"""The metrics of tasks with pictures, from their own batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hyperkit.contracts import Batch, Rendered, Scores, Signal
from hyperkit.metrics.evaluator import ImageMetrics
from hyperkit.metrics.image import as_pictures


class PictureMeter:
    """``ImageMetrics`` of whole pictures.

    Args:
        device: where the metrics' networks run.
        names: which metrics; None: all.
    """

    def __init__(self, device: torch.device | str, names: Sequence[str] | None = None) -> None:
        self._metrics = ImageMetrics(device) if names is None else ImageMetrics(device, names)
        self.unavailable, self.weights, self.notes = (
            self._metrics.unavailable,
            self._metrics.weights,
            self._metrics.notes,
        )

    def update(self, output: Rendered | Signal, batch: Batch) -> Scores:
        """Take in one batch and return its scores."""
        prediction, truth = pictures(output.values, batch), pictures(batch.truth, batch)
        return self._metrics.update(prediction.float(), truth, batch.ids, batch.classes)

    def scores(self) -> Scores:
        """Return the per-item values of all batches so far."""
        return self._metrics.scores()

    def distribution(self) -> Mapping[str, Mapping[str, float | None]]:
        """Return FID."""
        return self._metrics.distribution()


def pictures(values: Tensor, batch: Batch) -> Tensor:
    """Return values (B, H * W, C) of a whole-picture query as pictures (B, C, H, W)."""
    assert batch.query_size is not None
    return as_pictures(values, batch.query_size)
