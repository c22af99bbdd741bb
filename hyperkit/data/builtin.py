"""The built-in data sets: made by the procedural generator on first use, kept in the cache folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hyperkit.data.places import folder_lock, new_folder
from hyperkit.errors import unknown_name
from hyperkit.files import cache_dir

log = logging.getLogger("hyperkit")


@dataclass(frozen=True)
class BuiltinSet:
    """How a built-in set is made: objects of each class in (train, val, test), pixels and views.

    ``packed`` is the resolution that the built-in recipes read it at.
    """

    folder: str
    counts: tuple[int, int, int]
    size: int
    views: int
    packed: int


SUPERSAMPLE = 2
"""Samples per pixel along each axis: made on first use, so 2 (30 % less time than the 3 of rendered meshes)."""

BUILTIN = {
    "quickstart": BuiltinSet("nvs-procedural-v2", (100, 8, 20), 128, 50, 64),
    "debug": BuiltinSet("nvs-procedural-v2-debug", (4, 1, 2), 32, 8, 32),
}


def builtin_root(name: str = "quickstart", progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the folder of a built-in set, making it first if it is not there; a second process waits for the first.

    Args:
        name: "quickstart" or "debug".
        progress: called with (objects done, objects in all).

    Raises:
        HyperkitError: there is no such set.
        RunFailed: the cache folder is full or cannot be written.
    """
    if name not in BUILTIN:
        raise unknown_name("built-in data set", name, BUILTIN)
    spec = BUILTIN[name]

    def make(root: Path) -> None:
        log.info("making the built-in data set (%s) in %s", name, root)
        make_procedural(root, spec.counts, spec.size, spec.views, progress=progress)

    return made_once(spec.folder, make)


def made_once(folder: str, make: Callable[[Path], None]) -> Path:
    """Return ``folder`` of the cache, made first if it is not there; a second process waits for the first."""
    root = cache_dir() / folder
    if root.is_dir():
        return root
    with folder_lock(cache_dir() / ".locks" / folder):
        if not root.is_dir():
            make(root)
    return root


def make_procedural(
    out: Path,
    counts: tuple[int, int, int],
    size: int,
    views: int,
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Generate a procedural set into ``out``, which appears only when it is complete.

    Args:
        out: folder to make; nothing may be there.
        counts: objects of each class in train, val and test.
        size, views: pixels and number of pictures of every object.
        seed: seed of the generator.
        classes: class folders; None: all that the generator knows.
        progress: called with (objects done, objects in all).

    Raises:
        HyperkitError: ``out`` is there already.
        RunFailed: the disk is full or the place cannot be written.
    """
    from hyperkit.data import procedural

    chosen = {class_name: counts for class_name in classes or procedural.CLASSES}
    with new_folder(Path(out)) as part:
        procedural.generate(part / "data", chosen, size=size, views=views, seed=seed, progress=progress)
        (part / "data").rename(out)
