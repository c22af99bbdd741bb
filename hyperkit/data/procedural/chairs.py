"""Parametric chairs: seats, legs, backs and arms in free combination; the sitter looks along +y."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hyperkit.data.procedural import primitives as p
from hyperkit.data.procedural.primitives import Builder, Colour


@dataclass(frozen=True)
class Shape:
    """Measures of one chair in metres."""

    width: float
    depth: float
    seat: float  # height of the seat's upper side
    slab: float  # thickness of the seat
    back: float  # height of the back above the seat
    lean: float  # angle of the back in radians
    bar: float  # thickness of legs


KINDS = {"chair": 0.45, "office": 0.08, "stool": 0.1, "armchair": 0.25, "lounge": 0.12}


def make_chair(rng: np.random.Generator, place: float) -> Builder:
    """Draw a chair, stool or armchair; its kind is the one at ``place`` in [0, 1)."""
    kind = p.pick(list(KINDS), list(KINDS.values()), place)
    chair = _Chair(kind, rng)
    if kind == "armchair":
        chair.upholstered()
        return chair.out
    chair.seat()
    legs = {"office": ["star"], "lounge": ["four", "sled", "panel"], "stool": ["four", "pedestal", "four", "sled"]}
    default = ["four", "four", "four", "sled", "panel", "pedestal", "cantilever"]
    chair.out.label = "legs"
    getattr(chair, "legs_" + str(rng.choice(legs.get(kind, default))))()
    if kind != "stool":
        chair.out.label = "back"  # and arms
        backs = ["solid", "solid", "padded", "slats", "ladder", "rounded", "shell"]
        getattr(chair, "back_" + str(rng.choice(["padded", "solid", "shell"] if kind == "office" else backs)))()
        if rng.random() < (0.7 if kind in ("office", "lounge") else 0.3):
            chair.arms()
    return chair.out


class _Chair:
    def __init__(self, kind: str, rng: np.random.Generator) -> None:
        self.kind, self.rng, self.out = kind, rng, Builder()
        low, high = {"stool": (0.4, 0.8), "lounge": (0.3, 0.4), "office": (0.45, 0.55)}.get(kind, (0.4, 0.52))
        wide = rng.uniform(0.55, 0.75) if kind == "lounge" else rng.uniform(0.4, 0.58)
        self.s = Shape(
            width=wide,
            depth=wide * rng.uniform(0.85, 1.1),
            seat=rng.uniform(low, high),
            slab=rng.uniform(0.04, 0.13),
            back=rng.uniform(0.32, 0.72),
            lean=rng.uniform(0.05, 0.4 if kind == "lounge" else 0.25),
            bar=rng.uniform(0.035, 0.075),
        )
        self.round = rng.random() < (0.55 if kind == "stool" else 0.2)
        self.frame: Colour = [p.wood, p.wood, p.metal, p.paint][int(rng.integers(4))](rng)
        self.cloth: Colour = p.paint(rng, neutral=0.2)
        self.second: Colour = p.paint(rng, neutral=0.3) if rng.random() < 0.4 else self.cloth

    def seat(self) -> None:
        """Add the seat: a board, and often a cushion on it."""
        self.out.label = "seat"
        s, rng = self.s, self.rng
        padded = rng.random() < 0.6
        board = self.frame if padded or rng.random() < 0.4 else self.cloth
        thick = 0.04 if padded else s.slab
        if self.round:
            self.out.add(p.cylinder(s.width / 2, thick, 0.012, 28).moved(z=s.seat - thick / 2), board)
            if padded:
                pad = p.cushion(0.96 * s.width, 0.96 * s.width, s.slab + 0.02, 2.0, 28)
                self.out.add(pad.moved(z=s.seat + s.slab / 2 - 0.01), self.cloth)
        else:
            self.out.add(p.box(s.width, s.depth, thick, 0.015).moved(z=s.seat - thick / 2), board)
            if padded:
                pad = p.cushion(0.98 * s.width, 0.98 * s.depth, s.slab + 0.02, rng.uniform(4, 9), 32)
                self.out.add(pad.moved(z=s.seat + s.slab / 2 - 0.01), self.cloth)
        self.top = s.seat + (s.slab if padded else 0.0)

    def _under(self) -> float:
        return self.s.seat - 0.03

    def legs_four(self) -> None:
        """Add four legs, straight or splayed, round or square, with or without stretchers."""
        s, rng = self.s, self.rng
        splay = rng.uniform(0.0, 0.14) if rng.random() < 0.6 else 0.0
        inset = 0.15 * s.width if self.round else s.bar / 2 + 0.005
        x, y = s.width / 2 - inset, (s.width if self.round else s.depth) / 2 - inset
        taper = rng.uniform(0.5, 1.0)
        square = rng.random() < 0.5
        outline = p.rectangle(s.bar, s.bar) if square else p.circle(s.bar / 2, 12)
        feet = []
        for side in (1, -1):
            ends = np.array([[x + splay, side * (y + splay), 0.0], [x, side * y, self._under()]])
            rings = [
                np.column_stack((outline * scale + end[:2], np.full(len(outline), end[2])))
                for end, scale in zip(ends, (taper, 1.0), strict=True)
            ]
            self.out.pair(p.loft(np.stack(rings)), self.frame)
            feet.append(ends)
        if rng.random() < 0.45:
            part = rng.uniform(0.25, 0.6)
            points = [ends[0] + part * (ends[1] - ends[0]) for ends in feet]
            self.out.pair(p.tube(points, 0.32 * s.bar, 8), self.frame)
            for point in points if rng.random() < 0.6 else points[:1]:
                self.out.add(p.tube([point, point * (-1, 1, 1)], 0.32 * s.bar, 8), self.frame)

    def legs_star(self) -> None:
        """Add a column on a star of five feet with castors."""
        s, rng = self.s, self.rng
        column = p.metal(rng)
        self.out.add(p.cylinder(0.035, s.seat - 0.1, segments=14).moved(z=0.08 + (s.seat - 0.1) / 2), column)
        self.out.add(p.cylinder(0.055, 0.2, 0.01, 14).moved(z=0.2), (0.12, 0.12, 0.13))
        self.out.add(p.box(0.6 * s.width, 0.5 * s.depth, 0.06, 0.01).moved(z=s.seat - 0.06), (0.12, 0.12, 0.13))
        reach = rng.uniform(0.6, 0.75) * s.width
        for k in range(5):
            foot = p.box(0.06, reach, 0.045, 0.01).moved(y=reach / 2, z=0.1)
            self.out.add(foot.turned("z", 2 * math.pi * k / 5), column)
            castor = p.sphere(0.045, 12).moved(y=reach - 0.02, z=0.045)
            self.out.add(castor.turned("z", 2 * math.pi * k / 5), (0.08, 0.08, 0.08))

    def legs_pedestal(self) -> None:
        """Add one foot on a round plate, in the shape of a trumpet."""
        s, rng = self.s, self.rng
        foot, neck = rng.uniform(0.36, 0.5) * s.width, rng.uniform(0.03, 0.06)
        low, high = 0.03, self._under()
        curve = [(neck + (foot - neck) * (1 - t) ** 5, low + t * (high - low)) for t in np.linspace(0, 1, 9)]
        self.out.add(p.lathe([(foot, 0.0), *curve, (0.2 * s.width, high)], 26), self.frame)

    def legs_sled(self) -> None:
        """Add a bent tube on each side that runs along the floor."""
        s = self.s
        x, y, z, r = s.width / 2 - s.bar / 2, s.depth / 2 - 0.02, self._under(), s.bar * 0.42
        corner = 0.06
        path = [(x, -y, z), (x, -y, corner), (x, -y + 0.3 * corner, 0.3 * corner), (x, corner - y, r)]
        path += [(x, y - corner, r), (x, y - 0.3 * corner, 0.3 * corner), (x, y, corner), (x, y, z)]
        self.out.pair(p.tube(path, r, 10), self.frame)

    def legs_cantilever(self) -> None:
        """Add a bent tube that carries the seat from its front edge only."""
        s = self.s
        x, y, r = s.width / 2 - s.bar / 2, s.depth / 2, s.bar * 0.45
        z = s.seat - 0.02
        path = [(x, -y, z), (x, y - 0.08, z), (x, y - 0.02, z - 0.02), (x, y, z - 0.08)]
        path += [(x, y, 0.1), (x, y - 0.02, 0.03), (x, y - 0.08, r), (x, 0.02 - y, r)]
        self.out.pair(p.tube(path, r, 10), self.frame)
        self.out.add(p.tube([(-x, 0.02 - y, r), (x, 0.02 - y, r)], r, 10), self.frame)

    def legs_panel(self) -> None:
        """Add a closed box, or a board on each side, down to the floor."""
        s, rng = self.s, self.rng
        high = self._under()
        if self.round:
            self.out.add(p.cylinder(0.44 * s.width, high, top=0.36 * s.width).moved(z=high / 2), self.frame)
        elif rng.random() < 0.5:
            board = p.box(s.bar, 0.96 * s.depth, high, 0.008)
            self.out.pair(board.moved(s.width / 2 - s.bar / 2, 0, high / 2), self.frame)
            self.out.add(p.box(0.9 * s.width, s.bar, 0.5 * high).moved(y=-0.3 * s.depth, z=0.6 * high), self.frame)
        else:
            self.out.add(p.box(0.9 * s.width, 0.9 * s.depth, high, 0.02).moved(z=high / 2), self.frame)

    def _lean(self, part: p.Part) -> p.Part:
        """Put a back that stands on z = 0 at y = 0 to its place, leaning backwards."""
        s = self.s
        depth = 0.8 * s.width if self.round else s.depth
        return part.turned("x", s.lean).moved(y=-depth / 2 + 0.02, z=s.seat - 0.02)

    def _posts(self, thickness: float) -> None:
        s = self.s
        post = p.box(thickness, thickness, s.back, 0.006).moved(s.width / 2 - 0.7 * thickness, 0, s.back / 2)
        self.out.pair(self._lean(post), self.frame)

    def back_solid(self) -> None:
        """Add a board, down to the seat or on two posts."""
        s, rng = self.s, self.rng
        low = rng.uniform(0.0, 0.35) * s.back
        if low > 0.06:
            self._posts(max(0.03, 0.8 * s.bar))
        thick = rng.uniform(0.03, 0.06)
        board = p.box(s.width, thick, s.back + 0.04 - low, 0.012).moved(z=(s.back + 0.04 + low) / 2)
        self.out.add(self._lean(board), self.second if rng.random() < 0.5 else self.frame)

    def back_padded(self) -> None:
        """Add a thick cushion in a frame, or on a bracket."""
        s, rng = self.s, self.rng
        low = rng.uniform(0.06, 0.2) * s.back
        height = s.back - low
        thick = rng.uniform(0.06, 0.13)
        pad = p.cushion(rng.uniform(0.85, 1.0) * s.width, height, thick, rng.uniform(3, 8), 32)
        self.out.add(self._lean(pad.turned("x", math.pi / 2).moved(z=low + height / 2)), self.second)
        if self.kind == "office":
            bracket = p.box(0.1, 0.035, s.back * 0.7, 0.01).moved(y=-thick / 2, z=s.back * 0.35)
            self.out.add(self._lean(bracket), (0.12, 0.12, 0.13))
        else:
            self._posts(max(0.03, 0.8 * s.bar))

    def back_slats(self) -> None:
        """Add upright slats between two posts, with a rail above."""
        s, rng = self.s, self.rng
        bar = max(0.04, 0.8 * s.bar)
        self._posts(bar)
        rail = rng.uniform(0.06, 0.14)
        top = p.box(s.width, bar * 1.1, rail, 0.01).moved(z=s.back)
        self.out.add(self._lean(top), self.second if rng.random() < 0.4 else self.frame)
        count = int(rng.integers(3, 7))
        width = (s.width - 2 * bar) / count * rng.uniform(0.4, 0.7)
        for k in range(count):
            x = (k + 0.5 - count / 2) * (s.width - 2 * bar) / count
            slat = p.box(width, 0.025, s.back, 0.004).moved(x, 0, s.back / 2)
            self.out.add(self._lean(slat), self.frame)

    def back_ladder(self) -> None:
        """Add boards across, between two posts."""
        s, rng = self.s, self.rng
        self._posts(max(0.04, 0.9 * s.bar))
        count = int(rng.integers(2, 5))
        pitch = 0.85 * s.back / count
        height = pitch * rng.uniform(0.4, 0.75)
        colour = self.second if rng.random() < 0.5 else self.frame
        for k in range(count):
            rung = p.box(s.width, 0.03, height, 0.008).moved(z=s.back - height / 2 - k * pitch)
            self.out.add(self._lean(rung), colour)

    def back_rounded(self) -> None:
        """Add a curved rail on posts around the back of the seat."""
        s, rng = self.s, self.rng
        radius = 0.5 * s.width
        height = rng.uniform(0.3, 0.7) * s.back
        spread = rng.uniform(1.1, 1.6)
        wall = p.arc_wall(radius, spread, rng.uniform(0.035, 0.07), s.back - height, s.back, droop=0.3)
        self.out.add(wall.moved(z=s.seat), self.second)
        for angle in (0.25 * spread, 0.8 * spread):
            x, y = radius * math.sin(angle), -radius * math.cos(angle)
            post = p.tube([(0.9 * x, 0.9 * y, s.seat - 0.02), (x, y, s.seat + s.back - 0.7 * height)], 0.4 * s.bar, 10)
            self.out.pair(post, self.frame)

    def back_shell(self) -> None:
        """Add a curved wall from the seat upwards, as of a tub chair."""
        s, rng = self.s, self.rng
        wall = p.arc_wall(
            0.5 * s.width, rng.uniform(1.0, 1.7), rng.uniform(0.03, 0.09), -0.05, s.back, rng.uniform(0, 0.7)
        )
        self.out.add(wall.moved(z=s.seat), self.second)

    def arms(self) -> None:
        """Add arm rests on posts."""
        s, rng = self.s, self.rng
        z = self.top + rng.uniform(0.14, 0.24)
        x = s.width / 2 + 0.01
        length = s.depth * rng.uniform(0.7, 1.0)
        rest = p.box(rng.uniform(0.05, 0.09), length, rng.uniform(0.03, 0.06), 0.012)
        self.out.pair(rest.moved(x, -0.02, z), self.frame if rng.random() < 0.6 else self.cloth)
        post = p.box(0.04, 0.045, z - s.seat + 0.05, 0.006)
        for y in (0.4 * length - 0.02, -0.4 * length - 0.02) if rng.random() < 0.6 else (0.1,):
            self.out.pair(post.moved(x, y, (z + s.seat - 0.05) / 2), self.frame)

    def upholstered(self) -> None:
        """Build an armchair: plinth, seat cushion, thick back and thick arms on short feet."""
        rng = self.rng
        w, d = rng.uniform(0.72, 1.05), rng.uniform(0.7, 0.85)
        arm, feet = rng.uniform(0.1, 0.2), rng.uniform(0.04, 0.16)
        seat, back = rng.uniform(0.36, 0.46), rng.uniform(0.72, 1.05)
        rest, thick = seat + rng.uniform(0.1, 0.25), rng.uniform(0.14, 0.24)
        base = self.cloth
        self.out.label = "seat"
        body = p.box(w - 0.04, d - 0.04, seat - feet - 0.12, 0.03)
        self.out.add(body.moved(z=feet + (seat - feet - 0.12) / 2), base)
        pad = p.cushion(w - 2 * arm, d - thick + 0.06, 0.18, rng.uniform(5, 10), 32)
        self.out.add(pad.moved(y=thick / 2 + 0.01, z=seat - 0.05), self.second)
        self.out.label = "back"
        rear = p.cushion(w if rng.random() < 0.5 else w - 2 * arm + 0.04, back - feet, thick, rng.uniform(5, 10), 32)
        upright = rear.turned("x", math.pi / 2 + rng.uniform(0.0, 0.15))
        self.out.add(upright.moved(y=-d / 2 + thick / 2, z=(back + feet) / 2), base)
        if rng.random() < 0.5:
            head = p.cushion(w - 2 * arm, back - seat, 0.16, 6, 32).turned("x", math.pi / 2 + 0.1)
            self.out.add(head.moved(y=thick - d / 2 + 0.05, z=(back + seat) / 2), self.second)
        if rng.random() < 0.4:
            side = p.cylinder(arm * 0.62, d, 0.02, 20).turned("x", math.pi / 2)
            self.out.pair(side.moved(w / 2 - arm / 2, 0, rest - arm * 0.3), base)
        side = p.box(arm, d, rest - feet, 0.035)
        self.out.pair(side.moved(w / 2 - arm / 2, 0, (rest + feet) / 2), base)
        self.out.label = "legs"
        leg = p.cylinder(0.02, feet + 0.06, top=0.035, segments=12)
        for y in (d / 2 - 0.07, 0.07 - d / 2):
            self.out.pair(leg.moved(w / 2 - 0.08, y, (feet + 0.06) / 2), self.frame)
