"""Cameras, poses and rays: the one place that knows axis conventions and pixel centres.

World: right-handed, z up. Camera: OpenGL axes, x right, y up, looking down -z; a pose maps camera to world. Pixel
(row i, column j) has its centre at (j + 0.5, i + 0.5), counted from the upper left corner of the picture.

Coordinates of signals: a picture spans [-1, 1] in x (to the right) and in y (downwards), a sound [-1, 1] in t. Sample i
of n covers one n-th of that and lies at its middle, (2 i + 1) / n - 1, so that a signal read at another resolution
keeps its place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyperkit.contracts import Cameras, Rays


def focal_from_angle(camera_angle_x: float, width: int) -> float:
    """Return the focal length in pixels, 0.5 W / tan(0.5 angle), of a horizontal field of view in radians."""
    return 0.5 * width / math.tan(0.5 * camera_angle_x)


def look_at(eye: Tensor, target: Tensor | None = None, up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Tensor:
    """Return poses (..., 4, 4) of cameras at ``eye`` (..., 3) that look at ``target`` (default: the origin).

    Where the view is along ``up``, the camera's right is the world's x axis.
    """
    back = eye - (torch.zeros_like(eye) if target is None else target)
    back = back / back.norm(dim=-1, keepdim=True)
    upward = torch.tensor(up, dtype=eye.dtype, device=eye.device).expand_as(eye)
    right = torch.linalg.cross(upward, back)
    length = right.norm(dim=-1, keepdim=True)
    x_axis = torch.tensor((1.0, 0.0, 0.0), dtype=eye.dtype, device=eye.device).expand_as(eye)
    right = torch.where(length > 1e-6, right / length.clamp_min(1e-12), x_axis)
    pose = torch.zeros(*eye.shape[:-1], 4, 4, dtype=eye.dtype, device=eye.device)
    pose[..., :3, 0] = right
    pose[..., :3, 1] = torch.linalg.cross(back, right)
    pose[..., :3, 2] = back
    pose[..., :3, 3] = eye
    pose[..., 3, 3] = 1.0
    return pose


def spherical(azimuth: Tensor, elevation: Tensor, radius: float) -> Tensor:
    """Return points (..., 3) at angles in radians: azimuth from x towards y, elevation above the xy plane."""
    flat = torch.cos(elevation)
    return radius * torch.stack(
        (flat * torch.cos(azimuth), flat * torch.sin(azimuth), torch.sin(elevation).expand_as(azimuth)), dim=-1
    )


def turntable(views: int, elevation: float = math.radians(30.0), radius: float = 4.0, start: float = 0.0) -> Tensor:
    """Return poses (views, 4, 4) of one turn around the z axis, in equal steps from azimuth ``start`` (radians)."""
    azimuth = start + torch.arange(views, dtype=torch.float64) * (2 * math.pi / max(views, 1))
    return look_at(spherical(azimuth, torch.full_like(azimuth, elevation), radius)).float()


def mirror_x(poses: Tensor) -> Tensor:
    """Return the poses (..., 4, 4) that see the world mirrored at x = 0 as pictures flipped left to right.

    With F = diag(-1, 1, 1, 1): F P F mirrors the camera's place and its own x axis, so it stays right-handed.
    """
    flip = torch.tensor((-1.0, 1.0, 1.0, 1.0), dtype=poses.dtype, device=poses.device)
    return poses * flip[:, None] * flip[None, :]


def pixel_rays(cameras: Cameras, pixels: Tensor) -> Rays:
    """Return the rays through given pixels.

    Args:
        cameras: poses (B, 4, 4) and focal lengths (B,).
        pixels: (B, R) integer indices ``row * width + column``, or (B, R, 2) float positions (x, y) in pixels.

    Returns:
        Rays (B, R, 3); directions are not normalised, their camera-space z component is -1.
    """
    if pixels.ndim == 2:
        x = (pixels % cameras.width).float() + 0.5
        y = torch.div(pixels, cameras.width, rounding_mode="floor").float() + 0.5
    else:
        x, y = pixels.unbind(-1)
    focal = cameras.focal[:, None]
    local = torch.stack(
        ((x - 0.5 * cameras.width) / focal, (0.5 * cameras.height - y) / focal, -torch.ones_like(x)), dim=-1
    )
    directions = local @ cameras.poses[:, :3, :3].transpose(1, 2)
    origins = cameras.poses[:, None, :3, 3].expand_as(directions)
    return Rays(origins, directions, cameras.near, cameras.far)


def picture_rays(cameras: Cameras) -> Rays:
    """Return the rays (B, H * W, 3) of every pixel, in row-major order."""
    pixels = torch.arange(cameras.height * cameras.width, device=cameras.poses.device)
    return pixel_rays(cameras, pixels.expand(cameras.poses.shape[0], -1))


def time_coordinates(count: int) -> Tensor:
    """Return the coordinates (count, 1) of the samples of a sound, float32.

    Example:
        Two samples lie at -0.5 and 0.5.
    """
    return ((2 * torch.arange(count, dtype=torch.float64) + 1) / max(count, 1) - 1).float()[:, None]


def picture_coordinates(height: int, width: int) -> Tensor:
    """Return the coordinates (H * W, 2) = (x, y) of the pixels of a picture in row-major order, float32."""
    y, x = torch.meshgrid(time_coordinates(height)[:, 0], time_coordinates(width)[:, 0], indexing="ij")
    return torch.stack((x, y), dim=-1).reshape(-1, 2)


def project(cameras: Cameras, points: Tensor) -> Tensor:
    """Return the positions (B, N, 3) = (x, y, distance along -z) at which world points (B, N, 3) are seen.

    x and y are in pixels from the upper left corner; only points with a positive distance are before the camera.
    """
    local = (points - cameras.poses[:, None, :3, 3]) @ cameras.poses[:, :3, :3]
    distance = -local[..., 2]
    focal = cameras.focal[:, None]
    x = 0.5 * cameras.width + focal * local[..., 0] / distance
    y = 0.5 * cameras.height - focal * local[..., 1] / distance
    return torch.stack((x, y, distance), dim=-1)
