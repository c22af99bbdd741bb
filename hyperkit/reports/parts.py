"""Label maps as coloured pictures, with a legend."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hyperkit.reports.pictures import INK, PAPER, Picture, contact_sheet, turntable_sheet

COLOURS = (
    (0, 114, 178),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (240, 228, 66),
    (90, 60, 140),
    (120, 120, 120),
    (150, 75, 30),
)
"""Of the first parts: told apart also by the colour-blind (Okabe and Ito, and some more). Others are made up."""

TEXT = 13


def part_colour(index: int) -> tuple[int, int, int]:
    """Return the colour of part ``index``, counted from 1; 0, the background, is white."""
    if index == 0:
        return PAPER
    if index <= len(COLOURS):
        return COLOURS[index - 1]
    red, green, blue = colorsys.hsv_to_rgb(index * 0.6180339887498949 % 1, 0.65, 0.8)
    return round(255 * red), round(255 * green), round(255 * blue)


def label_picture(labels: Tensor | NDArray[np.integer]) -> Picture:
    """Return a label map (H, W), of 0 for the background and 1 to K, as a picture (H, W, 3) uint8."""
    array = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    table = np.array([part_colour(index) for index in range(int(array.max(initial=0)) + 1)], np.uint8)
    return table[array]


def with_legend(sheet: Picture, names: Sequence[str], shown: Sequence[int] | None = None) -> Picture:
    """Return a sheet with a legend below it, over as many lines as it needs.

    Args:
        sheet: (H, W, 3) uint8.
        names: of the parts 1 to K.
        shown: which of them are listed; None: all.
    """
    from PIL import Image, ImageDraw, ImageFont

    font, step, margin = ImageFont.load_default(TEXT), round(1.6 * TEXT), 2 * TEXT
    entries = [(names[i - 1], part_colour(i)) for i in (range(1, len(names) + 1) if shown is None else shown)]
    places, x, line = [], margin, 0
    for name, _ in entries:
        width = 2 * TEXT + int(np.ceil(font.getlength(name)))
        if x > margin and x + width > sheet.shape[1] - TEXT:
            x, line = margin, line + 1
        places.append((x, line))
        x += width + TEXT
    strip = Image.new("RGB", (sheet.shape[1], (line + 1) * step + TEXT), PAPER)
    draw = ImageDraw.Draw(strip)
    for (name, colour), (left, row) in zip(entries, places, strict=True):
        top = row * step + 2
        draw.rectangle((left, top, left + TEXT, top + TEXT), fill=colour, outline=INK)
        draw.text((left + round(1.5 * TEXT), top + TEXT / 2), name, fill=INK, font=font, anchor="lm")
    return np.concatenate((sheet, np.asarray(strip)))


def parts_sheet(
    rows: Sequence[Sequence[Picture]],
    column_titles: Sequence[str],
    row_titles: Sequence[str],
    names: Sequence[str],
    captions: Sequence[Sequence[str]] | None = None,
    scale: int = 1,
) -> Picture:
    """Return a contact sheet of colours and label maps with the legend of the parts."""
    return with_legend(contact_sheet(rows, column_titles, row_titles, captions, scale), names)


def parts_turntable(
    context: Picture, frames: Sequence[Picture], labels: Sequence[Picture], names: Sequence[str]
) -> Picture:
    """Show the input, and views around the object with the label map of each below its colours.

    Args:
        context: (H, W, 3) uint8, the input.
        frames, labels: (H, W, 3) uint8 each, in order of angle.
        names: of the parts 1 to K.
    """
    both = [np.concatenate(pair) for pair in zip(frames, labels, strict=True)]
    return with_legend(turntable_sheet(context, both, columns=min(len(both), 6), most=12), names)
