"""Pictures that show results: contact sheets, comparisons, turntables and depth. All are (H, W, 3) uint8 arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

Picture = NDArray[np.uint8]

INK, PALE, FRAME, PAPER = (34, 34, 34), (110, 110, 110), (222, 222, 222), (255, 255, 255)
COLUMNS = ("input", "ground truth", "prediction", "|difference|")
TURNTABLE_TEXT = 13


def to_uint8(picture: Tensor | NDArray[Any]) -> Picture:
    """Return a picture as 8-bit levels: clamped to [0, 1], times 255, rounded to the nearest.

    Args:
        picture: (3, H, W) tensor or (H, W, 3) array, row-major from the top, in [0, 1]; batches (B, 3, H, W) too.

    Returns:
        (H, W, 3) or (B, H, W, 3) uint8. Values that are not numbers become 0.
    """
    if isinstance(picture, Tensor):
        values = picture.detach().float().cpu().movedim(-3, -1).numpy()
    else:
        values = np.asarray(picture, dtype=np.float32)
    values = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0)
    return (values.clip(0, 1) * 255 + 0.5).astype(np.uint8)


@dataclass(frozen=True)
class Example:
    """One evaluated item, for ``comparison_sheet``.

    Attributes:
        title: what the row is called ("worst", "median").
        context: the picture that the network saw, (H, W, 3) uint8.
        truth, prediction: the same view, (H, W, 3) uint8 each.
        psnr: of the prediction, in dB.
        id: the item ("cars/0001").
    """

    title: str
    context: Picture
    truth: Picture
    prediction: Picture
    psnr: float
    id: str = ""


def contact_sheet(
    rows: Sequence[Sequence[Picture | None]],
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    captions: Sequence[Sequence[str]] | None = None,
    scale: int = 1,
    title: str = "",
    text_size: int | None = None,
) -> Picture:
    """Lay pictures out on white in rows and columns, thinly framed; the pictures' own pixels are kept exactly.

    Args:
        rows: pictures (H, W, 3) uint8; None leaves its place empty. Rows may differ in length and pictures in size.
        column_titles: one per column, or none.
        row_titles: one per row, or none; a line break begins a second, paler line.
        captions: per row and column, a line under the picture.
        scale: each pixel becomes a square of ``scale`` by ``scale``, unsmoothed.
        title: a line at the top.
        text_size: in pixels; None goes by the pictures' width.

    Returns:
        (H, W, 3) uint8.
    """
    grid = [[None if p is None else enlarge(p, scale) for p in row] for row in rows]
    layout = _Layout.of(grid, column_titles, row_titles, captions, title, text_size)
    sheet = layout.blank()
    for i, row in enumerate(grid):
        for j, picture in enumerate(row):
            if picture is not None:
                top, left = layout.tops[i], layout.lefts[j] + (layout.widths[j] - picture.shape[1]) // 2
                bottom, right = top + picture.shape[0], left + picture.shape[1]
                sheet[top - 1 : bottom + 1, left - 1 : right + 1] = FRAME  # pictures on white have no edge of their own
                sheet[top:bottom, left:right] = picture
    return layout.write(sheet, column_titles, row_titles, captions, title)


def enlarge(picture: Picture, scale: int) -> Picture:
    """Return the picture with each pixel repeated ``scale`` times in both directions."""
    return picture.repeat(scale, axis=0).repeat(scale, axis=1) if scale > 1 else picture


@dataclass
class _Layout:
    """Where things are on a sheet, in pixels."""

    tops: list[int]
    lefts: list[int]
    heights: list[int]
    widths: list[int]
    size: tuple[int, int]
    text: int
    margin: int

    @classmethod
    def of(
        cls,
        grid: Sequence[Sequence[Picture | None]],
        column_titles: Sequence[str],
        row_titles: Sequence[str],
        captions: Sequence[Sequence[str]] | None,
        title: str,
        text_size: int | None,
    ) -> _Layout:
        columns = max([len(row) for row in grid] + [len(column_titles)], default=0)
        widths = [max((p.shape[1] for p in _column(grid, j)), default=1) for j in range(columns)]
        heights = [max((p.shape[0] for p in row if p is not None), default=1) for row in grid]
        text = text_size or int(np.clip(round(max(widths, default=64) / 11), 11, 22))
        gap, margin, line = max(6, text // 2), text + 4, round(text * 1.35)
        for j in range(columns):  # a column is as wide as its texts need
            texts = [column_titles[j]] if j < len(column_titles) else []
            texts += [row[j] for row in captions or () if j < len(row)]
            widths[j] = max([widths[j], *(_text_width(t, text) for t in texts)])
        label = max((_text_width(part, text) for t in row_titles for part in t.split("\n")), default=0)
        y = margin + (round(line * 1.5) if title else 0) + (line + 2 if column_titles else 0)
        tops = []
        for height in heights:
            tops.append(y)
            y += height + (line + 2 if captions else 0) + gap
        x = margin + (label + text if label else 0)
        lefts = []
        for width in widths:
            lefts.append(x)
            x += width + gap
        wide = max(x - gap, margin + _text_width(title, round(text * 1.25))) + margin
        return cls(tops, lefts, heights, widths, (y - gap + margin, wide), text, margin)

    def blank(self) -> Picture:
        return np.full((*self.size, 3), PAPER, dtype=np.uint8)

    def write(
        self,
        sheet: Picture,
        column_titles: Sequence[str],
        row_titles: Sequence[str],
        captions: Sequence[Sequence[str]] | None,
        title: str,
    ) -> Picture:
        """Return the sheet with its texts; they lie outside the pictures."""
        from PIL import Image, ImageDraw

        image = Image.fromarray(sheet)
        draw = ImageDraw.Draw(image)
        if title:
            _write(draw, (self.margin, self.margin), title, round(self.text * 1.25), "la")
        first = self.tops[0] if self.tops else self.size[0]
        for name, left, width in zip(column_titles, self.lefts, self.widths, strict=False):
            _write(draw, (left + width / 2, first - self.text * 0.45), name, self.text, "ms")
        for name, top, height in zip(row_titles, self.tops, self.heights, strict=False):
            self._write_row_title(draw, name, top + height / 2)
        for i, line in enumerate(captions or ()):
            for j, caption in enumerate(line):
                place = (self.lefts[j] + self.widths[j] / 2, self.tops[i] + self.heights[i] + 4)
                _write(draw, place, caption, round(self.text * 0.9), "ma", PALE)
        return np.asarray(image).copy()

    def _write_row_title(self, draw: ImageDraw, name: str, middle: float) -> None:
        lines = name.split("\n")
        step = self.text * 1.35
        for k, line in enumerate(lines):
            y = middle + (k - (len(lines) - 1) / 2) * step
            _write(draw, (self.margin, y), line, self.text, "lm", PALE if k else INK)


def _column(grid: Sequence[Sequence[Picture | None]], j: int) -> list[Picture]:
    return [p for row in grid for p in row[j : j + 1] if p is not None]


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _text_width(text: str, size: int) -> int:
    return int(np.ceil(_font(size).getlength(text))) if text else 0


def _write(
    draw: ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    anchor: str,
    colour: tuple[int, int, int] = INK,
) -> None:
    draw.text((round(place[0]), round(place[1])), text, fill=colour, font=_font(size), anchor=anchor)


def comparison_sheet(examples: Sequence[Example], scale: int | None = None) -> Picture:
    """Show input, ground truth, prediction and their absolute difference, one row per example.

    Args:
        examples: for instance the worst, the median and the best (see ``pick_examples``).
        scale: enlargement; None makes pictures about 192 pixels wide.

    Returns:
        (H, W, 3) uint8. Differences are shown on white: the darker, the farther off.
    """
    rows = [[e.context, e.truth, e.prediction, difference_picture(e.truth, e.prediction)] for e in examples]
    titles = [f"{e.title}\n{e.id}" if e.id else e.title for e in examples]
    captions = [["", "", f"{e.psnr:.2f} dB PSNR", ""] for e in examples]
    return contact_sheet(rows, COLUMNS, titles, captions, scale or _fitting_scale(rows, 192))


def difference_picture(truth: Picture, prediction: Picture) -> Picture:
    """Return the largest difference of the three channels as a grey level: white where pictures agree."""
    difference = np.abs(truth.astype(np.int16) - prediction.astype(np.int16)).max(axis=-1, keepdims=True)
    return (255 - difference).astype(np.uint8).repeat(3, axis=-1)


def pick_examples(values: Sequence[float]) -> dict[str, int]:
    """Return "worst", "median", "best" -> index into ``values``; ties go to the first, nan counts as worst."""
    order = sorted(range(len(values)), key=lambda i: (values[i] == values[i], values[i], i))
    return {"worst": order[0], "median": order[(len(order) - 1) // 2], "best": order[-1]} if order else {}


def _fitting_scale(rows: Sequence[Sequence[Picture]], width: int) -> int:
    widest = max((p.shape[1] for row in rows for p in row), default=width)
    return max(1, round(width / widest))


def turntable_sheet(
    context: Picture, frames: Sequence[Picture], columns: int | None = None, scale: int | None = None, most: int = 24
) -> Picture:
    """Show the input picture on the left and views around the object in a grid on the right.

    Args:
        context: (H, W, 3) uint8, enlarged to about the height of two rows.
        frames: views in order of angle; at most ``most`` of them, evenly chosen, are shown with their angles.
        columns: of the grid; None chooses about 3 : 2.
        scale: enlargement of the views; None makes them about 128 pixels wide.

    Returns:
        (H, W, 3) uint8.
    """
    count = min(len(frames), most)
    chosen = [round(i * len(frames) / count) for i in range(count)]
    columns = columns or max(1, min(count, int(np.ceil(np.sqrt(1.5 * count)))))
    scale = scale or _fitting_scale([list(frames[:1])], 128)
    angles = [f"{360 * i / len(frames):.0f}°" for i in chosen]
    starts = range(0, count, columns)
    grid = contact_sheet(
        [[frames[i] for i in chosen[s : s + columns]] for s in starts],
        captions=[angles[s : s + columns] for s in starts],
        scale=scale,
        text_size=TURNTABLE_TEXT,
    )
    twice = max(1, round(2 * scale * (frames[0].shape[1] if count else 64) / max(context.shape[:2])))
    left = contact_sheet([[context]], ["input"], scale=twice, text_size=TURNTABLE_TEXT)
    height = max(left.shape[0], grid.shape[0])
    return np.concatenate([_centred(left, height), _centred(grid, height)], axis=1)


def _centred(picture: Picture, height: int) -> Picture:
    above = (height - picture.shape[0]) // 2
    below = height - picture.shape[0] - above
    return np.pad(picture, ((above, below), (0, 0), (0, 0)), constant_values=255)


def depth_picture(
    depth: Tensor | NDArray[Any],
    near: float,
    far: float,
    opacity: Tensor | NDArray[Any] | None = None,
    colours: str = "turbo",
) -> Picture:
    """Colour depths: near is the colour map's high end; what is not hit is white.

    Args:
        depth: (H, W) ray parameter of the expected hit, as ``Rendered.depth``: leftover transmittance ends at ``far``.
        near, far: range of the colour map.
        opacity: (H, W) in [0, 1]. It blends to white and takes the part of ``far`` out of the expected depth, so that
            half-transparent edges keep the depth of the surface.
        colours: a matplotlib colour map ("turbo", "viridis").

    Returns:
        (H, W, 3) uint8.
    """
    from matplotlib import colormaps

    values = _float64(depth)
    cover = np.ones_like(values) if opacity is None else _float64(opacity).clip(0, 1)
    if opacity is not None:
        values = (values - (1 - cover) * far) / np.maximum(cover, 1e-6)
    level = np.nan_to_num((far - values) / (far - near), nan=0.0).clip(0, 1)
    colour = np.asarray(colormaps[colours](level))[..., :3]
    return to_uint8(1 + np.nan_to_num(cover)[..., None] * (colour - 1))


def _float64(values: Tensor | NDArray[Any]) -> NDArray[np.float64]:
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
    return np.asarray(array, dtype=np.float64)
