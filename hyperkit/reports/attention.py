"""Where the weight tokens of each generated layer look: attention over pictures and over time (T, Figure 7)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from hyperkit.reports.figures import new_figure, save_figure, tidy
from hyperkit.reports.pictures import Picture, contact_sheet, enlarge, to_uint8
from hyperkit.reports.plots import TRAIN
from hyperkit.reports.signals import colour_bar
from hyperkit.reports.sound import Waveform, draw_spectrogram, highest_of, levels_of, samples_of, top_of
from hyperkit.reports.video import write_png

Map = Tensor | NDArray[Any]

COLOURS = "inferno"
WIDTH = 192
"""Pictures are shown about so wide, in pixels."""


def attention_sheet(pictures: Tensor, maps: Mapping[str, Map], path: str | os.PathLike[str]) -> Picture:
    """Write the attention of each layer's weight tokens over the pictures that the hypernetwork saw.

    A row per view, a column per layer. A layer's maps are enlarged (bilinear), divided by its largest value over all
    views, and laid over the grey pictures as colours. Above stand the layer's name and the share of its attention that
    falls on data tokens, all views together; the rest falls on weight tokens and on others, like class tokens. With
    several views, the part of that share which falls on a view stands below it.

    Args:
        pictures: (V, 3, H, W) in [0, 1].
        maps: layer -> attention (V, rows, columns) of its weight tokens (their mean) to data tokens, straight from a
            softmax over all tokens: its sum, at most 1, is the share.
        path: the picture (PNG) to write.

    Returns:
        The sheet, (., ., 3) uint8.

    Raises:
        ValueError: no maps, or maps of another number of views.
        RunFailed: the disk is full or the place cannot be written.
    """
    layers = {name: _float64(attention) for name, attention in maps.items()}
    if not layers or any(m.ndim != 3 or len(m) != len(pictures) for m in layers.values()):
        shapes = {name: tuple(m.shape) for name, m in layers.items()}
        raise ValueError(f"expected maps ({len(pictures)}, rows, columns) of at least one layer, got {shapes}")
    scale = max(1, round(WIDTH / pictures.shape[-1]))
    rows: list[list[Picture | None]] = [[enlarge(to_uint8(picture), scale)] for picture in pictures]
    captions = [[f"view {v + 1}"] for v in range(len(pictures))]
    for attention in layers.values():
        total, most = max(float(attention.sum()), 1e-30), max(float(attention.max()), 1e-30)
        for v, picture in enumerate(pictures):
            rows[v].append(overlay(picture, attention[v] / most, scale))
            captions[v].append(f"{100 * float(attention[v].sum()) / total:.0f} % of it here")
    rows[0].append(colour_bar(rows[0][0].shape[0], ("most", "none"), COLOURS))  # type: ignore[union-attr]
    titles = ["input", *(f"{name}: {100 * float(m.sum()):.0f} % on data" for name, m in layers.items())]
    sheet = contact_sheet(
        rows,
        titles,
        captions=captions if len(pictures) > 1 else None,
        title="Attention of weight tokens; colours from none to each layer's most",
        text_size=14,
    )
    write_png(path, sheet)
    return sheet


def overlay(picture: Tensor, attention: Tensor, scale: int = 1) -> Picture:
    """Lay attention over a picture: grey where there is none, the brighter the colour the more there is.

    Args:
        picture: (3, H, W) in [0, 1].
        attention: (rows, columns) in [0, 1], enlarged to the picture, bilinear, with the tokens at their patches'
            centres.
        scale: pixels of the result per pixel of the picture, along each axis.

    Returns:
        (scale H, scale W, 3) uint8.
    """
    from matplotlib import colormaps

    grey = picture.detach().float().cpu().mean(0).repeat_interleave(scale, 0).repeat_interleave(scale, 1).numpy()
    size = grey.shape
    level = interpolate(attention[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    part = level.clamp(0, 1).numpy()[..., None]
    colour = np.asarray(colormaps[COLOURS](part[..., 0]))[..., :3]
    cover = 0.35 + 0.45 * part
    return to_uint8((1 - cover) * grey[..., None] + cover * colour)


def attention_spectrogram(
    waveform: Waveform, rate: int, maps: Mapping[str, Map], path: str | os.PathLike[str], title: str = ""
) -> None:
    """Draw a sound's waveform and spectrogram, and below them the attention of each layer's weight tokens over time.

    A strip per layer, divided by its largest value; the share of the layer's attention that falls on data tokens stands
    beside its name.

    Args:
        waveform: (T,).
        rate: samples per second.
        maps: layer -> attention (columns,) to the data tokens, which divide the sound evenly, straight from a softmax
            over all tokens. Layers may differ in columns.
        path: the picture (PNG) to write.
        title: above everything.

    Raises:
        ValueError: no maps, or one that is not (columns,).
        RunFailed: the disk is full or the place cannot be written.
    """
    layers = {name: _float64(attention).numpy() for name, attention in maps.items()}
    if not layers or any(m.ndim != 1 or not len(m) for m in layers.values()):
        raise ValueError(
            f"expected maps (columns,) of at least one layer, got { ({n: m.shape for n, m in layers.items()}) }"
        )
    wave = np.nan_to_num(samples_of(waveform))
    seconds = len(wave) / rate
    figure = new_figure((11.0, 4.6 + 0.42 * len(layers)))
    grid = figure.add_gridspec(3, 1, height_ratios=(1.2, 2.4, 0.42 * len(layers) + 0.1))
    above, middle, below = (figure.add_subplot(grid[k, 0]) for k in range(3))
    above.plot((np.arange(len(wave)) + 0.5) / rate, wave, color=TRAIN, linewidth=0.8)
    above.set_ylabel("amplitude")
    tidy(above)
    levels = levels_of(wave, rate)
    image = draw_spectrogram(middle, levels, rate, len(wave), top_of([levels]), highest_of([levels], rate))
    middle.set_ylabel("frequency (Hz)")
    figure.colorbar(image, ax=middle, label="dB of full scale", pad=0.01)
    for k, attention in enumerate(layers.values()):
        strip = below.imshow(
            attention[None] / max(float(attention.max()), 1e-30),
            extent=(0, seconds, k + 0.42, k - 0.42),
            aspect="auto",
            interpolation="nearest",
            cmap=COLOURS,
            vmin=0,
            vmax=1,
        )
    below.set_yticks(range(len(layers)), [f"{n}: {100 * float(m.sum()):.0f} % on data" for n, m in layers.items()])
    below.set_ylim(len(layers) - 0.5, -0.5)
    below.tick_params(axis="y", length=0)
    below.set_xlabel("time (s)")
    figure.colorbar(strip, ax=below, label="attention", ticks=[0, 1], pad=0.01).ax.set_yticklabels(["none", "most"])
    for axes in (above, middle, below):
        axes.set_xlim(0, seconds)
    if title:
        figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _float64(attention: Map) -> Tensor:
    return torch.as_tensor(attention).detach().cpu().double().nan_to_num()
