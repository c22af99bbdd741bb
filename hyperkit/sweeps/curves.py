"""A sweep's metric against the training data or the size of the encoder: points over seeds, and power laws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hyperkit.errors import HyperkitError
from hyperkit.metrics.catalogue import CATALOGUE, IDEALS
from hyperkit.sweeps.cell import Label
from hyperkit.sweeps.grid import FAMILIES
from hyperkit.sweeps.lines import FRESH, axes_of, names_of, text_of
from hyperkit.sweeps.power_law import PowerLaw, fit_power_law, squared_error
from hyperkit.sweeps.table import Row, Summary, over_seeds

Against = Literal["data_fraction", "encoder_parameters"]

AXIS_NAMES: Mapping[Against, str] = {
    "data_fraction": "share of the training data",
    "encoder_parameters": "parameters of the encoder",
}

_FRACTIONS = ("data_fraction", "data.train_fraction")
_STRATEGIES = ("strategy", "backbone.strategy")
_SIZES = ("size", "backbone", "backbone.name")
_ANOTHER_SIZE = 1.25
"""Encoders whose parameters differ by less than this factor are of one size."""


@dataclass(frozen=True)
class Curve:
    """One curve of a plot.

    Attributes:
        name: strategy, family, or whatever tells it from the others.
        x: data fractions in (0, 1], or numbers of parameters, rising.
        points: the metric over seeds at each x; all have values.
        law: power law of the metric's error (``error_of``) in x, every seed a point; None where none can be fitted.
    """

    name: str
    x: tuple[float, ...]
    points: tuple[Summary, ...]
    law: PowerLaw | None


@dataclass(frozen=True)
class ErrorScale:
    """What falls as a power of the data: a metric as an error, which is positive and 0 at best.

    Attributes:
        name: of the error.
        to_error: metric -> error.
        to_metric: the other way round.
    """

    name: str
    to_error: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    to_metric: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def error_scale(metric: str) -> ErrorScale | None:
    """Return how a metric becomes an error, or None where it is not known to have one.

    PSNR stands for a squared error and SI-SDR for a ratio of noise to signal, both 10^(-x / 10); a share or a
    similarity s for 1 - s; and what is better when less is an error itself.
    """
    known = CATALOGUE.get(metric)
    if known is None or metric in IDEALS or metric == "nll":
        return None
    if metric in ("psnr", "si_sdr"):
        name = "squared error" if metric == "psnr" else "noise to signal"
        return ErrorScale(name, squared_error, lambda error: -10 * np.log10(error))
    if known.higher_is_better:
        return ErrorScale(f"1 − {known.name}", lambda value: 1 - value, lambda error: 1 - error)
    return ErrorScale(known.name, lambda value: value, lambda error: error)


def axes_to_plot(rows: Sequence[Row]) -> list[Against]:
    """Return what the metrics of a sweep can be plotted against: what has two values at least."""
    lines = over_seeds(rows, "encoder_parameters", None, None)
    found: list[Against] = []
    if len({_fraction(line.labels) for line in lines} - {None}) > 1:
        found.append("data_fraction")
    sizes = [line.mean for line in lines if line.mean]
    if sizes and max(sizes) > _ANOTHER_SIZE * min(sizes):
        found.append("encoder_parameters")
    return found


def curves(rows: Sequence[Row], metric: str, against: Against) -> list[Curve]:
    """Return a curve for all lines that differ in nothing but ``against``, those without any value left out.

    Args:
        rows: of ``tidy_rows``.
        metric: "psnr", ...
        against: the horizontal axis.
    """
    measured = over_seeds(rows, metric)
    sizes = over_seeds(rows, "encoder_parameters", None, None)
    groups: dict[tuple[str, ...], list[tuple[float, Summary]]] = {}
    labels: dict[tuple[str, ...], Mapping[str, Label]] = {}
    axes = axes_of([line.labels for line in measured])
    for line, size in zip(measured, sizes, strict=True):
        x = _fraction(line.labels) if against == "data_fraction" else size.mean
        if x is None or x <= 0 or not line.values:
            continue
        left = _without(line.labels, against)
        key = tuple(text_of(left.get(axis)) for axis in ("family", *axes))
        labels[key] = left
        groups.setdefault(key, []).append((x, line))
    found = []
    for name, points in zip(names_of(list(labels.values())), groups.values(), strict=True):
        points.sort(key=lambda point: point[0])
        x_values, summaries = (tuple(column) for column in zip(*points, strict=True))
        found.append(Curve(name, x_values, summaries, _fit(x_values, summaries, metric)))  # type: ignore[arg-type]
    return found


def _fraction(labels: Mapping[str, Label]) -> float | None:
    value = next((labels[name] for name in _FRACTIONS if labels.get(name) is not None), None)
    return float(value) if isinstance(value, (int, float)) else None


def _without(labels: Mapping[str, Label], against: Against) -> dict[str, Label]:
    """Return the labels that one curve's points have in common: encoders of one family make one curve."""
    if against == "data_fraction":
        return {name: value for name, value in labels.items() if name not in _FRACTIONS}
    name = str(next((labels[axis] for axis in ("family", "backbone", "backbone.name") if labels.get(axis)), ""))
    family = next((family for family, sizes in FAMILIES.items() if name in sizes.values()), name)
    if family == FRESH and name.startswith("timm:") and FRESH not in map(labels.get, _STRATEGIES):
        family = name  # timm has weights for it, which "auto" takes
    rest = {axis: value for axis, value in labels.items() if axis not in (*_SIZES, "family")}
    return {"family": family or None, **rest}


def _fit(x: Sequence[float], points: Sequence[Summary], metric: str) -> PowerLaw | None:
    scale = error_scale(metric)
    if scale is None:
        return None
    places = [place for place, point in zip(x, points, strict=True) for _ in point.values]
    values = np.array([value for point in points for value in point.values.values()], dtype=np.float64)
    try:
        return fit_power_law(places, scale.to_error(values))
    except HyperkitError:  # one x alone, or an error of 0
        return None


def law_in_words(curve: Curve, metric: str, against: Against) -> str:
    """Return what a curve's power law says: its exponent with the confidence interval, and what ten times x gains."""
    law, scale = curve.law, error_scale(metric)
    if law is None or scale is None:
        return f"{_before(curve)}no power law, which needs two different places and errors above 0."
    what = "data" if against == "data_fraction" else "parameters"
    interval = law.interval()
    said = "two points, which leave no interval"
    if interval is not None:
        said = f"95 % interval {_number(interval[0])} to {_number(interval[1])}"
        said += f", {law.points} points at {len(set(curve.x))} places"
    text = f"{_before(curve)}{scale.name} ∝ {what}^{_number(law.exponent)} ({said})"
    if metric in ("psnr", "si_sdr"):
        gain = -10 * law.exponent
        text += f"; ten times the {what} changes {CATALOGUE[metric].name} by {_number(gain, 2)} dB"
    if interval is not None and not law.shows_trend:
        text += "; the interval holds 0, so that no trend is shown"
    return text + "."


def _before(curve: Curve) -> str:
    return f"{curve.name}: " if curve.name else ""


def _number(value: float, decimals: int = 3) -> str:
    return f"{value:+.{decimals}f}".replace("-", "−")
