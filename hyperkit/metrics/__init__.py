"""How good results are: PSNR, SSIM, LPIPS, FID, and their averages over items and classes.

``ImageMetrics`` (in ``evaluator``) and ``prepare_metrics`` (in ``prepare``) are imported on use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperkit.metrics.aggregate import aggregate, better_constant
from hyperkit.metrics.catalogue import METRICS, format_value, metric_label
from hyperkit.metrics.image import as_pictures, psnr, ssim

if TYPE_CHECKING:
    from hyperkit.metrics.evaluator import ImageMetrics
    from hyperkit.metrics.prepare import prepare_metrics

__all__ = [
    "METRICS",
    "ImageMetrics",
    "aggregate",
    "as_pictures",
    "better_constant",
    "format_value",
    "metric_label",
    "prepare_metrics",
    "psnr",
    "ssim",
]

_LAZY = {"ImageMetrics": "hyperkit.metrics.evaluator", "prepare_metrics": "hyperkit.metrics.prepare"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
