"""The grid: exact on linear functions, continuous, hashed as in the paper; and what it learns that an MLP does not."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from hyperkit.contracts import TargetParams, TargetSpec
from hyperkit.targets import TARGETS, Target, target_from_spec
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.export import load_target, save_target
from hyperkit.targets.hash_grid import (
    EXTENT,
    GridConfig,
    GridLayout,
    HashGridConfig,
    HashGridField,
    grid_features,
    grid_layout,
)
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig

SMALL = {"levels": 4, "coarsest": 3, "finest": 24, "log2_table": 9, "depth": 3, "width": 8}


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def random_params(spec: TargetSpec, items: int, own: bool = False, dtype: torch.dtype = torch.float64) -> TargetParams:
    """Random tensors; with ``own`` also the shared ones differ between items, as in test-time optimisation."""
    return TargetParams(
        {
            name: uniform(1 if t.shared and not own else items, *t.shape, seed=i, dtype=dtype)
            for i, (name, t) in enumerate(spec.tensors.items())
        },
        spec,
    )


def test_levels_of_the_default_grid() -> None:
    layout = grid_layout(GridConfig())
    growth = math.exp((math.log(2048) - math.log(16)) / 15)
    assert layout.resolutions[0] == 16
    assert layout.resolutions[-1] == 2048
    for level, cells in enumerate(layout.resolutions):
        assert cells <= 16 * growth**level + 1e-6 < cells + 1
    # 59^3 vertices fit into 2^19 rows, 81^3 do not
    assert layout.resolutions[4:6] == (58, 80)
    assert layout.dense == 5
    assert layout.sizes == (17**3, 23**3, 31**3, 43**3, 59**3, *[2**19] * 11)
    assert layout.width == 32
    assert layout.rows * 2 * 4 / 2**20 == pytest.approx(46.5, abs=0.1)  # MiB, as the documentation says
    assert grid_layout(GridConfig(log2_table=14)).rows * 2 * 4 / 2**20 == pytest.approx(1.9, abs=0.05)
    # powers that are whole numbers: 4, 8, 16, 32
    assert grid_layout(GridConfig(levels=4, coarsest=4, finest=32)).resolutions == (4, 8, 16, 32)
    assert grid_layout(GridConfig(levels=1, coarsest=5, finest=9)).resolutions == (5,)
    with pytest.raises(ValidationError, match="at least coarsest"):
        GridConfig(coarsest=16, finest=8)


def test_linear_functions_are_reproduced_on_dense_levels() -> None:
    layout = grid_layout(GridConfig(levels=3, features=2, coarsest=2, finest=8, log2_table=10))
    assert layout.dense == 3
    slope, shift = uniform(3, 2, seed=1), uniform(2, seed=2)
    parts = []
    for cells in layout.resolutions:
        axis = torch.linspace(-EXTENT, EXTENT, cells + 1, dtype=torch.float64)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")  # rows count x fastest
        parts.append(torch.stack((x, y, z), dim=-1).reshape(-1, 3) @ slope + shift)
    points = uniform(1, 500, 3, seed=3) * EXTENT
    points[0, :3] = torch.tensor([[EXTENT] * 3, [-EXTENT] * 3, [0.0] * 3])
    got = grid_features(torch.cat(parts)[None], points, layout)
    want = (points @ slope + shift).repeat(1, 1, 3)
    # worst difference seen: 9e-16
    torch.testing.assert_close(got, want, atol=1e-14, rtol=0)
    # beyond the cube: the value at its border
    beyond = grid_features(torch.cat(parts)[None], points * 3, layout)
    inside = grid_features(torch.cat(parts)[None], (points * 3).clamp(-EXTENT, EXTENT), layout)
    assert torch.equal(beyond, inside)


def by_hand(table: torch.Tensor, point: list[float], layout: GridLayout, log2_table: int) -> list[float]:
    """One point, one vertex at a time, with Python's integers, the hash in 32 bits."""
    found, start = [], 0
    for level, cells in enumerate(layout.resolutions):
        place = [min(max((x + 1.05) / 2.1, 0.0), 1.0) * cells for x in point]
        low = [min(math.floor(p), cells - 1) for p in place]
        value = [0.0] * table.shape[1]
        for corner in itertools.product((0, 1), repeat=3):
            vertex = [a + b for a, b in zip(low, corner, strict=True)]
            if (cells + 1) ** 3 <= 2**log2_table:
                row = vertex[0] + vertex[1] * (cells + 1) + vertex[2] * (cells + 1) ** 2
            else:
                row = vertex[0] ^ (vertex[1] * 2654435761 & 0xFFFFFFFF) ^ (vertex[2] * 805459861 & 0xFFFFFFFF)
                row %= 2**log2_table
            weight = math.prod(p - a if b else 1 - p + a for p, a, b in zip(place, low, corner, strict=True))
            value = [v + weight * float(w) for v, w in zip(value, table[start + row], strict=True)]
        found += value
        start += layout.sizes[level]
    return found


@pytest.mark.parametrize(("coarsest", "features", "dense"), [(4, 3, 1), (16, 2, 0)])
def test_rows_and_weights_against_whole_numbers(coarsest: int, features: int, dense: int) -> None:
    config = GridConfig(levels=6, coarsest=coarsest, features=features, log2_table=9)
    layout = grid_layout(config)
    assert layout.dense == dense
    table = uniform(1, layout.rows, config.features)
    points = uniform(1, 40, 3, seed=1)
    got = grid_features(table, points, layout)
    values = [by_hand(table[0], point, layout, config.log2_table) for point in points[0].tolist()]
    want = torch.tensor(values, dtype=torch.float64)
    # worst difference seen: 4e-13, at 2048 cells
    torch.testing.assert_close(got[0], want, atol=1e-11, rtol=0)


def test_features_are_continuous_across_cells() -> None:
    config = GridConfig(levels=6, coarsest=3, finest=96, log2_table=9)
    layout = grid_layout(config)
    assert 0 < layout.dense < 6
    table = uniform(1, layout.rows, 2)
    step = 1e-9
    for level, cells in enumerate(layout.resolutions):
        border = uniform(1, 200, 3, seed=level)
        for axis in range(3):  # put each point on a face, an edge or a corner of the cells
            faces = torch.randint(1, cells, (200,), generator=torch.Generator().manual_seed(axis))
            chosen = torch.arange(200) % 3 >= axis
            border[0, chosen, axis] = (faces.double()[chosen] / cells * 2 - 1) * EXTENT
        jump = grid_features(table, border + step, layout) - grid_features(table, border - step, layout)
        # |gradient| <= 2 * 3 axes * cells / 2.1, over 2e-9; a jump would be of order 1. Worst seen: 2.8e-7
        assert jump.abs().max() < 6 * 96 / 2.1 * 2 * step


def test_gradient_with_respect_to_position_and_table() -> None:
    layout = grid_layout(GridConfig(levels=3, coarsest=2, finest=9, log2_table=7))
    table, points = uniform(2, layout.rows, 2).requires_grad_(), (0.9 * uniform(2, 4, 3, seed=1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda t, p: grid_features(t, p, layout), (table, points))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("shared_points", [False, True])
def test_items_equal_evaluation_one_by_one(own: bool, shared_points: bool) -> None:
    target = HashGridField(HashGridConfig(**SMALL, encoding=EncodingConfig(frequencies=2, max_log2=1)))
    params = random_params(target.spec, 3, own)
    assert len(params["table"]) == (3 if own else 1)
    query = uniform(1 if shared_points else 3, 50, 3, seed=9)
    got = target(params, query)
    assert got.shape == (3, 50, 4)
    for item in range(3):
        alone = target(params.select(item), query[:1] if shared_points else query[item : item + 1])
        # worst difference seen: 0
        torch.testing.assert_close(got[item], alone[0], atol=1e-13, rtol=0)
    if own:
        assert (got[0] - target(params.select(1), query[:1])[0]).abs().max() > 0.1


@pytest.mark.parametrize("deviation", [False, True])
def test_outputs_are_those_of_a_radiance_field_on_the_features(deviation: bool) -> None:
    encoding = EncodingConfig(frequencies=2, max_log2=1)
    outputs = {"density": "softplus", "density_scale": 3.0, "density_shift": 0.25, "deviation": deviation}
    target = HashGridField(HashGridConfig(**SMALL, encoding=encoding, **outputs))
    params = random_params(target.spec, 1)
    points = uniform(1, 20, 3, seed=5)
    angles = (points[0, :, :, None] * torch.tensor([1.0, 2.0]).double()).flatten(1)
    features = grid_features(params["table"], points, target.layout)[0]
    h = torch.cat((features, angles.cos(), angles.sin()), dim=1)
    for index in range(3):
        h = (h.relu() if index else h) @ params[f"layer{index}.weight"][0] + params[f"layer{index}.bias"][0]
    want = [1 / (1 + torch.exp(-h[:, :3])), 3 * torch.log(1 + torch.exp(h[:, 3:4] + 0.25))]
    if deviation:
        want.append(0.01 + torch.log(1 + torch.exp(h[:, 4:] - 2)))
    # worst difference seen: 2e-15
    torch.testing.assert_close(target(params, points)[0], torch.cat(want, dim=1), atol=1e-13, rtol=0)


def test_gradients_reach_all_tensors_and_only_the_rows_that_were_read() -> None:
    target = HashGridField(HashGridConfig(**SMALL, density="softplus"))
    params = random_params(target.spec, 2, own=True).map(lambda t: t.requires_grad_(True))
    point = torch.zeros(2, 1, 3, dtype=torch.float64) + 0.01
    target(params, point)[0].square().sum().backward()  # item 0 alone
    for name, tensor in params.tensors.items():
        assert tensor.grad is not None
        assert tensor.grad[0].abs().max() > 0, name
        assert tensor.grad[1].abs().max() == 0, name
    touched = (params["table"].grad[0] != 0).any(-1)
    assert 0 < touched.sum() <= 8 * target.layout.width / 2


@pytest.mark.parametrize("points", [0, 1, 7])
@pytest.mark.parametrize("frequencies", [0, 2])
def test_export_is_an_ordinary_network_with_the_same_values(points: int, frequencies: int, tmp_path: Path) -> None:
    encoding = EncodingConfig(frequencies=frequencies, max_log2=1)
    target = HashGridField(HashGridConfig(**SMALL, encoding=encoding, deviation=True))
    params = random_params(target.spec, 2, dtype=torch.float32)
    query = uniform(2, points, 3, dtype=torch.float32)
    want = target(params, query)[:1]
    assert want.shape == (1, points, 7)
    # worst differences seen: 1.2e-7
    torch.testing.assert_close(target.to_module(params)(query[0])[None], want, atol=2e-6, rtol=1e-5)
    save_target(tmp_path / "net.safetensors", params, {"note": 1})
    again, loaded, extra = load_target(tmp_path / "net.safetensors")
    assert extra == {"note": 1}
    assert again.spec == target.spec
    assert torch.equal(loaded["table"], params["table"])
    torch.testing.assert_close(again(loaded, query[:1]), want, atol=2e-6, rtol=1e-5)


def test_spec_names_shared_tables_and_ordinary_layers() -> None:
    target = HashGridField(HashGridConfig(**SMALL))
    assert TARGETS.load("hash_grid") is HashGridField
    assert target_from_spec(target.spec).spec == target.spec
    table = target.spec.tensors["table"]
    assert table.shared
    assert table.bound == 1e-4
    assert list(target.spec.tensors)[1:] == [f"layer{i}.{part}" for i in range(3) for part in ("weight", "bias")]


def fit(target: Target, truth: torch.Tensor, points: torch.Tensor, steps: int) -> float:
    """Fit one field's density and return its mean squared error, as a share of the density's variance."""
    generator = torch.Generator().manual_seed(0)
    leaves = {}
    for name, spec in target.spec.tensors.items():
        bound = spec.bound or 1 / math.sqrt(spec.shape[0])
        leaf = torch.empty(1, *spec.shape).uniform_(-bound, bound, generator=generator)
        leaves[name] = leaf.requires_grad_(True)
    params = TargetParams(leaves, target.spec)
    optimizer = torch.optim.Adam(leaves.values(), lr=1e-2, eps=1e-12)
    for _ in range(steps):
        chosen = torch.randint(points.shape[1], (2048,), generator=generator)
        optimizer.zero_grad()
        (target(params, points[:, chosen])[..., 3] - truth[:, chosen]).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        error = (target(params, points)[..., 3] - truth).square().mean() / truth.var()
    return error.item()


def test_it_learns_what_a_plain_mlp_of_the_same_size_does_not() -> None:
    points = uniform(1, 20_000, 3, dtype=torch.float32)
    truth = 1 + torch.sin(9 * points).prod(-1)  # 27 lumps and holes in the cube
    shape = {"depth": 3, "width": 32, "density": "softplus"}
    grid = HashGridField(HashGridConfig(**shape, levels=4, coarsest=4, finest=24, log2_table=12))
    plain = RadianceField(RadianceFieldConfig(**shape, encoding=EncodingConfig(frequencies=0, include_input=True)))
    # measured: 0.011 and 0.997 of the variance are left
    assert fit(grid, truth, points, 150) < 0.05
    assert fit(plain, truth, points, 150) > 0.8
