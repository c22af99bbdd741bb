"""Sounds as files and as figures: WAV, and waveforms and spectrograms of originals beside reconstructions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperkit.files import atomic_path
from hyperkit.metrics.image import psnr
from hyperkit.metrics.sound import frame_samples, power_spectrum
from hyperkit.reports.figures import new_figure, save_figure, tidy
from hyperkit.reports.plots import GREY, OTHERS, TRAIN

Waveform = Tensor | NDArray[Any]

WINDOW, HOP = 0.064, 0.008
"""Frames of the spectrograms that are shown, in seconds: longer than those of the metric, to part low partials."""

RANGE = 70.0
"""Colours span so many dB below the loudest level."""

ZOOM = 0.04
"""Length of the part that is shown magnified, in seconds."""

ORIGINAL, RECONSTRUCTION, COLOURS = TRAIN, OTHERS[0], "magma"


@dataclass(frozen=True)
class SoundExample:
    """One evaluated sound, for ``sound_examples``.

    Attributes:
        title: what the row is called ("worst", "median").
        original, reconstruction: (T,) each.
        psnr: of the reconstruction, in dB.
        id: the item ("chirp/0001").
    """

    title: str
    original: Waveform
    reconstruction: Waveform
    psnr: float
    id: str = ""


def write_wav(path: str | os.PathLike[str], waveform: Waveform, rate: int) -> int:
    """Write a mono WAV file of 16 bit, at once or not at all.

    Levels are samples times 32768, rounded to the nearest.

    Args:
        path: the file.
        waveform: (T,) in [-1, 1].
        rate: samples per second.

    Returns:
        How many samples had to be changed: those beyond [-1, 1] are clipped, those that are not numbers become 0.

    Raises:
        RunFailed: the disk is full or the place cannot be written.
    """
    import soundfile

    values = samples_of(waveform)
    changed = int((~(np.abs(values) <= 1)).sum())
    levels = np.round(np.nan_to_num(values, posinf=1.0, neginf=-1.0).clip(-1, 1) * 32768).clip(-32768, 32767)
    with atomic_path(path) as temporary:
        soundfile.write(temporary, levels.astype(np.int16), rate, format="WAV", subtype="PCM_16")
    return changed


def sound_figure(
    path: str | os.PathLike[str],
    original: Waveform,
    reconstruction: Waveform,
    rate: int,
    title: str = "",
    deviation: Waveform | None = None,
) -> None:
    """Draw waveforms, a magnified part of them, their difference, and the spectrograms of all three.

    Args:
        path: the picture (PNG) to write.
        original, reconstruction: (T,) each, T at least 1.
        rate: samples per second.
        title: above everything; the PSNR stands behind it.
        deviation: (T,) predicted deviation, drawn as a band of one around the magnified reconstruction.

    Raises:
        ValueError: lengths differ.
        RunFailed: the disk is full or the place cannot be written.
    """
    first, second = _pair(original, reconstruction)
    band = None if deviation is None else samples_of(deviation)
    figure = new_figure((11.5, 8.2))
    grid = figure.add_gridspec(3, 3, height_ratios=(1.0, 1.0, 1.35))
    whole = figure.add_subplot(grid[0, :])
    _draw_waveforms(whole, first, second, rate)
    whole.legend(frameon=False, fontsize=8.5, loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=2)
    part = figure.add_subplot(grid[1, 0])
    _draw_zoom(part, first, second, rate, band)
    apart = figure.add_subplot(grid[1, 1:], sharey=whole)
    apart.plot(_times(first, rate), first - second, color=GREY, linewidth=0.7)
    _label(apart, "difference", len(first) / rate)
    levels = [levels_of(wave, rate) for wave in (first, second, first - second)]
    top, highest = top_of(levels[:2]), highest_of(levels[:2], rate)
    panels = []
    for k, (name, level) in enumerate(zip(("original", "reconstruction", "difference"), levels, strict=True)):
        axes = figure.add_subplot(grid[2, k])
        image = draw_spectrogram(axes, level, rate, len(first), top, highest)
        axes.set_title(name, fontsize=9.5)
        axes.set_xlabel("time (s)")
        if k == 0:
            axes.set_ylabel("frequency (Hz)")
        panels.append(axes)
    figure.colorbar(image, ax=panels, label="level (dB of full scale)", pad=0.012, aspect=24)
    value = float(psnr(torch.from_numpy(second)[None], torch.from_numpy(first)[None]))
    figure.suptitle(f"{title}   PSNR {value:.2f} dB" if title else f"PSNR {value:.2f} dB", fontsize=11)
    save_figure(figure, path)


def sound_examples(path: str | os.PathLike[str], examples: Sequence[SoundExample], rate: int) -> None:
    """Draw a row for each example: both waveforms, the spectrogram of the original, that of the reconstruction.

    Args:
        path: the picture (PNG) to write.
        examples: for instance the worst, the median and the best (see ``pictures.pick_examples``).
        rate: samples per second.

    Raises:
        ValueError: no examples, or lengths that differ within one.
        RunFailed: the disk is full or the place cannot be written.
    """
    if not examples:
        raise ValueError("a sheet needs at least one example")
    figure = new_figure((13.0, 0.6 + 2.2 * len(examples)))
    grid = figure.add_gridspec(len(examples), 4, width_ratios=(1.25, 0.8, 1, 1))
    pairs = [_pair(e.original, e.reconstruction) for e in examples]
    levels = [[levels_of(wave, rate) for wave in pair] for pair in pairs]
    everything = [level for row in levels for level in row]
    top, highest = top_of(everything), highest_of(everything, rate)
    panels = []
    for i, (example, (first, second)) in enumerate(zip(examples, pairs, strict=True)):
        axes = [figure.add_subplot(grid[i, k]) for k in range(4)]
        _draw_waveforms(axes[0], first, second, rate)
        _draw_zoom(axes[1], first, second, rate, None)
        for k, level in enumerate(levels[i]):
            image = draw_spectrogram(axes[2 + k], level, rate, len(first), top, highest)
            axes[2 + k].set_xlabel("time (s)" if i == len(examples) - 1 else "")
        for k, name in enumerate(("", "magnified", "original (Hz)", "reconstruction (Hz)")):
            axes[k].set_title(name if i == 0 else "", fontsize=9.5)
            if i < len(examples) - 1 and k != 1:
                axes[k].set_xlabel("")
        lines = [example.title, *([example.id] if example.id else []), f"{example.psnr:.2f} dB PSNR"]
        axes[0].set_ylabel("\n".join(lines), fontsize=9.5)
        if i == 0:
            axes[0].legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        panels += axes[2:]
    figure.colorbar(image, ax=panels, label="level (dB of full scale)", pad=0.01, aspect=30)
    save_figure(figure, path)


def samples_of(waveform: Waveform) -> NDArray[np.float64]:
    """Return a waveform (T,) as float64.

    Raises:
        ValueError: it is not (T,) with T at least 1.
    """
    values = waveform.detach().cpu().double().numpy() if isinstance(waveform, Tensor) else waveform
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"a waveform is (T,) with T at least 1, got {values.shape}")
    return values


def _pair(original: Waveform, reconstruction: Waveform) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = samples_of(original), samples_of(reconstruction)
    if len(first) != len(second):
        raise ValueError(f"the original has {len(first)} samples and the reconstruction {len(second)}")
    return np.nan_to_num(first), np.nan_to_num(second)


def _times(values: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    return (np.arange(len(values)) + 0.5) / rate


def _label(axes: Any, name: str, seconds: float) -> None:
    axes.set_title(name, fontsize=9.5)
    axes.set_xlabel("time (s)")
    axes.set_xlim(0, seconds)
    tidy(axes)


def _draw_waveforms(axes: Any, first: NDArray[np.float64], second: NDArray[np.float64], rate: int) -> None:
    axes.plot(_times(first, rate), first, color=ORIGINAL, linewidth=0.8, label="original")
    axes.plot(_times(second, rate), second, color=RECONSTRUCTION, linewidth=0.8, alpha=0.75, label="reconstruction")
    _label(axes, "", len(first) / rate)


def _draw_zoom(
    axes: Any,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    rate: int,
    deviation: NDArray[np.float64] | None,
) -> None:
    """Draw the part of ``ZOOM`` seconds where the original has the most energy, in milliseconds."""
    count = min(len(first), max(2, round(ZOOM * rate)))
    energy = np.convolve(first**2, np.ones(count), mode="valid")
    part = slice(int(energy.argmax()), int(energy.argmax()) + count)
    times = 1000 * _times(first, rate)[part]
    if deviation is not None:
        low, high = second[part] - deviation[part], second[part] + deviation[part]
        axes.fill_between(times, low, high, color=RECONSTRUCTION, alpha=0.28, linewidth=0)
    axes.plot(times, first[part], color=ORIGINAL, linewidth=1.3)
    axes.plot(times, second[part], color=RECONSTRUCTION, linewidth=1.3)
    _label(axes, "magnified" + (", ± 1 predicted deviation" if deviation is not None else ""), 1.0)
    axes.set_xlabel("time (ms)")
    axes.set_xlim(1000 * part.start / rate, 1000 * part.stop / rate)


def levels_of(waveform: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """Return the levels (F, K) of a spectrogram in dB of full scale; frame k is centred k hops after the beginning."""
    half = frame_samples(rate, WINDOW, HOP)[0] // 2
    power = power_spectrum(torch.from_numpy(np.pad(waveform, half))[None], rate, WINDOW, HOP)[0]
    return (10 * power.clamp(min=1e-12).log10()).numpy()


def top_of(levels: Sequence[NDArray[np.float64]]) -> float:
    """Return the upper end of the colours: the loudest level, up to the next 5 dB; silence is drawn dark."""
    return max(float(np.ceil(max(level.max() for level in levels) / 5) * 5), -60.0)


def highest_of(levels: Sequence[NDArray[np.float64]], rate: int) -> float:
    """Return up to which frequency to draw: twice that of what is within 35 dB of the loudest, or all."""
    loud = np.max([level.max(axis=1) for level in levels], axis=0)
    last = int(np.flatnonzero(loud > loud.max() - 35).max()) if loud.max() > -120 else len(loud)
    return float(np.clip(2 * last / max(len(loud) - 1, 1), 0.125, 1.0)) * rate / 2


def draw_spectrogram(axes: Any, levels: NDArray[np.float64], rate: int, count: int, top: float, highest: float) -> Any:
    """Draw levels over time and frequency.

    Args:
        axes: where.
        levels: see ``levels_of``.
        rate: samples per second.
        count: samples of the sound.
        top: level at the upper end of the colours, dB; see ``top_of``.
        highest: frequency up to which to draw; see ``highest_of``.

    Returns:
        The image, for a colour bar.
    """
    step = frame_samples(rate, WINDOW, HOP)[1] / rate
    bin_width = rate / 2 / max(levels.shape[0] - 1, 1)
    extent = (-step / 2, (levels.shape[1] - 0.5) * step, -bin_width / 2, rate / 2 + bin_width / 2)
    image = axes.imshow(levels, origin="lower", aspect="auto", extent=extent, cmap=COLOURS, vmin=top - RANGE, vmax=top)
    axes.set_xlim(0, count / rate)
    axes.set_ylim(0, highest)
    axes.locator_params(axis="x", nbins=3)  # the panels are narrow: more labels would touch
    return image
