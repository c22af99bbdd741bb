import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperkit.contracts import Cameras
from hyperkit.geometry import (
    focal_from_angle,
    look_at,
    mirror_x,
    picture_rays,
    pixel_rays,
    project,
    spherical,
    turntable,
)


def cameras(poses: torch.Tensor, size: int = 16, width: int | None = None) -> Cameras:
    width = width or size
    return Cameras(poses, torch.full(poses.shape[:1], focal_from_angle(0.6, width)), width, size)


@given(st.floats(-math.pi, math.pi), st.floats(-1.5, 1.5), st.floats(1.5, 9.0))
@settings(max_examples=30, deadline=None)
def test_poses_are_rigid_and_look_at_the_origin(azimuth: float, elevation: float, radius: float) -> None:
    eye = spherical(torch.tensor([azimuth]).double(), torch.tensor([elevation]).double(), radius)
    pose = look_at(eye)[0]
    rotation = pose[:3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3).double(), atol=1e-9, rtol=0)
    assert torch.linalg.det(rotation) == pytest.approx(1.0)
    assert eye.norm() == pytest.approx(radius)
    # the origin is seen in the middle of the picture, at the camera's distance; the world's up is up in the picture
    seen = project(cameras(pose[None]), torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.1]]]).double())[0]
    assert seen[0].tolist() == pytest.approx([8.0, 8.0, radius], abs=1e-6)
    if abs(elevation) < 1.4:
        assert seen[1, 1] < 8.0


def test_straight_up_and_down_give_a_rotation_too() -> None:
    for z in (4.0, -4.0):
        rotation = look_at(torch.tensor([0.0, 0.0, z]).double())[:3, :3]
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3).double())


def test_pixel_to_ray_to_pixel() -> None:
    view = cameras(turntable(5, 0.4), size=7, width=11)
    rays = picture_rays(view)
    seen = project(view, rays.origins + 2.7 * rays.directions)
    rows, columns = torch.meshgrid(torch.arange(7), torch.arange(11), indexing="ij")
    torch.testing.assert_close(seen[..., 0], (columns.flatten() + 0.5).expand(5, -1), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen[..., 1], (rows.flatten() + 0.5).expand(5, -1), atol=1e-4, rtol=0)
    # t counts distance along the view: directions have a camera-space z of -1
    torch.testing.assert_close(seen[..., 2], torch.full_like(seen[..., 2], 2.7), atol=1e-5, rtol=0)


def test_positions_and_indices_agree() -> None:
    view = cameras(turntable(2))
    index = torch.tensor([[0, 17, 255], [3, 16, 31]])
    places = torch.stack((index % 16 + 0.5, index // 16 + 0.5), dim=-1)
    torch.testing.assert_close(pixel_rays(view, index).directions, pixel_rays(view, places).directions)


def test_axes_are_opengl() -> None:
    # a camera at the identity looks down -z, x to the right, y up
    view = cameras(torch.eye(4)[None], size=2)
    upper_left = pixel_rays(view, torch.tensor([[0]])).directions[0, 0]
    assert upper_left[0] < 0 < upper_left[1]
    assert upper_left[2] == -1


def test_mirrored_camera_sees_the_mirrored_world_flipped() -> None:
    poses = turntable(6, 0.5)
    points = torch.randn(1, 20, 3, generator=torch.Generator().manual_seed(0)).expand(6, -1, -1)
    seen = project(cameras(poses), points)
    mirrored = project(cameras(mirror_x(poses)), points * torch.tensor([-1.0, 1.0, 1.0]))
    torch.testing.assert_close(mirrored[..., 0], 16 - seen[..., 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(mirrored[..., 1:], seen[..., 1:], atol=1e-4, rtol=0)
    assert (torch.linalg.det(mirror_x(poses)[:, :3, :3]) > 0).all()


def test_turntable_of_no_views_is_empty() -> None:
    assert turntable(0).shape == (0, 4, 4)
