"""Figures of generated signals: pictures at any resolution beside their input, uncertainty, calibration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hyperkit.metrics.calibration import Calibration, gaussian_share
from hyperkit.metrics.image import psnr
from hyperkit.reports.figures import new_figure, save_figure, tidy
from hyperkit.reports.pictures import INK, PAPER, Picture, contact_sheet, enlarge, to_uint8
from hyperkit.reports.plots import GREY, OTHERS, TRAIN

COLOURS = "turbo"
WIDTH = 192
"""Pictures are shown at least about so wide, in pixels."""

FACTORS = (1, 2, 4, 8, 16)
"""By how much differences may be amplified."""


def picture_comparison(original: Tensor, reconstruction: Tensor, enlarged: Tensor) -> Picture:
    """Show the input, the generated picture at its own resolution, and their difference where the input has pixels.

    The largest difference of the three channels is drawn dark on white, amplified by the largest of 1, 2, 4, 8 and 16
    that leaves 99 % of the pixels within the range of levels; the factor stands above it, the PSNR below.

    Args:
        original: (3, H, W) in [0, 1], the input.
        reconstruction: (3, H, W), the network at the input's pixels.
        enlarged: (3, h, w), the network at any resolution.

    Returns:
        (., ., 3) uint8: a sheet; pixels of the input are squares, those of ``enlarged`` too where it is small.

    Raises:
        ValueError: the reconstruction's shape is not the input's.
    """
    if original.shape != reconstruction.shape:
        raise ValueError(f"input {tuple(original.shape)} and reconstruction {tuple(reconstruction.shape)} differ")
    off = (original.float() - reconstruction.float()).abs().amax(0).nan_to_num(nan=1.0).cpu().numpy()
    worst = float(np.quantile(off, 0.99))
    factor = max((f for f in FACTORS if f * worst <= 1), default=1)
    height, width = original.shape[-2:]
    shown = max(enlarged.shape[-1], WIDTH)
    own = max(1, round(shown / width))
    pictures = [
        enlarge(to_uint8(original), own),
        enlarge(to_uint8(enlarged), max(1, round(own * width / enlarged.shape[-1]))),
        enlarge(to_uint8(1 - factor * np.repeat(off[..., None], 3, axis=-1)), own),
    ]
    titles = [
        f"input, {width}x{height}",
        f"generated, {enlarged.shape[-1]}x{enlarged.shape[-2]}",
        "|difference|" + (f" x {factor}" if factor > 1 else ""),
    ]
    value = float(psnr(reconstruction[None].float(), original[None].float()))
    return contact_sheet([pictures], titles, captions=[["", "", f"{value:.2f} dB PSNR"]])


def uncertainty_picture(
    deviation: Tensor | NDArray[Any], largest: float | None = None, legend: bool = True, colours: str = COLOURS
) -> Picture:
    """Colour predicted deviations: the higher in the colour map, the less certain.

    Args:
        deviation: (H, W), or (H, W, 3), of which the root mean square over channels is taken.
        largest: upper end of the colours; None: the largest one. Pictures that are compared need a common one.
        legend: enlarge small pictures and draw the scale, from 0 to ``largest``, at the right.
        colours: a matplotlib colour map ("turbo", "viridis").

    Returns:
        (., ., 3) uint8; without a legend (H, W, 3).
    """
    from matplotlib import colormaps

    values = deviation.detach().cpu().double().numpy() if isinstance(deviation, Tensor) else deviation
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 3:
        values = np.sqrt((values**2).mean(axis=-1))
    top = float(np.nanmax(values, initial=0.0)) if largest is None else largest
    level = np.nan_to_num(values / max(top, 1e-12), nan=1.0, posinf=1.0).clip(0, 1)
    picture = to_uint8(np.asarray(colormaps[colours](level))[..., :3])
    if not legend:
        return picture
    picture = enlarge(picture, max(1, round(WIDTH / picture.shape[1])))
    ticks = [f"{top * k / 2:.3g}" for k in (2, 1, 0)]
    return np.concatenate((picture, colour_bar(picture.shape[0], ticks, colours)), axis=1)


def colour_bar(height: int, ticks: Sequence[str], colours: str = COLOURS) -> Picture:
    """Return a bar of a colour map, its high end at the top, with evenly spaced ticks from top to bottom, on white.

    Args:
        height: of the bar, in pixels.
        ticks: texts, from the top down.
        colours: a matplotlib colour map.

    Returns:
        (height, ., 3) uint8.
    """
    from matplotlib import colormaps
    from PIL import Image, ImageDraw, ImageFont

    size = int(np.clip(height // 14, 10, 16))
    font = ImageFont.load_default(size)
    gap, bar = size // 2, max(8, size)
    width = 2 * gap + bar + gap + int(np.ceil(max(font.getlength(tick) for tick in ticks)))
    sheet = np.full((height, width, 3), PAPER, dtype=np.uint8)
    sheet[:, gap : gap + bar] = to_uint8(np.asarray(colormaps[colours](np.linspace(1, 0, height)))[:, None, :3])
    image = Image.fromarray(sheet)
    draw = ImageDraw.Draw(image)
    for k, tick in enumerate(ticks):
        place = k / max(len(ticks) - 1, 1)
        anchor = "la" if place == 0 else "ld" if place == 1 else "lm"
        draw.text((2 * gap + bar, round(place * (height - 1))), tick, fill=INK, font=font, anchor=anchor)
    return np.asarray(image).copy()


def calibration_figure(path: str | os.PathLike[str], calibration: Calibration, title: str = "") -> Path:
    """Draw how honest predicted deviations are.

    Left: the share of values that lie within k deviations against the share of a normal distribution, for k up to 4;
    honest ones lie on the diagonal, those of a model that is too sure of itself below it. Right: the density of
    |truth - mean| / deviation, with that of the normal distribution.

    Args:
        path: the picture (PNG) to write.
        calibration: what was collected.
        title: above the panels.

    Returns:
        The path.

    Raises:
        RunFailed: the disk is full or the place cannot be written.
    """
    figure = new_figure((9.6, 4.5), dpi=120)
    _draw_reliability(figure.add_subplot(1, 2, 1), calibration)
    _draw_residuals(figure.add_subplot(1, 2, 2), calibration)
    if title:
        figure.suptitle(title, fontsize=11)
    save_figure(figure, path)
    return Path(path)


def _draw_reliability(axes: Any, calibration: Calibration) -> None:
    limits, shares = calibration.reliability()
    ideal = [gaussian_share(k) for k in limits]
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.1, linestyle=(0, (5, 3)), label="honest")
    axes.fill_between([0, 1], [0, 1], [0, 0], color=OTHERS[0], alpha=0.06, linewidth=0)
    axes.fill_between([0, 1], [0, 1], [1, 1], color=TRAIN, alpha=0.06, linewidth=0)
    axes.text(0.97, 0.03, "too sure", color=OTHERS[0], fontsize=9, ha="right", va="bottom")
    axes.text(0.03, 0.97, "too careful", color=TRAIN, fontsize=9, ha="left", va="top")
    axes.plot([0.0, *ideal], [0.0, *shares], color=TRAIN, linewidth=1.8, label="observed")
    for k in (1, 2):
        index = limits.index(float(k))
        x, y = ideal[index], shares[index]
        axes.plot([x], [y], color=TRAIN, marker="o", markersize=6, clip_on=False, zorder=4)
        side = {"xytext": (0, -13), "ha": "center"} if y >= x else {"xytext": (-7, 8), "ha": "right"}
        axes.annotate(f"k = {k}", (x, y), textcoords="offset points", va="center", fontsize=8.5, **side)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_xlabel("share within k deviations, normal distribution")
    axes.set_ylabel("share within k deviations, observed")
    axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(0.02, 0.82))
    tidy(axes)


def _draw_residuals(axes: Any, calibration: Calibration) -> None:
    edges, density = calibration.histogram()
    axes.stairs(density, edges, fill=True, color=TRAIN, alpha=0.35, label="observed")
    k = np.linspace(0, edges[-1], 200)
    axes.plot(k, np.sqrt(2 / np.pi) * np.exp(-(k**2) / 2), color=GREY, linestyle=(0, (5, 3)), label="honest")
    result = calibration.result()
    beyond = 1 - calibration.reliability()[1][-1]
    lines = [
        f"within 1: {100 * result['within_1']:.1f} % (honest: {100 * gaussian_share(1):.1f} %)",
        f"within 2: {100 * result['within_2']:.1f} % (honest: {100 * gaussian_share(2):.1f} %)",
        f"beyond 4: {100 * beyond:.2f} % (honest: {100 - 100 * gaussian_share(4):.2f} %)",
        f"NLL: {result['nll']:.3f} nats per value",
        f"values: {result['values']:,}",
    ]
    axes.text(0.97, 0.80, "\n".join(lines), transform=axes.transAxes, ha="right", va="top", fontsize=8.5)
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("|truth − mean| / deviation")
    axes.set_ylabel("density")
    axes.legend(frameon=False, fontsize=8.5, loc="upper right")
    tidy(axes)
