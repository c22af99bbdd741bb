import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperkit.contracts import TargetParams, TargetSpec
from hyperkit.errors import HyperkitError
from hyperkit.targets import target_from_spec
from hyperkit.targets.base import Target
from hyperkit.targets.encoding import EncodingConfig, PositionalEncoding
from hyperkit.targets.export import load_target, save_target
from hyperkit.targets.mlp import MLP, MLPConfig
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig

SMALL = EncodingConfig(frequencies=3, max_log2=2)


def random_params(spec: TargetSpec, items: int, dtype: torch.dtype = torch.float32) -> TargetParams:
    rng = torch.Generator().manual_seed(1)
    return TargetParams(
        {
            n: torch.randn(1 if t.shared else items, *t.shape, generator=rng, dtype=dtype) / math.sqrt(t.shape[0])
            for n, t in spec.tensors.items()
        },
        spec,
    )


def targets() -> list[Target]:
    return [
        MLP(MLPConfig(coordinates=2, outputs=3, depth=3, width=8, encoding=SMALL, output_bias=0.5)),
        RadianceField(RadianceFieldConfig(depth=3, width=8, encoding=SMALL, density_shift=0.25)),
        RadianceField(
            RadianceFieldConfig(
                depth=2, width=8, encoding=SMALL, view_directions=True, density="softplus", density_shift=0.0
            )
        ),
    ]


def query_for(target: Target, items: int, points: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    width = 2 if isinstance(target, MLP) else 6 if target.spec.options["view_directions"] else 3
    return torch.rand(items, points, width, generator=torch.Generator().manual_seed(2), dtype=dtype) * 2 - 1


def test_encoding_values() -> None:
    # Trans-INR's field: 20 frequencies from 1 to 256, no factor pi, no raw coordinates, 40 values per coordinate
    x = torch.tensor([[0.3, -0.7, 0.1]])
    got = PositionalEncoding(EncodingConfig())(x)
    angles = x.double()[..., None] * 2 ** torch.linspace(0, 8, 20, dtype=torch.float64)
    want = torch.cat([angles.cos().flatten(1), angles.sin().flatten(1)], 1)
    assert got.shape == (1, 120)
    # angles reach 180 in float32, so the last bit is worth 1.5e-5; worst difference seen: 1.4e-5
    torch.testing.assert_close(got.double(), want, atol=3e-5, rtol=0)
    scaled = PositionalEncoding(EncodingConfig(frequencies=2, max_log2=1, scale="pi", include_input=True))(x)
    torch.testing.assert_close(scaled[0, :3], x[0])
    torch.testing.assert_close(scaled[0, 4], torch.cos(2 * math.pi * x[0, 0]))


def test_the_papers_field_has_the_papers_size() -> None:
    # REFERENCE: 295,172 parameters for six layers of 256 on a 120-wide encoding
    assert RadianceField(RadianceFieldConfig()).spec.numel == 295_172


@pytest.mark.parametrize("index", range(3))
def test_batched_layers_equal_plain_numpy_one_item_at_a_time(index: int) -> None:
    target = targets()[index]
    params = random_params(target.spec, 3, torch.float64)
    query = query_for(target, 3, 5, torch.float64)
    got = target(params, query)
    for item in range(3):
        want = plain(target, params.select(item), query[item].numpy())
        # worst difference seen: 4e-7, from the frequencies that are stored in float32
        np.testing.assert_allclose(got[item].numpy(), want, atol=2e-6)


def plain(target: Target, params: TargetParams, x: np.ndarray) -> np.ndarray:
    def encode(v: np.ndarray, count: int, top: float) -> np.ndarray:
        angles = (v[..., None] * 2.0 ** np.linspace(0, top, count)).reshape(len(v), -1)
        return np.concatenate([np.cos(angles), np.sin(angles)], 1)

    def layer(name: str, h: np.ndarray) -> np.ndarray:
        return h @ params[f"{name}.weight"][0].numpy() + params[f"{name}.bias"][0].numpy()

    options = target.spec.options
    if isinstance(target, MLP):
        h = encode(x, 3, 2)
        for i in range(options["depth"]):
            h = layer(f"layer{i}", np.maximum(h, 0) if i else h)
        return h + 0.5
    h = encode(x[:, :3], 3, 2)
    for i in range(options["depth"] - 1):
        h = np.maximum(layer(f"layer{i}", h), 0)
    if options["view_directions"]:
        d = x[:, 3:] / np.linalg.norm(x[:, 3:], axis=1, keepdims=True)
        colour = np.maximum(layer("colour0", np.concatenate([h, encode(d, 4, 3)], 1)), 0)
        raw = np.concatenate([layer("colour1", colour), layer("density", h)], 1)
        density = np.log1p(np.exp(raw[:, 3:]))
    else:
        raw = layer(f"layer{options['depth'] - 1}", h)
        density = np.maximum(raw[:, 3:] + 0.25, 0)
    return np.concatenate([1 / (1 + np.exp(-raw[:, :3])), density], 1)


@pytest.mark.parametrize("index", range(3))
def test_permuting_hidden_units_changes_nothing(index: int) -> None:
    target = targets()[index]
    params = random_params(target.spec, 2, torch.float64)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    tensors = dict(params.tensors)
    tensors["layer0.weight"] = tensors["layer0.weight"][..., order]
    tensors["layer0.bias"] = tensors["layer0.bias"][..., order]
    for name in ("layer1.weight", "colour0.weight", "density.weight"):
        if name in tensors and (name == "layer1.weight" or "layer1.weight" not in tensors):
            tensors[name] = torch.cat((tensors[name][:, :8][:, order], tensors[name][:, 8:]), dim=1)
    query = query_for(target, 2, 4, torch.float64)
    torch.testing.assert_close(target(TargetParams(tensors, target.spec), query), target(params, query))


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("points", [0, 1, 7])
def test_export_is_an_ordinary_network_with_the_same_values(index: int, points: int, tmp_path: Path) -> None:
    target = targets()[index]
    params = random_params(target.spec, 2)
    query = query_for(target, 2, points)
    want = target(params, query)[:1]
    module = target.to_module(params)
    assert all(type(m) is not torch.nn.Bilinear for m in module.modules())
    torch.testing.assert_close(module(query[0])[None], want, atol=2e-6, rtol=1e-5)
    save_target(tmp_path / "net.safetensors", params, {"note": 1})
    again, loaded, extra = load_target(tmp_path / "net.safetensors")
    assert extra == {"note": 1}
    torch.testing.assert_close(again(loaded, query[:1]), want, atol=2e-6, rtol=1e-5)


def test_exported_tensors_have_the_layout_of_nn_linear(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    target = targets()[0]
    params = random_params(target.spec, 1)
    save_target(tmp_path / "net.safetensors", params)
    stored = load_file(tmp_path / "net.safetensors")
    assert stored["layer1.weight"].shape == (8, 8)
    assert torch.equal(stored["layer0.weight"], params["layer0.weight"][0].T)
    assert torch.equal(stored["layer0.bias"], params["layer0.bias"][0, 0])


def test_files_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(HyperkitError, match="does not exist"):
        load_target(tmp_path / "none.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 10)
    with pytest.raises(HyperkitError, match="cannot be read"):
        load_target(tmp_path / "junk.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(HyperkitError, match="does not hold a generated network"):
        load_target(tmp_path / "other.safetensors")


def test_spec_rebuilds_its_target() -> None:
    for target in targets():
        assert target_from_spec(target.spec).spec == target.spec


def test_low_precision_products_stay_close() -> None:
    target = RadianceField(RadianceFieldConfig(depth=4, width=64))
    params = random_params(target.spec, 2)
    query = query_for(target, 2, 256)
    full = target(params, query)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = target(params, query)
    assert low.dtype == torch.float32
    # worst difference seen: 0.011 in colour
    assert (full - low)[..., :3].abs().max() < 0.025
