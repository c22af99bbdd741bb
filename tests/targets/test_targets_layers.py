"""Encodings, layers that items share, and files with other tensors than layers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hyperkit.config import PartConfig
from hyperkit.contracts import TargetParams, TargetSpec, TensorSpec
from hyperkit.targets import TARGETS
from hyperkit.targets.base import Target, linear
from hyperkit.targets.encoding import EncodingConfig, PositionalEncoding
from hyperkit.targets.export import load_target, save_target


def test_encoding_of_trans_inrs_image_regression() -> None:
    # exp(linspace(0, ln 1024, 64)) * pi per coordinate
    encoding = PositionalEncoding(EncodingConfig(frequencies=64, max_log2=10, scale="pi"))
    bands = np.exp(np.linspace(0, np.log(1024), 64)) * np.pi
    np.testing.assert_allclose(encoding.bands.numpy(), bands, rtol=1e-7)  # float32's last bit
    x = torch.tensor([[0.25, -0.5]], dtype=torch.float64)
    angles = (x.numpy()[:, :, None] * bands).reshape(1, -1)
    want = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    assert want.shape == (1, EncodingConfig(frequencies=64).width(2))
    # worst difference seen: 6e-5: frequencies up to 3217 are stored in float32
    np.testing.assert_allclose(encoding(x).numpy(), want, atol=1e-4)


def test_evenly_spaced_frequencies_are_a_fourier_series() -> None:
    encoding = PositionalEncoding(EncodingConfig(frequencies=16, max_log2=4, spacing="linear", scale="pi"))
    x = torch.arange(64, dtype=torch.float64)[:, None] / 32 - 1  # one period, [-1, 1)
    basis = encoding(x).numpy()
    k = np.arange(1, 17)
    want = np.concatenate([np.cos(np.pi * k * x.numpy()), np.sin(np.pi * k * x.numpy())], 1)
    # worst difference seen: 1.4e-6, and 2.6e-5 in the sums below: frequencies are stored in float32
    np.testing.assert_allclose(basis, want, atol=1e-5)
    # cosines and sines of whole periods are orthogonal: the Gram matrix is N / 2 on the diagonal
    np.testing.assert_allclose(basis.T @ basis, 32 * np.eye(32), atol=1e-4)


@pytest.mark.parametrize("spacing", ["log", "linear"])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_frequencies_run_from_one_to_the_highest(spacing: str, count: int) -> None:
    config = EncodingConfig.model_validate({"frequencies": count, "max_log2": 3, "spacing": spacing, "scale": 2.0})
    bands = PositionalEncoding(config).bands
    assert len(bands) == count
    if count:
        assert bands[0] == 2
    if count > 1:
        assert bands[-1] == 16
        steps = (bands if spacing == "linear" else bands.log()).diff()
        torch.testing.assert_close(steps, steps.mean().expand_as(steps))


@pytest.mark.parametrize(("items", "points"), [(1, 7), (3, 7), (3, 0), (0, 7)])
def test_a_shared_weight_equals_its_copies_in_values_and_gradients(items: int, points: int) -> None:
    rng = torch.Generator().manual_seed(0)
    spec = TargetSpec({"a.weight": TensorSpec((5, 4)), "a.bias": TensorSpec((1, 4), shared=True)})
    leaves = [torch.randn(s, generator=rng, dtype=torch.float64) for s in ((1, 5, 4), (1, 1, 4), (items, points, 5))]
    weight, bias, x = (leaf.requires_grad_(True) for leaf in leaves)
    upstream = torch.randn(items, points, 4, generator=rng, dtype=torch.float64)
    got = linear(TargetParams({"a.weight": weight, "a.bias": bias}, spec), "a", x)
    # the definition, one item and point at a time
    want = torch.einsum("bni,io->bno", x, weight[0]) + bias[0]
    assert got.shape == (items, points, 4)
    torch.testing.assert_close(got, want)
    mine = torch.autograd.grad((got * upstream).sum(), (weight, bias, x))
    theirs = torch.autograd.grad((want * upstream).sum(), (weight, bias, x))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("owner", ["weight", "bias", "both", "query"])
def test_items_may_own_weight_or_bias_or_query(owner: str) -> None:
    rng = torch.Generator().manual_seed(0)
    spec = TargetSpec({"a.weight": TensorSpec((5, 4)), "a.bias": TensorSpec((1, 4), shared=True)})
    weight = torch.randn(3 if owner in ("weight", "both") else 1, 5, 4, generator=rng, dtype=torch.float64)
    bias = torch.randn(3 if owner in ("bias", "both") else 1, 1, 4, generator=rng, dtype=torch.float64)
    x = torch.randn(1 if owner == "weight" else 3, 6, 5, generator=rng, dtype=torch.float64)
    got = linear(TargetParams({"a.weight": weight, "a.bias": bias}, spec), "a", x)
    for item in range(3):
        one = [t[item] if len(t) == 3 else t[0] for t in (x, weight, bias)]
        torch.testing.assert_close(got[item], one[0] @ one[1] + one[2])


class TableConfig(PartConfig):
    """A target with a table."""


class TableLookup(Target):
    """Reads a row of a table that all items share, and passes it through one layer."""

    kind = "test-table"
    config_model = TableConfig

    def __init__(self, config: TableConfig) -> None:
        tensors = {"table0": TensorSpec((6, 2), shared=True), **self.layer_tensors("layer0", 2, 3)}
        self.spec = TargetSpec(tensors, self.kind, {})

    def __call__(self, params: TargetParams, query: torch.Tensor, state: object = None) -> torch.Tensor:
        return linear(params, "layer0", params["table0"][0][query[..., 0].long()])

    def to_module(self, params: TargetParams) -> nn.Module:
        raise NotImplementedError


def test_tables_survive_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS._entries, "test-table", "unused:Unused")
    monkeypatch.setattr(TARGETS, "load", lambda name: TableLookup)
    target, rng = TableLookup(TableConfig()), torch.Generator().manual_seed(0)
    params = TargetParams(
        {n: torch.randn(1, *t.shape, generator=rng) for n, t in target.spec.tensors.items()}, target.spec
    )
    save_target(tmp_path / "net.safetensors", params)
    _, loaded, _ = load_target(tmp_path / "net.safetensors")
    for name, tensor in params.tensors.items():
        assert torch.equal(loaded[name], tensor), name
    query = torch.arange(6.0).reshape(1, 6, 1)
    assert torch.equal(target(loaded, query), target(params, query))
    assert math.prod(loaded["table0"].shape) == 12
