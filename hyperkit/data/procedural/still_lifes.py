"""Procedural still lifes: balls, fruit and vases on a table, lit from one side, with shadows."""

from __future__ import annotations

import math

import numpy as np

from hyperkit.data.procedural.canvas import Canvas, blend, spline, step
from hyperkit.data.procedural.primitives import Array, Colour, hsv, pick, wood

Generator = np.random.Generator
Light = tuple[float, float, float]


def still_life(canvas: Canvas, rng: Generator, place: float) -> None:
    """Paint 1 to 4 objects; what the first one is lies at ``place`` in [0, 1)."""
    side = -1.0 if rng.random() < 0.5 else 1.0
    light = (side * rng.uniform(0.35, 0.7), -rng.uniform(0.35, 0.65), 0.0)
    light = (light[0], light[1], math.sqrt(1 - light[0] ** 2 - light[1] ** 2))
    edge = rng.uniform(0.48, 0.68)
    _room(canvas, rng, light, edge)
    feet = np.sort(rng.uniform(edge + 0.10, 0.95, int(rng.integers(1, 5))))
    spots = (np.arange(len(feet)) + rng.uniform(0.2, 0.8, len(feet))) / len(feet)
    rng.shuffle(spots)
    main = pick(("ball", "vase", "fruit"), (1.0, 1.0, 0.9), place)
    for k, (x, foot) in enumerate(zip(spots, feet, strict=True)):
        kind = main if k == 0 else ("ball", "vase", "fruit")[int(rng.integers(3))]
        room = 1.3 if len(feet) == 1 else 1.0
        colour = hsv(rng.random(), rng.uniform(0.35, 0.9), rng.uniform(0.45, 1.0))
        if kind == "vase":
            _vase(canvas, rng, x, foot, room * rng.uniform(0.32, 0.55), colour, light)
        else:
            _ball(canvas, rng, x, foot, room * rng.uniform(0.09, 0.17), colour, light, kind == "fruit")


def _room(canvas: Canvas, rng: Generator, light: Light, edge: float) -> None:
    """Paint a wall, brighter towards the light, and a table of wood, cloth or stone below ``edge``."""
    wall = np.asarray(hsv(rng.random(), rng.uniform(0.08, 0.5), rng.uniform(0.35, 0.9)))
    towards = 0.5 + light[0] * (canvas.x - 0.5) + 0.3 * (0.5 - canvas.y)
    canvas.fill(wall[:, None, None] * (0.62 + 0.5 * towards + 0.03 * canvas.noise(rng, (4, 8, 16), 0.7)))
    kind = rng.random()
    if kind < 0.5:
        colour = np.asarray(wood(rng))
        grain = canvas.noise(rng, (16, 32), 0.3, squeeze=0.12)
        strength = 0.09
    else:
        colour = np.asarray(hsv(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.4, 0.9)))
        grain = canvas.noise(rng, (6, 12, 24), 0.6)
        strength = 0.04
    depth = np.clip(canvas.y - edge, 0, 1)
    table = colour[:, None, None] * (0.78 + 0.5 * depth + 0.25 * towards + strength * grain)
    canvas.darken(0.35 * step(canvas.y, edge - 0.08, edge))
    canvas.paint(table, canvas.inside(edge - canvas.y))


def _shadow(canvas: Canvas, x: float, foot: float, radius: float, light: Light) -> None:
    """Darken the table: an ellipse drawn out away from the light, darkest where the object stands."""
    u = canvas.x - x + 1.1 * radius * light[0]
    long = np.hypot(u / (1.7 * radius), (canvas.y - foot) / (0.42 * radius))
    close = np.hypot((canvas.x - x) / radius, (canvas.y - foot) / (0.3 * radius))
    canvas.darken(0.5 * step(long, 1.25, 0.35))
    canvas.darken(0.45 * step(close, 1.1, 0.3))


def _shade(colour: Array, normal: tuple[Array, Array, Array], light: Light, gloss: float) -> Array:
    """Return planes of a lit surface: ambient and diffuse light, some from the table below, and a highlight."""
    nx, ny, nz = normal
    towards = nx * light[0] + ny * light[1] + nz * light[2]
    diffuse = np.clip(towards, 0, 1)
    lit = colour * (0.28 + 0.80 * diffuse + 0.10 * np.clip(ny, 0, 1))
    mirror = np.clip(2 * towards * nz - light[2], 0, 1)  # towards the eye
    shine = mirror * mirror * mirror
    return lit + gloss * (shine * shine) ** 4


def _ball(
    canvas: Canvas, rng: Generator, x: float, foot: float, radius: float, colour: Colour, light: Light, fruit: bool
) -> None:
    y = foot - 0.93 * radius
    _shadow(canvas, x, foot, radius, light)
    stretch = rng.uniform(0.88, 1.15) if fruit else 1.0
    u, v = (canvas.x - x) / radius, (canvas.y - y) / (radius * stretch)
    square = u * u + v * v
    nz = np.sqrt(np.clip(1 - square, 0, 1))
    skin = np.asarray(colour)[:, None, None]
    if fruit:
        blush = blend(colour, hsv(rng.uniform(-0.05, 0.3), 0.8, 0.9), step(u * light[0] + v * light[1], -0.6, 0.9))
        skin = blush * (1 + 0.05 * canvas.noise(rng, (16, 32), 0.4))
    elif rng.random() < 0.5:
        turn = rng.uniform(0, math.pi)
        height = u * math.cos(turn) + v * math.sin(turn) * 0.8 + 0.6 * nz * math.sin(turn)
        other = hsv(rng.random(), rng.uniform(0.0, 0.9), rng.uniform(0.5, 1.0))
        bands = np.abs(height) if rng.random() < 0.5 else np.sin(height * 6)
        skin = blend(colour, other, step(bands, 0.30, 0.36))
    cover = canvas.inside((np.sqrt(square) - 1) * radius)
    canvas.paint(_shade(skin, (u, v, nz), light, 0.15 if fruit else rng.uniform(0.2, 0.8)), cover)
    if fruit:
        dent = np.hypot((canvas.x - x) / 0.3, (canvas.y - y + 0.86 * radius * stretch) / 0.12) - radius
        canvas.darken(0.45 * cover * canvas.inside(dent * 0.12, 0.02))
        lean = rng.uniform(-0.5, 0.5)
        top = y - 0.82 * radius * stretch
        rise = (top - canvas.y) / (0.45 * radius)
        stem = np.abs(canvas.x - x - lean * 0.3 * radius * np.clip(rise, 0, 1) ** 2) - 0.06 * radius
        canvas.paint((0.27, 0.18, 0.10), canvas.inside(np.maximum(stem, (np.abs(rise - 0.5) - 0.5) * 0.45 * radius)))


def _vase(canvas: Canvas, rng: Generator, x: float, foot: float, height: float, colour: Colour, light: Light) -> None:
    """Paint a surface of revolution: its half width is a spline along the height."""
    count = 4
    widths = height * rng.uniform(0.12, 0.36, count + 3)
    widths[-3:] = widths[-3] * rng.uniform(0.8, 1.1, 3)
    top = foot - height
    down = (canvas.y[:, 0] - top) / height
    grid = spline(256, count) @ widths  # along the height, from the top
    half = np.interp(down, (np.arange(256) + 0.5) / 256, grid)[:, None]
    _shadow(canvas, x, foot, max(float(grid[-1]), 0.06), light)
    u = (canvas.x - x) / half
    sag = 0.22 * half * np.sqrt(np.clip(1 - u * u, 0, 1))  # the rims are ellipses seen from above
    inside = np.maximum(np.abs(canvas.x - x) - half, np.maximum(top - canvas.y, canvas.y - foot - sag))
    slope = np.gradient(half[:, 0]) * canvas.samples
    nz = np.sqrt(np.clip(1 - u * u, 0, 1))
    tilt = -np.clip(slope, -1.2, 1.2)[:, None]
    norm = np.sqrt(1 + tilt * tilt)
    normal = (np.clip(u, -1, 1) / norm, tilt / norm, nz / norm)
    skin = np.asarray(colour)[:, None, None]
    if rng.random() < 0.5:
        other = hsv(rng.random(), rng.uniform(0.0, 0.8), rng.uniform(0.4, 1.0))
        middle, wide = rng.uniform(0.25, 0.75), rng.uniform(0.06, 0.18)
        skin = blend(colour, other, step(np.abs(down[:, None] - sag / height - middle), wide + 0.02, wide))
    canvas.paint(_shade(skin, normal, light, rng.uniform(0.1, 0.5)), canvas.inside(inside))
    rim = float(grid[0])
    mouth = (np.hypot(canvas.x - x, (canvas.y - top) / 0.22) - rim) * 0.22
    canvas.paint(np.asarray(colour) * 0.85, canvas.inside(mouth))
    canvas.paint(np.asarray(colour) * 0.22, canvas.inside(mouth + 0.03 * rim, 0.01))
