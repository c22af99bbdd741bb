"""Pictures of results that the tasks with pictures share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyperkit.contracts import Batch, Rendered, Signal
from hyperkit.tasks.inr import Example
from hyperkit.tasks.meters import pictures

QUICK = ("psnr", "ssim")
"""The metrics of pictures that validation during training takes."""


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
