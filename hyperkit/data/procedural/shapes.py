"""Procedural compositions of flat shapes with shadows: discs, rings, boxes, polygons, stars, capsules and hearts."""

from __future__ import annotations

import math

import numpy as np

from hyperkit.data.procedural.canvas import Canvas, blend, step
from hyperkit.data.procedural.primitives import Array, Colour, hsv, pick

Generator = np.random.Generator
KINDS = ("disc", "ring", "box", "polygon", "star", "capsule", "heart")


def shapes(canvas: Canvas, rng: Generator, place: float) -> None:
    """Paint a gradient and 2 to 6 shapes; ``place`` in [0, 1) chooses how their colours go together."""
    colours = _palette(rng, place)
    angle = rng.uniform(0, 2 * math.pi)
    along = 0.5 + (canvas.x - 0.5) * math.cos(angle) + (canvas.y - 0.5) * math.sin(angle)
    canvas.fill(blend(colours[0], colours[1], step(along, -0.2, 1.2)))
    canvas.colours *= 1 + 0.03 * canvas.noise(rng, (4, 8, 16), 0.7)
    count = int(rng.integers(2, 7))
    start = int(rng.integers(len(KINDS)))
    for k in range(count):
        kind = KINDS[(start + 3 * k) % len(KINDS)]
        radius = rng.uniform(0.12, 0.30) * (1.25 - 0.09 * count)
        _add(canvas, rng, kind, radius, colours[2 + k % (len(colours) - 2)])


def _palette(rng: Generator, place: float) -> list[Colour]:
    """Return two background colours and four for shapes."""
    scheme = pick(("near", "opposite", "triad", "free"), (1.0, 1.2, 1.0, 0.8), place)
    hue = rng.random()
    steps = {"near": (0.0, 0.06, 0.12, -0.08), "opposite": (0.5, 0.45, 0.55, 0.0), "triad": (1 / 3, 2 / 3, 0.05, 0.5)}
    offsets = steps.get(scheme, tuple(rng.random(4)))
    if rng.random() < 0.5:  # pale ground, deep shapes
        ground = [hsv(hue + d, rng.uniform(0.05, 0.35), rng.uniform(0.80, 0.98)) for d in (0.0, 0.08)]
        return ground + [hsv(hue + d, rng.uniform(0.5, 0.9), rng.uniform(0.45, 0.9)) for d in offsets]
    ground = [hsv(hue + d, rng.uniform(0.4, 0.8), rng.uniform(0.12, 0.45)) for d in (0.0, 0.08)]
    return ground + [hsv(hue + d, rng.uniform(0.3, 0.85), rng.uniform(0.75, 1.0)) for d in offsets]


def _add(canvas: Canvas, rng: Generator, kind: str, radius: float, colour: Colour) -> None:
    """Paint one shape: a soft shadow, a fill that runs from one tone to another, on some also stripes."""
    x, y, turn = *rng.uniform(0.12, 0.88, 2), rng.uniform(0, 2 * math.pi)
    options = rng.random(4)
    distance = _distance(kind, canvas.x - x, canvas.y - y, radius, turn, options)
    shadow = _distance(kind, canvas.x - x - 0.025, canvas.y - y - 0.035, radius, turn, options)
    canvas.darken(0.42 * canvas.inside(shadow, 0.07))
    tone = 0.5 + ((canvas.x - x) * math.cos(turn + 1) + (canvas.y - y) * math.sin(turn + 1)) / (2.4 * radius)
    lighter = blend(colour, (1.0, 1.0, 1.0), 0.30)
    fill = blend(lighter, np.asarray(colour) * 0.78, np.clip(tone, 0, 1))
    if rng.random() < 0.22:
        across = (canvas.x - x) * math.cos(turn) + (canvas.y - y) * math.sin(turn)
        bands = step(np.sin(across * 2 * math.pi / (radius * rng.uniform(0.4, 0.7))), -0.15, 0.15)
        fill = blend(fill, np.asarray(colour) * 0.55, 0.8 * bands)
    canvas.paint(fill, canvas.inside(distance))


def _distance(kind: str, dx: Array, dy: Array, radius: float, turn: float, options: Array) -> Array:
    """Return the signed distance (about, for stars and hearts) to a shape's edge, negative inside."""
    if kind == "disc":
        return np.hypot(dx, dy) - radius
    if kind == "ring":
        return np.abs(np.hypot(dx, dy) - 0.78 * radius) - radius * (0.14 + 0.16 * options[0])
    c, s = math.cos(turn), math.sin(turn)
    u, v = dx * c + dy * s, dy * c - dx * s
    if kind in ("box", "capsule"):
        half = (radius, radius * (0.45 + 0.5 * options[0])) if kind == "box" else (1.3 * radius, 0.42 * radius)
        corner = radius * 0.3 * options[1] if kind == "box" else half[1]
        a, b = np.abs(u) - half[0] + corner, np.abs(v) - half[1] + corner
        return np.hypot(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0) - corner
    if kind == "heart":
        u, v = dx / radius, dy / radius  # upright
        lobes = np.hypot(np.abs(u) - 0.42, v + 0.25) - 0.5
        tip = np.maximum(np.abs(u) * 0.74 + v * 0.67 - 0.48, -0.35 - v)
        return radius * np.minimum(lobes, tip)
    corners = 3 + int(options[0] * 4) if kind == "polygon" else 5 + int(options[0] * 3)
    sector = 2 * math.pi / corners
    around = np.abs(np.mod(np.arctan2(v, u), sector) - sector / 2)  # 0 at the middle of a side
    distance = np.hypot(u, v)
    if kind == "polygon":
        return distance * np.cos(around) - radius * math.cos(sector / 2)
    # a star's side runs from its outer corner to the inner one at the middle of the sector
    inner = radius * (0.42 + 0.15 * options[1])
    outer = np.array([radius * math.cos(sector / 2), radius * math.sin(sector / 2)])
    normal = np.array([outer[1], inner - outer[0]]) / math.hypot(outer[1], inner - outer[0])
    return (distance * np.cos(around) - inner) * normal[0] + distance * np.sin(around) * normal[1]
