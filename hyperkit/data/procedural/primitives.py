"""Closed, outward-wound building blocks of procedural objects, and the builder that joins them into one mesh.

Axes: x to the side (every object is symmetric under x -> -x), y to the front, z up. Lengths are in no unit: the
finished object is scaled to the unit sphere.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperkit.data.raster import Mesh, smooth_normals

Array = NDArray[np.float64]
Colour = tuple[float, float, float]

LARGEST = 0.99  # norm of the farthest vertex of a finished object


@dataclass(frozen=True)
class Part:
    """A closed surface: vertices (N, 3) and outward-wound faces (F, 3)."""

    vertices: Array
    faces: NDArray[np.int64]

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Part:
        """Return the part shifted."""
        return Part(self.vertices + np.array([x, y, z]), self.faces)

    def turned(self, axis: str, angle: float) -> Part:
        """Return the part turned around a world axis through the origin by ``angle`` radians."""
        i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        vertices = self.vertices.copy()
        c, s = math.cos(angle), math.sin(angle)
        vertices[:, i] = c * self.vertices[:, i] - s * self.vertices[:, j]
        vertices[:, j] = s * self.vertices[:, i] + c * self.vertices[:, j]
        return Part(vertices, self.faces)

    def mirrored(self) -> Part:
        """Return the part mirrored at x = 0, still wound outwards."""
        return Part(self.vertices * np.array([-1.0, 1.0, 1.0]), self.faces[:, ::-1])


class Builder:
    """Collects coloured parts; ``mesh`` centres, scales and shades them as one object.

    Attributes:
        label: what the surfaces that are added next belong to ("wheels"); see ``labels``.
    """

    def __init__(self) -> None:
        self.label = ""
        self._parts: list[Part] = []
        self._colours: list[Array] = []
        self._labels: list[NDArray[np.str_]] = []

    def add(self, part: Part, colour: ArrayLike, labels: ArrayLike | None = None) -> None:
        """Add a part with one colour (3,) or one per face (F, 3), in [0, 1]; ``labels`` (F,): in place of ``label``."""
        count = len(part.faces)
        self._parts.append(part)
        self._colours.append(np.broadcast_to(np.asarray(colour, np.float64), (count, 3)))
        self._labels.append(np.broadcast_to(np.asarray(self.label if labels is None else labels, np.str_), (count,)))

    def pair(self, part: Part, colour: ArrayLike) -> None:
        """Add a part and its mirror image."""
        self.add(part, colour)
        self.add(part.mirrored(), colour)

    def labels(self) -> NDArray[np.str_]:
        """Return the label of every face of the mesh, (F,)."""
        return np.concatenate(self._labels)

    def mesh(self) -> Mesh:
        """Return the object: centred on its bounding box, farthest vertex at norm 0.99, creases at 40 degrees."""
        sizes = np.cumsum([0, *(len(part.vertices) for part in self._parts)])
        vertices = np.concatenate([part.vertices for part in self._parts])
        faces = np.concatenate([part.faces + size for part, size in zip(self._parts, sizes, strict=False)])
        colours = np.clip(np.concatenate(self._colours), 0.0, 1.0)
        vertices = vertices - 0.5 * (vertices.min(axis=0) + vertices.max(axis=0))
        vertices *= LARGEST / np.linalg.norm(vertices, axis=1).max()
        corner_colours = np.repeat(colours[:, None], 3, axis=1)
        return Mesh(vertices, faces, corner_colours, smooth_normals(vertices, faces))


def loft(rings: ArrayLike, closed: bool = False) -> Part:
    """Join k rings of n points (k, n, 3) to one closed surface; ends are capped, or joined when ``closed``.

    Caps are fans around the ring's mean, so that an end has to be star-shaped. Faces come ring by ring, two for each of
    the n sides, then the caps; see ``side_colours``.
    """
    points = np.asarray(rings, np.float64)
    count, sides = points.shape[:2]
    index = np.arange(count * sides).reshape(count, sides)
    lower = index if closed else index[:-1]
    upper = np.roll(index, -1, axis=0) if closed else index[1:]
    a, b = lower, np.roll(lower, -1, axis=1)
    c, d = np.roll(upper, -1, axis=1), upper
    faces = [np.stack((a, b, c, a, c, d), axis=-1).reshape(-1, 3)]
    vertices = points.reshape(-1, 3)
    if not closed:
        middle = count * sides
        first, last = index[0], index[-1]
        faces.append(np.stack((np.roll(first, -1), first, np.full(sides, middle)), axis=-1))
        faces.append(np.stack((last, np.roll(last, -1), np.full(sides, middle + 1)), axis=-1))
        vertices = np.concatenate((vertices, points[:1].mean(axis=1), points[-1:].mean(axis=1)))
    joined = np.concatenate(faces)
    corners = vertices[joined]
    volume = np.einsum("nc,nc->n", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum()
    return Part(vertices, joined if volume > 0 else joined[:, ::-1])


def side_colours(part: Part, sides: ArrayLike, caps: ArrayLike) -> Array:
    """Return face colours (F, 3) of a loft from one colour per side (n, 3) and one for the caps."""
    palette = np.repeat(np.asarray(sides, np.float64), 2, axis=0)
    repeats = (len(part.faces) - len(palette)) // len(palette)
    rest = len(part.faces) - repeats * len(palette)
    return np.concatenate((np.tile(palette, (repeats, 1)), np.broadcast_to(np.asarray(caps, np.float64), (rest, 3))))


def band_labels(part: Part, labels: Sequence[str]) -> NDArray[np.str_]:
    """Return face labels (F,) of an open loft from one per band between two of its rings; caps take their band's."""
    sides = len(part.faces) // (2 * len(labels) + 2)
    return np.repeat([*labels, labels[0], labels[-1]], [2 * sides] * len(labels) + [sides] * 2)


def circle(radius: float, segments: int = 20) -> Array:
    """Return ``segments`` points (n, 2) of a circle, symmetric in x."""
    angle = (np.arange(segments) + 0.5) * (2 * math.pi / segments)
    return radius * np.stack((np.sin(angle), -np.cos(angle)), axis=-1)


def rectangle(width: float, depth: float, cut: float = 0.0) -> Array:
    """Return a rectangle (4, 2) around the origin, or (8, 2) with corners cut by ``cut``."""
    w, d = width / 2, depth / 2
    if cut <= 0:
        return np.array([(-w, -d), (w, -d), (w, d), (-w, d)])
    c = min(cut, 0.45 * width, 0.45 * depth)
    corners = [(c - w, -d), (w - c, -d), (w, c - d), (w, d - c), (w - c, d), (c - w, d), (-w, d - c), (-w, c - d)]
    return np.array(corners)


def stack(outline: Array, levels: Sequence[tuple[float, float]]) -> Part:
    """Loft an outline (n, 2) in xy upwards through ``levels`` of (z, scale)."""
    rings = [np.column_stack((outline * scale, np.full(len(outline), z))) for z, scale in levels]
    return loft(np.stack(rings))


def box(width: float, depth: float, height: float, bevel: float = 0.0) -> Part:
    """Return a box around the origin with bevelled edges."""
    b = min(bevel, 0.45 * min(width, depth, height))
    if b <= 0:
        return stack(rectangle(width, depth), [(-height / 2, 1.0), (height / 2, 1.0)])
    rings = []
    for z, inset in ((-height / 2, b), (b - height / 2, 0.0), (height / 2 - b, 0.0), (height / 2, b)):
        outline = rectangle(width - 2 * inset, depth - 2 * inset, b)
        rings.append(np.column_stack((outline, np.full(8, z))))
    return loft(np.stack(rings))


def cushion(width: float, depth: float, height: float, power: float = 4.0, segments: int = 24) -> Part:
    """Return a superellipsoid |2x/w|^p + |2y/d|^p = 1 in plan, rounded over its height, around the origin."""
    angle = (np.arange(segments) + 0.5) * (2 * math.pi / segments)
    shape = np.stack((np.sin(angle), -np.cos(angle)), axis=-1)
    outline = np.sign(shape) * np.abs(shape) ** (2 / power) * np.array([width / 2, depth / 2])
    levels = [(-1.0, 0.8), (-0.86, 0.92), (-0.5, 0.985), (0.0, 1.0), (0.5, 0.985), (0.86, 0.92), (1.0, 0.8)]
    return stack(outline, [(z * height / 2, scale) for z, scale in levels])


def lathe(profile: Sequence[tuple[float, float]], segments: int = 24, closed: bool = False) -> Part:
    """Turn a profile of (radius, z) around the z axis; ``closed`` joins its end to its start (shells, rings)."""
    unit = circle(1.0, segments)
    rings = [np.column_stack((unit * max(radius, 1e-4), np.full(segments, z))) for radius, z in profile]
    return loft(np.stack(rings), closed)


def shell(profile: Sequence[tuple[float, float]], thickness: float, segments: int = 24) -> Part:
    """Turn an open profile of (radius, z) to a wall of some thickness, open at its ends (lamp shades)."""
    inner = [(max(radius - thickness, 1e-3), z) for radius, z in reversed(profile)]
    return lathe([*profile, *inner], segments, closed=True)


def cylinder(radius: float, height: float, bevel: float = 0.0, segments: int = 20, top: float | None = None) -> Part:
    """Return a cylinder, or a cone frustum with radius ``top`` above, around the origin."""
    upper, half = radius if top is None else top, height / 2
    if bevel <= 0:
        return lathe([(radius, -half), (upper, half)], segments)
    levels = [(radius - bevel, -half), (radius, bevel - half), (upper, half - bevel), (upper - bevel, half)]
    return lathe(levels, segments)


def sphere(radius: float, segments: int = 24, flatten: float = 1.0) -> Part:
    """Return a sphere, or an ellipsoid ``flatten`` times as high, around the origin."""
    rings = max(segments // 2, 4)
    angle = [math.pi * (ring + 0.25) / (rings + 0.5) - math.pi / 2 for ring in range(rings + 1)]
    return lathe([(radius * math.cos(a), flatten * radius * math.sin(a)) for a in angle], segments)


def tube(path: ArrayLike, radius: float | Sequence[float], segments: int = 10) -> Part:
    """Return a round tube along points (k, 3), with one radius or one per point."""
    points = np.asarray(path, np.float64)
    radii = np.broadcast_to(np.asarray(radius, np.float64), (len(points),))
    along = np.gradient(points, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side = np.cross(along[0], np.eye(3)[int(np.abs(along[0]).argmin())])
    unit = circle(1.0, segments)
    rings = []
    for point, direction, size in zip(points, along, radii, strict=True):
        side = side - direction * (side @ direction)  # carried along without twist
        side = side / np.linalg.norm(side)
        other = np.cross(direction, side)
        rings.append(point + size * (unit[:, :1] * side + unit[:, 1:] * other))
    return loft(np.stack(rings))


def extrude(outline: ArrayLike, width: float, bevel: float = 0.0) -> Part:
    """Give an outline (n, 2) in (y, z) a width along x, around x = 0; ends are star-shaped from their mean."""
    flat = np.asarray(outline, np.float64)
    middle = flat.mean(axis=0)
    shrink = 1 - bevel / max(float(np.abs(flat - middle).max()), 1e-6)
    levels = [(-width / 2, shrink), (bevel - width / 2, 1.0), (width / 2 - bevel, 1.0), (width / 2, shrink)]
    if bevel <= 0:
        levels = [(-width / 2, 1.0), (width / 2, 1.0)]
    rings = [np.column_stack((np.full(len(flat), x), middle + scale * (flat - middle))) for x, scale in levels]
    return loft(np.stack(rings))


def panel(quad: ArrayLike, u: tuple[float, float], v: tuple[float, float], thickness: float) -> Part:
    """Return a slab that covers part of a four-sided surface and stands out on both of its sides.

    Args:
        quad: (4, 3) corners: lower left, lower right, upper right, upper left.
        u: covered range from left to right, in [0, 1].
        v: covered range from below to above.
        thickness: how far the slab stands out on either side.
    """
    a, b, c, d = np.asarray(quad, np.float64)
    corners = []
    for s, t in ((u[0], v[0]), (u[1], v[0]), (u[1], v[1]), (u[0], v[1])):
        corners.append((1 - t) * ((1 - s) * a + s * b) + t * ((1 - s) * d + s * c))
    inner = np.array(corners)
    normal = np.cross(inner[2] - inner[0], inner[3] - inner[1])
    normal *= thickness / np.linalg.norm(normal)
    return loft(np.stack((inner - normal, inner + normal)))


def arc_wall(
    radius: float, spread: float, thickness: float, low: float, high: float, droop: float = 0.0, segments: int = 16
) -> Part:
    """Return a curved upright wall behind the origin (towards -y), as the back of a round chair.

    Args:
        radius: of its middle line around the z axis.
        spread: angle in radians to either side of -y.
        thickness: of the wall.
        low, high: range of z.
        droop: by how much its ends are lower than its middle, as a part of the height.
        segments: along the arc.
    """
    rings = []
    for angle in np.linspace(-spread, spread, segments + 1):
        top = high - droop * (high - low) * (angle / spread) ** 2
        e = 0.3 * thickness
        section = [(-1, low), (1, low), (1, top - e), (0.5, top), (-0.5, top), (-1, top - e)]
        ring = [(radius + 0.5 * thickness * side, z) for side, z in section]
        rings.append([(r * math.sin(angle), -r * math.cos(angle), z) for r, z in ring])
    return loft(np.array(rings))


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Return a colour from hue (any real, period 1), saturation and value."""
    return colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))


def paint(rng: np.random.Generator, neutral: float = 0.2) -> Colour:
    """Draw a lively colour of any hue, or with probability ``neutral`` a grey between black and white."""
    hue, saturation, value, choice, grey = rng.random(5)
    if choice < neutral:
        return hsv(hue, 0.08 * saturation, 0.08 + 0.84 * grey)
    return hsv(hue, 0.45 + 0.55 * saturation, 0.25 + 0.75 * value)


def wood(rng: np.random.Generator) -> Colour:
    """Draw a colour of wood, from dark walnut to pale birch."""
    a, b, c = rng.random(3)
    return hsv(0.05 + 0.05 * a, 0.45 + 0.3 * b, 0.28 + 0.55 * c)


def metal(rng: np.random.Generator) -> Colour:
    """Draw a colour of metal: black, steel, chrome, brass or copper."""
    steels = [(0.1, 0.1, 0.11), (0.35, 0.36, 0.38), (0.68, 0.69, 0.72), (0.72, 0.56, 0.26), (0.66, 0.4, 0.28)]
    return steels[int(rng.integers(len(steels)))]


def tint(colour: Colour, factor: float) -> Colour:
    """Return a colour made darker (factor below 1) or lighter (above 1, towards white)."""
    if factor <= 1:
        return colour[0] * factor, colour[1] * factor, colour[2] * factor
    part = 1 - 1 / factor
    return tuple(c + part * (1 - c) for c in colour)  # type: ignore[return-value]


def pick(names: Sequence[str], weights: Sequence[float], place: float) -> str:
    """Return the name whose part of [0, 1), in proportion to its weight, holds ``place``."""
    ends = np.cumsum(np.asarray(weights, dtype=np.float64) / np.sum(weights))
    return names[min(int(np.searchsorted(ends, place, side="right")), len(names) - 1)]
