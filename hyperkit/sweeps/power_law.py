"""A power law through measured points, with the uncertainty of its exponent and of its line."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperkit.errors import HyperkitError


@dataclass(frozen=True)
class PowerLaw:
    """y = factor * x^exponent.

    Attributes:
        factor, exponent: of the fit.
        points: how many it was fitted to.
        residual: standard deviation of ln y about the line, with points - 2 degrees of freedom; nan for two points.
        centre: mean of ln x.
        spread: sum of the squared deviations of ln x from it.
    """

    factor: float
    exponent: float
    points: int
    residual: float
    centre: float
    spread: float

    def __call__(self, x: ArrayLike) -> NDArray[np.float64]:
        """Return the line at ``x``."""
        return self.factor * np.asarray(x, dtype=np.float64) ** self.exponent

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Return the confidence interval of the exponent, or None for two points, which leave nothing to judge by.

        ``exponent ± t(points - 2) * residual / sqrt(spread)``: exact where ln y scatters normally and alike around the
        line.
        """
        if self.points < 3:
            return None
        half = self._quantile(confidence) * self.residual / math.sqrt(self.spread)
        return self.exponent - half, self.exponent + half

    @property
    def shows_trend(self) -> bool:
        """Whether the 95 % interval of the exponent leaves 0 out."""
        interval = self.interval()
        return interval is not None and not interval[0] <= 0 <= interval[1]

    def band(self, x: ArrayLike, confidence: float = 0.95) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Return the lower and upper limit of the line itself (not of new points) at ``x``; None for two points."""
        if self.points < 3:
            return None
        away = (np.log(np.asarray(x, dtype=np.float64)) - self.centre) ** 2 / self.spread
        half = self._quantile(confidence) * self.residual * np.sqrt(1 / self.points + away)
        line = self(x)
        return line * np.exp(-half), line * np.exp(half)

    def _quantile(self, confidence: float) -> float:
        from scipy.stats import t

        return float(t.ppf(0.5 + confidence / 2, self.points - 2))


def fit_power_law(x: ArrayLike, y: ArrayLike) -> PowerLaw:
    """Fit y = factor * x^exponent by least squares of ln y.

    Several values at one x (seeds) are points of their own.

    Args:
        x, y: positive, of the same length.

    Raises:
        HyperkitError: a value is not positive and finite, or there are not two different x.
    """
    horizontal, vertical = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if horizontal.shape != vertical.shape or horizontal.ndim != 1:
        raise ValueError(f"x and y must be lists of one length, found shapes {horizontal.shape} and {vertical.shape}")
    if not all(np.isfinite(v).all() and (v > 0).all() for v in (horizontal, vertical)):
        raise HyperkitError("A power law goes through positive, finite values only.", "Of PSNR, fit the squared error.")
    if len(set(horizontal.tolist())) < 2:
        raise HyperkitError(f"A power law needs two different x at least, found {len(set(horizontal.tolist()))}.")
    log_x, log_y = np.log(horizontal), np.log(vertical)
    centre = float(log_x.mean())
    spread = float(((log_x - centre) ** 2).sum())
    exponent = float(((log_x - centre) * (log_y - log_y.mean())).sum() / spread)
    left = log_y - log_y.mean() - exponent * (log_x - centre)
    residual = math.sqrt(float((left**2).sum()) / (len(left) - 2)) if len(left) > 2 else math.nan
    factor = math.exp(float(log_y.mean()) - exponent * centre)
    return PowerLaw(factor, exponent, len(left), residual, centre, spread)


def squared_error(psnr: ArrayLike) -> NDArray[np.float64]:
    """Return the mean squared error that a PSNR in dB (peak 1) stands for: 10^(-PSNR / 10)."""
    return np.asarray(10.0 ** (-np.asarray(psnr, dtype=np.float64) / 10), dtype=np.float64)
