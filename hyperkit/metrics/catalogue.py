"""The metrics that hyperkit knows: their units, and which way is better."""

from __future__ import annotations

from hyperkit.contracts import Metric

METRICS: dict[str, Metric] = {
    "psnr": Metric("PSNR", "dB", higher_is_better=True),
    "ssim": Metric("SSIM", "", higher_is_better=True),
    "lpips": Metric("LPIPS", "", higher_is_better=False),
    "fid_64": Metric("FID-64", "", higher_is_better=False),
    "fid_2048": Metric("FID-2048", "", higher_is_better=False),
}
"""Name in ``Scores`` and ``results.json`` -> how it is read.

FID-64 and FID-2048 are the Frechet distances of 64 and of 2048 Inception features. The paper that hyperkit reproduces
says "torchmetrics' default", which is 2048, but its values (0.15 to 1.0) look like 64 features: an inference of ours.
Both are therefore computed, and a table says which is which.
"""

_DECIMALS = {"psnr": 3}


def metric_label(name: str) -> str:
    """Return a table heading: name, unit and the direction of better results, as in ``PSNR (dB) ↑``."""
    metric = METRICS.get(name)
    if metric is None:
        return name
    unit = f" ({metric.unit})" if metric.unit else ""
    return f"{metric.name}{unit} {'↑' if metric.higher_is_better else '↓'}"


def format_value(name: str, value: float) -> str:
    """Return ``value`` with as many decimals as the papers print: 3 for PSNR, 4 for the others."""
    return f"{value:.{_DECIMALS.get(name, 4)}f}"
