"""Objects from outdoors for pretraining: none of them a car. Axes are those of ``primitives``.

The kind is the one at ``place`` in [0, 1); sizes and colours are drawn.
"""

from __future__ import annotations

import math

import numpy as np

from hyperkit.data.procedural import primitives as p
from hyperkit.data.procedural.indoors import scaled
from hyperkit.data.procedural.primitives import Array, Builder, Colour, Part

Generator = np.random.Generator
GLASS: Colour = (0.2, 0.28, 0.35)


def _wing(root: float, tip: float, span: float, sweep: float, lift: float, thick: float) -> Part:
    """Return a wing from the mirror plane to x = span: chords at root and tip, and how far the tip lies back and up."""
    rings = []
    for x, chord, back, up in ((0.0, root, 0.0, 0.0), (span, tip, sweep, lift)):
        y = np.array([-0.5, 0.0, 0.5, 0.0]) * chord - back
        z = np.array([0.0, -0.5, 0.0, 0.5]) * thick * chord / root + up
        rings.append(np.column_stack((np.full(4, x), y, z)))
    return p.loft(np.stack(rings))


def make_plane(rng: Generator, place: float) -> Builder:
    """A plane with its nose to the front: airliner, jet, propeller plane, biplane or glider."""
    kind = p.pick(("airliner", "jet", "propeller", "biplane", "glider"), (3, 2, 2, 1, 1), place)
    out = Builder()
    colour, accent = p.tint(p.paint(rng, 0.5), 1.3), p.paint(rng, 0.1)
    radius = rng.uniform(0.1, 0.17) * (0.6 if kind == "glider" else 1.0)
    y = np.array([-1.0, -0.9, -0.6, 0.0, 0.6, 0.85, 0.96, 1.0])
    girth = radius * np.array([0.15, 0.4, 0.8, 1.0, 1.0, 0.75, 0.4, 0.1])
    hull = p.lathe(list(zip(girth.tolist(), y.tolist(), strict=True)), 18).turned("x", -math.pi / 2)
    out.add(hull, colour)
    span = {"jet": rng.uniform(0.5, 0.7), "glider": rng.uniform(1.2, 1.4)}.get(kind, rng.uniform(0.8, 1.1))
    root, sweep = rng.uniform(0.3, 0.45), {"airliner": 0.4, "jet": 0.45}.get(kind, 0.0) * rng.uniform(0.6, 1.3)
    levels = (-0.12, 0.16) if kind == "biplane" else (rng.uniform(-0.6, 0.5) * radius,)
    for z in levels:
        wing = _wing(root, root * rng.uniform(0.3, 0.8), span, sweep, rng.uniform(0, 0.1), 0.05)
        out.pair(wing.moved(y=0.1, z=z), accent if rng.random() < 0.4 else colour)
    tail = _wing(0.24, 0.12, 0.36, 0.15, 0.0, 0.03)
    out.pair(tail.moved(y=-0.85), accent)
    fin = [(-0.72, 0.0), (-1.0, 0.0), (-1.08, 0.36), (-0.95, 0.38)]
    out.add(p.extrude(fin, 0.04), accent)
    cockpit = scaled(p.sphere(0.8 * radius, 14), 0.8, 1.6, 0.9).moved(
        y=0.5 if kind != "airliner" else 0.78, z=0.5 * radius
    )
    out.add(cockpit, GLASS)
    if kind == "airliner":
        engine = p.cylinder(0.07, 0.28, 0.02, 16).turned("x", math.pi / 2)
        out.pair(engine.moved(0.4 * span, 0.12 - 0.4 * sweep, -0.13), p.metal(rng))
    if kind in ("propeller", "biplane"):
        out.add(p.box(0.05, 0.02, 0.6, 0.01).turned("y", rng.uniform(0, 3)).moved(y=1.0), (0.15, 0.15, 0.15))
        out.pair(p.cylinder(0.07, 0.05, 0.01, 14).turned("y", math.pi / 2).moved(0.16, 0.4, -0.28), (0.1, 0.1, 0.1))
        out.pair(p.tube([(0.15, 0.4, -0.26), (0.05, 0.4, -0.05)], 0.02, 8), p.metal(rng))
    return out


def make_tree(rng: Generator, place: float) -> Builder:
    """A tree: conifer, round crown of several balls, poplar, palm, or bare branches."""
    kind = p.pick(("conifer", "round", "poplar", "palm", "bare"), (3, 3, 1, 2, 1), place)
    out = Builder()
    bark = p.hsv(rng.uniform(0.04, 0.1), rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.5))
    hue = rng.uniform(0.2, 0.4) if rng.random() < 0.75 else rng.uniform(0.02, 0.14)
    leaf = p.hsv(hue, rng.uniform(0.4, 0.85), rng.uniform(0.25, 0.75))
    trunk, thick = rng.uniform(0.3, 0.8), rng.uniform(0.05, 0.12)
    if kind == "palm":
        trunk, lean = rng.uniform(1.0, 1.6), rng.uniform(-0.3, 0.3)
        out.add(
            p.tube([(0, 0, 0), (0, 0.4 * lean, 0.5 * trunk), (0, lean, trunk)], [thick, 0.8 * thick, 0.6 * thick]), bark
        )
        turn = rng.uniform(0, 1)
        for frond in range(int(rng.integers(6, 10))):
            angle = turn + frond * 2.4
            reach = np.linspace(0, rng.uniform(0.6, 0.8), 5)
            fall = trunk + 0.5 * reach - 1.1 * reach**2
            path = np.column_stack((reach * math.cos(angle), lean + reach * math.sin(angle), fall))
            out.add(p.tube(path, [0.03, 0.08, 0.09, 0.06, 0.02], 6), p.tint(leaf, rng.uniform(0.8, 1.1)))
        return out
    out.add(p.tube([(0, 0, 0), (0, 0.03, 0.6 * trunk), (0, 0, trunk + 0.3)], [1.3 * thick, thick, 0.8 * thick]), bark)
    if kind == "conifer":
        tiers, wide, tall = int(rng.integers(2, 6)), rng.uniform(0.4, 0.7), rng.uniform(1.0, 1.7)
        for tier in range(tiers):
            part = tier / tiers
            cone = p.cylinder(wide * (1 - 0.8 * part), 1.5 * tall / tiers, segments=18, top=0.02)
            out.add(cone.moved(z=trunk + tall * part + 0.5 * tall / tiers), p.tint(leaf, 0.85 + 0.3 * part))
    elif kind == "poplar":
        out.add(p.sphere(rng.uniform(0.28, 0.4), 20, rng.uniform(2.2, 3.2)).moved(z=trunk + 0.9), leaf)
    else:
        _branches(out, rng, trunk, thick, bark, leaf if kind == "round" else None)
    return out


def _branches(out: Builder, rng: Generator, trunk: float, thick: float, bark: Colour, leaf: Colour | None) -> None:
    for number in range(int(rng.integers(4, 9))):
        angle, reach = 2.4 * number + rng.uniform(-0.3, 0.3), rng.uniform(0.15, 0.5)
        end = np.array([reach * math.cos(angle), reach * math.sin(angle), trunk + rng.uniform(0.3, 0.9)])
        start = np.array([0, 0, 0.8 * trunk + 0.02 * number])
        if leaf is None:
            out.add(
                p.tube(
                    [start, 0.5 * (start + end) + [0, 0, 0.06], 1.5 * end * [1, 1, 0.8]],
                    [0.6 * thick, 0.4 * thick, 0.02],
                ),
                bark,
            )
        else:
            out.add(p.tube([start, end], 0.4 * thick, 6), bark)
            ball = p.sphere(rng.uniform(0.25, 0.42), 14, rng.uniform(0.75, 1.0)).moved(*end.tolist())
            out.add(ball, p.tint(leaf, rng.uniform(0.8, 1.2)))


def _roof(width: float, depth: float, rise: float, base: float, hip: float) -> Part:
    """Return a roof over a rectangle, its ridge along y; with ``hip`` above 0 its ends slope as well."""
    low, top = p.rectangle(width, depth), p.rectangle(0.02, depth * (1 - hip))
    rings = [np.column_stack((o, np.full(4, z))) for o, z in ((low, base), (low, base + 0.04), (top, base + rise))]
    return p.loft(np.stack(rings))


def make_house(rng: Generator, place: float) -> Builder:
    """A house: gable or hipped roof, flat roof, or two wings, with door, windows and perhaps a chimney."""
    kind = p.pick(("gable", "hip", "flat", "barn"), (3, 2, 2, 1), place)
    out = Builder()
    width, depth, height = rng.uniform(0.8, 1.3), rng.uniform(0.8, 1.5), rng.uniform(0.5, 0.9)
    floors = 2 if kind == "flat" or rng.random() < 0.35 else 1
    height *= 1 + 0.6 * (floors - 1)
    wall, roof, trim = (
        p.tint(p.paint(rng, 0.5), 1.4),
        p.hsv(rng.uniform(0, 0.1), rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.7)),
        p.paint(rng),
    )
    out.add(p.box(width, depth, height).moved(z=height / 2), wall)
    if kind == "flat":
        out.add(p.box(1.08 * width, 1.08 * depth, 0.08).moved(z=height + 0.04), roof)
    else:
        hip = rng.uniform(0.4, 0.9) if kind == "hip" else 0.0
        out.add(_roof(1.12 * width, 1.12 * depth, rng.uniform(0.3, 0.7), height, hip), roof)
    if kind == "barn":
        out.add(p.cylinder(0.25, 1.5 * height, segments=20).moved(y=-0.62 * depth, z=0.75 * height), p.metal(rng))
    elif rng.random() < 0.6:
        out.add(p.box(0.14, 0.14, 0.5).moved(0.0, 0.25 * depth * rng.uniform(-1, 1), height + 0.45), (0.5, 0.25, 0.2))
    door = rng.uniform(0.3, 0.42)
    out.add(p.box(0.24, 0.03, door).moved(y=depth / 2, z=door / 2), trim)
    rows = [height * (k + 0.58) / floors for k in range(floors)]
    for z in rows:
        out.pair(p.box(0.18, 0.02, 0.18).moved(0.32 * width, depth / 2 + 0.005, z), GLASS)
        for y in np.linspace(-0.3, 0.3, int(rng.integers(2, 4))):
            out.pair(p.box(0.02, 0.17, 0.18).moved(width / 2 + 0.005, float(y) * depth, z), GLASS)
    return out


def make_boat(rng: Generator, place: float) -> Builder:
    """A boat with its bow to the front: sailing boat, steamer, rowing boat or motor boat."""
    kind = p.pick(("sail", "steamer", "row", "motor"), (3, 3, 1, 2), place)
    out = Builder()
    wide, deep = rng.uniform(0.2, 0.35), rng.uniform(0.18, 0.32)
    y = np.array([-1.0, -0.7, 0.0, 0.5, 0.85, 1.05])
    half = wide * np.array([0.6, 0.9, 1.0, 0.85, 0.4, 0.03])
    keel = deep * np.array([0.75, 0.9, 1.0, 0.9, 0.6, 0.05])
    rings = []
    for at, w, d in zip(y.tolist(), half.tolist(), keel.tolist(), strict=True):
        angle = np.linspace(0, math.pi, 9)
        rings.append(
            np.column_stack((w * np.cos(angle), np.full(9, at), -d * np.sin(angle) ** 0.7 + 0.04 * max(at, 0)))
        )
    colour, second = p.paint(rng), p.tint(p.paint(rng, 0.6), 1.3)
    out.add(p.loft(np.stack(rings)), colour)
    if kind == "sail":
        mast = rng.uniform(1.2, 1.8)
        out.add(p.cylinder(0.03, mast, segments=10).moved(y=0.15, z=mast / 2), p.wood(rng))
        out.add(p.extrude([(0.1, 0.15), (-0.85, 0.18), (0.1, 0.95 * mast)], 0.02), second)
        out.add(p.extrude([(0.2, 0.15), (0.95, 0.12), (0.2, 0.8 * mast)], 0.02), p.tint(p.paint(rng), 1.3))
    elif kind == "row":
        out.pair(p.tube([(0.1, 0, 0.1), (1.0, -0.2, -0.15)], [0.02, 0.03], 8), p.wood(rng))
        for seat in (-0.5, 0.0, 0.5):
            out.add(p.box(1.5 * wide, 0.16, 0.05).moved(y=seat, z=0.02), p.wood(rng))
    else:
        long = rng.uniform(0.5, 0.9)
        levels = int(rng.integers(1, 4)) if kind == "steamer" else 1
        for level in range(levels):
            shrink = 1 - 0.2 * level
            cabin = p.box(1.3 * wide * shrink, long * shrink, 0.2, 0.02)
            out.add(cabin.moved(y=-0.15, z=0.1 + 0.2 * level), second)
            out.add(p.box(1.34 * wide * shrink, 0.85 * long * shrink, 0.07).moved(y=-0.15, z=0.12 + 0.2 * level), GLASS)
        if kind == "steamer":
            for y0 in np.linspace(-0.3, 0.1, int(rng.integers(1, 4))):
                out.add(p.cylinder(0.07, 0.4, segments=14).moved(y=float(y0), z=0.2 * levels + 0.15), p.paint(rng))
    return out


def make_rocket(rng: Generator, place: float) -> Builder:
    """A rocket: one slender body with fins, one with boosters, or a round-bellied one on legs."""
    kind = p.pick(("fins", "boosters", "belly"), (2, 2, 2), place)
    out = Builder()
    body, accent = p.tint(p.paint(rng, 0.5), 1.2), p.paint(rng, 0.05)
    tall, radius = rng.uniform(1.2, 2.0), rng.uniform(0.14, 0.24)
    t = np.linspace(0, 1, 14)
    shape: Array = np.clip(1 - np.clip((t - 0.7) / 0.3, 0, 1) ** 2, 0.03, 1)
    if kind == "belly":
        tall, radius = rng.uniform(1.0, 1.4), rng.uniform(0.28, 0.4)
        shape = 0.05 + 0.95 * np.sin(math.pi * (0.18 + 0.8 * t)) ** 0.8
    part = p.lathe(list(zip((radius * shape).tolist(), (tall * t).tolist(), strict=True)), 24)
    bands = np.where((t[1:] > rng.uniform(0.6, 0.8))[:, None], accent, body)
    caps = np.concatenate((np.tile(body, (24, 1)), np.tile(accent, (24, 1))))
    out.add(part, np.concatenate((np.repeat(bands, 48, axis=0), caps)))
    fin = p.extrude([(0.6 * radius, 0.4 * tall), (2.2 * radius, 0.0), (2.2 * radius, -0.15), (0.6 * radius, 0.1)], 0.04)
    count = int(rng.integers(3, 5))
    for k in range(count):
        angle = 2 * math.pi * k / count
        if kind == "boosters":
            pod = p.lathe([(0.5 * radius, -0.05), (0.5 * radius, 0.5 * tall), (0.02, 0.62 * tall)], 16)
            out.add(pod.moved(1.5 * radius * math.sin(angle), 1.5 * radius * math.cos(angle)), accent)
        else:
            out.add(fin.turned("z", angle), accent)
    out.add(p.cylinder(0.7 * radius, 0.12, segments=18, top=0.4 * radius).moved(z=-0.05), p.metal(rng))
    if kind != "boosters":
        out.add(p.sphere(0.35 * radius, 14).moved(y=0.85 * radius, z=0.55 * tall), GLASS)
    return out


def make_tower(rng: Generator, place: float) -> Builder:
    """A tower: castle with battlements, lighthouse, pagoda, or windmill."""
    kind = p.pick(("castle", "lighthouse", "pagoda", "windmill"), (2, 2, 2, 2), place)
    out = Builder()
    wall, roof = p.tint(p.paint(rng, 0.5), 1.3), p.paint(rng, 0.1)
    tall, wide = rng.uniform(1.2, 2.0), rng.uniform(0.3, 0.5)
    if kind == "pagoda":
        floors = int(rng.integers(3, 6))
        for k in range(floors):
            size, z = wide * (1.4 - 0.8 * k / floors), tall * k / floors
            out.add(p.box(1.2 * size, 1.2 * size, tall / floors).moved(z=z + 0.5 * tall / floors), wall)
            out.add(
                p.stack(
                    p.rectangle(2.4 * size, 2.4 * size),
                    [(z + 0.8 * tall / floors, 1.0), (z + 1.15 * tall / floors, 0.45)],
                ),
                roof,
            )
        return out
    top = wide * rng.uniform(0.6, 0.85)
    sides = 8 if kind == "windmill" else 24
    out.add(p.cylinder(wide, tall, segments=sides, top=top).moved(z=tall / 2), wall)
    if kind == "lighthouse":
        for k in range(int(rng.integers(1, 4))):
            z = 0.2 + 0.25 * k
            out.add(
                p.cylinder(
                    1.02 * (wide + (top - wide) * z),
                    0.12 * tall,
                    segments=24,
                    top=1.02 * (wide + (top - wide) * (z + 0.12)),
                ).moved(z=(z + 0.06) * tall),
                roof,
            )
        out.add(p.cylinder(1.25 * top, 0.06, segments=24).moved(z=tall), (0.2, 0.2, 0.2))
        out.add(p.cylinder(0.7 * top, 0.25, segments=20).moved(z=tall + 0.15), (0.98, 0.9, 0.55))
    if kind != "castle":
        out.add(
            p.cylinder(1.1 * top, 0.35, segments=sides, top=0.03).moved(
                z=tall + (0.42 if kind == "lighthouse" else 0.15)
            ),
            roof,
        )
    else:
        out.add(p.cylinder(1.2 * top, 0.15, segments=24).moved(z=tall), p.tint(wall, 0.85))
        for k in range(8):
            angle = (k + 0.5) * math.pi / 4
            out.add(
                p.box(0.14, 0.14, 0.18)
                .turned("z", -angle)
                .moved(1.1 * top * math.sin(angle), 1.1 * top * math.cos(angle), tall + 0.14),
                wall,
            )
    if kind == "windmill":
        turn = rng.uniform(0, math.pi / 2)
        for k in range(4):
            blade = p.box(0.16, 0.03, 0.85, 0.005).moved(x=0.06, z=0.45).turned("y", turn + k * math.pi / 2)
            out.add(blade.moved(y=top + 0.12, z=0.95 * tall), p.tint(roof, 1.3))
    out.add(p.box(0.2, 0.06, 0.36).moved(y=0.96 * wide, z=0.18), p.wood(rng))
    return out


def make_pot_plant(rng: Generator, place: float) -> Builder:
    """A plant in a pot: cactus with arms, ball cactus, long leaves, or a flower."""
    kind = p.pick(("arms", "ball", "leaves", "flower"), (2, 1, 2, 2), place)
    out = Builder()
    pot, green = p.paint(rng), p.hsv(rng.uniform(0.22, 0.45), rng.uniform(0.4, 0.8), rng.uniform(0.3, 0.7))
    radius, tall = rng.uniform(0.25, 0.4), rng.uniform(0.3, 0.6)
    out.add(
        p.lathe([(0.65 * radius, 0), (radius, 0.9 * tall), (1.12 * radius, 0.9 * tall), (1.12 * radius, tall)], 26), pot
    )
    out.add(p.cylinder(0.95 * radius, 0.02, segments=26).moved(z=tall + 0.005), (0.2, 0.13, 0.08))
    if kind == "ball":
        out.add(p.sphere(1.1 * radius, 22, rng.uniform(0.8, 1.3)).moved(z=tall + 0.8 * radius), green)
        out.add(p.sphere(0.1, 12).moved(z=tall + 1.9 * radius), p.paint(rng, 0))
    elif kind == "arms":
        stem, thick = rng.uniform(0.7, 1.2), rng.uniform(0.1, 0.15)
        out.add(
            p.tube(
                [(0, 0, tall), (0, 0, tall + 0.5 * stem), (0, 0, tall + stem)], [thick, 1.1 * thick, 0.6 * thick], 14
            ),
            green,
        )
        for side in (1, -1)[: int(rng.integers(1, 3))]:
            z, reach = tall + stem * rng.uniform(0.3, 0.55), rng.uniform(0.25, 0.4)
            arm = [(0, 0, z), (side * reach, 0, z + 0.03), (side * reach * 1.1, 0, z + 0.35)]
            out.add(p.tube(arm, [0.7 * thick, 0.8 * thick, 0.5 * thick], 12), green)
    elif kind == "leaves":
        for k in range(int(rng.integers(6, 12))):
            angle, out_to = 2.4 * k, np.linspace(0, rng.uniform(0.3, 0.7), 5)
            rise = tall + 1.6 * out_to - 1.2 * out_to**2
            path = np.column_stack((out_to * math.cos(angle), out_to * math.sin(angle), rise))
            out.add(p.tube(path, [0.04, 0.07, 0.08, 0.06, 0.01], 7), p.tint(green, rng.uniform(0.8, 1.2)))
    else:
        stem, petals = rng.uniform(0.6, 1.0), p.paint(rng, 0)
        out.add(p.tube([(0, 0, tall), (0, 0.03, tall + stem)], 0.035, 8), green)
        for k in range(int(rng.integers(5, 9))):
            petal = scaled(p.sphere(0.2, 10, 0.3), 0.7).moved(y=0.24).turned("x", 0.4).turned("z", 1.05 * k)
            out.add(petal.moved(y=0.03, z=tall + stem), petals)
        out.add(p.sphere(0.12, 12).moved(y=0.03, z=tall + stem + 0.05), (0.9, 0.7, 0.1))
    return out
