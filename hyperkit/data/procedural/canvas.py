"""What procedural pictures are painted with: a canvas of colours, soft edges and smooth noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from hyperkit.data.procedural.primitives import Array, Colour

SPLINE_POWER = 151 / 315
"""Mean square along an axis of cubic B-splines with independent coefficients of deviation 1."""


class Canvas:
    """Colours (3, S, S) in float64 on a grid of samples of the unit square, painted from back to front.

    Attributes:
        colours: the picture so far, not clipped.
        x: (1, S), to the right. y: (S, 1), down. Both hold the samples' centres, from 0 to 1.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        middle = (np.arange(samples) + 0.5) / samples
        self.x, self.y = middle[None, :], middle[:, None]
        self.colours = np.zeros((3, samples, samples))

    def fill(self, colour: Array | Colour) -> None:
        """Set all colours: one (3,), or planes that broadcast to (3, S, S)."""
        self.colours[:] = _planes(colour)

    def paint(self, colour: Array | Colour, cover: Array) -> None:
        """Lay a colour (3,), or planes (3, S, S), over what is there: ``cover`` (S, S) 1 hides it, 0 keeps it."""
        self.colours += cover * (_planes(colour) - self.colours)

    def darken(self, by: Array) -> None:
        """Multiply all colours by ``1 - by``, (S, S): shadows."""
        self.colours *= 1 - by

    def inside(self, distance: Array, blur: float = 0.0) -> Array:
        """Return the cover of the part where a signed distance (in picture widths) is negative.

        Its edge is one sample wide, or ``blur`` picture widths.
        """
        width = max(blur, 1.0 / self.samples)
        return np.clip(0.5 - distance / width, 0.0, 1.0)

    def noise(
        self, rng: np.random.Generator, knots: Sequence[int], falloff: float = 1.0, squeeze: float = 1.0
    ) -> Array:
        """Return smooth noise (S, S) of deviation about 1: cubic B-splines with random coefficients.

        Args:
            rng: where the coefficients come from.
            knots: cells along y of each octave; ever finer ones.
            falloff: amplitudes go as ``knots ** -falloff``; 1 gives the spectrum of natural pictures.
            squeeze: cells along x for each along y; below 1, noise is drawn out to the sides, as clouds are.
        """
        total, power = np.zeros((self.samples, self.samples)), 0.0
        for count in knots:
            across = max(1, round(count * squeeze))
            weight = (count / knots[0]) ** -falloff
            values = rng.standard_normal((count + 3, across + 3))
            total += weight * (spline(self.samples, count) @ values @ spline(self.samples, across).T)
            power += weight**2
        return total / (SPLINE_POWER * math.sqrt(power))

    def profile(self, rng: np.random.Generator, knots: Sequence[int], falloff: float = 1.0) -> Array:
        """Return smooth noise (1, S) along x of deviation about 1."""
        total, power = np.zeros(self.samples), 0.0
        for count in knots:
            weight = (count / knots[0]) ** -falloff
            total += weight * (spline(self.samples, count) @ rng.standard_normal(count + 3))
            power += weight**2
        return total[None, :] / math.sqrt(SPLINE_POWER * power)


@lru_cache(maxsize=64)
def spline(samples: int, cells: int) -> Array:
    """Return the values (samples, cells + 3) of the uniform cubic B-splines at the centres of samples of [0, 1]."""
    position = (np.arange(samples) + 0.5) / samples * cells
    cell = np.minimum(position.astype(int), cells - 1)
    t = position - cell
    parts = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    basis = np.zeros((samples, cells + 3))
    for k, part in enumerate(parts):
        basis[np.arange(samples), cell + k] = part / 6
    basis.setflags(write=False)
    return basis


def step(values: Array, low: float, high: float) -> Array:
    """Return 0 below ``low``, 1 above ``high``, and a smooth cubic between."""
    t = np.clip((values - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def blend(first: Array | Colour, second: Array | Colour, part: Array | float) -> Array:
    """Return colours between two: (3,) for a number ``part``, planes (3, ...) for a grid of them."""
    if isinstance(part, float):
        return np.asarray(first) * (1 - part) + np.asarray(second) * part
    a, b = _planes(first), _planes(second)
    return a + part * (b - a)


def gradient(first: Array | Colour, second: Array | Colour, third: Array | Colour, part: Array) -> Array:
    """Return planes that run from the first colour over the second, at one half, to the third."""
    return blend(blend(first, second, np.clip(2 * part, 0, 1)), third, np.clip(2 * part - 1, 0, 1))


def _planes(colour: Array | Colour) -> Array:
    planes = np.asarray(colour, np.float64)
    return planes[:, None, None] if planes.ndim == 1 else planes
