"""The metrics that hyperkit knows: their units, and which way is better."""

from __future__ import annotations

import math

from hyperkit.contracts import Metric

METRICS: dict[str, Metric] = {
    "psnr": Metric("PSNR", "dB", higher_is_better=True),
    "ssim": Metric("SSIM", "", higher_is_better=True),
    "lpips": Metric("LPIPS", "", higher_is_better=False),
    "fid_64": Metric("FID-64", "", higher_is_better=False),
    "fid_2048": Metric("FID-2048", "", higher_is_better=False),
}
"""Metrics of pictures: name in ``Scores`` and ``results.json`` -> how it is read.

FID-64 and FID-2048 are the Frechet distances of 64 and of 2048 Inception features. The paper that hyperkit reproduces
says "torchmetrics' default", which is 2048, but its values (0.15 to 1.0) look like 64 features: an inference of ours.
Both are therefore computed, and a table says which is which.
"""

SOUND_METRICS: dict[str, Metric] = {
    "psnr": METRICS["psnr"],
    "si_sdr": Metric("SI-SDR", "dB", higher_is_better=True),
    "lsd": Metric("LSD", "dB", higher_is_better=False),
}
"""Metrics of sounds: signal to noise for a peak of 1; the same against the part that is the truth, scaled; and the
log-spectral distance."""

DEVIATION_METRICS: dict[str, Metric] = {
    "nll": Metric("NLL", "nats", higher_is_better=False),
    "within_1": Metric("within 1 deviation", "", higher_is_better=True),
    "within_2": Metric("within 2 deviations", "", higher_is_better=True),
}
"""Metrics of predicted deviations: negative log-likelihood per value, and the shares of values that lie within one and
two deviations of the mean. More is not better for these shares: see ``IDEALS``."""

PART_METRICS: dict[str, Metric] = {
    "object_miou": Metric("object mIoU", "", higher_is_better=True),
    "miou": Metric("mIoU", "", higher_is_better=True),
    "miou_of_mean": Metric("mIoU of mean label map", "", higher_is_better=True),
}
"""Metrics of part labels, over parts without the background: the mean over the parts of one view; over those of all
pixels of a set together, which is what papers report; and the latter of each class's most frequent label per pixel."""

FEATURE_METRICS: dict[str, Metric] = {"knn": Metric("k-NN accuracy", "", higher_is_better=True)}
"""Metrics of features: the share of pictures whose nearest neighbours are of their own class."""

DISTILLED_METRICS: dict[str, Metric] = {
    "feature_error": Metric("feature error", "", higher_is_better=False),
    "feature_explained": Metric("features explained", "", higher_is_better=True),
}
"""Metrics of distilled features, over objects' pixels: the squared error relative to the variance over the training
views, of one view; and the share of the variance over a whole set that is explained."""

IDEALS = {f"within_{k}": math.erf(k / math.sqrt(2)) for k in (1, 2)}
"""Metric -> the value that is best, where neither more nor less is: those of a normal distribution."""

CATALOGUE: dict[str, Metric] = {
    **METRICS,
    **SOUND_METRICS,
    **DEVIATION_METRICS,
    **PART_METRICS,
    **FEATURE_METRICS,
    **DISTILLED_METRICS,
}

_DECIMALS = {"psnr": 3, "si_sdr": 3, "lsd": 3}


def metric_name(name: str) -> str:
    """Return what people call a metric, as in ``PSNR``; one that is not known keeps its name."""
    return CATALOGUE[name].name if name in CATALOGUE else name


def metric_label(name: str) -> str:
    """Return a table heading: name, unit and the direction of better results, as in ``PSNR (dB) ↑``."""
    metric = CATALOGUE.get(name)
    if metric is None:
        return name
    if name in IDEALS:
        return f"{metric.name} (ideal {IDEALS[name]:.3f})"
    unit = f" ({metric.unit})" if metric.unit else ""
    return f"{metric.name}{unit} {'↑' if metric.higher_is_better else '↓'}"


def metric_value(name: str, value: float) -> str:
    """Return a value with the metric's name and unit, as in ``PSNR 20.000 dB``."""
    unit = CATALOGUE[name].unit if name in CATALOGUE else ""
    return f"{metric_name(name)} {format_value(name, value)}" + (f" {unit}" if unit else "")


def format_value(name: str, value: float) -> str:
    """Return ``value`` with as many decimals as the papers print: 3 for decibels, 4 for the others."""
    return f"{value:.{_DECIMALS.get(name, 4)}f}"
