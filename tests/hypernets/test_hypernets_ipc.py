import numpy as np
import pytest
import torch

from hyperkit.config import validate
from hyperkit.contracts import TargetParams
from hyperkit.errors import HyperkitError
from hyperkit.hypernets import IPC, IPCConfig
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig

WIDTH = 48


def build(field: RadianceFieldConfig | None = None, **options: object) -> IPC:
    torch.manual_seed(0)
    return IPC(IPCConfig.model_validate(options), RadianceField(field or RadianceFieldConfig()).spec, WIDTH)


def small(**options: object) -> IPC:
    field = RadianceFieldConfig(depth=4, width=10, encoding=EncodingConfig(frequencies=2))
    return build(field, **({"rank": 6} | options))


def encoded_for(net: IPC, items: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(items, *net.weight_tokens.shape, generator=rng, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("dtype", "gain"), [(torch.float64, 1.0), (torch.float64, 1.5), (torch.float32, 1.0)])
def test_rank_256_modulation_equals_numpy_in_float64(dtype: torch.dtype, gain: float) -> None:
    net = build(gain=gain).to(dtype)
    with torch.no_grad():  # a norm that does something
        net.heads["layer1_weight"][0].weight.uniform_(0.5, 1.5)
        net.heads["layer1_weight"][0].bias.uniform_(-0.5, 0.5)
    encoded = encoded_for(net, 3, dtype)
    got = net.generate(encoded)
    state = {name: tensor.double().numpy() for name, tensor in net.state_dict().items()}
    x = encoded.double().numpy()
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    normed = normed * state["heads.layer1_weight.0.weight"] + state["heads.layer1_weight.0.bias"]
    want = {}
    for layer in range(6):
        weight = state[f"base.layer{layer}_weight"][None]
        if layer == 1:
            patterns = np.zeros((3, 256, 256))  # V: item, fan-in, rank
            for r in range(256):
                linear = state["heads.layer1_weight.1.weight"] @ normed[:, r].T
                patterns[:, :, r] = linear.T + state["heads.layer1_weight.1.bias"]
            weight = np.stack([patterns[item] @ weight[0] for item in range(3)])
        want[layer] = gain * weight / np.sqrt((weight**2).sum(1, keepdims=True))
    for layer in range(6):
        # worst difference seen: 4e-16 in float64, 2.1e-7 in float32 (values up to 0.43)
        weights = got[f"layer{layer}.weight"].detach()
        assert weights.dtype == dtype
        tolerance = 1e-12 if dtype == torch.float64 else 1e-6
        np.testing.assert_allclose(weights.double().numpy(), want[layer], atol=tolerance, rtol=0)
        assert np.array_equal(got[f"layer{layer}.bias"].detach().double().numpy()[0], state[f"base.layer{layer}_bias"])


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_only_the_chosen_layer_is_an_items_own(layer: int) -> None:
    net = small(layer=layer)
    params = net.generate(encoded_for(net, 3))
    for name, tensor in params.tensors.items():
        own = name == f"layer{layer}.weight"
        assert len(tensor) == (3 if own else 1)
        if own:
            assert (tensor.std(0) > 0).all()
    assert net.token_groups == {f"layer{layer}": 4 if layer == 3 else 6}  # at most the fan-out


def test_order_of_tokens_does_not_matter_when_the_factors_rows_follow() -> None:
    net = small()
    encoded, order = encoded_for(net, 2), torch.randperm(6, generator=torch.Generator().manual_seed(2))
    want = net.generate(encoded)["layer1.weight"]
    with torch.no_grad():
        net.base["layer1_weight"].copy_(net.base["layer1_weight"][order])
    assert (net.generate(encoded)["layer1.weight"] - want).abs().max() > 0.1
    torch.testing.assert_close(net.generate(encoded[:, order])["layer1.weight"], want)


def test_start_keeps_the_variance_of_an_ordinary_layer() -> None:
    # Heads start with outputs of variance 1/3 + 1/(3 D) from normalised tokens; with U ~ N / sqrt(r I) the entries of
    # V U have a variance of (1/3 + 1/(3 D)) / I, where an ordinary layer has 1 / (3 I).
    net = build(normalize=False)
    weight = net.generate(encoded_for(net, 4))["layer1.weight"]
    want = (1 + 1 / WIDTH) / 3 / 256
    assert weight.var().item() == pytest.approx(want, rel=0.1)  # seen: 1.7 % off
    factor = net.base["layer1_weight"]
    assert factor.std().item() == pytest.approx(1 / 256, rel=0.02)


def test_without_the_norm_shared_weights_are_used_as_they_are() -> None:
    net = small(normalize=False)
    params = net.generate(encoded_for(net, 2))
    assert torch.equal(params["layer2.weight"][0], net.base["layer2_weight"])


def test_a_layer_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(HyperkitError, match=r"no layer 4 .*0 \(layer0\), 1 \(layer1\), 2 \(layer2\), 3 \(layer3\)"):
        small(layer=4)
    views = RadianceFieldConfig(depth=2, width=8, view_directions=True)
    with pytest.raises(HyperkitError, match=r"0 \(layer0\), 1 \(density\), 2 \(colour0\), 3 \(colour1\)"):
        build(views, layer=9)
    with pytest.raises(
        HyperkitError, match=r"(?s)rank: .*greater than or equal to 1.*layer: .*greater than or equal to 0"
    ):
        validate(IPCConfig, {"rank": 0, "layer": -1})


@pytest.mark.parametrize("items", [1, 3])
def test_packed_parameters_evaluate_to_the_same_values(items: int) -> None:
    target = RadianceField(RadianceFieldConfig(depth=4, width=10, encoding=EncodingConfig(frequencies=2)))
    net = small()
    params = net.generate(encoded_for(net, items))
    points = torch.rand(items, 50, 3, generator=torch.Generator().manual_seed(3)) * 2 - 1
    again = TargetParams.unpack(params.pack(), params.spec)
    want = target(params, points)
    torch.testing.assert_close(target(again, points), want)
    for item in range(items):
        torch.testing.assert_close(target(params.select(item), points[item : item + 1]), want[item : item + 1])
    assert (want[0] - target(params.select(items - 1), points[:1])[0]).abs().max() > 0.01 or items == 1
