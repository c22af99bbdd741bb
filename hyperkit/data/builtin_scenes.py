"""The built-in sets of captioned scenes: made on first use, kept in the cache folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperkit.data.builtin import made_once
from hyperkit.data.places import new_folder
from hyperkit.data.procedural.captioned import COLOURS, NOVEL, SHAPES, held_out, make_captioned_scenes
from hyperkit.errors import unknown_name

log = logging.getLogger("hyperkit")
Combination = tuple[str, str]


@dataclass(frozen=True)
class BuiltinScenes:
    """How a built-in set of captioned scenes is made.

    Attributes:
        folder: its place in the cache. A change of what is drawn takes a new version in this name.
        train, unseen: (shape, colour) of every scene.
        size: width and height in pixels.
        views: pictures of each scene.
    """

    folder: str
    train: tuple[Combination, ...]
    unseen: tuple[Combination, ...]
    size: int = 64
    views: int = 40

    @classmethod
    def grid(
        cls,
        folder: str,
        shapes: Iterable[str],
        colours: Sequence[str],
        unseen: Mapping[str, Sequence[str]],
        **sizes: int,
    ) -> BuiltinScenes:
        """Return the set of all combinations, those of ``unseen`` (shape -> colours) held out."""
        scenes = [(shape, colour) for shape in shapes for colour in colours]
        out = {(shape, colour) for shape, held in unseen.items() for colour in held}
        kept = tuple(scene for scene in scenes if scene not in out)
        return cls(folder, kept, tuple(scene for scene in scenes if scene in out), **sizes)


BUILTIN_SCENES = {
    "quickstart": BuiltinScenes.grid(
        "scenes-procedural-v1-quickstart",
        ("chair", "toaster", "teapot"),
        ("red", "orange", "green", "blue"),
        {"chair": ["red"], "toaster": ["orange"], "teapot": ["green"]},
    ),
    "hyperfields": BuiltinScenes.grid(
        "scenes-procedural-v1", SHAPES, tuple(COLOURS), {shape: held_out(shape) for shape in SHAPES}
    ),
    "novel": BuiltinScenes("scenes-procedural-v1-novel", (), tuple(NOVEL)),
    "debug": BuiltinScenes.grid(
        "scenes-procedural-v1-debug", ("chair", "toaster"), ("red", "blue"), {"chair": ["red"]}, size=16, views=4
    ),
}
"""Name -> set. Of each set that is trained on, every shape and every colour is seen in some training scene."""


def builtin_scenes_root(name: str = "quickstart", progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the folder of a built-in set, making it first if it is not there; a second process waits for the first.

    Args:
        name: "quickstart" (12 scenes), "hyperfields" (72), "novel" (3 to finetune to) or "debug" (4 tiny ones).
        progress: called with (scenes done, scenes in all).

    Raises:
        HyperkitError: there is no such set.
        RunFailed: the cache folder is full or cannot be written.
    """
    if name not in BUILTIN_SCENES:
        raise unknown_name("built-in set of scenes", name, BUILTIN_SCENES)
    spec = BUILTIN_SCENES[name]

    def make(root: Path) -> None:
        log.info("making the built-in set of scenes (%s) in %s", name, root)
        with new_folder(root) as part:
            make_captioned_scenes(part / "data", spec.train, spec.unseen, spec.size, spec.views, progress=progress)
            (part / "data").rename(root)

    return made_once(spec.folder, make)


def builtin_scene(name: str) -> Path:
    """Return the folder of one scene of the built-in sets, such as "blender/golden", making its set on first use.

    Raises:
        HyperkitError: there is no such scene.
    """
    known = {"/".join(scene): key for key, spec in BUILTIN_SCENES.items() for scene in (*spec.train, *spec.unseen)}
    novel = ["/".join(scene) for scene in BUILTIN_SCENES["novel"].unseen]
    known |= {name: "hyperfields" for name, key in known.items() if key in ("quickstart", "debug")}
    if name not in known:
        raise unknown_name("built-in scene", name, known, f"Novel to all sets are {', '.join(novel)}.")
    return builtin_scenes_root(known[name]) / name
