"""What the tasks with pictures share: their metrics, and the pictures of their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hyperkit.contracts import Batch, Rendered, Scores, Signal
from hyperkit.metrics.evaluator import ImageMetrics
from hyperkit.metrics.image import as_pictures
from hyperkit.models.inr_hypernet import INRHypernet
from hyperkit.tasks.inr import Example, INRTask, Meter, Output, current_precision

QUICK = ("psnr", "ssim")
"""The metrics that validation during training takes."""


class PictureTask(INRTask):
    """A task that reads pictures and whose answers are pictures."""

    reads = "picture"

    def meter(self, device: torch.device | str) -> Meter[Any]:
        """Return PSNR, SSIM, LPIPS and FID."""
        return PictureMeter(ImageMetrics(device))

    def quick_meter(self, device: torch.device | str) -> Meter[Any]:
        """Return PSNR and SSIM."""
        return PictureMeter(ImageMetrics(device, QUICK))

    def media(self, model: nn.Module, batch: Batch) -> Mapping[str, np.ndarray]:
        """Return one picture: inputs, truth and prediction of the first items."""
        assert isinstance(model, INRHypernet)
        output, _ = self.predict(model, batch, precision=current_precision(model.device))
        return {"validation": overview(output, batch)}

    def write_examples(self, path: Path, batch: Batch, output: Output, examples: Sequence[Example]) -> Path:
        """Write input, truth, prediction and difference of a few items."""
        return write_picture_examples(path, batch, output, examples)


class PictureMeter(Meter[ImageMetrics]):
    """``ImageMetrics`` of whole pictures."""

    def update(self, output: Output, batch: Batch) -> Scores:
        """Take in one batch and return its scores."""
        prediction, truth = pictures(output.values, batch), pictures(batch.truth, batch)
        return self.metrics.update(prediction.float(), truth, batch.ids, batch.classes)


def pictures(values: Tensor, batch: Batch) -> Tensor:
    """Return values (B, H * W, C) of a whole-picture query as pictures (B, C, H, W)."""
    assert batch.query_size is not None
    return as_pictures(values, batch.query_size)


def overview(output: Rendered | Signal, batch: Batch) -> np.ndarray:
    """Return a sheet (H, W, 3) uint8 of the first items: first input, truth, prediction."""
    from hyperkit.reports.pictures import contact_sheet, to_uint8

    prediction, truth = pictures(output.values, batch), pictures(batch.truth, batch)
    rows = [
        [to_uint8(p) for p in (batch.context[i, 0], truth[i], prediction[i])] for i in range(min(6, len(batch.ids)))
    ]
    return contact_sheet(rows, column_titles=["input", "truth", "prediction"], row_titles=list(batch.ids[:6]))


def write_picture_examples(path: Path, batch: Batch, output: Rendered | Signal, examples: Sequence[Example]) -> Path:
    """Write input, truth, prediction and difference of a few items."""
    from hyperkit.reports.pictures import Example as Row
    from hyperkit.reports.pictures import comparison_sheet, to_uint8
    from hyperkit.reports.video import write_png

    prediction, truth = pictures(output.values, batch), pictures(batch.truth, batch)
    rows = [
        Row(
            one.title,
            to_uint8(batch.context[one.index, 0]),
            to_uint8(truth[one.index]),
            to_uint8(prediction[one.index]),
            one.psnr,
            batch.ids[one.index],
        )
        for one in examples
    ]
    write_png(path, np.asarray(comparison_sheet(rows)))
    return path
