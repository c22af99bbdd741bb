import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperkit.contracts import TargetParams
from hyperkit.targets.base import Target, deviation_of
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.export import load_target, save_target
from hyperkit.targets.mlp import MLP, MLPConfig
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig

SMALL = EncodingConfig(frequencies=3, max_log2=2)
KINDS = ["mlp", "radiance_field", "views"]


def build(kind: str, deviation: bool = True, floor: float = 0.02) -> Target:
    shared = {"depth": 3, "width": 8, "encoding": SMALL, "deviation": deviation, "deviation_floor": floor}
    if kind == "mlp":
        return MLP(MLPConfig(coordinates=2, outputs=3, output_bias=0.5, **shared))
    return RadianceField(RadianceFieldConfig(view_directions=kind == "views", **shared))


def params_for(target: Target, items: int, dtype: torch.dtype = torch.float64) -> TargetParams:
    rng = torch.Generator().manual_seed(1)
    return TargetParams(
        {
            name: 0.3 * torch.randn(1 if t.shared else items, *t.shape, generator=rng, dtype=torch.float64).to(dtype)
            for name, t in target.spec.tensors.items()
        },
        target.spec,
    )


def query_for(kind: str, items: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    shape = (items, 9, {"mlp": 2, "radiance_field": 3, "views": 6}[kind])
    return (torch.rand(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1).to(dtype)


def last_layer(kind: str) -> str:
    return "colour1" if kind == "views" else "layer2"


def without_deviation(kind: str, params: TargetParams) -> TargetParams:
    """Drop the deviations' columns of the output layer."""
    keep = {"mlp": 3, "radiance_field": 4, "views": 3}[kind]
    cut = {n: t[..., :keep] if n.startswith(last_layer(kind)) else t for n, t in params.tensors.items()}
    return TargetParams(cut, build(kind, deviation=False).spec)


@pytest.mark.parametrize("kind", KINDS)
def test_means_are_those_of_the_target_without_deviation(kind: str) -> None:
    target = build(kind)
    params, query = params_for(target, 2), query_for(kind, 2)
    got = target(params, query)
    want = build(kind, deviation=False)(without_deviation(kind, params), query)
    assert got.shape[-1] == want.shape[-1] + 3
    torch.testing.assert_close(got[..., : want.shape[-1]], want)
    assert (got[..., -3:] > 0.02).all()


@pytest.mark.parametrize("kind", KINDS)
def test_deviation_is_the_documented_function_of_the_last_columns(kind: str) -> None:
    # the columns of the first mean and the first deviation change places: what was the deviation's raw value is now a
    # mean, from which it can be read off
    target = build(kind)
    params, query = params_for(target, 2), query_for(kind, 2)
    got = target(params, query).numpy()
    order = list(range(params[f"{last_layer(kind)}.bias"].shape[-1]))
    order[0], order[-3] = order[-3], order[0]
    swapped = {n: t[..., order] if n.startswith(last_layer(kind)) else t for n, t in params.tensors.items()}
    other = target(TargetParams(swapped, target.spec), query).numpy()
    first = other[..., 0]
    raw = first - 0.5 if kind == "mlp" else np.log(first / (1 - first))
    # worst difference seen: 8e-17
    np.testing.assert_allclose(got[..., -3], 0.02 + np.log1p(np.exp(raw - 2)), atol=1e-12)


def test_deviation_in_numbers() -> None:
    raw = torch.tensor([-30.0, -5.0, 0.0, 2.0, 40.0], dtype=torch.float64, requires_grad=True)
    got = deviation_of(raw, 0.01)
    want = [0.01 + math.log1p(math.exp(v - 2)) for v in raw.tolist()]
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))
    assert 0.1 < got[2] < 0.3  # the start
    (slope,) = torch.autograd.grad(got.sum(), raw)
    torch.testing.assert_close(slope, torch.sigmoid(raw.detach() - 2))
    assert (slope > 0).all()  # no deviation is stuck at the floor
    floor = deviation_of(torch.tensor([-30.0]), 0.01)
    assert floor.item() == torch.tensor(0.01).item()  # reached to the last bit of float32
    assert deviation_of(torch.zeros(1, dtype=torch.bfloat16), 0.01).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_export_gives_the_same_deviations(kind: str, tmp_path: Path) -> None:
    target = build(kind)
    params, query = params_for(target, 2, torch.float32), query_for(kind, 2, torch.float32)
    want = target(params, query)[:1]
    # worst difference seen: 6e-8 for both
    torch.testing.assert_close(target.to_module(params)(query[0])[None], want, atol=1e-6, rtol=0)
    save_target(tmp_path / "net.safetensors", params)
    again, loaded, _ = load_target(tmp_path / "net.safetensors")
    assert again.spec == target.spec
    torch.testing.assert_close(again(loaded, query[:1]), want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_low_precision_gives_deviations_in_float32(kind: str) -> None:
    target = build(kind)
    params, query = params_for(target, 2, torch.float32), query_for(kind, 2, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = target(params, query)
    assert low.dtype == torch.float32
    # worst difference seen: 0.006
    assert (low - target(params, query)).abs().max() < 0.01
