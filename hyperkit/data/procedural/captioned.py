"""Captioned scenes, each a shape in a colour ("a red chair"), with some of the combinations held out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hyperkit.data.layout import write_scene
from hyperkit.data.procedural.captioned_shapes import NOVEL_SHAPES, SHAPES
from hyperkit.data.procedural.primitives import Colour
from hyperkit.data.raster import CAMERA_ANGLE_X, RADIUS, Mesh, render_mesh
from hyperkit.data.splits import write_splits
from hyperkit.data.workers import run_all
from hyperkit.errors import HyperkitError, unknown_name
from hyperkit.files import write_text
from hyperkit.geometry import look_at

SUPERSAMPLE = 3

# Far from one another in RGB, so that pictures of one shape tell their colours apart by squared error.
COLOURS: dict[str, Colour] = {
    "red": (0.80, 0.04, 0.06),
    "orange": (0.96, 0.46, 0.04),
    "yellow": (0.97, 0.90, 0.16),
    "green": (0.10, 0.58, 0.20),
    "blue": (0.10, 0.26, 0.82),
    "purple": (0.48, 0.14, 0.62),
    "pink": (0.98, 0.58, 0.74),
    "brown": (0.40, 0.23, 0.12),
}
NOVEL: dict[tuple[str, str], Colour] = {
    ("blender", "golden"): (0.85, 0.65, 0.13),
    ("vase", "striped"): (0.12, 0.42, 0.62),
    ("toaster", "plaid"): (0.72, 0.10, 0.14),
}
"""(noun, adjective) -> the colour that it stands for; scenes that no training set holds."""

HELD_OUT = 3
"""Colours held out of each of the nine shapes."""


def held_out(shape: str) -> tuple[str, ...]:
    """Return the colours of a shape that the set of 72 scenes holds out for testing.

    The 27 combinations are dealt along the colours in steps of three: each shape gives three, each colour three or
    four, and neighbours in hue are seldom held out together. A red chair and an orange toaster are among them.

    Raises:
        HyperkitError: there is no such shape.
    """
    if shape not in SHAPES:
        raise unknown_name("shape of captioned scenes", shape, SHAPES)
    first, names = HELD_OUT * list(SHAPES).index(shape), list(COLOURS)
    return tuple(sorted((names[3 * k % len(names)] for k in range(first, first + HELD_OUT)), key=names.index))


def caption(shape: str, adjective: str) -> str:
    """Return "a red chair" for ("chair", "red"), with "an" before a vowel."""
    return f"{'an' if adjective[0] in 'aeiou' else 'a'} {adjective} {shape}"


def make_captioned_object(shape: str, adjective: str) -> Mesh:
    """Return the object of a caption: closed, wound outwards, centred, within the unit sphere, z up, front along +y.

    Raises:
        HyperkitError: there is no such object.
    """
    if (shape, adjective) in NOVEL:
        return NOVEL_SHAPES[shape](NOVEL[shape, adjective]).mesh()
    if shape not in SHAPES:
        raise unknown_name("shape of captioned scenes", shape, {*SHAPES, *NOVEL_SHAPES})
    if adjective not in COLOURS:
        raise unknown_name("colour of captioned scenes", adjective, COLOURS)
    return SHAPES[shape](COLOURS[adjective]).mesh()


def spread_poses(views: int, max_elevation: float = 60.0) -> NDArray[np.float32]:
    """Return camera poses (views, 4, 4) on the sphere of radius 4, spread evenly over a band above the horizon.

    View k of V has azimuth k times the golden angle, and a sine of elevation of (k + 1/2) / V times that of
    ``max_elevation`` (degrees). Nothing is drawn: all scenes with as many views share their cameras, so that pictures
    of different scenes can be compared view by view.
    """
    number = np.arange(views)
    azimuth = number * (math.pi * (3 - math.sqrt(5)))
    sine = (number + 0.5) / max(views, 1) * math.sin(math.radians(max_elevation))
    flat = np.sqrt(1 - sine**2)
    eyes = RADIUS * np.stack((flat * np.cos(azimuth), flat * np.sin(azimuth), sine), axis=-1)
    return look_at(torch.from_numpy(eyes)).numpy().astype(np.float32)


@dataclass(frozen=True)
class _Job:
    folder: Path
    shape: str
    adjective: str
    size: int
    views: int


def make_captioned_scenes(
    out: Path,
    train: Sequence[tuple[str, str]],
    unseen: Sequence[tuple[str, str]],
    size: int = 64,
    views: int = 40,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write captioned scenes in the LearnIt layout: ``<out>/<shape>/<adjective>``, splits and ``captions.json``.

    A scene depends on its shape, its adjective, ``size`` and ``views`` alone. Unseen ones are the layout's test split.

    Args:
        out: the root folder.
        train, unseen: (shape, adjective) of each scene.
        size: width and height in pixels.
        views: pictures of each scene, from the cameras of ``spread_poses``.
        workers: processes; None: one per CPU.
        progress: called with (scenes done, scenes in all).

    Raises:
        HyperkitError: an unknown shape or colour, or sizes below 1.
        RunFailed: the disk is full, or a worker died.
    """
    if size < 1 or views < 1:
        raise HyperkitError(f"size is {size} and views {views}.", "Both must be at least 1.")
    scenes = [*train, *unseen]
    jobs = [_Job(Path(out) / shape / adjective, shape, adjective, size, views) for shape, adjective in scenes]
    if progress is not None:
        progress(0, len(jobs))
    for done, _ in enumerate(run_all(_make, jobs, workers), start=1):
        if progress is not None:
            progress(done, len(jobs))
    for shape, parts in _by_shape(train, unseen).items():
        write_splits(Path(out), shape, parts)
    captions = {f"{shape}/{adjective}": caption(shape, adjective) for shape, adjective in scenes}
    write_text(Path(out) / "captions.json", json.dumps(captions, indent=1))


def _by_shape(
    train: Sequence[tuple[str, str]], unseen: Sequence[tuple[str, str]]
) -> Mapping[str, dict[str, list[str]]]:
    parts: dict[str, dict[str, list[str]]] = {}
    for split, scenes in (("train", train), ("test", unseen)):
        for shape, adjective in scenes:
            parts.setdefault(shape, {}).setdefault(split, []).append(adjective)
    return parts


def _make(job: _Job) -> None:
    poses = spread_poses(job.views)
    mesh = make_captioned_object(job.shape, job.adjective)
    pictures = render_mesh(mesh, poses, CAMERA_ANGLE_X, job.size, SUPERSAMPLE, cull=True)
    write_scene(job.folder, pictures, poses, CAMERA_ANGLE_X)
