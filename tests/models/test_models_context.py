"""Marks of views and poses on data tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from hyperkit import geometry
from hyperkit.backbones import BackboneConfig, build_backbone
from hyperkit.contracts import Cameras
from hyperkit.errors import HyperkitError
from hyperkit.models.context import ContextConfig, ContextTokens, token_rays

WIDTH = 24


@dataclass(frozen=True)
class Grid:
    prefix: int
    rows: int
    columns: int


GRID = Grid(2, 3, 4)
LENGTH = 14


def tokens(views: int, items: int = 2) -> torch.Tensor:
    return torch.randn(items, views * LENGTH, WIDTH, generator=torch.Generator().manual_seed(views))


def cameras(items: int, views: int, width: int = 20, height: int = 12) -> Cameras:
    angles = torch.rand(2, items, views, generator=torch.Generator().manual_seed(3))
    poses = geometry.look_at(geometry.spherical(angles[0] * 6.28, angles[1], 4.0))
    focal = 30.0 + 5.0 * torch.arange(items * views).reshape(items, views)
    return Cameras(poses, focal, width, height)


def with_views(given: Cameras, order: list[int]) -> Cameras:
    return Cameras(given.poses[:, order], given.focal[:, order], given.width, given.height)


def test_one_view_without_poses_has_no_parameters_and_changes_nothing() -> None:
    module = ContextTokens(ContextConfig(), WIDTH, views=1)
    assert not module.state_dict()
    given = tokens(1)
    assert module(given, GRID, 1) is given


def test_a_pretrained_backbone_starts_unharmed_and_learns_poses() -> None:
    torch.manual_seed(0)
    module = ContextTokens(ContextConfig(pose_tokens=True, view_tokens=False), WIDTH, views=2)
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), after)  # what is built next starts the same with pose tokens and without
    given = tokens(2)
    result = module(given, GRID, 2, cameras(2, 2))
    assert torch.equal(result, given)
    assert list(module.state_dict()) == ["pose_projection.weight"]
    weight = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
    (result * weight).sum().backward()
    rays = token_rays(cameras(2, 2), GRID).reshape(2, -1, 6)
    assert module.pose_projection is not None
    gradient = module.pose_projection.weight.grad
    # measured worst case 8e-6 at values up to 60
    torch.testing.assert_close(gradient, torch.einsum("bmd,bmc->dc", weight, rays), atol=1e-4, rtol=0)
    assert gradient is not None
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("grid", [Grid(2, 3, 4), Grid(0, 1, 1), Grid(1, 4, 2)])
def test_a_patchs_ray_is_the_one_through_its_centre(grid: Grid) -> None:
    given = cameras(2, 3)
    found = token_rays(given, grid).double().numpy()
    for item in range(2):
        for view in range(3):
            pose = given.poses[item, view].double().numpy()
            focal = float(given.focal[item, view])
            centres = [(10.0, 6.0)] * grid.prefix
            for row in range(grid.rows):
                top, bottom = 12 * row / grid.rows, 12 * (row + 1) / grid.rows
                for column in range(grid.columns):
                    left, right = 20 * column / grid.columns, 20 * (column + 1) / grid.columns
                    centres.append(((left + right) / 2, (top + bottom) / 2))
            for place, (x, y) in enumerate(centres):
                local = np.array([x - 10.0, 6.0 - y, -focal])
                direction = pose[:3, :3] @ local
                expected = np.concatenate((pose[:3, 3], direction / np.linalg.norm(direction)))
                # measured worst case 1.5e-7
                np.testing.assert_allclose(found[item, view, place], expected, atol=1e-6)


def test_patches_of_one_pixel_have_the_pixels_rays() -> None:
    given = cameras(1, 1, width=5, height=3)
    flat = Cameras(given.poses[:, 0], given.focal[:, 0], 5, 3)
    rays = geometry.picture_rays(flat)
    found = token_rays(given, Grid(0, 3, 5))[:, 0]
    assert torch.equal(found[..., :3], rays.origins)
    expected = rays.directions / rays.directions.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(found[..., 3:], expected, atol=1e-6, rtol=0)


def test_every_token_gets_its_views_mark_and_its_own_ray() -> None:
    module = ContextTokens(ContextConfig(pose_tokens=True), WIDTH, views=3)
    assert module.view_embedding is not None
    assert module.pose_projection is not None
    assert 0.01 < module.view_embedding.detach().std() < 0.03
    torch.nn.init.normal_(module.pose_projection.weight)
    given, rays = tokens(3), token_rays(cameras(2, 3), GRID)
    result = module(given, GRID, 3, cameras(2, 3))
    weight, marks = module.pose_projection.weight.detach(), module.view_embedding.detach()
    for view in range(3):
        for token in range(LENGTH):
            place = view * LENGTH + token
            expected = given[:, place] + marks[view] + rays[:, view, token] @ weight.T
            torch.testing.assert_close(result[:, place], expected, atol=1e-5, rtol=0)


def test_fewer_views_use_the_first_marks_and_more_are_refused() -> None:
    module = ContextTokens(ContextConfig(pose_tokens=True), WIDTH, views=4)
    full = module(tokens(4), GRID, 4, cameras(2, 4))
    for views in (1, 2, 3):
        seen = with_views(cameras(2, 4), list(range(views)))
        part = module(tokens(4)[:, : views * LENGTH], GRID, views, seen)
        assert torch.equal(part, full[:, : views * LENGTH])
    with pytest.raises(HyperkitError, match="at most 4 views of an object, and 5 are given"):
        module(tokens(5), GRID, 5, cameras(2, 5))
    with pytest.raises(HyperkitError, match="trained on one view"):
        ContextTokens(ContextConfig(), WIDTH)(tokens(2), GRID, 2)


def test_wrong_calls_are_named() -> None:
    module = ContextTokens(ContextConfig(pose_tokens=True), WIDTH, views=2)
    with pytest.raises(ValueError, match="needs the cameras"):
        module(tokens(2), GRID, 2)
    with pytest.raises(ValueError, match=r"shape \(2, 1\), expected \(2, 2\)"):
        module(tokens(2), GRID, 2, cameras(2, 1))
    with pytest.raises(ValueError, match="28 tokens are not 1 views of 14"):
        module(tokens(2), GRID, 1, cameras(2, 1))


def test_poses_keep_their_precision_under_autocast() -> None:
    module = ContextTokens(ContextConfig(pose_tokens=True, view_tokens=False), WIDTH, views=2)
    assert module.pose_projection is not None
    torch.nn.init.normal_(module.pose_projection.weight)
    plain = module(torch.zeros(2, 2 * LENGTH, WIDTH), GRID, 2, cameras(2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module(torch.zeros(2, 2 * LENGTH, WIDTH, dtype=torch.bfloat16), GRID, 2, cameras(2, 2))
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, plain.to(torch.bfloat16))


def test_a_transformer_tells_views_apart_by_their_marks_alone() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name="nano", strategy="random")).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():  # fresh attention hardly looks at the data
            parameter.add_(torch.randn_like(parameter) * 0.1)
    pictures = torch.rand(2, 3, 3, 32, 32)
    order = [2, 0, 1]
    rows, columns = (32 // side for side in backbone.info.patch_size)
    length = backbone.tokenize(pictures).shape[1] // 3
    grid = Grid(length - rows * columns, rows, columns)
    weight_tokens = torch.randn(5, backbone.width)

    def encode(module: ContextTokens, chosen: list[int], seen: list[int]) -> torch.Tensor:
        given = module(backbone.tokenize(pictures[:, chosen]), grid, 3, with_views(cameras(2, 3), seen))
        return backbone.encode(given, weight_tokens)

    straight = [0, 1, 2]
    with torch.no_grad():
        plain = ContextTokens(ContextConfig(view_tokens=False), backbone.width, views=3)
        scale = encode(plain, straight, straight).std()
        # measured worst case over six seeds 3.1e-6 without and 0.13 with what tells them apart
        torch.testing.assert_close(encode(plain, order, order), encode(plain, straight, straight), atol=1e-5, rtol=0)
        marked = ContextTokens(ContextConfig(), backbone.width, views=3)
        assert marked.view_embedding is not None
        marked.view_embedding.mul_(10)
        change = (encode(marked, order, order) - encode(marked, straight, straight)).std()
        assert change > 0.05 * scale
        # with poses instead of marks, order does not matter, but which camera belongs to which picture does
        posed = ContextTokens(ContextConfig(pose_tokens=True, view_tokens=False), backbone.width, views=3)
        assert posed.pose_projection is not None
        torch.nn.init.normal_(posed.pose_projection.weight, std=math.sqrt(1 / 6))
        torch.testing.assert_close(encode(posed, order, order), encode(posed, straight, straight), atol=1e-5, rtol=0)
        assert (encode(posed, straight, order) - encode(posed, straight, straight)).std() > 0.05 * scale
