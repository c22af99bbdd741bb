"""Which made-up pictures or sounds a data set holds, and in which folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperkit.data.splits import SPLITS
from hyperkit.errors import HyperkitError
from hyperkit.randomness import numpy_rng

GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True)
class Item:
    """One file of a data set: the item ``index`` of a class."""

    path: Path
    class_name: str
    index: int


def write_items(
    root: Path,
    counts: tuple[int, int, int],
    classes: Sequence[str],
    suffix: str,
    write: Callable[[Item], None],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the files ``root/{train,val,test}/{class}/NNNN.suffix``, one after the other.

    The items of a class are numbered through train, val and test: no two splits share one. Folders are made also
    where a class has nothing in them.

    Args:
        root: the folder; made if absent.
        counts: items in train, val and test, over all classes; divided evenly, the first classes get what is left.
        classes: names of the classes.
        suffix: of the files, without a dot.
        write: writes one file.
        progress: called with (files done, files in all), at first with 0.

    Raises:
        HyperkitError: a negative count, or none above 0.
    """
    if len(counts) != 3 or min(counts) < 0 or sum(counts) == 0:
        raise HyperkitError(
            f"The counts are {tuple(counts)}.", "Give three numbers for train, val and test, not all 0."
        )
    items = []
    for place, class_name in enumerate(classes):
        index = 0
        for split, count in zip(SPLITS, counts, strict=True):
            folder = Path(root) / split / class_name
            folder.mkdir(parents=True, exist_ok=True)
            for _ in range(count // len(classes) + (place < count % len(classes))):
                items.append(Item(folder / f"{index:04d}.{suffix}", class_name, index))
                index += 1
    for done, item in enumerate(items):
        if progress is not None:
            progress(done, len(items))
        write(item)
    if progress is not None:
        progress(len(items), len(items))


def place(class_name: str, seed: int, index: int) -> float:
    """Return where in [0, 1) an item falls among the kinds of its class.

    Steps of the golden ratio spread any run of numbers evenly, so that each split has the kinds in their proportions.
    """
    return float((numpy_rng(seed, "kinds", class_name).random() + index * GOLDEN_RATIO) % 1.0)
