"""How good results are: PSNR, SSIM, LPIPS, FID, and their averages over items and classes."""

from __future__ import annotations

from hyperkit.metrics.aggregate import aggregate, better_constant
from hyperkit.metrics.catalogue import METRICS, metric_label
from hyperkit.metrics.image import as_pictures, psnr, ssim

__all__ = ["METRICS", "aggregate", "as_pictures", "better_constant", "metric_label", "psnr", "ssim"]
