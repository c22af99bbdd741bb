"""The objects of the captioned scenes: one design for each word, in whatever colour its caption names.

The body takes the colour; a few neutral parts (dark, steel, cream) stay as they are, so that shape and colour are both
seen. Axes and sizes are those of ``primitives``: z up, the front along +y, symmetric under x -> -x.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hyperkit.data.procedural import primitives as p
from hyperkit.data.procedural.primitives import Array, Builder, Colour

DARK: Colour = (0.13, 0.13, 0.14)
STEEL: Colour = (0.68, 0.69, 0.72)
CREAM: Colour = (0.93, 0.90, 0.80)
GLASS: Colour = (0.25, 0.32, 0.38)
COFFEE: Colour = (0.20, 0.11, 0.06)
GLOW: Colour = (1.0, 0.93, 0.68)

Maker = Callable[[Colour], Builder]


def chair(colour: Colour) -> Builder:
    """A dining chair: padded seat and tall padded back, on a dark frame."""
    out = Builder()
    out.add(p.cushion(0.62, 0.6, 0.14, 6.0, 32).moved(z=0.5), colour)
    out.add(p.box(0.58, 0.56, 0.06, 0.01).moved(z=0.42), DARK)
    back = p.cushion(0.6, 0.5, 0.12, 6.0, 32).turned("x", math.pi / 2 + 0.12)
    out.add(back.moved(y=-0.33, z=0.92), colour)
    for foot, head in (((0.28, 0.27), (0.25, 0.24)), ((0.28, -0.3), (0.25, -0.26))):
        out.pair(p.tube([(*foot, 0.0), (*head, 0.44)], [0.028, 0.038], 10), DARK)
    out.pair(p.tube([(0.22, -0.26, 0.4), (0.22, -0.35, 1.08)], 0.035, 10), DARK)
    return out


def toaster(colour: Colour) -> Builder:
    """A toaster: a rounded box with two slots, toast in them, a lever and a dial at its front."""
    out = Builder()
    _toaster_body(out, colour)
    return out


def _toaster_body(out: Builder, colour: Colour) -> None:
    outline = p.cushion(0.62, 1.0, 1.0, 5.0, 32).vertices[3 * 32 : 4 * 32, :2]  # its widest ring
    levels = [(0.08, 0.96), (0.14, 1.0), (0.6, 1.0), (0.7, 0.97), (0.76, 0.88), (0.78, 0.8)]
    out.add(p.stack(outline, levels), colour)
    out.add(p.stack(outline, [(0.03, 0.9), (0.1, 0.97)]), DARK)
    out.pair(p.box(0.12, 0.7, 0.02).moved(0.12, 0.0, 0.782), DARK)
    out.pair(p.box(0.085, 0.56, 0.36, 0.03).moved(0.12, 0.0, 0.78), (0.80, 0.58, 0.30))
    out.add(p.box(0.05, 0.04, 0.42).moved(y=0.5, z=0.42), DARK)
    out.add(p.box(0.2, 0.12, 0.07, 0.02).moved(y=0.55, z=0.56), DARK)
    out.add(p.cylinder(0.07, 0.05, 0.01).turned("x", math.pi / 2).moved(y=0.52, z=0.2), STEEL)


def bowl(colour: Colour) -> Builder:
    """A wide bowl with a cream rim, on a dark foot."""
    out = Builder()
    angles = np.linspace(0.12, 1.0, 10) * 0.5 * math.pi
    wall = [(float(np.sin(a)) ** 0.8, 0.62 - 0.54 * float(np.cos(a))) for a in angles]
    inner = [(max(r - 0.05, 0.02), z + 0.04 * (1 - r)) for r, z in reversed(wall)]
    part = p.lathe([*wall, *inner], 40)
    bands = np.tile(np.asarray(colour), (2 * len(wall), 1))  # the last one stands for both caps
    bands[len(wall) - 2 : len(wall) + 1] = CREAM
    out.add(part, np.repeat(bands, 80, axis=0))
    out.add(p.cylinder(0.42, 0.12, 0.02, 32, top=0.36).moved(z=0.04), DARK)
    return out


def teapot(colour: Colour) -> Builder:
    """A round teapot: spout to the front, handle behind, dark lid and knob."""
    out = Builder()
    t = np.linspace(0.0, 1.0, 16)
    radii = 0.22 + 0.38 * np.sin(math.pi * (0.08 + 0.8 * t)) ** 0.8
    out.add(p.lathe(list(zip(radii.tolist(), (0.84 * t).tolist(), strict=True)), 32), colour)
    spout = [(0.0, 0.45, 0.28), (0.0, 0.7, 0.4), (0.0, 0.84, 0.6), (0.0, 0.93, 0.8), (0.0, 1.02, 0.86)]
    out.add(p.tube(spout, [0.15, 0.11, 0.08, 0.065, 0.06], 14), colour)
    around = np.linspace(0.6, -0.62, 13) * math.pi
    bow = np.column_stack((0 * around, -0.5 - 0.38 * np.cos(around), 0.46 + 0.3 * np.sin(around)))
    out.add(p.tube(bow, 0.055, 12), colour)
    lid = [(0.4, 0.8), (0.38, 0.86), (0.3, 0.92), (0.15, 0.97), (0.04, 0.99)]
    out.add(p.lathe(lid, 32), DARK)
    out.add(p.sphere(0.085, 18).moved(z=1.04), DARK)
    out.add(p.cylinder(0.34, 0.05, 0.01, 32).moved(z=0.0), DARK)
    return out


def table(colour: Colour) -> Builder:
    """A dining table: a thick top with an apron, on four square legs with dark feet; a cream bowl stands on it."""
    out = Builder()
    out.add(p.box(1.1, 1.7, 0.1, 0.025).moved(z=0.8), colour)
    out.add(p.box(0.96, 1.54, 0.14).moved(z=0.7), colour)
    for y in (0.72, -0.72):
        out.pair(p.box(0.13, 0.13, 0.7, 0.015).moved(0.43, y, 0.45), colour)
        out.pair(p.box(0.15, 0.15, 0.12, 0.015).moved(0.43, y, 0.06), DARK)
    out.add(p.lathe([(0.1, 0.85), (0.2, 0.9), (0.27, 1.0), (0.23, 1.0), (0.14, 0.92)], 28), CREAM)
    return out


def sofa(colour: Colour) -> Builder:
    """A sofa of two seats with thick arms, on dark feet, with a cream pillow at either side."""
    out = Builder()
    out.add(p.box(1.6, 0.72, 0.24, 0.04).moved(z=0.24), colour)
    out.pair(p.cushion(0.66, 0.6, 0.18, 7.0, 32).moved(0.33, 0.08, 0.43), colour)
    back = p.cushion(1.62, 0.62, 0.24, 9.0, 40).turned("x", math.pi / 2 + 0.1)
    out.add(back.moved(y=-0.32, z=0.56), colour)
    out.pair(p.box(0.2, 0.78, 0.42, 0.06).moved(0.76, 0.0, 0.38), colour)
    pillow = p.cushion(0.34, 0.34, 0.14, 3.5, 28).turned("x", math.pi / 2 + 0.35)
    out.pair(pillow.moved(0.46, -0.08, 0.66), CREAM)
    for y in (0.3, -0.3):
        out.pair(p.cylinder(0.04, 0.14, top=0.055, segments=12).moved(0.74, y, 0.07), DARK)
    return out


def lamp(colour: Colour) -> Builder:
    """A table lamp: a large cone of a shade over a round body, joined by a steel rod."""
    out = Builder()
    t = np.linspace(0.0, 1.0, 14)
    radii = 0.1 + 0.2 * np.sin(math.pi * np.clip(0.12 + 0.88 * t, 0, 1)) ** 1.2
    out.add(p.lathe(list(zip(radii.tolist(), (0.06 + 0.5 * t).tolist(), strict=True)), 28), colour)
    out.add(p.cylinder(0.24, 0.08, 0.02, 28).moved(z=0.04), DARK)
    out.add(p.cylinder(0.035, 0.4, segments=14).moved(z=0.7), STEEL)
    profile = [(0.52, 0.78), (0.5, 0.83), (0.28, 1.38), (0.26, 1.43)]
    wall = p.shell(profile, 0.03, 36)
    bands = np.tile(np.asarray(colour), (8, 1))
    bands[4:7] = CREAM
    bands[0] = bands[2] = DARK
    out.add(wall, np.repeat(bands, 72, axis=0))
    out.add(p.sphere(0.13, 18, 1.2).moved(z=0.92), GLOW)
    out.add(p.cylinder(0.24, 0.02, segments=36).moved(z=1.36), GLOW)
    return out


def mug(colour: Colour) -> Builder:
    """A tall mug of coffee: cream inside, a large handle to the front."""
    out = Builder()
    wall = p.shell([(0.4, 0.0), (0.42, 0.06), (0.42, 0.98), (0.4, 1.02)], 0.05, 36)
    bands = np.tile(np.asarray(colour), (8, 1))
    bands[4:7] = CREAM
    out.add(wall, np.repeat(bands, 72, axis=0))
    out.add(p.cylinder(0.38, 0.06, segments=36).moved(z=0.03), colour)
    out.add(p.cylinder(0.375, 0.04, segments=36).moved(z=0.86), COFFEE)
    around = np.linspace(-0.52, 0.52, 15) * math.pi
    bow = np.column_stack((0 * around, 0.4 + 0.36 * np.cos(around), 0.52 + 0.33 * np.sin(around)))
    out.add(p.tube(bow, 0.065, 12), colour)
    out.add(p.cylinder(0.43, 0.12, segments=36).moved(z=0.26), CREAM)
    return out


def car(colour: Colour) -> Builder:
    """A small car: rounded body, dark windows all around, thick dark wheels with steel rims."""
    out = Builder()
    low = [(-0.98, 0.3), (-0.9, 0.2), (0.9, 0.2), (1.0, 0.3), (0.99, 0.5), (0.9, 0.58), (0.45, 0.64), (-0.9, 0.66)]
    out.add(p.extrude([*low, (-0.99, 0.58)], 0.86, 0.06), colour)
    rings = []
    for z, width, rear, front in ((0.62, 0.8, -0.84, 0.46), (0.94, 0.66, -0.66, 0.16), (1.0, 0.56, -0.6, 0.1)):
        outline = np.add(p.rectangle(width, front - rear, 0.06), (0.0, 0.5 * (front + rear)))
        rings.append(np.column_stack((outline, np.full(8, z))))
    out.add(p.loft(np.stack(rings)), colour)
    (wl, a0, a1, zl), (wh, b0, b1, zh) = (0.4, -0.84, 0.46, 0.62), (0.33, -0.66, 0.16, 0.94)
    for a, b in ((a1, b1), (a0, b0)):
        quad = [(-wl, a, zl), (wl, a, zl), (wh, b, zh), (-wh, b, zh)]
        out.add(p.panel(quad, (0.08, 0.92), (0.14, 0.94), 0.012), GLASS)
    side = [(wl, a0, zl), (wl, a1, zl), (wh, b1, zh), (wh, b0, zh)]
    for span in ((0.08, 0.49), (0.54, 0.92)):
        out.pair(p.panel(side, span, (0.14, 0.92), 0.012), GLASS)
    for y in (-0.58, 0.6):
        tyre = p.lathe([(0.18, -0.1), (0.23, -0.06), (0.23, 0.06), (0.18, 0.1)], 24).turned("y", math.pi / 2)
        out.pair(tyre.moved(0.38, y, 0.23), DARK)
        out.pair(p.cylinder(0.12, 0.03, 0.008, 20).turned("y", math.pi / 2).moved(0.485, y, 0.23), STEEL)
    out.pair(p.cylinder(0.08, 0.06, 0.01, 16).turned("x", math.pi / 2).moved(0.28, 0.985, 0.46), CREAM)
    out.add(p.box(0.8, 0.06, 0.09, 0.02).moved(y=1.0, z=0.27), DARK)
    out.add(p.box(0.8, 0.06, 0.09, 0.02).moved(y=-0.99, z=0.27), DARK)
    return out


def blender(colour: Colour) -> Builder:
    """A blender: a jar of glass with a handle on a base with buttons, under a lid; no training set holds it."""
    out = Builder()
    out.add(p.stack(p.rectangle(0.62, 0.62, 0.1), [(0.0, 1.0), (0.08, 1.0), (0.3, 0.82), (0.36, 0.7)]), colour)
    button = p.box(0.09, 0.06, 0.09, 0.015).moved(y=0.285, z=0.16)
    out.add(button, CREAM)
    out.pair(button.moved(x=0.14), DARK)
    out.add(p.cylinder(0.19, 0.08, 0.01, 28).moved(z=0.39), DARK)
    out.add(p.lathe([(0.19, 0.42), (0.22, 0.5), (0.3, 1.1), (0.3, 1.14)], 32), (0.70, 0.80, 0.84))
    out.add(p.cylinder(0.31, 0.1, 0.02, 32).moved(z=1.18), colour)
    out.add(p.cylinder(0.12, 0.1, 0.02, 24).moved(z=1.26), DARK)
    out.add(p.tube([(0, -0.24, 0.56), (0, -0.46, 0.66), (0, -0.5, 0.92), (0, -0.28, 1.06)], 0.045, 10), colour)
    return out


def striped_vase(colour: Colour) -> Builder:
    """A slender vase with bands of the colour and cream around it."""
    out = Builder()
    t = np.linspace(0.0, 1.0, 29)
    radii: Array = 0.2 + 0.2 * np.sin(math.pi * (1.35 * t - 0.05)) * (1 - 0.45 * t) + 0.12 * np.clip(t - 0.8, 0, 1)
    part = p.lathe(list(zip(radii.tolist(), (1.3 * t).tolist(), strict=True)), 32)
    bands = np.where((np.arange(28) // 4 % 2 == 0)[:, None], np.asarray(colour), np.asarray(CREAM))
    caps = np.concatenate((np.tile(colour, (32, 1)), np.tile(DARK, (32, 1))))
    out.add(part, np.concatenate((np.repeat(bands, 64, axis=0), caps)))
    return out


def plaid_toaster(colour: Colour) -> Builder:
    """The toaster with dark and cream ribbons around its body: a shape that is known in a pattern that is not."""
    out = Builder()
    _toaster_body(out, colour)
    for z, tone in ((0.25, CREAM), (0.42, DARK), (0.58, CREAM)):
        outline = p.cushion(0.628, 1.012, 1.0, 5.0, 32).vertices[3 * 32 : 4 * 32, :2]
        out.add(p.stack(outline, [(z - 0.03, 1.0), (z + 0.03, 1.0)]), tone)
    for y, tone in ((-0.25, DARK), (0.0, CREAM), (0.25, DARK)):
        out.pair(p.box(0.02, 0.07, 0.5).moved(0.308, y, 0.4), tone)
    return out


SHAPES: dict[str, Maker] = {
    "chair": chair,
    "toaster": toaster,
    "bowl": bowl,
    "teapot": teapot,
    "table": table,
    "sofa": sofa,
    "lamp": lamp,
    "mug": mug,
    "car": car,
}
"""Noun -> maker: what training sets hold."""

NOVEL_SHAPES: dict[str, Maker] = {"blender": blender, "vase": striped_vase, "toaster": plaid_toaster}
"""Noun -> maker: what no training set holds."""
