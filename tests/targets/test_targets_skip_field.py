"""The field with skips: equal to a computation by hand, layer by layer, in any order of generation."""

import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from hyperkit.contracts import TargetParams, TargetSpec
from hyperkit.targets import TARGETS, target_from_spec
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.export import load_target, save_target
from hyperkit.targets.hash_grid import grid_features
from hyperkit.targets.skip_field import SkipField, SkipFieldConfig

SMALL = {
    "levels": 3,
    "coarsest": 3,
    "finest": 24,
    "log2_table": 9,
    "width": 8,
    "encoding": EncodingConfig(frequencies=2, max_log2=1),
}


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def random_params(spec: TargetSpec, items: int, own: bool = False, dtype: torch.dtype = torch.float64) -> TargetParams:
    tensors = {}
    for seed, (name, t) in enumerate(spec.tensors.items()):
        tensors[name] = uniform(1 if t.shared and not own else items, *t.shape, seed=seed, dtype=dtype)
    return TargetParams(tensors, spec)


def by_hand(target: SkipField, params: TargetParams, points: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What each layer of item 0 reads, and the raw outputs, every line written out."""
    angles = (points[0, :, :, None] * torch.tensor([1.0, 2.0]).double()).flatten(1)
    x = torch.cat((grid_features(params["table"][:1], points[:1], target.layout)[0], angles.cos(), angles.sin()), 1)
    w = [params[f"layer{i}.weight"][0] for i in range(6)]
    h0 = x @ w[0]
    h1 = h0.clamp(min=0) @ w[1]
    h2 = h1.clamp(min=0) @ w[2] + h0
    h3 = h2.clamp(min=0) @ w[3]
    h4 = h3.clamp(min=0) @ w[4] + h2
    return [x, *(h.clamp(min=0) for h in (h0, h1, h2, h3, h4))], h4.clamp(min=0) @ w[5]


@pytest.mark.parametrize(("deviation", "extra"), [(False, 0), (True, 0), (False, 5), (True, 2)])
@pytest.mark.parametrize("own", [False, True])
def test_outputs_equal_a_computation_by_hand(deviation: bool, extra: int, own: bool) -> None:
    target = SkipField(SkipFieldConfig(**SMALL, density_shift=0.25, deviation=deviation, extra=extra))
    params = random_params(target.spec, 2, own)
    points = uniform(2, 30, 3, seed=9)
    got = target(params, points)
    _, raw = by_hand(target, params, points)
    want = [1 / (1 + torch.exp(-raw[:, :3])), 10 * torch.log(1 + torch.exp(raw[:, 3:4] + 0.25))]
    if deviation:
        want.append(0.01 + torch.log(1 + torch.exp(raw[:, 4:7] - 2)))
    want.append(raw[:, raw.shape[1] - extra :])
    assert got.shape == (2, 30, 4 + 3 * deviation + extra)
    # worst difference seen: 4e-15 of values up to 48
    torch.testing.assert_close(got[0], torch.cat(want, dim=1), atol=1e-12, rtol=0)
    alone = target(params.select(1), points[1:])
    torch.testing.assert_close(got[1], alone[0], atol=1e-12, rtol=0)


def test_weights_are_asked_for_in_order_with_what_their_layers_read() -> None:
    target = SkipField(SkipFieldConfig(**SMALL))
    params = random_params(target.spec, 1)
    points = uniform(1, 30, 3, seed=9)
    reads, raw = by_hand(target, params, points)
    seen = []

    def weight_of(index: int, read: torch.Tensor) -> torch.Tensor:
        assert index == len(seen)
        seen.append(read)
        return params[f"layer{index}.weight"]

    got = target.evaluate(target.inputs(params["table"], points), weight_of)
    assert len(seen) == 6
    for one, other in zip(seen, reads, strict=True):
        torch.testing.assert_close(one[0], other, atol=1e-12, rtol=0)
    torch.testing.assert_close(got[0], raw, atol=1e-12, rtol=0)


def test_points_that_items_share_give_each_item_its_own_values() -> None:
    # as where weights are generated: one set of points, one table, weights of three items
    target = SkipField(SkipFieldConfig(**SMALL))
    params = random_params(target.spec, 3)
    points = uniform(1, 20, 3, seed=4)
    got = target(params, points)
    assert got.shape == (3, 20, 4)
    for item in range(3):
        torch.testing.assert_close(got[item], target(params.select(item), points)[0], atol=1e-12, rtol=0)
    assert (got[0] - got[1]).abs().max() > 0.1


def test_starts_with_values_of_one_size_in_every_layer() -> None:
    target = SkipField(SkipFieldConfig(**(SMALL | {"width": 256})))
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, spec in target.spec.tensors.items():
        tensors[name] = torch.empty(1, *spec.shape, dtype=torch.float64).uniform_(-1, 1, generator=generator)
        tensors[name] *= spec.bound
    reads, raw = by_hand(target, TargetParams(tensors, target.spec), uniform(1, 2000, 3, seed=1))
    squares = [float(read.square().mean()) for read in reads[1:]]
    # half of 1, 1, 1 + 1, 2, 2 + 2. Measured: 0.47 0.43 0.97 0.86 1.90
    for got, want in zip(squares, (0.5, 0.5, 1, 1, 2), strict=True):
        assert 0.75 * want < got < 1.33 * want
    # 256 inputs of mean square 2 by weights of variance 1 / (3 * 256): 2/3. Four outputs; measured: 0.42
    assert 0.1 < float(raw.square().mean()) < 2


def test_the_default_is_the_published_size() -> None:
    target = SkipField(SkipFieldConfig())
    shapes = [t.shape for name, t in target.spec.tensors.items() if name != "table"]
    assert shapes == [(32 + 36, 64), (64, 64), (64, 64), (64, 64), (64, 64), (64, 4)]
    assert target.layout.resolutions[0] == 16
    assert target.layout.resolutions[-1] == 2048
    assert target.spec.tensors["table"].shared
    assert not any(name.endswith(".bias") for name in target.spec.tensors)
    assert TARGETS.load("skip_field") is SkipField
    assert target_from_spec(target.spec).spec == target.spec


@pytest.mark.parametrize("wrong", [{"depth": 5}, {"encoding": {"frequencies": 0, "include_input": True}}])
def test_skips_need_pairs_of_layers_and_something_instead_of_biases(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="multiple of 2|frequencies must be at least 1"):
        SkipFieldConfig.model_validate(wrong)


@pytest.mark.parametrize("points", [0, 1, 7])
@pytest.mark.parametrize("depth", [2, 4, 6])
def test_export_is_an_ordinary_network_with_the_same_values(points: int, depth: int, tmp_path: Path) -> None:
    target = SkipField(SkipFieldConfig(**SMALL, depth=depth, deviation=True, extra=2))
    params = random_params(target.spec, 2, dtype=torch.float32)
    query = uniform(2, points, 3, dtype=torch.float32)
    want = target(params, query)[:1]
    assert want.shape == (1, points, 9)
    # worst difference seen: 4e-7 of values up to 25
    torch.testing.assert_close(target.to_module(params)(query[0])[None], want, atol=4e-6, rtol=1e-6)
    save_target(tmp_path / "net.safetensors", params)
    again, loaded, _ = load_target(tmp_path / "net.safetensors")
    assert again.spec == target.spec
    torch.testing.assert_close(again(loaded, query[:1]), want, atol=4e-6, rtol=1e-6)


def test_gradients_reach_every_tensor() -> None:
    target = SkipField(SkipFieldConfig(**SMALL, extra=1))
    params = random_params(target.spec, 2).map(lambda t: t.requires_grad_(True))
    target(params, uniform(2, 50, 3, seed=2)).square().sum().backward()
    for name, tensor in params.tensors.items():
        assert tensor.grad is not None, name
        assert (tensor.grad.flatten(1).abs().sum(1) > 0).all(), name
    assert math.isfinite(float(params["layer0.weight"].grad.abs().max()))
