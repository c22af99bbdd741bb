"""Plots of a sweep, as Figures 2 and 3 of P: a metric against data or encoder size, with deviations over seeds."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from hyperkit.metrics.catalogue import metric_label
from hyperkit.reports.figures import new_figure, save_figure, tidy
from hyperkit.reports.plots import GREY, OTHERS, TRAIN
from hyperkit.sweeps.curves import AXIS_NAMES, Against, Curve, error_scale
from hyperkit.sweeps.table import Summary

_COLOURS = (TRAIN, *OTHERS, "#f0a030", "#2f9c95", "#8c564b", "#d16ba5", GREY, "#1f2f50")
_MARKERS = "os^Dvp<>hX"
_FEW = 4
"""So many curves still have room for their power laws, and for the legend inside."""

_DODGE = 0.012
"""Share of the axis by which curves stand apart at one x, so that their error bars can be told apart."""


def plot_curves(path: str | os.PathLike[str], found: Sequence[Curve], metric: str, against: Against) -> None:
    """Draw a metric against data or parameters, on a logarithmic axis.

    Error bars are sample deviations over seeds, pale dots the seeds. Dashed lines are the fitted power laws, with 95 %
    bands of the lines, where these show a trend; more than four curves leave no room for them.

    Args:
        path: of the picture (PNG).
        found: the curves, at least one.
        metric: their metric.
        against: their x.

    Raises:
        RunFailed: the disk is full or the place cannot be written.
    """
    many = len(found) > _FEW
    figure = new_figure((7.4 if many else 5.8, 4.0), dpi=150)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    low, high = _horizontal_limits(found)
    bars = any(point.deviation for curve in found for point in curve.points)
    step = math.log(high / low) * _DODGE if bars else 0.0
    for index, curve in enumerate(found):
        shift = math.exp(step * (index - (len(found) - 1) / 2))
        _draw(axes, curve, index, shift)
    axes.set_xlim(low, high)
    bottom, top = axes.get_ylim()  # of the data: the bands of steep laws would flatten them
    for index, curve in enumerate(() if many else found):
        _draw_law(axes, curve, metric, index)
    axes.set_ylim(bottom, top)
    _label_x(axes, found, against)
    axes.set_ylabel(metric_label(metric))
    tidy(axes)
    if len(found) > 1:
        if many:
            axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.01, 0.5))
        else:
            axes.legend(frameon=False, fontsize=8.5, loc="best")
    elif found[0].name:
        axes.set_title(found[0].name, fontsize=10)
    save_figure(figure, path)


def _draw(axes: Any, curve: Curve, index: int, shift: float) -> None:
    colour = _COLOURS[index % len(_COLOURS)]
    x = np.array(curve.x) * shift
    seeds = [(place, value) for place, p in zip(x, curve.points, strict=True) for value in p.values.values()]
    if len(seeds) > len(x):
        axes.scatter(*zip(*seeds, strict=True), color=colour, s=9, alpha=0.35, linewidths=0, zorder=2)
    axes.errorbar(
        x,
        [point.mean for point in curve.points],
        yerr=_bars(curve.points),
        color=colour,
        marker=_MARKERS[index % len(_MARKERS)],
        markersize=5,
        linewidth=1.5,
        elinewidth=1.2,
        capsize=3,
        label=curve.name,
        zorder=3,
    )


def _bars(points: Sequence[Summary]) -> list[float] | None:
    """Return the lengths of the error bars, nan for a point of one seed; None where there are only such."""
    if all(point.deviation is None for point in points):
        return None
    return [math.nan if point.deviation is None else point.deviation for point in points]


def _draw_law(axes: Any, curve: Curve, metric: str, index: int) -> None:
    scale = error_scale(metric)
    if curve.law is None or scale is None or not curve.law.shows_trend:
        return
    colour = _COLOURS[index % len(_COLOURS)]
    x = np.geomspace(min(curve.x), max(curve.x), 60)
    axes.plot(x, scale.to_metric(curve.law(x)), color=colour, linewidth=1.0, linestyle=(0, (5, 3)), alpha=0.8)
    limits = curve.law.band(x)
    if limits is not None:
        axes.fill_between(x, *map(scale.to_metric, limits), color=colour, alpha=0.12, linewidth=0)


def _horizontal_limits(found: Sequence[Curve]) -> tuple[float, float]:
    places = [x for curve in found for x in curve.x]
    low, high = min(places), max(places)
    margin = (high / low) ** 0.06 if high > low else 2.0
    return low / margin, high * margin


def _label_x(axes: Any, found: Sequence[Curve], against: Against) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axes.set_xlabel(AXIS_NAMES[against])
    if against == "data_fraction":
        axes.xaxis.set_major_locator(FixedLocator(_apart({x for curve in found for x in curve.x})))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def _apart(places: set[float]) -> list[float]:
    """Return the places from the largest down, those left out whose labels would touch."""
    width = math.log(max(places) / min(places)) or 1.0
    kept: list[float] = []
    for place in sorted(places, reverse=True):
        if not kept or math.log(kept[-1] / place) > 0.09 * width:
            kept.append(place)
    return kept


def _count(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"


def plot_lines(path: str | os.PathLike[str], names: Sequence[str], lines: Sequence[Summary], metric: str) -> None:
    """Draw a metric of every line: mean and sample deviation over seeds, and the seeds as pale dots.

    Args:
        path: of the picture (PNG).
        names: of the lines.
        lines: as many; one without values keeps its empty row.
        metric: what is drawn.

    Raises:
        RunFailed: the disk is full or the place cannot be written.
    """
    figure = new_figure((5.8, 1.0 + 0.32 * len(lines)), dpi=150)
    axes = figure.add_subplot()
    for index, line in enumerate(lines):
        colour = _COLOURS[0]
        values = list(line.values.values())
        if len(values) > 1:
            axes.scatter(values, [index] * len(values), color=colour, s=12, alpha=0.35, linewidths=0)
        if values:
            axes.errorbar([line.mean], [index], xerr=_bars([line]), color=colour, marker="o", capsize=3)
        else:
            axes.text(
                0.5, index, line.absence, transform=axes.get_yaxis_transform(), ha="center", va="center", color=GREY
            )
    axes.set_yticks(range(len(lines)), names)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlabel(metric_label(metric))
    tidy(axes)
    save_figure(figure, path)
