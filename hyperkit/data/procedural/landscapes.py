"""Procedural landscapes: sky, sun and clouds, ridges that fade with distance, water or fields, trees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyperkit.data.procedural.canvas import Canvas, blend, gradient, step
from hyperkit.data.procedural.primitives import Array, Colour, hsv, pick

Generator = np.random.Generator


@dataclass(frozen=True)
class Hour:
    """The light of a time of day: the sky's colours from the top down, the sun's, and how bright the land is."""

    top: Colour
    middle: Colour
    low: Colour
    sun: Colour
    cloud: Colour
    light: float
    weight: float  # how often it is drawn


HOURS = {
    "noon": Hour(
        (0.16, 0.40, 0.78), (0.42, 0.66, 0.92), (0.80, 0.90, 0.97), (1.0, 0.98, 0.86), (1.0, 1.0, 1.0), 1.0, 1.4
    ),
    "dusk": Hour(
        (0.22, 0.20, 0.46), (0.78, 0.38, 0.42), (0.99, 0.73, 0.40), (1.0, 0.86, 0.55), (0.62, 0.36, 0.44), 0.62, 1.0
    ),
    "dawn": Hour(
        (0.42, 0.55, 0.80), (0.88, 0.72, 0.76), (0.99, 0.88, 0.70), (1.0, 0.95, 0.80), (0.99, 0.86, 0.84), 0.85, 1.0
    ),
    "grey": Hour(
        (0.50, 0.54, 0.60), (0.66, 0.69, 0.72), (0.80, 0.81, 0.81), (0.92, 0.92, 0.90), (0.88, 0.88, 0.89), 0.75, 0.6
    ),
    "night": Hour(
        (0.03, 0.05, 0.16), (0.08, 0.13, 0.30), (0.20, 0.29, 0.46), (0.95, 0.95, 0.86), (0.22, 0.27, 0.40), 0.30, 0.6
    ),
}


def landscape(canvas: Canvas, rng: Generator, place: float) -> None:
    """Paint a landscape; its time of day is the one at ``place`` in [0, 1)."""
    hour = HOURS[pick(list(HOURS), [h.weight for h in HOURS.values()], place)]
    horizon = rng.uniform(0.42, 0.68)
    haze = _sky(canvas, rng, hour, horizon)
    hue = float(rng.choice([0.28, 0.24, 0.10, 0.07, 0.60, 0.36])) + rng.uniform(-0.03, 0.03)
    near = hsv(hue, rng.uniform(0.25, 0.6), rng.uniform(0.30, 0.5))
    _ridges(canvas, rng, hour, horizon, near, haze)
    wooded = rng.random() < 0.65
    if rng.random() < 0.45:
        _water(canvas, rng, hour, horizon + rng.uniform(0.02, 0.10))
        bank = rng.uniform(0.84, 0.92)
        if wooded:
            _fields(canvas, rng, hour, bank)
    else:
        bank = horizon + rng.uniform(0.05, 0.14)
        _fields(canvas, rng, hour, bank)
    if wooded:
        _trees(canvas, rng, hour, max(bank + 0.05, 0.72))


def _sky(canvas: Canvas, rng: Generator, hour: Hour, horizon: float) -> Colour:
    """Paint the sky and return the colour of haze at the horizon."""
    shift = rng.uniform(-0.05, 0.05, 3)
    top, middle, low = (np.asarray(c) + shift * 0.6 for c in (hour.top, hour.middle, hour.low))
    height = np.clip(canvas.y / horizon, 0, 1) ** rng.uniform(0.8, 1.4)
    canvas.fill(gradient(top, middle, low, height))
    x, y = rng.uniform(0.1, 0.9), horizon * rng.uniform(0.15, 0.85)
    radius = rng.uniform(0.03, 0.075)
    distance = np.hypot(canvas.x - x, canvas.y - y)
    canvas.paint(hour.sun, 0.55 * np.exp(-distance / (3.0 * radius)))
    if hour is not HOURS["grey"]:
        canvas.paint(hour.sun, canvas.inside(distance - radius, 0.012))
    for _ in range(int(rng.integers(0, 3))):
        amount = rng.uniform(-0.2, 0.9)
        thin = canvas.noise(rng, (5, 10, 20), 0.8, squeeze=rng.uniform(0.35, 0.7))
        fade = step(canvas.y, horizon, rng.uniform(0.0, 0.55) * horizon)
        lit = blend(hour.cloud, middle * 0.85, step(thin, 0.6, 2.4))
        canvas.paint(lit, rng.uniform(0.6, 0.95) * fade * step(thin, amount, amount + 1.1))
    return tuple(low)  # type: ignore[return-value]


def _ridges(canvas: Canvas, rng: Generator, hour: Hour, horizon: float, near: Colour, haze: Colour) -> None:
    """Paint ridges from far to near: the farther, the more of the haze's colour they have."""
    count = int(rng.integers(1, 5))
    sharp = rng.uniform(0.6, 1.1)
    snow = rng.random() < 0.4
    tall = rng.uniform(0.05, 0.16)
    for k in range(count):
        nearness = (k + 1) / count
        base = horizon + 0.05 * k - 0.10 * (1 - nearness)
        crest = base - tall * (1.25 - 0.6 * nearness) * (0.6 + canvas.profile(rng, (3, 6, 12, 24), sharp))
        colour = blend(haze, np.asarray(near) * hour.light, 0.25 + 0.75 * nearness)
        cover = canvas.inside(crest - canvas.y)
        canvas.paint(_lit(canvas, rng, colour, crest, 0.10 + 0.12 * nearness), cover)
        if snow and nearness < 0.8:
            ragged = 0.02 * canvas.profile(rng, (12, 24), 0.5)
            line = canvas.inside(canvas.y - (base - 1.1 * tall + ragged), 0.01)
            canvas.paint(np.asarray((0.96, 0.97, 1.0)) * (0.35 + 0.65 * hour.light), cover * line * 0.9)


def _lit(canvas: Canvas, rng: Generator, colour: Array, crest: Array, rough: float) -> Array:
    """Return a slope's colours: brighter where the crest falls to the right, rough, darker downhill."""
    slope = np.clip(np.gradient(crest[0]) * canvas.samples, -1.5, 1.5)
    depth = np.clip(canvas.y - crest, 0, 0.4)
    shade = 1 + 0.28 * slope * np.exp(-depth / 0.07) + rough * canvas.noise(rng, (5, 10, 20), 0.6)
    return colour[:, None, None] * (shade - 0.5 * depth)


def _water(canvas: Canvas, rng: Generator, hour: Hour, line: float) -> None:
    """Paint water below ``line`` that mirrors what is above it, with ripples."""
    depth = np.clip(canvas.y - line, 0, None)
    ripples = canvas.noise(rng, (24, 48), 0.3, squeeze=0.2) * step(depth, 0.0, 0.25)
    rows = np.clip(2 * line - canvas.y[:, 0], 0.0, 1.0) * canvas.samples - 0.5
    low = np.clip(np.floor(rows).astype(int), 0, canvas.samples - 2)
    part = np.clip(rows - low, 0, 1)[:, None]
    mirrored = canvas.colours[:, low] * (1 - part) + canvas.colours[:, low + 1] * part
    own = hsv(rng.uniform(0.48, 0.62), rng.uniform(0.3, 0.6), 0.15 + 0.5 * hour.light)
    shown = blend(mirrored, own, 0.25 + 0.6 * np.clip(depth, 0, 0.5)) * (1 + 0.09 * ripples)
    canvas.paint(shown, canvas.inside(line - canvas.y))


def _fields(canvas: Canvas, rng: Generator, hour: Hour, base: float) -> None:
    """Paint rolling land below about ``base``, some with furrows."""
    for k in range(int(rng.integers(1, 3))):
        crest = base + 0.13 * k + 0.035 * canvas.profile(rng, (2, 4), 1.0)
        hue = float(rng.choice([0.26, 0.22, 0.30, 0.13, 0.10, 0.80])) + rng.uniform(-0.02, 0.02)
        ground = np.asarray(hsv(hue, rng.uniform(0.35, 0.7), rng.uniform(0.45, 0.8))) * hour.light
        depth = np.clip(canvas.y - crest, 0, 1)
        shade = 1.08 - 0.6 * depth + 0.07 * canvas.noise(rng, (8, 16, 32), 0.6, squeeze=0.5)
        if rng.random() < 0.4:
            vanish = rng.uniform(-0.3, 1.3)
            angle = np.arctan2(canvas.x - vanish, canvas.y - base + 0.12)
            shade = shade + 0.10 * np.sin(angle * rng.uniform(18, 40)) * step(depth, 0.0, 0.12)
        canvas.paint(ground[:, None, None] * shade, canvas.inside(crest - canvas.y))


def _trees(canvas: Canvas, rng: Generator, hour: Hour, farthest: float) -> None:
    """Paint a few conifers or round trees that stand below ``farthest``, far ones first."""
    conifers = rng.random() < 0.5
    hue = rng.uniform(0.24, 0.40) if conifers or rng.random() < 0.6 else rng.uniform(0.03, 0.13)
    feet = np.sort(rng.uniform(farthest, 1.0, int(rng.integers(1, 6))))
    for foot in feet:
        x, height = rng.uniform(0.03, 0.97), (foot - 0.5) * rng.uniform(0.5, 1.05)
        colour = np.asarray(hsv(hue + rng.uniform(-0.02, 0.02), 0.55, rng.uniform(0.25, 0.5))) * hour.light
        dx, v = canvas.x - x, (canvas.y - (foot - height)) / height  # v from 0 at the top to 1 at the foot
        trunk = np.maximum(np.abs(dx) - 0.03 * height, np.abs(v - 0.75) * height - 0.25 * height)
        canvas.paint(np.asarray((0.30, 0.20, 0.13)) * (0.3 + 0.7 * hour.light), canvas.inside(trunk))
        if conifers:
            width = height * (0.10 * v + 0.13 * np.mod(v * 3.2, 1.0) * np.clip(v + 0.25, 0, 1))
            crown = np.maximum(np.abs(dx) - width, np.abs(v - 0.44) * height - 0.44 * height)
            side = dx / (0.3 * height)
        else:
            crown = np.hypot(dx, (v - 0.36) * height) - 0.33 * height
            crown = crown + 0.02 * height * canvas.noise(rng, (12,), 1.0)
            side = (dx - (v - 0.36) * height) / (0.5 * height)
        canvas.paint(colour[:, None, None] * (1.0 + 0.45 * np.clip(side, -1, 1)), canvas.inside(crown))
