"""The procedural objects by class and number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hyperkit.data.procedural.cars import make_car
from hyperkit.data.procedural.chairs import make_chair
from hyperkit.data.procedural.lamps import make_lamp
from hyperkit.data.procedural.primitives import Builder
from hyperkit.data.raster import Mesh
from hyperkit.errors import unknown_name
from hyperkit.randomness import numpy_rng

GOLDEN_RATIO = 0.6180339887498949

_MAKERS: dict[str, Callable[[np.random.Generator, float], Builder]] = {
    "cars": make_car,
    "chairs": make_chair,
    "lamps": make_lamp,
}
CLASSES = tuple(_MAKERS)

PARTS = {
    "cars": {"body": 1, "wheels": 2, "windows": 3},
    "chairs": {"seat": 4, "back": 5, "legs": 6},
    "lamps": {"shade": 7, "stem": 8, "base": 9},
}
"""Class -> part -> its label in label maps; 0 is the background. A chair's arms count to its back."""


def make_object(class_name: str, seed: int, index: int) -> Mesh:
    """Return the object of a class with a given number: a pure function of its arguments.

    It is closed and wound outwards, centred, within the unit sphere (farthest vertex at norm 0.99), z up, the front
    along +y, symmetric under x -> -x.

    Raises:
        HyperkitError: there is no such class.
    """
    return _build(class_name, seed, index).mesh()


def make_labelled_object(class_name: str, seed: int, index: int) -> tuple[Mesh, NDArray[np.uint8]]:
    """Return the object of ``make_object`` with the label (F,) of every face: which of the class's ``PARTS`` it is of.

    Raises:
        HyperkitError: there is no such class.
    """
    built = _build(class_name, seed, index)
    names, which = np.unique(built.labels(), return_inverse=True)
    return built.mesh(), np.array([PARTS[class_name][name] for name in names.tolist()], np.uint8)[which]


def _build(class_name: str, seed: int, index: int) -> Builder:
    if class_name not in _MAKERS:
        raise unknown_name("procedural class", class_name, _MAKERS)
    return _MAKERS[class_name](numpy_rng(seed, "procedural", class_name, index), _place(class_name, seed, index))


def fingerprint(mesh: Mesh) -> str:
    """Return a SHA-256 of a mesh's faces, vertices and colours, the last two rounded to 1e-4.

    Sine, cosine and square root may differ in their last bits between processors; rounding hides that. Normals hang on
    comparisons at creases, and pictures on float32 arithmetic: they are compared to a tolerance, not hashed.
    """
    digest = hashlib.sha256(np.ascontiguousarray(mesh.faces, np.int32).tobytes())
    for values in (mesh.vertices, mesh.corner_colours):
        digest.update(np.round(np.asarray(values, np.float64) * 1e4).astype(np.int32).tobytes())
    return digest.hexdigest()


def _place(class_name: str, seed: int, index: int) -> float:
    """Return where in [0, 1) the object falls among the kinds of its class.

    Steps of the golden ratio spread any run of numbers evenly, so that each split has the kinds in their proportions:
    independent draws had put four of a hundred into training and four of twenty into the test split.
    """
    return float((numpy_rng(seed, "kinds", class_name).random() + index * GOLDEN_RATIO) % 1.0)
