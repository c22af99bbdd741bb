"""How good results are: metrics of pictures, sounds and predicted deviations, and their averages.

``ImageMetrics`` (in ``evaluator``), ``SoundMetrics`` (in ``sound``), ``Calibration`` (in ``calibration``) and
``prepare_metrics`` (in ``prepare``) are imported on use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperkit.metrics.aggregate import aggregate, better_constant
from hyperkit.metrics.catalogue import (
    CATALOGUE,
    DEVIATION_METRICS,
    METRICS,
    SOUND_METRICS,
    format_value,
    metric_label,
)
from hyperkit.metrics.image import as_pictures, psnr, ssim

if TYPE_CHECKING:
    from hyperkit.metrics.calibration import Calibration
    from hyperkit.metrics.evaluator import ImageMetrics
    from hyperkit.metrics.prepare import prepare_metrics
    from hyperkit.metrics.sound import SoundMetrics

__all__ = [
    "CATALOGUE",
    "DEVIATION_METRICS",
    "METRICS",
    "SOUND_METRICS",
    "Calibration",
    "ImageMetrics",
    "SoundMetrics",
    "aggregate",
    "as_pictures",
    "better_constant",
    "format_value",
    "metric_label",
    "prepare_metrics",
    "psnr",
    "ssim",
]

_LAZY = {
    "Calibration": "hyperkit.metrics.calibration",
    "ImageMetrics": "hyperkit.metrics.evaluator",
    "SoundMetrics": "hyperkit.metrics.sound",
    "prepare_metrics": "hyperkit.metrics.prepare",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
