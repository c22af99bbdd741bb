"""The built-in sets of pictures and sounds: generated on first use, kept in the cache folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hyperkit.data.builtin import made_once
from hyperkit.data.places import new_folder
from hyperkit.errors import unknown_name

log = logging.getLogger("hyperkit")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BuiltinPictures:
    """How a built-in set of pictures is made: how many in (train, val, test), and their side in pixels."""

    folder: str
    counts: tuple[int, int, int]
    size: int

    def make(self, root: Path, progress: Progress | None) -> None:
        """Write the pictures below ``root``."""
        from hyperkit.data.procedural.pictures import make_pictures

        make_pictures(root, self.counts, self.size, progress=progress)


@dataclass(frozen=True)
class BuiltinSounds:
    """How a built-in set of sounds is made: how many in (train, val, test), their rate in Hz and length in seconds."""

    folder: str
    counts: tuple[int, int, int]
    rate: int
    seconds: float

    def make(self, root: Path, progress: Progress | None) -> None:
        """Write the sounds below ``root``."""
        from hyperkit.data.procedural.sounds import make_sounds

        make_sounds(root, self.counts, self.rate, self.seconds, progress=progress)


BUILTIN_SIGNALS: dict[str, dict[str, BuiltinPictures | BuiltinSounds]] = {
    "pictures": {
        "quickstart": BuiltinPictures("pictures-procedural-v1", (2000, 48, 96), 64),
        "debug": BuiltinPictures("pictures-procedural-v1-debug", (16, 4, 6), 16),
    },
    "sounds": {
        "quickstart": BuiltinSounds("sounds-procedural-v1", (2000, 48, 96), 4000, 1.5),
        "debug": BuiltinSounds("sounds-procedural-v1-debug", (16, 4, 6), 2000, 0.5),
    },
}
"""Kind -> name -> set. A change of what the generators write takes a new version in the folders' names."""


def builtin_signals_root(kind: str, name: str = "quickstart", progress: Progress | None = None) -> Path:
    """Return the folder of a built-in set, making it first if it is not there; a second process waits for the first.

    Args:
        kind: "pictures" or "sounds".
        name: "quickstart" or "debug".
        progress: called with (files done, files in all).

    Raises:
        HyperkitError: there is no such set.
        RunFailed: the cache folder is full or cannot be written.
    """
    sets = BUILTIN_SIGNALS[kind]
    if name not in sets:
        raise unknown_name(f"built-in set of {kind}", name, sets)
    spec = sets[name]

    def make(root: Path) -> None:
        log.info("making the built-in set of %s (%s) in %s", kind, name, root)
        with new_folder(root) as part:
            spec.make(part / "data", progress)
            (part / "data").rename(root)

    return made_once(spec.folder, make)
