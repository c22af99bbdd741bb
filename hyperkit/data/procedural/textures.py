"""Procedural textures: waves, checks, plaid, dots, cells, marble and rings, of two or three colours."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hyperkit.data.procedural.canvas import Canvas, blend, gradient, step
from hyperkit.data.procedural.primitives import Array, Colour, hsv, pick

Generator = np.random.Generator
Colours = tuple[Colour, Colour, Colour]


def texture(canvas: Canvas, rng: Generator, place: float) -> None:
    """Paint a texture, the one at ``place`` in [0, 1), with slow changes of brightness over it."""
    colours = _colours(rng)
    name = pick(list(_KINDS), [1.0] * len(_KINDS), place)
    canvas.fill(_KINDS[name](canvas, rng, colours))
    angle = rng.uniform(0, 2 * math.pi)
    along = (canvas.x - 0.5) * math.cos(angle) + (canvas.y - 0.5) * math.sin(angle)
    canvas.colours *= 1 + rng.uniform(0.1, 0.5) * along + 0.04 * canvas.noise(rng, (4, 8, 16), 0.7)


def _colours(rng: Generator) -> Colours:
    """Return three colours: dark, middle, light, of near or opposite hues."""
    hue, spread = rng.random(), float(rng.choice([0.04, 0.10, 0.35, 0.5]))
    dark = hsv(hue, rng.uniform(0.3, 0.9), rng.uniform(0.12, 0.4))
    middle = hsv(hue + spread, rng.uniform(0.3, 0.8), rng.uniform(0.45, 0.75))
    light = hsv(hue + rng.uniform(-0.08, 0.08), rng.uniform(0.05, 0.5), rng.uniform(0.8, 1.0))
    return dark, middle, light


def _turned(canvas: Canvas, rng: Generator, warp: float) -> tuple[Array, Array]:
    """Return coordinates turned by a random angle, bent by ``warp`` picture widths of smooth noise."""
    angle = rng.uniform(0, math.pi)
    x = canvas.x - 0.5 + warp * canvas.noise(rng, (2, 4))
    y = canvas.y - 0.5 + warp * canvas.noise(rng, (2, 4))
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _waves(canvas: Canvas, rng: Generator, colours: Colours) -> Array:
    u, _ = _turned(canvas, rng, rng.uniform(0.0, 0.12))
    wave = 0.5 + 0.5 * np.sin(2 * math.pi * (u * rng.uniform(2.0, 5.0) + rng.random()))
    return gradient(*colours, wave if rng.random() < 0.5 else step(wave, 0.3, 0.7))


def _checks(canvas: Canvas, rng: Generator, colours: Colours) -> Array:
    u, v = _turned(canvas, rng, rng.uniform(0.0, 0.05))
    pitch, shift = rng.uniform(2.0, 4.0), rng.random(2)
    product = np.sin(math.pi * (u * pitch + shift[0])) * np.sin(math.pi * (v * pitch + shift[1]))
    squares = blend(colours[0], colours[2], step(product, -0.08, 0.08))
    return blend(squares, colours[1], 0.5 * step(np.abs(product), 0.75, 1.0))


def _plaid(canvas: Canvas, rng: Generator, colours: Colours) -> Array:
    u, v = _turned(canvas, rng, 0.0)
    result = np.broadcast_to(np.asarray(colours[1])[:, None, None], canvas.colours.shape)
    for across in (u, v):
        for colour in (colours[0], colours[2]):
            band = np.sin(2 * math.pi * (across * rng.uniform(1.5, 4.0) + rng.random()))
            threshold = rng.uniform(-0.2, 0.7)
            result = blend(result, colour, 0.55 * step(band, threshold, threshold + 0.2))
    return result


def _dots(canvas: Canvas, rng: Generator, colours: Colours) -> Array:
    u, v = _turned(canvas, rng, rng.uniform(0.0, 0.05))
    pitch = rng.uniform(2.5, 5.0)
    row = v * pitch + rng.random()
    shifted = u * pitch + 0.5 * np.mod(np.floor(row), 2.0)
    du, dv = np.mod(shifted, 1.0) - 0.5, np.mod(row, 1.0) - 0.5
    distance = np.hypot(du, dv)
    radius = rng.uniform(0.22, 0.42)
    ball = blend(colours[0], colours[1], step(distance + 0.4 * (du + dv), radius, -radius))
    return blend(ball, colours[2], canvas.inside((radius - distance) / pitch))


def _cells(canvas: Canvas, rng: Generator, colours: Colours) -> Array:
    side = int(rng.integers(3, 5))
    nearest = np.full((2, canvas.samples, canvas.samples), 9.0)
    tone = np.zeros((canvas.samples, canvas.samples))
    for i in range(-1, side + 1):  # one jittered point in each cell of a grid, and around it
        for j in range(-1, side + 1):
            x, y = (np.array([j, i]) + rng.uniform(0.1, 0.9, 2)) / side
            distance = (canvas.x - x) ** 2 + (canvas.y - y) ** 2
            closer = distance < nearest[0]
            nearest[1] = np.minimum(nearest[1], np.where(closer, nearest[0], distance))
            nearest[0] = np.where(closer, distance, nearest[0])
            tone = np.where(closer, rng.random(), tone)
    first, second = np.sqrt(nearest)
    fill = blend(colours[1], colours[2], tone) * (1.05 - 0.5 * first * side)
    return blend(colours[0], fill, step((second - first) * side, 0.03, 0.16))


def _marble(canvas: Canvas, rng: Generator, colours: Colours) -> Array:
    rough = canvas.noise(rng, (3, 6, 12, 24), 1.0)
    if rng.random() < 0.5:
        u, _ = _turned(canvas, rng, 0.0)
        veins = np.abs(np.sin(2 * math.pi * u * rng.uniform(0.8, 1.8) + 1.3 * rough)) ** 0.5
        return gradient(*colours, np.clip(veins, 0, 1))
    return gradient(*colours, np.clip(0.5 + 0.3 * rough, 0, 1))


def _rings(canvas: Canvas, rng: Generator, colours: Colours) -> Array:
    x, y = rng.uniform(-0.2, 1.2, 2)
    distance = np.hypot(canvas.x - x, (canvas.y - y) * rng.uniform(0.7, 1.4)) + 0.03 * canvas.noise(rng, (3, 6))
    saw = np.mod(distance * rng.uniform(3.0, 6.0), 1.0)
    return gradient(*colours, np.minimum(saw / 0.8, (1 - saw) / 0.2))


_KINDS: dict[str, Callable[[Canvas, Generator, Colours], Array]] = {
    "waves": _waves,
    "checks": _checks,
    "plaid": _plaid,
    "dots": _dots,
    "cells": _cells,
    "marble": _marble,
    "rings": _rings,
}
