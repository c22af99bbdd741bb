"""Parametric cars: nine body styles from a flat sports car to a bus; the front looks along +y."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hyperkit.data.procedural import primitives as p
from hyperkit.data.procedural.primitives import Array, Builder, Colour

GLASS_THICKNESS = 0.012


@dataclass(frozen=True)
class Style:
    """Typical proportions in metres; places along the car are fractions of its length, from -0.5 (rear) to 0.5."""

    length: float
    width: float
    height: float
    ground: float
    belt: float  # height at which the windows begin
    hood: float
    tail: float
    wheel: float  # radius
    cabin: tuple[float, float]  # rear and front end at the belt
    roof: tuple[float, float]  # rear and front end above
    windows: int  # per side
    weight: float  # how often it is drawn


STYLES = {
    "sedan": Style(4.5, 1.85, 1.45, 0.22, 0.95, 0.86, 0.98, 0.34, (-0.37, 0.20), (-0.20, 0.05), 2, 1.3),
    "wagon": Style(4.6, 1.85, 1.5, 0.22, 0.95, 0.87, 0.95, 0.34, (-0.49, 0.20), (-0.44, 0.06), 3, 0.8),
    "hatchback": Style(3.8, 1.75, 1.5, 0.22, 0.95, 0.88, 0.95, 0.33, (-0.49, 0.24), (-0.38, 0.08), 2, 1.2),
    "suv": Style(4.5, 1.95, 1.85, 0.34, 1.15, 1.08, 1.15, 0.42, (-0.49, 0.21), (-0.45, 0.10), 3, 1.2),
    "pickup": Style(5.1, 1.95, 1.8, 0.36, 1.12, 1.06, 1.0, 0.43, (-0.09, 0.22), (-0.07, 0.10), 1, 1.0),
    "van": Style(4.7, 1.95, 2.05, 0.26, 1.05, 0.95, 1.05, 0.36, (-0.495, 0.37), (-0.48, 0.23), 3, 1.0),
    "bus": Style(6.6, 2.2, 2.75, 0.32, 1.2, 1.2, 1.2, 0.46, (-0.498, 0.497), (-0.488, 0.47), 6, 0.9),
    "truck": Style(5.4, 2.0, 1.95, 0.36, 1.2, 1.05, 0.8, 0.44, (0.13, 0.40), (0.15, 0.32), 1, 0.8),
    "sports": Style(4.3, 1.95, 1.15, 0.15, 0.76, 0.66, 0.80, 0.35, (-0.33, 0.16), (-0.13, -0.01), 1, 1.3),
}


@dataclass(frozen=True)
class Paints:
    """The colours of one car."""

    body: Colour
    roof: Colour
    skirt: Colour
    stripe: Colour
    trim: Colour
    rim: Colour
    glass: Colour


def make_car(rng: np.random.Generator, place: float) -> Builder:
    """Draw a car; its style is the one at ``place`` in [0, 1)."""
    name = p.pick(list(STYLES), [style.weight for style in STYLES.values()], place)
    car = _Car(name, _vary(STYLES[name], rng), _paints(name, rng), rng)
    car.out.label = "body"
    car.tub()
    car.cabin()
    car.wheels()
    car.out.label = "body"
    car.ends()
    car.extras()
    return car.out


def _vary(style: Style, rng: np.random.Generator) -> Style:
    length, width, height, wheel = rng.uniform(0.9, 1.1, 4)
    belt = rng.uniform(-0.05, 0.06)
    shift, slant = rng.uniform(-0.025, 0.025), rng.uniform(-0.03, 0.03)
    free = style.cabin[0] > -0.45  # a boot or a bed behind the cabin
    return Style(
        style.length * length,
        style.width * (0.5 + 0.5 * width),
        style.height * height,
        style.ground * rng.uniform(0.8, 1.25),
        style.belt * height + belt,
        style.hood * height + belt,
        style.tail * height + belt,
        style.wheel * wheel,
        (style.cabin[0] + (shift if free else 0.0), min(style.cabin[1] + shift, 0.497)),
        (style.roof[0] + (shift + slant if free else 0.0), min(style.roof[1] + shift - abs(slant), 0.475)),
        style.windows,
        style.weight,
    )


def _paints(name: str, rng: np.random.Generator) -> Paints:
    body = p.paint(rng, neutral=0.22)
    two_tone = rng.random() < 0.4
    roof = p.paint(rng, neutral=0.6) if two_tone else body
    skirt = [body, body, p.tint(body, 0.45), (0.13, 0.13, 0.14), p.paint(rng, 0.5)][int(rng.integers(5))]
    stripe = p.paint(rng, 0.5) if rng.random() < (0.4 if name == "sports" else 0.12) else body
    trim = (0.12, 0.12, 0.13) if rng.random() < 0.65 else (0.7, 0.71, 0.73)
    rims = [(0.75, 0.76, 0.78), (0.55, 0.56, 0.58), (0.2, 0.2, 0.21), (0.93, 0.93, 0.93), p.tint(body, 1.3)]
    shade = rng.uniform(0.06, 0.3)
    glass = p.hsv(rng.uniform(0.52, 0.64), rng.uniform(0.1, 0.5), shade)
    return Paints(body, roof, skirt, stripe, trim, rims[int(rng.integers(len(rims)))], glass)


class _Car:
    def __init__(self, name: str, style: Style, paints: Paints, rng: np.random.Generator) -> None:
        self.name, self.s, self.c, self.rng = name, style, paints, rng
        self.out = Builder()
        self.half = style.width / 2
        self.axles = (-style.length * rng.uniform(0.28, 0.33), style.length * rng.uniform(0.29, 0.335))
        if name == "bus":
            self.axles = (-style.length * 0.29, style.length * 0.32)

    def tub(self) -> None:
        """Add the lower body: cross-sections along y with a shoulder, a skirt and a strip in the middle of the top."""
        s, y0 = self.s, self.s.cabin[0]
        knots = [(-0.5, s.tail - 0.14), (-0.485, s.tail - 0.03)]
        knots += [(-0.45, s.tail), (y0, s.belt)] if y0 > -0.45 else [(-0.45, s.belt)]
        knots += [(s.cabin[1], s.belt)] if s.cabin[1] < 0.44 else []
        knots += [(0.45, s.hood), (0.485, s.hood - 0.06), (0.5, s.hood - 0.2)]
        if self.name in ("pickup", "truck"):  # a flat deck right up to the cabin
            knots[3:3] = [(y0 - 0.01, s.tail)]
        places = sorted({*(round(y, 4) for y, _ in knots), -0.3, -0.1, 0.0, 0.1, 0.3})
        top = np.interp(places, [y for y, _ in knots], [z for _, z in knots])
        round_ends = 1.0 if self.name == "bus" else self.rng.uniform(0.82, 0.94)
        wide = np.interp(places, [-0.5, -0.48, -0.36, 0.34, 0.47, 0.5], [round_ends, 0.96, 1, 1, 0.95, round_ends])
        low = np.interp(places, [-0.5, -0.44, 0.44, 0.5], [s.ground + 0.1, s.ground, s.ground, s.ground + 0.08])
        strip = 0.16 * s.width
        rings = []
        for y, z1, w, z0 in zip(places, top, self.half * wide, low, strict=True):
            h = z1 - z0
            side = [(0.9 * w, z0), (w, z0 + 0.12 * h), (w, z0 + 0.34 * h), (w, z0 + 0.68 * h), (0.98 * w, z1 - 0.06)]
            right = [*side, (0.91 * w, z1), (strip, z1)]
            rings.append([(x, y * s.length, z) for x, z in right] + [(-x, y * s.length, z) for x, z in right[::-1]])
        part = p.loft(np.array(rings))
        skirt, body = [self.c.skirt] * 2, [self.c.body] * 3
        sides = [*skirt, *body, self.c.body, self.c.stripe, self.c.body, *body, *skirt, (0.08, 0.08, 0.08)]
        self.out.add(part, p.side_colours(part, sides, self.c.skirt))

    def _corners(self) -> tuple[Array, Array]:
        """Return half widths and ends of the cabin's planes at the belt and below the roof's edge: (w, y0, y1, z)."""
        s = self.s
        lean = {"bus": 0.98, "van": 0.92, "sports": 0.74}.get(self.name, 0.84)
        low = np.array([self.half * 0.95, s.cabin[0] * s.length, s.cabin[1] * s.length, s.belt - 0.01])
        high = np.array([self.half * 0.95 * lean, s.roof[0] * s.length, s.roof[1] * s.length, s.height - 0.08])
        return low, high

    def cabin(self) -> None:
        """Add pillars, roof and windows."""
        low, high = self._corners()
        rings = []
        for (w, y0, y1, z), inset in ((low, 0.0), (high, 0.0), (np.add(high, (0, 0, 0, 0.055)), 0.035), (high, 0.11)):
            top = z + 0.08 if inset > 0.1 else z
            outline = np.add(p.rectangle(2 * (w - inset), y1 - y0 - 2 * inset, 0.07), (0, 0.5 * (y0 + y1)))
            rings.append(np.column_stack((outline, np.full(8, top))))
        part = p.loft(np.stack(rings))
        pillars = self.c.body if self.rng.random() < 0.7 else self.c.roof
        colours = np.concatenate((np.tile(pillars, (16, 1)), np.tile(self.c.roof, (len(part.faces) - 16, 1))))
        self.out.add(part, colours)
        self.out.label = "windows"
        t, (wl, a0, a1, zl), (wh, b0, b1, zh) = GLASS_THICKNESS, low, high
        for ends in ((a1, b1), (a0, b0)):
            quad = [(-wl, ends[0], zl), (wl, ends[0], zl), (wh, ends[1], zh), (-wh, ends[1], zh)]
            if ends[0] == a1 or self.name not in ("truck",):
                self.out.add(p.panel(quad, (0.07, 0.93), (0.12, 0.95), t), self.c.glass)
        quad = [(wl, a0, zl), (wl, a1, zl), (wh, b1, zh), (wh, b0, zh)]
        for u in self._window_spans():
            self.out.pair(p.panel(quad, u, (0.12, 0.93), t), self.c.glass)

    def _window_spans(self) -> list[tuple[float, float]]:
        count, edge, gap = self.s.windows, 0.05, 0.035
        begin, end = edge, 1 - edge
        if self.name == "van" and self.rng.random() < 0.55:  # a closed delivery van
            return [(0.72, end)]
        if self.name == "hatchback":
            begin = 0.1
        width = (end - begin + gap) / count
        return [(begin + k * width, begin + (k + 1) * width - gap) for k in range(count)]

    def wheels(self) -> None:
        """Add tyres, rims with spokes, and dark wheel arches, which count to the wheels."""
        self.out.label = "wheels"
        s, rng = self.s, self.rng
        r, width = s.wheel, 0.24 if self.name != "sports" else 0.3
        rim = r * rng.uniform(0.58, 0.74)
        spokes = int(rng.choice([0, 4, 5, 6, 8]))
        wall = (0.94, 0.93, 0.9) if rng.random() < 0.1 else (0.07, 0.07, 0.075)
        h = width / 2
        for y in self.axles:
            x = self.half - h + 0.025
            tyre = p.lathe([(r - 0.05, -h), (r, 0.06 - h), (r, h - 0.06), (r - 0.05, h)], 22).turned("y", math.pi / 2)
            self.out.pair(tyre.moved(x, y, r), (0.07, 0.07, 0.075))
            parts: list[tuple[p.Part, Colour]] = [(p.cylinder(rim * 1.12, 0.02, segments=20), wall)]
            dish = self.c.rim if not spokes else (0.1, 0.1, 0.11)
            parts.append((p.cylinder(rim, 0.04, 0.012, 20), dish))
            parts.append((p.cylinder(rim * 0.3, 0.07, 0.015, 12), self.c.rim))
            for k in range(spokes):
                spoke = p.box(0.04, rim * 0.8, rim * 0.24).moved(y=rim * 0.55)
                angle = 2 * math.pi * k / spokes
                place = spoke.turned("x", angle).moved(x + h + 0.014, y, r)
                self.out.pair(place, self.c.rim)
            for part, colour in parts:
                self.out.pair(part.turned("y", math.pi / 2).moved(x + h + 0.005, y, r), colour)
            arch = p.cylinder(r * 1.17, 0.3, segments=22).turned("y", math.pi / 2)
            self.out.pair(arch.moved(self.half - 0.15 + 0.006, y, r * 1.02), (0.05, 0.05, 0.055))

    def ends(self) -> None:
        """Add lights, grille, bumpers, plates and mirrors."""
        s, rng, end, half = self.s, self.rng, self.s.length / 2, self.half
        front = s.hood - 0.25 if self.name != "bus" else 0.72 * s.hood
        rear = s.tail - 0.26
        lamp = [(0.98, 0.95, 0.8), (0.95, 0.97, 1.0), (1.0, 0.85, 0.5)][int(rng.integers(3))]
        if rng.random() < 0.4:
            light = p.cylinder(0.13, 0.12, 0.02, 14).turned("x", math.pi / 2)
        else:
            light = p.box(0.4 * rng.uniform(0.7, 1.1), 0.12, 0.16, 0.03)
        self.out.pair(light.moved(0.62 * half, end - 0.03, front), lamp)
        tall = rng.random() < 0.4
        tail = p.box(0.16 if tall else 0.4, 0.1, 0.32 if tall else 0.15, 0.02)
        self.out.pair(tail.moved((0.76 if tall else 0.6) * half, -end + 0.02, rear), (0.8, 0.05, 0.05))
        grille = p.box(0.6 * half * rng.uniform(0.7, 1.1), 0.1, 0.2 * rng.uniform(0.6, 1.2), 0.02)
        self.out.add(grille.moved(y=end - 0.02, z=front - 0.02), (0.09, 0.09, 0.1))
        height = rng.uniform(0.14, 0.22)
        for y in (end - 0.02, 0.02 - end):
            bumper = p.box(1.86 * half, 0.2, height, 0.05)
            self.out.add(bumper.moved(y=y, z=s.ground + 0.2), self.c.trim)
            plate = p.box(0.46, 0.24, 0.11)
            self.out.add(plate.moved(y=y, z=s.ground + 0.21), (0.92, 0.9, 0.8))
        mirror = p.box(0.2, 0.1, 0.15, 0.03)
        y = s.cabin[1] * s.length - (0.45 if self.name != "bus" else 0.1)
        self.out.pair(mirror.moved(half + 0.03, y, s.belt + 0.1), self.c.trim if rng.random() < 0.5 else self.c.body)

    def extras(self) -> None:
        """Add what a style or chance asks for: cargo, bed, spoiler, roof rack, signs."""
        rng, name = self.rng, self.name
        if name == "truck":
            self._cargo()
        elif name == "pickup":
            self._bed()
        elif name == "sports" and rng.random() < 0.6:
            self._spoiler()
        choice = rng.random()
        _, y0, y1, roof = self._corners()[1]
        middle, size = 0.5 * (y0 + y1), y1 - y0
        if name in ("suv", "wagon", "van") and choice < 0.45:
            rail = p.box(0.05, 0.85 * size, 0.06).moved(0.62 * self.half, middle, roof + 0.13)
            self.out.pair(rail, self.c.trim)
            if choice < 0.2:
                load = p.box(1.0 * self.half, 0.6 * size, 0.28, 0.06).moved(y=middle, z=roof + 0.25)
                self.out.add(load, p.paint(rng))
        elif name in ("sedan", "hatchback", "wagon", "van") and choice > 0.88:
            sign = p.box(0.55, 0.25, 0.2, 0.04).moved(y=middle, z=roof + 0.17)
            self.out.add(sign, (0.98, 0.85, 0.15))
        elif name in ("sedan", "suv", "pickup") and choice > 0.78:
            for x, colour in ((0.24, (0.85, 0.08, 0.08)), (-0.24, (0.85, 0.08, 0.08))):
                self.out.add(p.box(0.4, 0.26, 0.16, 0.04).moved(x, middle, roof + 0.14), colour)
            self.out.add(p.box(0.16, 0.28, 0.14).moved(y=middle, z=roof + 0.13), (0.9, 0.9, 0.92))
        elif name == "bus":
            stripe = p.box(2 * self.half + 0.012, 0.97 * self.s.length, 0.14).moved(z=self.s.belt - 0.12)
            self.out.add(stripe, p.paint(rng, 0.4))
            sign = p.box(1.2 * self.half, 0.08, 0.22).moved(y=y1 + 0.03, z=self.s.height - 0.14)
            self.out.add(sign, (0.1, 0.1, 0.1))

    def _cargo(self) -> None:
        s, rng = self.s, self.rng
        rear, front = -0.5 * s.length, (s.cabin[0] - 0.02) * s.length
        height = s.height * rng.uniform(0.75, 1.15)
        colour = p.paint(rng, 0.45)
        hold = p.box(2.06 * self.half, front - rear, height, 0.05)
        self.out.add(hold.moved(y=0.5 * (front + rear), z=s.tail + 0.04 + height / 2), colour)
        band = p.box(2.06 * self.half + 0.02, 0.94 * (front - rear), height * rng.uniform(0.12, 0.35))
        self.out.add(band.moved(y=0.5 * (front + rear), z=s.tail + height * 0.5), p.paint(rng, 0.35))

    def _bed(self) -> None:
        s = self.s
        rear, front = -0.49 * s.length, (s.cabin[0] - 0.012) * s.length
        long, wall, rise = front - rear, 0.09, s.belt - s.tail + 0.12
        z = s.tail + rise / 2 - 0.05
        self.out.pair(p.box(wall, long, rise, 0.02).moved(0.93 * self.half, 0.5 * (front + rear), z), self.c.body)
        for y in (rear + wall / 2, front - wall / 2):
            self.out.add(p.box(1.9 * self.half, wall, rise, 0.02).moved(y=y, z=z), self.c.body)
        floor = p.box(1.75 * self.half, long - 2 * wall, 0.04).moved(y=0.5 * (front + rear), z=s.tail + 0.005)
        self.out.add(floor, (0.16, 0.16, 0.17))
        if self.rng.random() < 0.4:
            for _ in range(2):
                size = self.rng.uniform(0.35, 0.6)
                y = self.rng.uniform(rear + 0.5, front - 0.5)
                self.out.add(
                    p.box(1.6 * size, 0.9 * size, size, 0.03).moved(y=y, z=s.tail + size / 2), p.wood(self.rng)
                )

    def _spoiler(self) -> None:
        s, y = self.s, -0.46 * self.s.length
        rise = self.rng.uniform(0.12, 0.32)
        colour = self.c.body if self.rng.random() < 0.6 else self.c.trim
        self.out.add(p.box(1.85 * self.half, 0.32, 0.05, 0.02).moved(y=y, z=s.tail + rise), colour)
        post = p.box(0.07, 0.14, rise + 0.06).moved(0.6 * self.half, y, s.tail + rise / 2 - 0.03)
        self.out.pair(post, self.c.trim)
