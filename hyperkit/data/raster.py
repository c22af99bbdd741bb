"""A z-buffer rasteriser in NumPy: coloured or textured triangle meshes to anti-aliased RGBA pictures.

Conventions are those of ``hyperkit.geometry``: poses map camera to world, OpenGL axes, pixel centres at +0.5. Colours
are multiplied by the light as they are stored (sRGB values, no gamma), which is what simple viewers do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from hyperkit.errors import HyperkitError
from hyperkit.geometry import focal_from_angle, look_at

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Pixels = NDArray[np.uint8]

RADIUS = 4.0
NEAR, FAR = 2.0, 6.0
# tan(0.5 angle) = 0.27: seen from radius 4, the unit sphere (tan = 0.2582) just fits.
CAMERA_ANGLE_X = 2 * math.atan(0.27)

# The light stands still in the world, above and before the object, in its mirror plane x = 0: a mirrored scene is then
# lit as a real one.
LIGHT = np.array([0.0, 0.55, 0.835]) / math.hypot(0.55, 0.835)
AMBIENT, HEMISPHERE, DIRECT = 0.62, 0.1, 0.36

_NEAREST = 1e-3  # triangles with a vertex nearer to the camera's plane than this are left out, not clipped
_CHUNK = 1 << 20  # fragments that are worked on at once; bounds the memory


@dataclass(frozen=True)
class Mesh:
    """Triangles with colours, in world axes (z up).

    Args:
        vertices: (N, 3) positions; procedural and loaded objects are centred and fit the unit sphere.
        faces: (F, 3) indices; counter-clockwise seen from outside where the object is closed.
        corner_colours: (F, 3, 3 or 4) in [0, 1]; an interpolated fourth channel below 0.5 cuts a hole. Where there is a
            texture, it is multiplied by this colour.
        normals: (F, 3, 3) unit normals of the corners, on the side of the winding; None: flat shading.
        uv: (F, 3, 2) texture coordinates, v upwards, repeated outside [0, 1].
        textures: pictures (h, w, 3 or 4), uint8 or floats in [0, 1]; alpha below 0.5 cuts a hole.
        texture_of: (F,) index into ``textures`` of each face, -1 for none; None: the first one everywhere.
    """

    vertices: Floats
    faces: Ints
    corner_colours: Floats | None = None
    normals: Floats | None = None
    uv: Floats | None = None
    textures: tuple[NDArray[np.generic], ...] = field(default=())
    texture_of: Ints | None = None


def sphere_poses(rng: np.random.Generator, views: int, max_elevation: float = 60.0) -> NDArray[np.float32]:
    """Draw camera poses (views, 4, 4) on the sphere of radius 4 that look at the origin.

    Azimuth is uniform over the circle, the sine of the elevation uniform from 0 to that of ``max_elevation`` (degrees).
    """
    azimuth = rng.uniform(0.0, 2 * math.pi, views)
    sine = rng.uniform(0.0, math.sin(math.radians(max_elevation)), views)
    flat = np.sqrt(1 - sine**2)
    eyes = RADIUS * np.stack((flat * np.cos(azimuth), flat * np.sin(azimuth), sine), axis=-1)
    return look_at(torch.from_numpy(eyes)).numpy().astype(np.float32)


def face_normals(vertices: Floats, faces: Ints) -> NDArray[np.float64]:
    """Return the unit normals (F, 3) of triangles; zero for triangles without area."""
    corners = np.asarray(vertices, np.float64)[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return normals / np.where(length > 0, length, 1.0)


def smooth_normals(vertices: Floats, faces: Ints, crease: float = 40.0) -> NDArray[np.float64]:
    """Return corner normals (F, 3, 3): the mean over the faces at a vertex that turn by less than ``crease`` degrees.

    Faces are weighted by area. Vertices shared by more than 64 faces keep flat normals, so that the work stays linear.
    """
    flat = face_normals(vertices, faces)
    corners = np.asarray(vertices, np.float64)[faces]
    weighted = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    order = np.argsort(faces.ravel(), kind="stable")
    valence = np.bincount(faces.ravel(), minlength=len(vertices))
    first = np.cumsum(valence) - valence
    mine = np.flatnonzero(valence[faces.ravel()] <= 64)
    count = valence[faces.ravel()[mine]]
    owner = np.repeat(mine, count)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    other = order[np.repeat(first[faces.ravel()[mine]], count) + step] // 3
    near = np.einsum("nc,nc->n", flat[owner // 3], flat[other]) > math.cos(math.radians(crease))
    owner, other = owner[near], other[near]
    total = np.stack([np.bincount(owner, weighted[other, axis], minlength=faces.size) for axis in range(3)], axis=-1)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    own = np.repeat(flat, 3, axis=0)
    return np.where(length > 1e-12, total / np.where(length > 1e-12, length, 1.0), own).reshape(-1, 3, 3)


def _shade(normals: Floats) -> NDArray[np.float64]:
    return AMBIENT + HEMISPHERE * normals[..., 2] + DIRECT * np.clip(normals @ LIGHT, 0.0, None)


class _Surface:
    """What does not depend on the camera: corner colours lit from either side, and all textures in one array."""

    def __init__(self, mesh: Mesh) -> None:
        faces = np.asarray(mesh.faces, np.int64)
        self.vertices, self.faces = np.asarray(mesh.vertices, np.float64), faces
        if len(faces) and (faces.min() < 0 or faces.max() >= len(self.vertices)):
            raise HyperkitError(f"The mesh has {len(self.vertices)} vertices, but faces that use others.")
        if mesh.normals is None:
            normals = np.repeat(face_normals(self.vertices, faces)[:, None], 3, axis=1)
        else:
            normals = np.asarray(mesh.normals, np.float64)
        colours = np.ones((len(faces), 3, 4))
        if mesh.corner_colours is not None:
            colours[..., : mesh.corner_colours.shape[-1]] = mesh.corner_colours
        sides = np.repeat(colours[None], 2, axis=0)
        sides[0, ..., :3] *= _shade(normals)[..., None]
        sides[1, ..., :3] *= _shade(-normals)[..., None]
        self.sides = sides.astype(np.float32)  # (front or back, F, corner, rgba)
        self._set_textures(mesh)
        self.cutout = np.any(colours[..., 3] < 0.5, axis=1)
        if self.uv is not None:
            holes = [bool((texels[:, 3] < 0.5).any()) for texels in self.texel_parts]
            self.cutout |= (self.texture_of >= 0) & np.array([*holes, False])[self.texture_of]

    def _set_textures(self, mesh: Mesh) -> None:
        self.uv: NDArray[np.float32] | None = None
        self.texel_parts: list[NDArray[np.float32]] = []
        if mesh.uv is None or not mesh.textures:
            return
        self.uv = np.asarray(mesh.uv, np.float32)
        count = len(self.faces)
        self.texture_of = np.zeros(count, np.int64) if mesh.texture_of is None else np.asarray(mesh.texture_of)
        for picture in mesh.textures:
            scale = 255.0 if picture.dtype == np.uint8 else 1.0
            texels = np.ones((*picture.shape[:2], 4), np.float32)
            texels[..., : picture.shape[2]] = np.asarray(picture, np.float32) / scale
            self.texel_parts.append(texels.reshape(-1, 4))
        self.texels = np.concatenate(self.texel_parts)
        self.heights = np.array([picture.shape[0] for picture in mesh.textures])
        self.widths = np.array([picture.shape[1] for picture in mesh.textures])
        self.offsets = np.concatenate(([0], np.cumsum(self.heights * self.widths)[:-1]))

    def lookup(self, texture: Ints, uv: Floats) -> NDArray[np.float32]:
        """Return bilinear samples (n, 4) of textures (n,) at coordinates (n, 2), repeated at the borders."""
        width, height, offset = self.widths[texture], self.heights[texture], self.offsets[texture]
        x = (uv[:, 0] % 1.0) * width - 0.5
        y = (1.0 - uv[:, 1] % 1.0) * height - 0.5
        x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        fx, fy = (x - x0)[:, None].astype(np.float32), (y - y0)[:, None].astype(np.float32)
        rows = offset + (y0 % height) * width, offset + ((y0 + 1) % height) * width
        columns = x0 % width, (x0 + 1) % width
        upper = self.texels[rows[0] + columns[0]] * (1 - fx) + self.texels[rows[0] + columns[1]] * fx
        lower = self.texels[rows[1] + columns[0]] * (1 - fx) + self.texels[rows[1] + columns[1]] * fx
        return upper * (1 - fy) + lower * fy


class _View:
    """The triangles of a surface that one camera may see, in pixels of a picture ``side`` wide and high."""

    def __init__(self, surface: _Surface, pose: Floats, focal: float, side: int, cull: bool) -> None:
        pose = np.asarray(pose, np.float64)
        local = (surface.vertices - pose[:3, 3]) @ pose[:3, :3]
        distance = -local[:, 2]
        inverse = 1.0 / np.where(distance > _NEAREST, distance, 1.0)
        x = 0.5 * side + focal * local[:, 0] * inverse
        y = 0.5 * side - focal * local[:, 1] * inverse
        faces = surface.faces
        tx, ty = x[faces], y[faces]
        # Twice the signed area with y downwards: negative where the winding is counter-clockwise to the viewer.
        area = (tx[:, 1] - tx[:, 0]) * (ty[:, 2] - ty[:, 0]) - (tx[:, 2] - tx[:, 0]) * (ty[:, 1] - ty[:, 0])
        keep = (distance > _NEAREST)[faces].all(axis=1) & ((area < 0) if cull else (area != 0))
        keep &= (tx.max(axis=1) > 0) & (tx.min(axis=1) < side) & (ty.max(axis=1) > 0) & (ty.min(axis=1) < side)
        self.surface, self.side = surface, side
        self.index = np.flatnonzero(keep)
        self.x, self.y, self.q = tx[keep], ty[keep], inverse[faces[self.index]]
        self._set_columns(area[keep])

    def _set_columns(self, area: Floats) -> None:
        """Lay out what every covered pixel looks up: one contiguous array per quantity, which is fast to gather."""
        x, y, q = self.x, self.y, self.q
        edges = (y[:, 2] - y[:, 0], x[:, 2] - x[:, 0], x[:, 1] - x[:, 0], y[:, 1] - y[:, 0])
        gradients = [edge / area for edge in edges]
        columns = [x[:, 0] - 0.5, y[:, 0] - 0.5, *gradients, q[:, 0], q[:, 1], q[:, 2]]
        self.columns = [column.astype(np.float32) for column in columns]
        lit = self.surface.sides[(area > 0).astype(np.int64), self.index]
        self.lit = np.ascontiguousarray(lit.reshape(-1, 12).T)

    def rows(self) -> tuple[Ints, Ints, Ints, Floats, Floats]:
        """Return the spans: triangle, first pixel, number of pixels, 1/distance at the first one, and its step.

        A pixel belongs to a span if left <= centre < right, and a row to a triangle if top <= centre < bottom. Both
        triangles at an edge compute its crossing from the same sorted end points: no pixel is missed or taken twice.
        """
        order = np.argsort(self.y, axis=1, kind="stable")
        x, y, q = (np.take_along_axis(values, order, axis=1) for values in (self.x, self.y, self.q))
        first = np.clip(np.ceil(y[:, 0] - 0.5), 0, self.side).astype(np.int64)
        last = np.clip(np.ceil(y[:, 2] - 0.5), 0, self.side).astype(np.int64)
        count = np.maximum(last - first, 0)
        triangle = np.repeat(np.arange(len(count)), count)
        row = np.arange(len(triangle)) + np.repeat(first - (np.cumsum(count) - count), count)
        height = row + 0.5
        a_start = np.zeros(len(triangle), np.int64)
        # The short edge is 0-1 above the middle vertex and 1-2 below it.
        b_start = (height >= y[triangle, 1]).astype(np.int64)
        ends = []
        for start, end in ((a_start, a_start + 2), (b_start, b_start + 1)):
            y0 = y[triangle, start]
            part = (height - y0) / (y[triangle, end] - y0)
            x0, q0 = x[triangle, start], q[triangle, start]
            ends.append((x0 + part * (x[triangle, end] - x0), q0 + part * (q[triangle, end] - q0)))
        (xa, qa), (xb, qb) = ends
        left, right = np.minimum(xa, xb), np.maximum(xa, xb)
        begin = np.clip(np.ceil(left - 0.5), 0, self.side).astype(np.int64)
        number = np.clip(np.ceil(right - 0.5), 0, self.side).astype(np.int64) - begin
        keep = np.flatnonzero(number > 0)
        step = (qb[keep] - qa[keep]) / (xb[keep] - xa[keep])
        at_first = qa[keep] + (begin[keep] + 0.5 - xa[keep]) * step
        return triangle[keep], row[keep] * self.side + begin[keep], number[keep], at_first, step

    def resolve(self) -> tuple[Ints, Ints]:
        """Return the covered pixels and the (local) triangle that is nearest in each."""
        buffer = np.zeros(self.side * self.side, np.uint64)
        triangle, first, number, at_first, step = self.rows()
        cutout = self.surface.cutout[self.index]
        ends = np.cumsum(number)
        start = 0
        while start < len(number):
            done = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
            part = slice(start, stop)
            span = np.repeat(np.arange(start, stop), number[part])
            along = np.arange(len(span)) - (ends[part] - number[part] - done)[span - start]
            pixel = first[span] + along
            q = (at_first[span] + along * step[span]).astype(np.float32)
            owner = triangle[span]
            # The bits of positive floats are in their order: the largest 1/distance wins, ties go to the later face.
            keys = (q.view(np.uint32).astype(np.uint64) << np.uint64(32)) | owner.astype(np.uint64)
            if cutout.any():
                solid = np.ones(len(owner), bool)
                check = np.flatnonzero(cutout[owner])
                solid[check] = self.colours(pixel[check], owner[check])[3] >= 0.5
                keys, pixel = keys[solid], pixel[solid]
            np.maximum.at(buffer, pixel, keys)
            start = stop
        covered = np.flatnonzero(buffer)
        return covered, (buffer[covered] & np.uint64(0xFFFFFFFF)).astype(np.int64)

    def weights(self, pixel: Ints, triangle: Ints) -> tuple[Floats, Floats, Floats]:
        """Return the perspective-correct weights (n,) of a triangle's corners at the centres of pixels."""
        row = pixel // self.side
        dx = (pixel - row * self.side).astype(np.float32) - self.columns[0][triangle]
        dy = row.astype(np.float32) - self.columns[1][triangle]
        second = np.clip(dx * self.columns[2][triangle] - dy * self.columns[3][triangle], 0.0, 1.0)
        third = np.clip(dy * self.columns[4][triangle] - dx * self.columns[5][triangle], 0.0, 1.0)
        w0 = np.maximum(1 - second - third, 0.0) * self.columns[6][triangle]
        w1, w2 = second * self.columns[7][triangle], third * self.columns[8][triangle]
        scale = 1 / (w0 + w1 + w2)
        return w0 * scale, w1 * scale, w2 * scale

    def colours(self, pixel: Ints, triangle: Ints, channels: int = 4) -> list[Floats]:
        """Return the first ``channels`` of the lit colours, each (n,), of triangles at the centres of pixels."""
        w0, w1, w2 = self.weights(pixel, triangle)
        colours = []
        for channel in range(channels):
            c0, c1, c2 = (self.lit[4 * corner + channel][triangle] for corner in range(3))
            colours.append(w0 * c0 + w1 * c1 + w2 * c2)
        surface = self.surface
        if surface.uv is not None:
            face = self.index[triangle]
            textured = np.flatnonzero(surface.texture_of[face] >= 0)
            face = face[textured]
            corners = np.stack((w0, w1, w2), axis=1)[textured]
            uv = np.einsum("nk,nkc->nc", corners, surface.uv[face])
            texels = surface.lookup(surface.texture_of[face], uv)
            for channel in range(channels):
                colours[channel][textured] *= texels[:, channel]
        return colours


def _render_view(surface: _Surface, pose: Floats, angle: float, size: int, supersample: int, cull: bool) -> Pixels:
    side = size * supersample
    view = _View(surface, pose, focal_from_angle(angle, side), side, cull)
    covered, triangle = view.resolve()
    colours = view.colours(covered, triangle, channels=3)
    # Box filter over the samples of a pixel: the sum of colours (premultiplied) over the number of covered samples is
    # the straight colour, their number over all samples the coverage.
    row = covered // side
    pixel = (row // supersample) * size + (covered - row * side) // supersample
    hits = np.bincount(pixel, minlength=size * size)
    picture = np.ones((size * size, 4))
    for channel in range(3):
        total = np.bincount(pixel, np.minimum(colours[channel], 1.0), minlength=size * size)
        picture[:, channel] = np.where(hits > 0, total / np.maximum(hits, 1), 1.0)
    picture[:, 3] = hits / supersample**2
    return (picture * 255 + 0.5).astype(np.uint8).reshape(size, size, 4)


def render_mesh(
    mesh: Mesh, poses: Floats, camera_angle_x: float, size: int, supersample: int = 3, cull: bool = False
) -> Pixels:
    """Render a mesh from given cameras, lit from above and before, on a transparent background.

    Args:
        mesh: what to draw; faces are drawn from both sides, the normal turned to the viewer.
        poses: (V, 4, 4) camera to world.
        camera_angle_x: horizontal field of view in radians; pictures are square.
        size: width and height in pixels.
        supersample: samples per pixel along each axis, averaged with a box filter.
        cull: leave out faces that are seen from behind; right for closed meshes wound outwards, and faster.

    Returns:
        (V, size, size, 4) uint8, alpha not premultiplied; colour is white where alpha is zero.

    Raises:
        HyperkitError: ``size`` or ``supersample`` is below 1, or a face names a vertex that is not there.
    """
    if size < 1 or supersample < 1:
        raise HyperkitError(f"size is {size} and supersample {supersample}.", "Both must be at least 1.")
    surface = _Surface(mesh)
    pictures = np.empty((len(poses), size, size, 4), np.uint8)
    for number, pose in enumerate(poses):
        pictures[number] = _render_view(surface, pose, camera_angle_x, size, supersample, cull)
    return pictures


def render_labels(
    mesh: Mesh,
    labels: NDArray[np.uint8],
    poses: Floats,
    camera_angle_x: float,
    size: int,
    supersample: int = 3,
    cull: bool = False,
) -> Pixels:
    """Render which labels of its faces a mesh shows, from the same samples as ``render_mesh`` its colours.

    A pixel at least half of whose samples are covered (alpha of at least one half) gets the label that most of these
    have, the lowest of equals; all others get 0. Nothing is blended.

    Args:
        mesh: what to draw.
        labels: (F,) uint8, one per face, above 0.
        poses, camera_angle_x, size, supersample, cull: as for ``render_mesh``.

    Returns:
        (V, size, size) uint8.

    Raises:
        HyperkitError: as ``render_mesh``.
    """
    if size < 1 or supersample < 1:
        raise HyperkitError(f"size is {size} and supersample {supersample}.", "Both must be at least 1.")
    if labels.shape != (len(mesh.faces),) or (len(labels) and labels.min() < 1):
        raise ValueError(f"expected one label above 0 for each of {len(mesh.faces)} faces, got {labels.shape}")
    surface, side, count = _Surface(mesh), size * supersample, int(labels.max(initial=0)) + 1
    maps = np.empty((len(poses), size, size), np.uint8)
    for number, pose in enumerate(poses):
        view = _View(surface, pose, focal_from_angle(camera_angle_x, side), side, cull)
        covered, triangle = view.resolve()
        pixel = (covered // side // supersample) * size + covered % side // supersample
        votes = np.bincount(pixel * count + labels[view.index[triangle]], minlength=size * size * count)
        votes = votes.reshape(size, size, count)
        maps[number] = np.where(2 * votes.sum(axis=2) >= supersample**2, votes.argmax(axis=2), 0)
    return maps
