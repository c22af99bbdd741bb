"""``hyperkit evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperkit.cli import options as o


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="Checkpoint, or the folder of a run (its best).")],
    data: o.DataOption = None,
    split: Annotated[
        str, typer.Option("--split", help="train, val or test; of sentences seen, unseen or test (both).")
    ] = "test",
    classes: o.ClassesOption = None,
    views: o.ViewsOption = None,
    tto: Annotated[int, typer.Option("--tto", metavar="STEPS", min=0, help="Test-time optimisation steps.")] = 0,
    shuffle_context: Annotated[
        bool, typer.Option("--shuffle-context", help="Give each item the context of another one of its class.")
    ] = False,
    shuffle_over: Annotated[
        str, typer.Option("--shuffle-over", help="With --shuffle-context: class, or all items.")
    ] = "class",
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="At most N items.")] = None,
    out: o.OutOption = None,
    device: o.DeviceOption = None,
    precision: o.PrecisionOption = None,
    assignments: o.SetOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Measure a checkpoint on its frozen test items, per class and averaged.

    Views and pictures: PSNR, SSIM, LPIPS, FID; with parts (segment) also the mIoU of label maps, and the share of the
    variance of distilled features that is explained. Sounds: PSNR, SI-SDR, log-spectral distance. With a predicted
    deviation (ponp) also likelihood and calibration. Sentences: PSNR, SSIM, LPIPS of their scenes' own views, and
    retrieval.

    Writes CSV, JSON and Markdown tables and a picture of the worst, median and best examples.

    Example: hyperkit evaluate runs/a/checkpoints/best.pt --tto 100 --json
    """
    from hyperkit.workflows.evaluate import evaluate as work

    result = work(
        checkpoint,
        overrides=o.overrides(assignments, data=data, device=device, precision=precision),
        split=split,
        classes=o.split_names(classes),
        views=views,
        tto=tto,
        shuffle_context=shuffle_over if shuffle_context else "none",
        limit=limit,
        out=out,
    )
    result.show()
    o.emit(result.run, result.to_json(), as_json)
