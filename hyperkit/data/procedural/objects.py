"""The procedural objects by class and number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hyperkit.data.procedural.cars import make_car
from hyperkit.data.procedural.chairs import make_chair
from hyperkit.data.procedural.lamps import make_lamp
from hyperkit.data.procedural.primitives import Builder
from hyperkit.data.raster import Mesh
from hyperkit.errors import unknown_name
from hyperkit.randomness import numpy_rng

_MAKERS: dict[str, Callable[[np.random.Generator], Builder]] = {
    "cars": make_car,
    "chairs": make_chair,
    "lamps": make_lamp,
}
CLASSES = tuple(_MAKERS)


def make_object(class_name: str, seed: int, index: int) -> Mesh:
    """Return the object of a class with a given number: a pure function of its arguments.

    It is closed and wound outwards, centred, within the unit sphere (farthest vertex at norm 0.99), z up, the front
    along +y, symmetric under x -> -x.

    Raises:
        HyperkitError: there is no such class.
    """
    if class_name not in _MAKERS:
        raise unknown_name("procedural class", class_name, _MAKERS)
    return _MAKERS[class_name](numpy_rng(seed, "procedural", class_name, index)).mesh()
