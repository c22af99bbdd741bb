"""Objects of a household for pretraining: none of them a chair or a lamp. Axes are those of ``primitives``.

The kind is the one at ``place`` in [0, 1); sizes and colours are drawn.
"""

from __future__ import annotations

import math

import numpy as np

from hyperkit.data.procedural import primitives as p
from hyperkit.data.procedural.primitives import Builder, Colour, Part

Generator = np.random.Generator


def scaled(part: Part, x: float = 1.0, y: float = 1.0, z: float = 1.0) -> Part:
    """Return a part stretched along the axes by positive factors."""
    return Part(part.vertices * np.array([x, y, z]), part.faces)


def _surface(rng: Generator) -> Colour:
    """Draw a colour of furniture: wood, paint or metal."""
    return (p.wood(rng), p.wood(rng), p.paint(rng), p.metal(rng))[int(rng.integers(4))]


def _turned_profile(
    rng: Generator, height: float, low: float, high: float, points: int = 14
) -> list[tuple[float, float]]:
    """Draw a smooth profile (radius, z) from 0 to ``height`` with radii between ``low`` and ``high``."""
    knots = np.linspace(0, 1, 5)
    t = np.linspace(0, 1, points)
    wave = np.interp(t, knots, rng.uniform(low, high, 5))
    smooth = np.convolve(np.pad(wave, 2, mode="edge"), np.full(5, 0.2), mode="valid")
    return list(zip(smooth.tolist(), (height * t).tolist(), strict=True))


def make_table(rng: Generator, place: float) -> Builder:
    """A table: four straight or splayed legs, trestles, or one foot, under a square or a round top."""
    kind = p.pick(("legs", "splayed", "trestle", "pedestal", "drawers"), (3, 2, 2, 2, 1), place)
    out = Builder()
    width, depth, height = rng.uniform(0.7, 1.2), rng.uniform(0.8, 2.0), rng.uniform(0.45, 1.0)
    top, frame = _surface(rng), _surface(rng)
    thick = rng.uniform(0.04, 0.12)
    if kind == "pedestal":
        radius = rng.uniform(0.5, 0.9)
        out.add(p.cylinder(radius, thick, 0.02, 32).moved(z=height), top)
        out.add(p.lathe(_turned_profile(rng, height, 0.06, 0.18), 18), frame)
        out.add(p.cylinder(rng.uniform(0.3, 0.6) * radius + 0.1, 0.06, 0.02, 28).moved(z=0.03), frame)
        return out
    out.add(p.box(width, depth, thick, 0.02).moved(z=height), top)
    thin = rng.uniform(0.05, 0.12)
    x, y = width / 2 - thin, depth / 2 - thin
    if kind == "splayed":
        for side in (1, -1):
            out.pair(
                p.tube([(x + 0.05, side * (y + 0.08), 0), (0.75 * x, 0.75 * side * y, height)], [0.03, 0.05]), frame
            )
    elif kind == "trestle":
        for side in (1, -1):
            out.add(p.box(0.7 * width, thin, height, 0.01).moved(y=0.7 * side * y, z=height / 2), frame)
        out.add(p.box(thin, 1.4 * y, thin).moved(z=0.3 * height), frame)
    else:
        for side in (1, -1):
            out.pair(p.box(thin, thin, height, 0.01).moved(x, side * y, height / 2), frame)
        out.add(p.box(1.9 * x, 1.9 * y, 0.12).moved(z=height - 0.07), frame)
    if kind == "drawers":
        out.pair(p.box(0.3 * width, 1.8 * y, 0.7 * height, 0.01).moved(0.3 * width, 0, 0.62 * height), top)
        for z in (0.4, 0.62, 0.84):
            out.pair(p.sphere(0.03, 10).moved(0.3 * width, 0.92 * y, z * height), p.metal(rng))
    return out


def make_bottle(rng: Generator, place: float) -> Builder:
    """A bottle of wine, milk, spray or medicine, with a label and a cap."""
    kind = p.pick(("wine", "milk", "flask", "spray", "jar"), (3, 2, 2, 2, 1), place)
    out = Builder()
    glass, label, cap = p.paint(rng), p.paint(rng), p.paint(rng, 0.5)
    body, neck = rng.uniform(0.28, 0.42), rng.uniform(0.08, 0.13)
    tall = rng.uniform(0.6, 1.1)
    rise = {"wine": rng.uniform(0.1, 0.25), "milk": 0.5, "flask": 0.3, "spray": 0.25, "jar": 0.12}[kind]
    neck = {"jar": 0.85 * body, "milk": 0.5 * body}.get(kind, neck)
    rim = tall + rise + (0.08 if kind == "jar" else rng.uniform(0.15, 0.4))
    shoulder = np.linspace(0, math.pi / 2, 7)
    profile = [(0.9 * body, 0.0), (body, 0.05), (body, tall)]
    profile += [(neck + (body - neck) * math.cos(a), tall + rise * math.sin(a)) for a in shoulder.tolist()]
    part = p.lathe([*profile, (neck, rim)], 28)
    if kind == "flask":
        part = scaled(part, y=rng.uniform(0.45, 0.6))
    out.add(part, glass)
    out.add(p.cylinder(1.15 * neck, rng.uniform(0.08, 0.2), 0.02, 24).moved(z=rim), cap)
    if kind != "flask" and rng.random() < 0.8:
        out.add(p.cylinder(1.015 * body, rng.uniform(0.25, 0.6) * tall, segments=28).moved(z=0.5 * tall), label)
    if kind == "spray":
        out.add(p.box(0.14, 0.5, 0.16, 0.03).moved(y=0.12, z=rim + 0.14), cap)
        out.add(p.tube([(0, 0.24, rim + 0.08), (0, 0.2, rim - 0.16)], 0.035), p.tint(cap, 0.7))
    return out


def make_shelf(rng: Generator, place: float) -> Builder:
    """A bookcase: boards, with or without sides and a back, and books or boxes on them."""
    kind = p.pick(("closed", "open", "ladder"), (3, 2, 1), place)
    out = Builder()
    width, depth, height = rng.uniform(0.7, 1.5), rng.uniform(0.3, 0.5), rng.uniform(1.0, 2.0)
    colour, thin, rows = _surface(rng), 0.05, int(rng.integers(2, 6))
    if kind == "closed":
        out.add(p.box(width, 0.03, height).moved(y=-depth / 2, z=height / 2), p.tint(colour, 0.8))
    if kind == "ladder":
        for y in (depth / 2, -depth / 2):
            out.pair(p.tube([(width / 2, 1.3 * y, 0), (width / 2, 0.6 * y, height + 0.1)], 0.03), colour)
    else:
        out.pair(p.box(thin, depth, height).moved(width / 2, 0, height / 2), colour)
    gap = (height - thin) / rows
    for row in range(rows + 1):
        out.add(p.box(width, depth, thin).moved(z=thin / 2 + row * gap), colour)
    for row in range(rows):
        x, palette = -width / 2 + 0.06, [p.paint(rng) for _ in range(4)]
        while rng.random() < 0.93:
            thick, tall = rng.uniform(0.05, 0.16), gap * rng.uniform(0.5, 0.8)
            if x + thick > width / 2 - 0.06:
                break
            book = p.box(0.9 * thick, 0.7 * depth, tall).moved(x + thick / 2, 0, thin + row * gap + tall / 2)
            out.add(book, palette[int(rng.integers(4))])
            x += thick
    return out


def make_monitor(rng: Generator, place: float) -> Builder:
    """A screen on a foot, a tube television on legs, or a laptop, with something bright on it."""
    kind = p.pick(("flat", "tube", "laptop"), (3, 2, 2), place)
    out = Builder()
    width, height = rng.uniform(1.1, 1.7), rng.uniform(0.7, 1.0)
    case, light = p.metal(rng) if rng.random() < 0.6 else p.paint(rng), p.paint(rng, 0.05)
    if kind == "laptop":
        out.add(p.box(width, 0.95, 0.06, 0.02), case)
        out.add(p.box(0.85 * width, 0.45, 0.02).moved(y=0.12, z=0.035), (0.1, 0.1, 0.11))
        out.add(p.box(0.3, 0.22, 0.01).moved(y=-0.2 + 0.52, z=0.04), p.tint(case, 0.7))
        lean = rng.uniform(0.1, 0.5)
        for size, y, colour in ((1.0, 0.0, case), (0.92, 0.022, light)):
            screen = p.box(size * width, 0.05, size * height, 0.01).moved(y=y, z=height / 2).turned("x", lean)
            out.add(screen.moved(y=-0.46), colour)
        return out
    deep = 0.08 if kind == "flat" else rng.uniform(0.5, 0.8)
    lift = rng.uniform(0.2, 0.45)
    out.add(p.box(width, deep, height, 0.03).moved(z=lift + height / 2), case)
    out.add(p.box(0.9 * width, 0.02, 0.86 * height).moved(y=deep / 2, z=lift + height / 2), light)
    for _ in range(int(rng.integers(1, 5))):  # windows on the screen
        w, h = rng.uniform(0.1, 0.4, 2)
        x, z = (0.43 - w / 2) * width * rng.uniform(-1, 1), (0.4 - h / 2) * height * rng.uniform(-1, 1)
        window = p.box(w * width, 0.01, h * height).moved(x, deep / 2 + 0.012, lift + height / 2 + z)
        out.add(window, p.paint(rng, 0.1))
    if kind == "flat":
        out.add(p.box(0.16, 0.06, lift + 0.1).moved(y=-0.06, z=lift / 2), p.tint(case, 0.8))
        out.add(p.box(rng.uniform(0.4, 0.8), 0.4, 0.05, 0.02), p.tint(case, 0.8))
    else:
        for y in (0.3, -0.3):
            out.pair(
                p.tube([(0.42 * width, y * deep * 1.4, 0), (0.3 * width, y * deep, lift + 0.04)], 0.04), p.wood(rng)
            )
    return out


def make_mug(rng: Generator, place: float) -> Builder:
    """A mug, a cup on its saucer, or a beaker with bands, with something to drink in it."""
    kind = p.pick(("mug", "cup", "banded"), (3, 2, 2), place)
    out = Builder()
    colour, radius, tall = p.paint(rng), rng.uniform(0.32, 0.5), rng.uniform(0.5, 1.1)
    base = radius * (rng.uniform(0.4, 0.6) if kind == "cup" else rng.uniform(0.75, 1.05))
    t = np.linspace(0, 1, 6)
    wall = list(zip((base + (radius - base) * t**0.6).tolist(), (tall * t).tolist(), strict=True))
    out.add(p.shell(wall, 0.05, 30), colour)
    out.add(p.cylinder(base - 0.02, 0.05, segments=30).moved(z=0.025), colour)
    inner = base + (radius - base) * 0.8**0.6 - 0.04
    out.add(
        p.cylinder(inner, 0.03, segments=30).moved(z=0.8 * tall),
        p.hsv(rng.uniform(0.02, 0.12), 0.7, rng.uniform(0.1, 0.7)),
    )
    around = np.linspace(-0.5, 0.5, 11) * math.pi
    reach, half = rng.uniform(0.22, 0.4), rng.uniform(0.25, 0.4) * tall
    edge = 0.92 * (base + (radius - base) * 0.5**0.6)
    bow = np.column_stack((0 * around, edge + reach * np.cos(around), 0.5 * tall + half * np.sin(around)))
    out.add(p.tube(bow, rng.uniform(0.04, 0.07), 10), colour)
    if kind == "cup":
        saucer = [(0.5 * radius, -0.03), (1.5 * radius, 0.05), (1.55 * radius, 0.08), (0.5 * radius, 0.02)]
        out.add(p.lathe(saucer, 30), p.tint(colour, rng.uniform(0.7, 1.4)))
    if kind == "banded":
        for z in rng.uniform(0.2, 0.8, int(rng.integers(1, 4))):
            girth = base + (radius - base) * float(z) ** 0.6 + 0.012
            out.add(p.cylinder(girth, 0.1 * tall, segments=30).moved(z=float(z) * tall), p.paint(rng))
    return out


def make_bed(rng: Generator, place: float) -> Builder:
    """A bed with a headboard, pillows and a blanket: on legs, as a box, as a bunk, or with posts."""
    kind = p.pick(("legs", "box", "posts", "bunk"), (3, 2, 2, 2), place)
    out = Builder()
    width, long, low = rng.uniform(0.8, 1.5), rng.uniform(1.7, 2.1), rng.uniform(0.15, 0.35)
    frame, sheet, blanket = _surface(rng), p.tint(p.paint(rng, 0.9), 2.5), p.paint(rng)
    floors = (low, low + rng.uniform(0.8, 1.0)) if kind == "bunk" else (low,)
    for z in floors:
        out.add(p.box(width, long, 0.12, 0.01).moved(z=z), frame)
        out.add(p.box(0.95 * width, 0.97 * long, 0.2, 0.05).moved(z=z + 0.14), sheet)
        cover = rng.uniform(0.5, 0.75) * long
        out.add(p.box(0.99 * width, cover, 0.22, 0.05).moved(y=0.48 * long - cover / 2, z=z + 0.15), blanket)
        pillow = p.cushion(0.42 * width, 0.3, 0.14, 4.0).moved(0.24 * width, -0.4 * long, z + 0.28)
        out.pair(pillow, p.tint(sheet, 1.2))
    tall = {"posts": rng.uniform(1.3, 1.8), "bunk": floors[-1] + 0.5}.get(kind, floors[-1] + rng.uniform(0.3, 0.7))
    if kind in ("legs", "box"):
        out.add(p.box(width, 0.08, tall, 0.02).moved(y=-long / 2, z=tall / 2), frame)
    if kind == "box":
        out.add(p.box(0.98 * width, 0.98 * long, low).moved(z=low / 2), p.tint(frame, 0.8))
    for y in (1, -1):
        post = tall if kind in ("posts", "bunk") else low
        out.pair(p.box(0.08, 0.08, post).moved(width / 2 - 0.02, y * (long / 2 - 0.02), post / 2), frame)
    return out


def make_teapot(rng: Generator, place: float) -> Builder:
    """A teapot, a kettle or a coffee pot: body, spout to the front, handle behind or above, lid and knob."""
    kind = p.pick(("teapot", "kettle", "coffee"), (2, 2, 2), place)
    out = Builder()
    colour, accent = p.paint(rng), p.paint(rng, 0.5)
    tall, girth = rng.uniform(0.6, 0.9) * (1.6 if kind == "coffee" else 1.0), rng.uniform(0.45, 0.65)
    t = np.linspace(0.0, 1.0, 14)
    belly = rng.uniform(0.6, 1.2)
    radii = girth * (0.45 + 0.55 * np.sin(math.pi * (0.1 + 0.78 * t)) ** belly)
    out.add(p.lathe(list(zip(radii.tolist(), (tall * t).tolist(), strict=True)), 28), colour)
    start = float(np.interp(0.4, t, radii))
    spout = [(0, 0.8 * start, 0.3 * tall), (0, start + 0.12, 0.45 * tall), (0, start + 0.25, 0.8 * tall)]
    out.add(p.tube([*spout, (0, start + 0.36, 0.95 * tall)], [0.13, 0.1, 0.07, 0.055], 12), colour)
    around = np.linspace(0.55, -0.55, 11) * math.pi
    if kind == "kettle":
        around = np.linspace(0.0, 1.0, 13) * math.pi
        bow = np.column_stack((0 * around, 0.85 * girth * np.cos(around), 0.9 * tall + 0.5 * np.sin(around)))
    else:
        bow = np.column_stack(
            (0 * around, -0.8 * start - 0.34 * np.cos(around), 0.5 * tall + 0.33 * tall * np.sin(around))
        )
    out.add(p.tube(bow, 0.05, 10), accent)
    top = float(radii[-1])
    out.add(p.lathe([(1.05 * top, tall), (0.8 * top, tall + 0.07), (0.2 * top, tall + 0.12)], 26), accent)
    out.add(p.sphere(0.07, 14).moved(z=tall + 0.17), colour)
    return out
