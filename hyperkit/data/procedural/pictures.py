"""Procedural pictures: landscapes, shapes, still lifes and textures; the built-in data set of images.

A picture is a scene in continuous coordinates: every size shows the same one, so that a network which was given the
small picture can be compared with the large one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hyperkit.data.procedural.canvas import Canvas
from hyperkit.data.procedural.landscapes import landscape
from hyperkit.data.procedural.sets import Item, place, write_items
from hyperkit.data.procedural.shapes import shapes
from hyperkit.data.procedural.still_lifes import still_life
from hyperkit.data.procedural.textures import texture
from hyperkit.errors import HyperkitError, unknown_name
from hyperkit.randomness import numpy_rng

FINEST = 128
"""Small pictures are averages over a grid of at least so many samples along each axis, and of at least 2 a pixel."""

_MAKERS: dict[str, Callable[[Canvas, np.random.Generator, float], None]] = {
    "landscapes": landscape,
    "shapes": shapes,
    "still_lifes": still_life,
    "textures": texture,
}
CLASSES = tuple(_MAKERS)


def picture(class_name: str, index: int, size: int, seed: int = 0) -> np.ndarray:
    """Return the picture of a class with a given number: a pure function of its arguments.

    Args:
        class_name: one of ``CLASSES``.
        index: its number, from 0.
        size: width and height in pixels; every size shows the same scene.
        seed: changes all pictures.

    Returns:
        (size, size, 3) uint8, row-major from the upper left corner.

    Raises:
        HyperkitError: there is no such class, or the size is below 1.
    """
    if class_name not in _MAKERS:
        raise unknown_name("class of pictures", class_name, _MAKERS)
    if size < 1:
        raise HyperkitError(f"The size of pictures is {size}.", "It must be at least 1.")
    factor = max(2, math.ceil(FINEST / size))
    canvas = Canvas(size * factor)
    _MAKERS[class_name](canvas, numpy_rng(seed, "pictures", class_name, index), place(class_name, seed, index))
    mean = canvas.colours.clip(0, 1).reshape(3, size, factor, size, factor).mean(axis=(2, 4))
    return (mean.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)


def make_pictures(
    root: Path,
    counts: tuple[int, int, int],
    size: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write pictures as ``root/{train,val,test}/{class}/NNNN.png``.

    A call that is killed leaves half a set: build in ``data.places.new_folder`` and rename.

    Args:
        root: the folder; made if absent.
        counts: pictures in train, val and test, over all classes; divided evenly, the first classes get what is left.
        size: width and height in pixels.
        seed: as for ``picture``.
        progress: called with (pictures done, pictures in all).

    Raises:
        HyperkitError: a negative count, none above 0, or a size below 1.
    """
    from PIL import Image

    def write(item: Item) -> None:
        Image.fromarray(picture(item.class_name, item.index, size, seed)).save(item.path)

    write_items(Path(root), counts, CLASSES, "png", write, progress)
