"""Running the rows that were asked for, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from hyperkit.bench import report
from hyperkit.bench.layers import field_mlp_64, field_mlp_256
from hyperkit.bench.quickstart import quickstart_to_psnr
from hyperkit.bench.rendering import render_128, render_batch_8, render_memory_1024
from hyperkit.bench.report import Row
from hyperkit.bench.settings import Bench, sizes_for
from hyperkit.bench.steps import train_step_vit_b
from hyperkit.bench.training import tto_100
from hyperkit.errors import HyperkitError, unknown_name
from hyperkit.training.devices import resolve_device, resolve_precision
from hyperkit.training.progress import ProgressSink
from hyperkit.workflows.load import PRECISIONS

ROWS: dict[str, Callable[[Bench], Row]] = {
    "render_128": render_128,
    "render_batch_8": render_batch_8,
    "field_mlp_256": field_mlp_256,
    "field_mlp_64": field_mlp_64,
    "train_step_vit_b": train_step_vit_b,
    "tto_100": tto_100,
    "render_memory_1024": render_memory_1024,
    "quickstart_to_psnr": quickstart_to_psnr,
}
ON_REQUEST = ("quickstart_to_psnr",)
"""Rows that take many minutes: only when they are asked for."""
ON_CUDA = ("render_batch_8",)
"""Rows that are for GPUs: on a CPU only when they are asked for."""


def run(
    names: Sequence[str] | None = None,
    *,
    repeats: int = 5,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "32", "bf16"] = "auto",
    threads: int | None = None,
    checkpoint: Path | None = None,
    debug: bool = False,
    say: Callable[[str], None] = lambda text: None,
    show: Callable[[Row], None] = lambda row: None,
    progress: ProgressSink | None = None,
) -> dict[str, Any]:
    """Measure rows and return the result: device, versions, rows.

    Args:
        names: rows; None: all but those that are only for request, or only for GPUs.
        repeats: rounds of every comparison.
        device, precision: where, and in which precision the package trains.
        threads: of a CPU; None leaves torch's choice.
        checkpoint: a model whose field is rendered, in place of one that is fitted on first use.
        debug: sizes that take seconds and say nothing.
        say: is told what is being done.
        show: is given each row when it is measured.
        progress: is told of every step while the field is fitted on first use.

    Raises:
        HyperkitError: there is no such row or device, or the checkpoint does not fit.
    """
    for name in names or ():
        if name not in ROWS:
            raise unknown_name("row", name, ROWS)
    if repeats < 1:
        raise HyperkitError(f"--repeats is {repeats}.", "Give 1 or more; medians need at least five.")
    if threads is not None:
        torch.set_num_threads(threads)
    place = torch.device(resolve_device(device))
    bench = Bench(
        place,
        PRECISIONS[resolve_precision(precision, place.type)],
        repeats,
        sizes_for(place, debug),
        checkpoint,
        say,
        progress,
        isolated=place.type == "cpu" and not debug,
    )
    default = [n for n in ROWS if n not in ON_REQUEST and (place.type == "cuda" or n not in ON_CUDA)]
    rows = []
    for name in names or default:
        say(f"measuring {name}")
        rows.append(measure(name, bench))
        show(rows[-1])
    return report.to_json(bench, rows)


def measure(name: str, bench: Bench) -> Row:
    """Measure one row; where memory does not suffice, that is its result."""
    try:
        return ROWS[name](bench)
    except torch.OutOfMemoryError:
        return Row(name, None, "", more={"note": "out of memory"})
    finally:
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
