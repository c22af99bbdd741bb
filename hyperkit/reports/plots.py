"""Curves of a training run, drawn from its ``metrics.jsonl``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperkit.files import atomic_path
from hyperkit.metrics.catalogue import CATALOGUE

Series = tuple[NDArray[np.float64], NDArray[np.float64]]

TRAIN, OTHERS, GREY = "#4c78a8", ("#e4572e", "#59a14f", "#b07aa1"), "#6b6b6b"
DASHES = ((0, (5, 3)), (0, (1.5, 2)), (0, (5, 2, 1, 2)))


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the records of a ``metrics.jsonl`` in order of steps; each line is an object with "step" and "split".

    A line that a killed run left unfinished is skipped. Where a resumed run wrote steps again, the later record counts.
    """
    records: dict[tuple[float, str], dict[str, Any]] = {}
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), (int, float)):
            records[record["step"], str(record.get("split", "train"))] = record
    return sorted(records.values(), key=lambda record: record["step"])


def series(records: Sequence[Mapping[str, Any]], split: str, name: str) -> Series:
    """Return steps and values of one metric; records without a finite number for it are left out."""
    pairs = [
        (r["step"], r[name])
        for r in records
        if r.get("split", "train") == split and isinstance(r.get(name), (int, float)) and np.isfinite(r[name])
    ]
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def smooth(values: NDArray[np.float64], span: int) -> NDArray[np.float64]:
    """Return the centred running mean with triangular weights over ``2 span - 1`` values; fewer at the ends."""
    weights = np.bartlett(2 * max(span, 1) + 1)[1:-1]
    middle = slice(len(weights) // 2, len(weights) // 2 + len(values))
    return np.convolve(values, weights)[middle] / np.convolve(np.ones_like(values), weights)[middle]


def training_curves(
    metrics_jsonl: str | os.PathLike[str],
    out_png: str | os.PathLike[str],
    constants: Mapping[str, float] | None = None,
    title: str = "",
    metric: str = "psnr",
) -> bool:
    """Draw loss and a metric of training and validation against the step.

    Training values are drawn pale, with their running mean over them.

    Args:
        metrics_jsonl: the run's ``metrics.jsonl``.
        out_png: the picture to write.
        constants: name ("white", "mean picture") -> value of the metric, drawn as dashed lines.
        title: above the panels.
        metric: beside the loss; its name in the records.

    Returns:
        False, with nothing written, where there is nothing to draw yet.

    Raises:
        RunFailed: the disk is full or the place cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(metrics_jsonl)
    records = read_metrics(path) if path.is_file() else []
    splits = list(dict.fromkeys(["train", *(str(r.get("split", "train")) for r in records)]))
    names = [n for n in ("loss", metric) if any(len(series(records, s, n)[0]) for s in splits)]
    if not names:
        return False
    # the object interface: no global state, no display needed
    figure = Figure(figsize=(5.2 * len(names), 3.7), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for k, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), k + 1)
        _panel(axes, records, splits, name)
        if name == metric:
            _constant_lines(axes, constants or {}, metric)
            if not CATALOGUE[metric].unit:  # a share means something against 0
                axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8.5, loc="upper right" if name == "loss" else "lower right")
    if title:
        figure.suptitle(title, fontsize=11)
    with atomic_path(out_png) as temporary:
        figure.savefig(temporary, format="png")
    return True


def _panel(axes: Any, records: Sequence[Mapping[str, Any]], splits: Sequence[str], name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    positive = True
    for index, split in enumerate(splits):
        steps, values = series(records, split, name)
        if not len(steps):
            continue
        positive = positive and bool((values > 0).all())
        if split == "train":
            if len(values) > 20:
                axes.plot(steps, values, color=TRAIN, alpha=0.25, linewidth=0.8)
                axes.plot(steps, smooth(values, len(values) // 40 + 1), color=TRAIN, linewidth=1.6, label="train")
            else:
                axes.plot(steps, values, color=TRAIN, linewidth=1.6, marker=".", label="train")
        else:
            label = "validation" if split in ("val", "valid") else split
            colour = OTHERS[(index - 1) % len(OTHERS)]
            axes.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=3.5, label=label)
    if name == "loss" and positive:  # likelihoods may be negative, which a logarithmic axis would leave out
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss" if name == "loss" else _label(name))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(True, which="both" if name == "loss" else "major", color="#e3e3e3", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _label(name: str) -> str:
    metric = CATALOGUE[name]
    return f"{metric.name} ({metric.unit})" if metric.unit else metric.name


def _constant_lines(axes: Any, constants: Mapping[str, float], metric: str) -> None:
    for index, (name, value) in enumerate(constants.items()):
        style = DASHES[index % len(DASHES)]
        shown = f"{value:.2f} dB" if CATALOGUE[metric].unit == "dB" else f"{value:.3f}"
        axes.axhline(value, color=GREY, linewidth=1.1, linestyle=style, label=f"{name}: {shown}", zorder=1)


def steps_figure(
    path: str | os.PathLike[str], curves: Mapping[str, Sequence[tuple[float, float]]], threshold: float
) -> Path:
    """Draw PSNR against steps, on a logarithmic axis that begins at step 0, with the PSNR that is compared.

    Args:
        path: of the picture (PNG).
        curves: name -> (step, PSNR in dB).
        threshold: PSNR in dB, a dashed line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    for colour, (name, curve) in zip((TRAIN, *OTHERS), curves.items(), strict=False):
        steps, values = zip(*curve, strict=True)
        axes.plot(steps, values, color=colour, linewidth=1.6, label=name)
    axes.axhline(threshold, color=GREY, linewidth=1.1, linestyle=DASHES[0], label=f"{threshold:.2f} dB", zorder=1)
    axes.set_xscale("symlog", linthresh=5)
    axes.set_xlabel("step")
    axes.set_ylabel("PSNR (dB)")
    axes.grid(True, color="#e3e3e3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return Path(path)
