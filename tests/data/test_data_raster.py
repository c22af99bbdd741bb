"""The rasteriser against closed forms: silhouettes, areas, coverage, depth, perspective, textures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hyperkit.contracts import Cameras
from hyperkit.data import raster
from hyperkit.data.raster import CAMERA_ANGLE_X, Mesh, render_mesh, smooth_normals, sphere_poses
from hyperkit.errors import HyperkitError
from hyperkit.geometry import focal_from_angle, look_at, picture_rays, project

ABOVE = np.eye(4)[None].copy()  # looks down the z axis from a height of 4; the picture's x and y are the world's
ABOVE[0, 2, 3] = 4.0


def quad(corners: object, colour: object = (1.0, 1.0, 1.0), **more: object) -> Mesh:
    colours = np.broadcast_to(np.asarray(colour, float), (4, len(np.atleast_2d(colour)[0])))
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    return Mesh(np.asarray(corners, float), faces, colours[faces], **more)  # type: ignore[arg-type]


def square(half: float, z: float = 0.0, dx: float = 0.0) -> list[tuple[float, float, float]]:
    return [(dx - half, -half, z), (dx + half, -half, z), (dx + half, half, z), (dx - half, half, z)]


def ball(rings: int = 96) -> Mesh:
    polar = np.linspace(0, math.pi, rings + 1)
    turn = np.arange(2 * rings) * (math.pi / rings)
    points = np.stack(
        (
            np.sin(polar)[:, None] * np.cos(turn),
            np.sin(polar)[:, None] * np.sin(turn),
            np.cos(polar)[:, None] + 0 * turn,
        ),
        -1,
    )
    index = np.arange(points.shape[0] * points.shape[1]).reshape(points.shape[:2])
    a, b = index[:-1], np.roll(index[:-1], -1, axis=1)
    c, d = np.roll(index[1:], -1, axis=1), index[1:]
    return Mesh(points.reshape(-1, 3), np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, d, c), (a, c, b))]))


def cameras(poses: np.ndarray, size: int) -> Cameras:
    focal = torch.full((len(poses),), focal_from_angle(CAMERA_ANGLE_X, size))
    return Cameras(torch.from_numpy(np.asarray(poses, np.float32)), focal, size, size, 2.0, 6.0)


@pytest.mark.parametrize("cull", [False, True])
def test_silhouette_of_a_sphere_is_that_of_the_rays_that_meet_it(cull: bool) -> None:
    poses = sphere_poses(np.random.default_rng(3), 3)
    alpha = render_mesh(ball(), poses, CAMERA_ANGLE_X, 96, supersample=1, cull=cull)[..., 3].reshape(3, -1)
    rays = picture_rays(cameras(poses, 96))
    direction = (rays.directions / rays.directions.norm(dim=-1, keepdim=True)).numpy()
    miss = np.linalg.norm(np.cross(rays.origins.numpy(), direction), axis=-1)  # distance of the ray from the centre
    # The polyhedron lies inside the sphere, by less than 1 - cos(pi / 96)^2 = 0.0011.
    assert (alpha[miss > 1.0] == 0).all()
    assert (alpha[miss < 0.9985] == 255).all()
    assert 0.5 < (alpha > 0).mean() < 0.9


def test_shading_of_a_sphere_follows_the_normal_to_the_world_light() -> None:
    mesh = ball(48)
    mesh = Mesh(mesh.vertices, mesh.faces, None, smooth_normals(mesh.vertices, mesh.faces))
    pose = look_at(torch.tensor([[2.0, 3.0, 1.5]], dtype=torch.float64)).numpy()
    distance = float(np.linalg.norm(pose[0, :3, 3]))
    middle = render_mesh(mesh, pose, CAMERA_ANGLE_X, 65, supersample=1)[0, 32, 32, 0]
    normal = pose[0, :3, 3] / distance
    light = raster.AMBIENT + raster.HEMISPHERE * normal[2] + raster.DIRECT * max(0.0, normal @ raster.LIGHT)
    assert abs(int(middle) - 255 * light) < 1.5  # worst seen 0.4


def test_square_covers_its_analytic_area() -> None:
    size, half, z = 64, 0.37, 0.5
    alpha = render_mesh(quad(square(half, z)), ABOVE, CAMERA_ANGLE_X, size, supersample=8)[0, ..., 3]
    edge = 2 * half * focal_from_angle(CAMERA_ANGLE_X, size) / (4 - z)
    assert abs(alpha.sum() / 255 - edge**2) < 4 * edge / 16  # at most half a sample along each side


def test_half_covered_pixels_have_half_alpha_and_the_full_colour() -> None:
    size = 8
    pixel = 4 / focal_from_angle(CAMERA_ANGLE_X, size)  # width of a pixel at the plane z = 0
    mesh = quad(square(2.5 * pixel), (0.25, 0.5, 0.75))  # from 1.5 to 6.5 pixels
    picture = render_mesh(mesh, ABOVE, CAMERA_ANGLE_X, size, supersample=2)[0]
    row = [0, 128, 255, 255, 255, 255, 128, 0]
    assert picture[4, :, 3].tolist() == row
    assert picture[:, 4, 3].tolist() == row
    assert picture[1, 1, 3] == 64
    assert (picture[4, 1, :3] == picture[4, 4, :3]).all()  # straight colour, not mixed with the background
    assert (picture[0, 0] == (255, 255, 255, 0)).all()


def test_every_sample_of_a_tiled_plane_is_covered_exactly_once() -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-2, 2, 30)] * 2, indexing="ij"), axis=-1)
    grid += rng.uniform(-0.02, 0.02, grid.shape)
    points = np.concatenate((grid, rng.uniform(-0.03, 0.03, (30, 30, 1))), axis=-1).reshape(-1, 3)
    index = np.arange(900).reshape(30, 30)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    view = raster._View(
        raster._Surface(Mesh(points, faces)), ABOVE[0], focal_from_angle(CAMERA_ANGLE_X, 200), 200, True
    )
    _, first, number, _, _ = view.rows()
    samples = np.concatenate([np.arange(start, start + count) for start, count in zip(first, number, strict=True)])
    assert (np.bincount(samples, minlength=200 * 200) == 1).all()


def test_crossing_planes_hide_each_other_on_their_own_sides() -> None:
    red = quad([(-0.8, -0.8, -0.4), (0.8, -0.8, 0.4), (0.8, 0.8, 0.4), (-0.8, 0.8, -0.4)], (1, 0, 0))
    blue = quad([(-0.8, -0.8, 0.4), (0.8, -0.8, -0.4), (0.8, 0.8, -0.4), (-0.8, 0.8, 0.4)], (0, 0, 1))
    for first, second in ((red, blue), (blue, red)):
        assert first.corner_colours is not None
        assert second.corner_colours is not None
        mesh = Mesh(
            np.concatenate((first.vertices, second.vertices)),
            np.concatenate((first.faces, second.faces + 4)),
            np.concatenate((first.corner_colours, second.corner_colours)),
        )
        picture = render_mesh(mesh, ABOVE, CAMERA_ANGLE_X, 64, supersample=1)[0]
        seen = picture[..., 3] > 0
        assert (picture[:, 32:, 2][seen[:, 32:]] == 0).all()  # right of the line x = 0 red is nearer
        assert (picture[:, :32, 0][seen[:, :32]] == 0).all()


def test_colours_are_interpolated_with_perspective() -> None:
    corners = np.array([(-0.9, -0.9, -0.9), (0.9, -0.9, -0.9), (0.9, 0.9, 0.9), (-0.9, 0.9, 0.9)])
    mesh = quad(corners, [(0, 0, 1), (0.5, 0, 1), (0.5, 0.5, 1), (0, 0.5, 1)])
    picture = render_mesh(mesh, ABOVE, CAMERA_ANGLE_X, 48, supersample=1)[0].reshape(-1, 4)
    rays = picture_rays(cameras(ABOVE, 48))
    origin, direction = rays.origins[0].double().numpy(), rays.directions[0].double().numpy()
    t = (origin[:, 1] - origin[:, 2]) / (direction[:, 2] - direction[:, 1])  # the plane y = z
    place = origin + t[:, None] * direction
    seen = picture[:, 3] > 0
    normal = np.array([0, -1, 1]) / math.sqrt(2)
    light = raster.AMBIENT + raster.HEMISPHERE * normal[2] + raster.DIRECT * max(0.0, normal @ raster.LIGHT)
    for channel, axis in ((0, 0), (1, 1)):
        expected = 255 * light * 0.5 * (place[seen, axis] + 0.9) / 1.8
        assert np.abs(picture[seen, channel] - expected).max() < 0.6  # rounding is 0.5; affine would be off by 17
    assert seen.sum() > 900


def test_winding_does_not_matter_unless_culled() -> None:
    mesh = ball(12)
    colours = np.random.default_rng(1).random((len(mesh.faces), 3, 3))
    front = Mesh(mesh.vertices, mesh.faces, colours, smooth_normals(mesh.vertices, mesh.faces, 60))
    faces = mesh.faces[:, ::-1]
    back = Mesh(mesh.vertices, faces, colours[:, ::-1], smooth_normals(mesh.vertices, faces, 60))
    poses = sphere_poses(np.random.default_rng(5), 2)
    pictures = [render_mesh(m, poses, CAMERA_ANGLE_X, 48, 2).astype(int) for m in (front, back)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert (render_mesh(back, poses, CAMERA_ANGLE_X, 48, 2, cull=True)[..., 3] > 0).any()  # the inside
    assert (render_mesh(quad(square(0.5)), ABOVE, CAMERA_ANGLE_X, 8, cull=True)[..., 3] > 0).any()
    turned = quad(square(0.5)[::-1])
    assert (render_mesh(turned, ABOVE, CAMERA_ANGLE_X, 8, cull=True)[..., 3] == 0).all()


def test_texture_is_looked_up_bilinearly_from_below_upwards_and_repeats() -> None:
    texture = np.array([[[0.0, 0, 0], [1.0, 0, 0]], [[0, 1.0, 0], [1.0, 1.0, 1.0]]])  # upper row, lower row
    corners = np.array([(0.0, 0.0), (1, 0), (1, 1), (0, 1)])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    mesh = quad(square(1.0), uv=corners[faces], textures=(texture,))
    surface = raster._Surface(mesh)
    none = np.zeros(6, np.int64)
    uv = np.array([(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.5, 0.25), (0.5, 0.5), (1.25, -0.75)])
    expected = [(0, 1, 0), (1, 1, 1), (0, 0, 0), (0.5, 1, 0.5), (0.5, 0.5, 0.25), (0, 1, 0)]
    assert np.allclose(surface.lookup(none, uv)[:, :3], expected, atol=1e-6)
    picture = render_mesh(mesh, ABOVE, CAMERA_ANGLE_X, 32, 1)[0]
    assert picture[24, 8, 1] > 200 > 50 > picture[24, 8, 0]  # lower left: green
    assert picture[8, 24, 0] > 200 > 50 > picture[8, 24, 1]  # upper right: red


def test_transparent_texels_and_corners_cut_holes_that_show_what_is_behind() -> None:
    texture = np.full((4, 4, 4), 255, np.uint8)
    texture[:, :2, 3] = 0
    corners = np.array([(0.0, 0.0), (1, 0), (1, 1), (0, 1)])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    front = quad(square(0.5, 0.3), uv=corners[faces], textures=(texture,))
    alpha = render_mesh(front, ABOVE, CAMERA_ANGLE_X, 64, 1)[0, ..., 3]
    whole = render_mesh(quad(square(0.5, 0.3)), ABOVE, CAMERA_ANGLE_X, 64, 1)[0, ..., 3]
    assert (alpha[:, 34:] == whole[:, 34:]).all()
    assert (alpha[:, :30] == 0).all()
    assert alpha.any()
    faded = quad(square(0.5), [(1, 1, 1, 0), (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 0)])
    part = render_mesh(faded, ABOVE, CAMERA_ANGLE_X, 64, 4)[0, ..., 3]
    assert abs(part.sum() / whole_area(0.5) - 0.5) < 0.02


def whole_area(half: float) -> float:
    return 255 * (2 * half * focal_from_angle(CAMERA_ANGLE_X, 64) / 4) ** 2


def test_vertices_are_seen_where_geometry_projects_them() -> None:
    rng = np.random.default_rng(2)
    points = rng.uniform(-0.5, 0.5, (60, 3))
    mesh = Mesh(points, np.arange(60).reshape(20, 3))
    pose = sphere_poses(rng, 1)
    view = raster._View(raster._Surface(mesh), pose[0], focal_from_angle(CAMERA_ANGLE_X, 100), 100, False)
    expected = project(cameras(pose, 100), torch.from_numpy(points)[None].float())[0].numpy().reshape(20, 3, 3)
    assert np.abs(view.x - expected[view.index, :, 0]).max() < 1e-4
    assert np.abs(view.y - expected[view.index, :, 1]).max() < 1e-4
    assert np.abs(1 / view.q - expected[view.index, :, 2]).max() < 1e-5


def test_chunks_do_not_change_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = ball(10)
    poses = sphere_poses(np.random.default_rng(8), 1)
    whole = render_mesh(mesh, poses, CAMERA_ANGLE_X, 40, 2)
    monkeypatch.setattr(raster, "_CHUNK", 7)
    assert (render_mesh(mesh, poses, CAMERA_ANGLE_X, 40, 2) == whole).all()


def test_nothing_before_the_camera_gives_an_empty_picture() -> None:
    behind = quad(square(0.5, 5.0))
    assert (render_mesh(behind, ABOVE, CAMERA_ANGLE_X, 16)[..., 3] == 0).all()
    empty = Mesh(np.zeros((0, 3)), np.zeros((0, 3), int))
    assert (render_mesh(empty, ABOVE, CAMERA_ANGLE_X, 16)[..., 3] == 0).all()
    assert render_mesh(behind, np.zeros((0, 4, 4)), CAMERA_ANGLE_X, 16).shape == (0, 16, 16, 4)


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(HyperkitError, match="supersample 0"):
        render_mesh(quad(square(1.0)), ABOVE, CAMERA_ANGLE_X, 16, supersample=0)
    with pytest.raises(HyperkitError, match="has 3 vertices"):
        render_mesh(Mesh(np.zeros((3, 3)), np.array([[0, 1, 3]])), ABOVE, CAMERA_ANGLE_X, 16)


def test_smooth_normals_round_a_sphere_and_keep_the_edges_of_a_box() -> None:
    mesh = ball(32)
    normals = smooth_normals(mesh.vertices, mesh.faces)
    inner = np.abs(mesh.vertices[mesh.faces][..., 2]) < 0.98
    assert np.abs(normals - mesh.vertices[mesh.faces])[inner].max() < 0.02  # worst seen 0.004
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    faces = np.array([(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5)])
    assert np.allclose(np.abs(smooth_normals(corners, faces)), (1, 0, 0))


def test_cameras_are_on_the_sphere_above_the_ground_and_look_at_the_middle() -> None:
    poses = sphere_poses(np.random.default_rng(0), 400).astype(np.float64)
    eyes = poses[:, :3, 3]
    assert np.abs(np.linalg.norm(eyes, axis=1) - 4).max() < 1e-5
    assert np.abs(poses[:, :3, 2] * 4 - eyes).max() < 1e-5
    sine = eyes[:, 2] / 4
    assert sine.min() >= 0
    assert sine.max() <= math.sin(math.radians(60)) + 1e-6
    assert abs(sine.mean() - 0.433) < 0.05  # uniform in the sine
