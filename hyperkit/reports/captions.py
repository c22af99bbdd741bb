"""Pictures of what a text-to-field model makes of captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from hyperkit.reports.pictures import INK, PAPER, Picture, contact_sheet, to_uint8

UNSEEN = (214, 39, 40)
"""Colour of the frame of captions that the model was not trained on."""
MOST_COLUMNS = 8


def caption_matrix(pictures: Mapping[str, Picture], unseen: set[str]) -> Picture:
    """Lay one picture of each scene out: rows are shapes, columns are colours, unseen captions are framed.

    Args:
        pictures: id "<class>/<name>" -> (H, W, 3) uint8, all of one size. Where few names are shared by the classes,
            each class fills rows of its own and pictures carry their names.
        unseen: ids that were not trained on.
    """
    classes = list(dict.fromkeys(name.split("/", 1)[0] for name in pictures))
    names = list(dict.fromkeys(name.split("/", 1)[-1] for name in pictures))
    framed = {name: _framed(picture, name in unseen) for name, picture in pictures.items()}
    title = "framed: captions that no training scene has" if unseen & set(pictures) else ""
    if len(classes) * len(names) <= 1.5 * len(pictures):
        rows = [[framed.get(f"{label}/{name}") for name in names] for label in classes]
        return contact_sheet(rows, column_titles=names, row_titles=classes, title=title)
    rows, titles, captions = [], [], []
    for label in classes:
        own = [name for name in framed if name.split("/", 1)[0] == label]
        for start in range(0, len(own), MOST_COLUMNS):
            part = own[start : start + MOST_COLUMNS]
            rows.append([framed[name] for name in part])
            titles.append("" if start else label)
            captions.append([name.split("/", 1)[-1] for name in part])
    return contact_sheet(rows, row_titles=titles, captions=captions, title=title)


def _framed(picture: Picture, unseen: bool) -> Picture:
    width = max(2, picture.shape[0] // 32)
    colour = np.array(UNSEEN if unseen else PAPER, dtype=np.uint8)
    sheet = np.empty((picture.shape[0] + 2 * width, picture.shape[1] + 2 * width, 3), dtype=np.uint8)
    sheet[:] = colour
    sheet[width:-width, width:-width] = picture
    return sheet


def examples_sheet(rows: Sequence[tuple[str, Tensor, Tensor]]) -> Picture:
    """Show truth, prediction and their difference for some scenes.

    Args:
        rows: title, truth and prediction (3, S, S) of each.
    """
    grid = [[to_uint8(t), to_uint8(p), to_uint8((p.clamp(0, 1) - t).abs())] for _, t, p in rows]
    scale = max(1, round(128 / rows[0][1].shape[-1]))
    titles = [title for title, _, _ in rows]
    return contact_sheet(grid, ["ground truth", "prediction", "|difference|"], titles, scale=scale)


def views_sheet(rows: Mapping[str, Sequence[Tensor]]) -> Picture:
    """Show the same views in rows: what each is called -> its pictures (3, S, S)."""
    first = next(iter(rows.values()))[0]
    grid = [[to_uint8(picture) for picture in pictures] for pictures in rows.values()]
    return contact_sheet(grid, row_titles=list(rows), scale=max(1, round(128 / first.shape[-1])))


def sentence_picture(sentence: str, size: int = 128) -> Picture:
    """Write a sentence on white, (size, size, 3): it stands where other models show their input."""
    import textwrap

    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (size, size), PAPER)
    draw = ImageDraw.Draw(image)
    text = max(9, size // 9)
    lines = textwrap.wrap(sentence, max(4, round(1.7 * size / text)))
    font = ImageFont.load_default(text)
    draw.multiline_text((size / 2, size / 2), "\n".join(lines), INK, font, anchor="mm", align="center")
    found: Picture = np.asarray(image)
    return found
