"""Procedural objects of other classes than cars, chairs and lamps: what backbones are pretrained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hyperkit.data.procedural import creatures, indoors, outdoors
from hyperkit.data.procedural.primitives import Builder
from hyperkit.data.procedural.sets import place
from hyperkit.data.raster import Mesh
from hyperkit.errors import unknown_name
from hyperkit.randomness import numpy_rng

Maker = Callable[[np.random.Generator, float], Builder]

_TRAINED: dict[str, Maker] = {
    "tables": indoors.make_table,
    "bottles": indoors.make_bottle,
    "shelves": indoors.make_shelf,
    "monitors": indoors.make_monitor,
    "planes": outdoors.make_plane,
    "trees": outdoors.make_tree,
    "houses": outdoors.make_house,
    "boats": outdoors.make_boat,
    "rockets": outdoors.make_rocket,
    "towers": outdoors.make_tower,
    "plants": outdoors.make_pot_plant,
    "animals": creatures.make_animal,
}
_HELD_OUT: dict[str, Maker] = {
    "mugs": indoors.make_mug,
    "beds": indoors.make_bed,
    "teapots": indoors.make_teapot,
    "fish": creatures.make_fish,
    "robots": creatures.make_robot,
}

PRETRAINING_CLASSES = tuple(_TRAINED)
"""What pretraining sees."""

HELD_OUT_CLASSES = tuple(_HELD_OUT)
"""What it never sees: features are judged by how well they tell these apart."""


def make_other_object(class_name: str, seed: int, index: int) -> Mesh:
    """Return the object of a class with a given number: a pure function of its arguments.

    It is centred, within the unit sphere (farthest vertex at norm 0.99), z up, the front along +y. Its parts are closed
    and wound outwards.

    Raises:
        HyperkitError: there is no such class.
    """
    makers = _TRAINED | _HELD_OUT
    if class_name not in makers:
        raise unknown_name("class of pretraining", class_name, makers)
    rng = numpy_rng(seed, "pretraining", class_name, index)
    return makers[class_name](rng, place(class_name, seed, index)).mesh()
