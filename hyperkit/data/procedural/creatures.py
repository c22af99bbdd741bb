"""Animals, fish and robots for pretraining. Axes are those of ``primitives``.

The kind is the one at ``place`` in [0, 1); sizes and colours are drawn.
"""

from __future__ import annotations

import math

import numpy as np

from hyperkit.data.procedural import primitives as p
from hyperkit.data.procedural.indoors import scaled
from hyperkit.data.procedural.primitives import Builder

Generator = np.random.Generator


def make_animal(rng: Generator, place: float) -> Builder:
    """An animal on four legs, its head to the front: dog, horse, sheep, elephant or giraffe."""
    kind = p.pick(("dog", "horse", "sheep", "elephant", "giraffe"), (2, 2, 1, 2, 1), place)
    out = Builder()
    fur = p.hsv(rng.uniform(0.02, 0.13), rng.uniform(0.05, 0.7), rng.uniform(0.15, 0.9))
    if kind == "elephant":
        fur = p.hsv(0.6, 0.1, rng.uniform(0.35, 0.6))
    legs = {"dog": 0.4, "horse": 0.75, "sheep": 0.35, "elephant": 0.5, "giraffe": 0.95}[kind] * rng.uniform(0.85, 1.2)
    girth = {"dog": 0.22, "horse": 0.27, "sheep": 0.36, "elephant": 0.45, "giraffe": 0.26}[kind] * rng.uniform(
        0.9, 1.15
    )
    long, thick = rng.uniform(0.5, 0.7), 0.28 * girth + 0.02
    back = legs + girth
    out.add(scaled(p.sphere(1.0, 20), girth, long, girth).moved(z=back), fur)
    for y in (0.65, -0.65):
        out.pair(
            p.tube(
                [(0.6 * girth, y * long, 0), (0.55 * girth, y * long, legs + 0.3 * girth)], [0.8 * thick, 1.2 * thick]
            ),
            p.tint(fur, 0.85),
        )
    neck = {"giraffe": 1.0, "horse": 0.5}.get(kind, 0.2) * rng.uniform(0.85, 1.2)
    head = np.array([0, long + 0.25 + 0.2 * neck, back + 0.3 * girth + neck])
    out.add(p.tube(np.stack(([0, 0.75 * long, back], head - [0, 0.08, 0])), [0.6 * girth, 0.38 * girth], 12), fur)
    size = {"elephant": 0.34, "sheep": 0.17}.get(kind, 0.19)
    out.add(
        scaled(p.sphere(size, 16), 0.8, 1.35, 0.9).moved(*head.tolist()), p.tint(fur, 0.6 if kind == "sheep" else 1.0)
    )
    ear = scaled(p.sphere(1.0, 10), *((0.06, 0.2, 0.26) if kind == "elephant" else (0.04, 0.05, 0.12)))
    out.pair(
        ear.moved(0.8 * size, float(head[1]) - 0.1, float(head[2]) + (0.0 if kind == "elephant" else 0.9 * size)),
        p.tint(fur, 0.7),
    )
    if kind == "elephant":
        trunk = head + np.array([(0, 0.25, -0.1), (0, 0.5, -0.4), (0, 0.5, -0.8)])
        out.add(p.tube(trunk, [0.14, 0.1, 0.06]), fur)
    out.add(p.tube([(0, -0.95 * long, back + 0.1), (0, -long - 0.2, back - 0.25)], [0.05, 0.03], 8), p.tint(fur, 0.7))
    return out


def make_fish(rng: Generator, place: float) -> Builder:
    """A fish with its head to the front: slender, round or flat, with stripes."""
    kind = p.pick(("slender", "round", "flat"), (2, 2, 2), place)
    out = Builder()
    colour, stripe = p.paint(rng, 0.1), p.paint(rng)
    wide, high = {"slender": (0.5, 0.7), "round": (1.0, 1.0), "flat": (0.35, 1.5)}[kind]
    y = np.linspace(-0.8, 1.0, 15)
    girth = (0.05 + 0.36 * np.sin(math.pi * np.clip((y + 0.8) / 1.85, 0, 1)) ** 0.8) * rng.uniform(0.8, 1.2)
    body = p.lathe(list(zip(girth.tolist(), y.tolist(), strict=True)), 20).turned("x", -math.pi / 2)
    stripes = np.where((np.arange(14) // int(rng.integers(1, 4)) % 2 == 0)[:, None], colour, stripe)
    caps = np.tile(colour, (40, 1))
    out.add(scaled(body, wide, 1.0, high), np.concatenate((np.repeat(stripes, 40, axis=0), caps)))
    spread = rng.uniform(0.25, 0.5)
    out.add(p.extrude([(-0.7, 0.0), (-1.15, spread), (-1.0, 0.0), (-1.15, -spread)], 0.04), stripe)
    rise = 0.3 * high
    out.add(p.extrude([(0.3, 0.8 * rise), (-0.4, 0.8 * rise), (-0.3, rise + rng.uniform(0.15, 0.35))], 0.03), stripe)
    out.pair(scaled(p.sphere(0.14, 10), 0.3, 1.0, 0.5).turned("y", 0.6).moved(0.34 * wide, 0.25, -0.1), stripe)
    out.pair(p.sphere(0.05, 10).moved(0.2 * wide + 0.03, 0.75, 0.06), (0.05, 0.05, 0.05))
    return out


def make_robot(rng: Generator, place: float) -> Builder:
    """A robot: a head with eyes and an aerial, a body with a panel, arms, and legs, wheels or a skirt to stand on."""
    kind = p.pick(("legs", "tracks", "skirt"), (3, 2, 2), place)
    out = Builder()
    body, accent, joint = p.paint(rng), p.paint(rng, 0.05), p.metal(rng)
    wide, tall, base = rng.uniform(0.5, 0.8), rng.uniform(0.5, 0.9), rng.uniform(0.4, 0.6)
    if kind == "legs":
        out.pair(p.box(0.16, 0.18, base).moved(0.25 * wide, 0, base / 2), joint)
        out.pair(p.box(0.22, 0.34, 0.12, 0.02).moved(0.25 * wide, 0.05, 0.06), body)
    elif kind == "tracks":
        out.pair(
            p.cushion(0.9, base, 0.2, 3.0)
            .turned("x", 0)
            .turned("z", math.pi / 2)
            .turned("y", math.pi / 2)
            .moved(0.45 * wide, 0, 0.45),
            (0.15, 0.15, 0.15),
        )
    else:
        out.add(p.cylinder(0.6 * wide, base, segments=24, top=0.4 * wide).moved(z=base / 2), joint)
    out.add(p.box(wide, 0.45, tall, 0.05).moved(z=base + tall / 2), body)
    out.add(p.box(0.6 * wide, 0.03, 0.45 * tall).moved(y=0.23, z=base + 0.5 * tall), accent)
    drop = rng.uniform(-0.2, 0.6)
    hand = (0.75 * wide + 0.1, 0.25, base + tall * (0.75 - drop))
    out.pair(p.tube([(0.5 * wide, 0, base + 0.85 * tall), (0.72 * wide, 0, base + 0.7 * tall), hand], 0.06, 10), joint)
    out.pair(p.sphere(0.1, 12).moved(*hand), accent)
    size, neck = rng.uniform(0.3, 0.5), base + tall + 0.08
    skull = p.sphere(0.6 * size, 18) if rng.random() < 0.4 else p.box(size * 1.2, size, size, 0.04)
    out.add(p.cylinder(0.08, 0.2, segments=12).moved(z=neck), joint)
    out.add(skull.moved(z=neck + 0.55 * size), p.tint(body, 1.2))
    out.pair(p.sphere(0.16 * size, 12).moved(0.26 * size, 0.5 * size, neck + 0.65 * size), accent)
    out.add(p.tube([(0, 0, neck + size), (0, 0, neck + 1.5 * size)], 0.02, 8), joint)
    out.add(p.sphere(0.06, 10).moved(z=neck + 1.5 * size), accent)
    return out
