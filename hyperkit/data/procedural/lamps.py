"""Parametric lamps: table, floor, desk, hanging, mushroom, lantern and other kinds, with full shades and bases.

Of their parts, the base is what stands on the ground or hangs from the ceiling, the shade what the light comes through
or is thrown back by, the stem what joins them.
"""

from __future__ import annotations

import math

import numpy as np

from hyperkit.data.procedural import primitives as p
from hyperkit.data.procedural.primitives import Array, Builder, Colour, band_labels

KINDS = {
    "table": 2.0,
    "floor": 1.4,
    "tripod": 0.9,
    "desk": 0.8,
    "pendant": 1.6,
    "tiffany": 0.5,
    "mushroom": 0.7,
    "globe": 0.6,
    "lantern": 0.6,
    "torch": 0.6,
    "arc": 0.4,
    "chandelier": 0.3,
}
GLOW: Colour = (1.0, 0.93, 0.68)


def make_lamp(rng: np.random.Generator, place: float) -> Builder:
    """Draw a lamp; its kind is the one at ``place`` in [0, 1)."""
    kind = p.pick(list(KINDS), list(KINDS.values()), place)
    lamp = _Lamp(rng)
    getattr(lamp, kind)()
    return lamp.out


class _Lamp:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.out = rng, Builder()
        self.body: Colour = [p.paint, p.metal, p.wood][int(rng.choice(3, p=[0.45, 0.35, 0.2]))](rng)
        self.metal: Colour = p.metal(rng)
        self.cover: Colour = p.paint(rng, 0.12)

    def shade(self, radius: float, height: float, z: float) -> None:
        """Add a shade whose lower edge is at ``z``, with a glowing bulb and often a border."""
        self.out.label = "shade"
        rng = self.rng
        form = str(rng.choice(["drum", "empire", "cone", "bell", "dome", "square", "pleated"]))
        thick = 0.05 * radius
        top = {"drum": rng.uniform(0.88, 1.0), "empire": rng.uniform(0.5, 0.75), "cone": 0.2}.get(form, 0.5)
        t = np.linspace(0.0, 1.0, 9)
        if form == "bell":
            radii: Array = radius * (0.35 + 0.65 * (1 - t) ** 2.2)
        elif form == "dome":
            radii = radius * np.sqrt(np.clip(1 - (0.93 * t) ** 2, 0, None))
        else:
            radii, t = (
                radius * np.array([1.0, 1 - 0.1 * (1 - top), 1 - 0.9 * (1 - top), top]),
                np.array([0, 0.1, 0.9, 1]),
            )
        profile = list(zip(radii.tolist(), (z + height * t).tolist(), strict=True))
        segments = {"square": 4, "pleated": 30}.get(form, 28)
        wall = p.shell(profile, thick, segments)
        edge = p.paint(rng, 0.3) if rng.random() < 0.45 else self.cover
        inner = p.tint(self.cover, 1.5)
        bands = np.tile(self.cover, (2 * len(profile), 1))
        bands[len(profile) :] = inner
        if form in ("drum", "empire", "cone", "square", "pleated"):
            bands[0] = bands[2] = edge
        colours = np.repeat(bands, 2 * segments, axis=0)
        if form == "pleated":
            column = np.tile(np.repeat(np.arange(segments), 2), 2 * len(profile))
            # Folds of three sides; the middle of one lies in the mirror plane.
            colours = colours * np.where((column + 2) // 3 % 2 == 0, 1.0, 0.72)[:, None]
        self.out.add(wall.turned("z", math.pi / 4) if form == "square" else wall, colours)
        self.out.add(p.sphere(0.3 * radius, 16, 1.2).moved(z=z + 0.4 * height), GLOW)
        light = p.cylinder(float(radii[-1]) * 0.97, 0.02, segments=segments)
        light = light.turned("z", math.pi / 4) if form == "square" else light
        self.out.add(light.moved(z=z + 0.93 * height), GLOW)

    def pole(self, low: float, high: float, radius: float, colour: Colour | None = None) -> None:
        """Add an upright rod."""
        self.out.label = "stem"
        rod = p.cylinder(radius, high - low, segments=14).moved(z=0.5 * (low + high))
        self.out.add(rod, self.metal if colour is None else colour)

    def plate(self, radius: float, height: float = 0.05) -> None:
        """Add a flat foot: round, square or stepped."""
        self.out.label = "base"
        form = int(self.rng.integers(3))
        if form == 0:
            self.out.add(p.cylinder(radius, height, 0.3 * height, 28).moved(z=height / 2), self.body)
        elif form == 1:
            self.out.add(p.box(1.7 * radius, 1.7 * radius, height, 0.25 * height).moved(z=height / 2), self.body)
        else:
            steps = [(radius, 0.0), (radius, 0.5 * height), (0.75 * radius, 0.6 * height), (0.7 * radius, height)]
            self.out.add(p.lathe([*steps, (0.3 * radius, 1.7 * height)], 28), self.body)

    def vase(self, radius: float, height: float) -> None:
        """Add a full body for a table lamp: gourd, ball, block, cone, stacked balls or turned column."""
        self.out.label = "base"
        rng, z = self.rng, height
        form = int(rng.integers(6))
        if form == 0:
            t = np.linspace(0, 1, 14)
            radii = radius * (0.3 + 0.7 * np.sin(math.pi * np.clip(t * 0.93 + 0.09, 0, 1)) ** 1.3)
            self.out.add(p.lathe(list(zip(radii.tolist(), (t * z).tolist(), strict=True)), 26), self.body)
        elif form == 1:
            self.plate(0.7 * radius, 0.05)
            self.out.add(p.sphere(radius, 24, 0.95 * z / (2 * radius)).moved(z=z / 2), self.body)
        elif form == 2:
            self.out.add(p.box(1.5 * radius, 1.5 * radius, z, 0.06 * radius).moved(z=z / 2), self.body)
            band = p.box(1.53 * radius, 1.53 * radius, 0.2 * z).moved(z=z * rng.uniform(0.3, 0.7))
            self.out.add(band, p.paint(rng))
        elif form == 3:
            self.out.add(p.lathe([(radius, 0), (radius, 0.06 * z), (0.25 * radius, z)], 26), self.body)
        elif form == 4:
            count = int(rng.integers(2, 4))
            second = p.paint(rng)
            for k in range(count):
                ball = p.sphere(0.56 * z / count, 22, 0.95).moved(z=(k + 0.5) * z / count)
                self.out.add(ball, second if k % 2 else self.body)
            self.plate(0.75 * radius, 0.04)
        else:
            curve = [(1, 0), (1, 0.1), (0.5, 0.14), (0.38, 0.3), (0.62, 0.45), (0.42, 0.62), (0.34, 0.9), (0.45, 1)]
            self.out.add(p.lathe([(radius * r, z * h) for r, h in curve], 26), self.body)

    def table(self) -> None:
        """A body with a shade above it."""
        rng = self.rng
        height, radius = rng.uniform(0.35, 0.75), rng.uniform(0.15, 0.3)
        self.vase(radius, height)
        wide = rng.uniform(0.28, 0.5)
        tall = rng.uniform(0.3, 0.55)
        self.pole(0.9 * height, height + 0.5 * tall, 0.03)
        self.shade(wide, tall, height + rng.uniform(-0.02, 0.08))

    def floor(self) -> None:
        """A tall pole on a plate with a large shade."""
        rng = self.rng
        height = rng.uniform(0.8, 1.25)
        self.plate(rng.uniform(0.24, 0.4), rng.uniform(0.05, 0.1))
        self.pole(0.04, height + 0.15, rng.uniform(0.03, 0.055), self.body if rng.random() < 0.5 else None)
        self.shade(rng.uniform(0.34, 0.55), rng.uniform(0.35, 0.65), height)
        if rng.random() < 0.3:
            self.out.label = "stem"
            tray = p.cylinder(0.3, 0.04, 0.01, 26).moved(z=height * rng.uniform(0.35, 0.6))
            self.out.add(tray, self.body)

    def tripod(self) -> None:
        """Three splayed legs with a shade."""
        rng = self.rng
        height, reach = rng.uniform(0.6, 1.0), rng.uniform(0.32, 0.5)
        self.out.label = "base"
        for k in range(3):
            angle = 2 * math.pi * k / 3
            foot = (reach * math.sin(angle), reach * math.cos(angle), 0.0)
            head = (0.05 * math.sin(angle), 0.05 * math.cos(angle), height)
            self.out.add(p.tube([foot, head], [0.03, 0.045], 10), self.body)
        self.out.label = "stem"
        self.out.add(p.cylinder(0.09, 0.08, 0.01).moved(z=height), self.metal)
        self.shade(rng.uniform(0.35, 0.5), rng.uniform(0.35, 0.55), height + 0.05)

    def desk(self) -> None:
        """A jointed arm in the plane x = 0 with a reflector that looks down."""
        rng = self.rng
        self.plate(rng.uniform(0.24, 0.36), rng.uniform(0.06, 0.12))
        self.out.label = "stem"
        lower, upper = rng.uniform(0.5, 0.75), rng.uniform(0.45, 0.7)
        back, forward = rng.uniform(0.1, 0.5), rng.uniform(0.5, 1.2)
        start = np.array([0.0, -0.05, 0.06])
        elbow = start + lower * np.array([0.0, -math.sin(back), math.cos(back)])
        head = elbow + upper * np.array([0.0, math.sin(forward), math.cos(forward)])
        width = rng.uniform(0.028, 0.045)
        for a, b in ((start, elbow), (elbow, head)):
            self.out.add(p.tube([a, b], width, 12), self.metal)
        for joint in (start, elbow, head):
            knob = p.cylinder(1.9 * width, 3.4 * width, 0.01, 16).turned("y", math.pi / 2)
            self.out.add(knob.moved(*joint), self.body)
        r, tall = rng.uniform(0.2, 0.32), rng.uniform(0.28, 0.42)
        t = np.linspace(0, 1, 8)
        radii = r * (1 - 0.72 * t) if rng.random() < 0.5 else r * np.sqrt(1 - (0.95 * t) ** 2)
        profile = list(zip(radii.tolist(), (tall * (t - 1)).tolist(), strict=True))
        tilt = rng.uniform(0.2, 0.9)
        reflector = [p.shell(profile, 0.04 * r, 26), p.cylinder(0.3 * r, 0.12, 0.02).moved(z=0.02)]
        reflector.append(p.sphere(0.45 * r, 16).moved(z=-0.75 * tall))
        self.out.label = "shade"
        for part, colour in zip(reflector, (self.cover, self.cover, GLOW), strict=True):
            self.out.add(part.turned("x", tilt).moved(*head), colour)

    def pendant(self) -> None:
        """A shade that hangs on a rod from a ceiling rose."""
        rng = self.rng
        drop = rng.uniform(0.15, 0.55)
        r, tall = rng.uniform(0.4, 0.6), rng.uniform(0.3, 0.65)
        self.shade(r, tall, 0.0)
        self.pole(0.4 * tall, tall + drop, rng.uniform(0.025, 0.04))
        self.out.label = "base"
        self.out.add(p.cylinder(0.16, 0.06, 0.015, 24, top=0.13).moved(z=tall + drop), self.body)
        self.out.label = "stem"
        self.out.add(p.cylinder(0.1, 0.14, 0.02, 18).moved(z=tall + 0.05), self.body)
        if rng.random() < 0.35:
            self.out.label = "shade"
            self.out.add(p.sphere(0.6 * r, 24, 0.8).moved(z=0.1 * tall), p.paint(rng, 0.2))

    def tiffany(self) -> None:
        """A dome of coloured glass in panes, on a turned foot or hanging."""
        rng = self.rng
        r, tall, panes = rng.uniform(0.4, 0.55), rng.uniform(0.25, 0.42), int(rng.choice([6, 8, 10]))
        t = np.linspace(0, 1, 8)
        radii = r * (0.14 + 0.86 * np.sqrt(np.clip(1 - t**1.8, 0, 1)))
        z = rng.uniform(0.4, 0.7)
        segments = 5 * panes
        profile = list(zip(radii.tolist(), (z + tall * t).tolist(), strict=True))
        wall = p.shell(profile, 0.03, segments)
        hues = rng.random(3)
        palette = np.array([p.hsv(h, rng.uniform(0.6, 1.0), rng.uniform(0.5, 1.0)) for h in hues])
        row = np.repeat(np.arange(2 * len(profile)), 2 * segments)
        column = np.tile(np.repeat(np.arange(segments), 2), 2 * len(profile))
        colours = palette[
            ((column + 3) // 5 + (row % len(profile)) // 3) % 2
        ]  # a pane, not a joint, at the mirror plane
        colours[(row % len(profile)) == 0] = palette[2]
        self.out.label = "shade"
        self.out.add(wall, colours)
        self.out.add(p.sphere(0.2, 16).moved(z=z + 0.12), GLOW)
        self.out.add(p.cylinder(0.24 * r, 0.08, 0.02).moved(z=z + tall), self.metal)
        curve = [(0.27, 0.0), (0.27, 0.04), (0.1, 0.1), (0.06, 0.3), (0.09, 0.5), (0.05, 0.75), (0.05, 1.0)]
        foot = p.lathe([(a, b * (z + 0.1)) for a, b in curve], 24)
        self.out.add(foot, self.metal, band_labels(foot, ["base"] * 2 + ["stem"] * 4))

    def mushroom(self) -> None:
        """A half-round cap on a thick stem of one material."""
        rng = self.rng
        r, z = rng.uniform(0.38, 0.55), rng.uniform(0.35, 0.65)
        t = np.linspace(0, 1, 10)
        self.out.label = "shade"
        cap = [(r * math.cos(a), z + 0.75 * r * math.sin(a)) for a in t * 0.49 * math.pi]
        self.out.add(p.lathe([(0.85 * r, z - 0.05), *cap], 30), self.cover)
        foot = rng.uniform(0.5, 0.85) * r
        stem = [(foot, 0.0), (foot, 0.04), (0.35 * r, 0.25 * z), (0.28 * r, 0.7 * z), (0.4 * r, z)]
        part = p.lathe(stem, 26)
        colour = self.body if rng.random() < 0.6 else self.cover
        self.out.add(part, colour, band_labels(part, ["base"] * 2 + ["stem"] * 2))
        self.out.add(p.cylinder(0.75 * r, 0.09, 0.02, 26).moved(z=z - 0.07), GLOW)
        self.out.add(p.sphere(0.1 * r, 14, 1.4).moved(z=z + 0.77 * r), self.metal)

    def globe(self) -> None:
        """A ball of glass on a stand or a short column."""
        rng = self.rng
        r, z = rng.uniform(0.28, 0.45), rng.uniform(0.2, 0.6)
        self.plate(rng.uniform(0.2, 0.34), 0.07)
        self.pole(0.04, z + 0.1, rng.uniform(0.05, 0.1), self.body)
        self.out.label = "stem"
        self.out.add(p.cylinder(0.45 * r, 0.1, 0.02).moved(z=z + 0.03), self.metal)
        self.out.label = "shade"
        glass = p.tint(self.cover, rng.uniform(1.0, 2.5))
        ball = p.sphere(r, 28, rng.uniform(0.85, 1.2))
        height = float(ball.vertices[:, 2].max())
        self.out.add(ball.moved(z=z + 0.07 + height), glass if rng.random() < 0.7 else GLOW)
        self.out.add(p.cylinder(0.25 * r, 0.1, 0.02).moved(z=z + 0.07 + 2 * height), self.metal)

    def lantern(self) -> None:
        """A box of glass in a frame with a roof and a ring."""
        rng = self.rng
        w, h, bar = rng.uniform(0.36, 0.55), rng.uniform(0.45, 0.8), rng.uniform(0.04, 0.07)
        self.out.label = "shade"
        self.out.add(p.box(0.92 * w, 0.92 * w, h), self.cover if rng.random() < 0.6 else GLOW)
        for y in (w / 2, -w / 2):
            self.out.pair(p.box(bar, bar, h).moved(w / 2, y), self.body)
        if rng.random() < 0.5:
            self.out.add(p.box(bar * 0.6, w, h), self.body)
            self.out.add(p.box(w, bar * 0.6, h), self.body)
        self.out.label = "base"
        for z in (-h / 2, h / 2):
            self.out.add(p.box(1.15 * w, 1.15 * w, 0.07, 0.015).moved(z=z), self.body)
        roof = p.stack(p.rectangle(1.2 * w, 1.2 * w), [(0.0, 1.0), (0.3 * w, 0.3), (0.34 * w, 0.3)])
        self.out.add(roof.moved(z=h / 2 + 0.03), self.body)
        self.out.label = "stem"
        angle = np.linspace(0.5 * math.pi, 2.5 * math.pi, 15)[:-1]
        ring = np.column_stack((0 * angle, 0.12 * np.cos(angle), 0.12 * np.sin(angle)))
        self.out.add(p.tube(np.concatenate((ring, ring[:1])), 0.025, 8).moved(z=h / 2 + 0.36 * w + 0.1), self.metal)

    def torch(self) -> None:
        """A floor lamp with a bowl that opens upwards."""
        rng = self.rng
        height = rng.uniform(0.9, 1.3)
        self.plate(rng.uniform(0.25, 0.36), 0.08)
        self.pole(0.04, height, rng.uniform(0.035, 0.06), self.body)
        r, tall = rng.uniform(0.3, 0.48), rng.uniform(0.2, 0.4)
        t = np.linspace(0.1, 1, 8)
        profile = [(r * math.sqrt(a), height - 0.05 + tall * a) for a in t]
        self.out.label = "shade"
        self.out.add(p.shell(profile, 0.025, 28), self.cover)
        self.out.add(p.cylinder(0.9 * r, 0.02, segments=28).moved(z=height + 0.75 * tall), GLOW)
        self.out.add(p.sphere(0.36 * r, 16).moved(z=height), self.metal)

    def arc(self) -> None:
        """A bow in the plane x = 0 from a heavy foot to a hanging shade."""
        rng = self.rng
        reach, height = rng.uniform(0.6, 0.9), rng.uniform(0.9, 1.2)
        angle = np.linspace(0, rng.uniform(0.8, 0.95) * math.pi, 16)
        path = np.column_stack((0 * angle, -0.5 * reach * np.cos(angle), height * 0.5 + 0.5 * height * np.sin(angle)))
        self.out.label = "stem"
        foot = np.array([[0.0, -0.5 * reach, 0.05]])
        self.out.add(p.tube(np.concatenate((foot, path)), rng.uniform(0.03, 0.045), 12), self.metal)
        self.out.label = "base"
        block = p.box(0.45, 0.4, 0.16, 0.03) if rng.random() < 0.5 else p.cylinder(0.26, 0.12, 0.02, 26)
        self.out.add(block.moved(y=-0.5 * reach, z=0.07), self.body)
        r, y, z = rng.uniform(0.26, 0.38), float(path[-1, 1]), float(path[-1, 2])
        t = np.linspace(0, 1, 8)
        profile = [(r * math.sqrt(max(1 - (0.96 * a) ** 2, 0)), z - 0.75 * r + 0.75 * r * a) for a in t]
        self.out.label = "shade"
        self.out.add(p.shell(profile, 0.03, 26).moved(y=y), self.cover)
        self.out.add(p.sphere(0.45 * r, 16).moved(y=y, z=z - 0.6 * r), GLOW)

    def chandelier(self) -> None:
        """Arms around a hanging body, with a shade or ball on each."""
        rng = self.rng
        count, reach = int(rng.choice([4, 6, 8])), rng.uniform(0.45, 0.6)
        self.pole(0.0, rng.uniform(0.5, 0.7), 0.04)
        self.out.label = "base"
        self.out.add(p.sphere(rng.uniform(0.12, 0.22), 20, 1.3), self.body)
        self.out.add(p.cylinder(0.16, 0.06, 0.015, 22).moved(z=0.6), self.body)
        ball = rng.random() < 0.5
        for k in range(count):
            turn = 2 * math.pi * (k + 0.5) / count
            self.out.label = "stem"
            s = np.linspace(0, 1, 7)
            path = np.column_stack((0 * s, reach * s, -0.16 * np.sin(math.pi * s) + 0.1 * s))
            self.out.add(p.tube(path, 0.03, 8).turned("z", turn), self.metal)
            top = p.sphere(0.16, 16).moved(z=0.22) if ball else p.cylinder(0.17, 0.26, 0, 16, top=0.1).moved(z=0.26)
            self.out.label = "shade"
            self.out.add(top.moved(y=reach).turned("z", turn), self.cover)
