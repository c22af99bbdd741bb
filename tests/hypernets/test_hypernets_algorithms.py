"""What holds for every algorithm."""

import math

import pytest
import torch
from torch.nn import functional as F

from hyperkit.contracts import TargetSpec, TensorSpec
from hyperkit.hypernets import ALGORITHMS, Hypernet
from hyperkit.objectives import gaussian_nll, mse
from hyperkit.targets.base import Target
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.mlp import MLP, MLPConfig
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig

NAMES = list(ALGORITHMS)
SMALL = EncodingConfig(frequencies=2)


def build(name: str, spec: TargetSpec, width: int = 12, **options: object) -> Hypernet:
    torch.manual_seed(0)
    cls = ALGORITHMS.load(name)
    return cls(cls.config_model.model_validate(options), spec, width)


def target_for(name: str, kind: str) -> Target:
    deviation = ALGORITHMS.load(name).predicts_deviation
    if kind == "mlp":
        return MLP(MLPConfig(coordinates=2, outputs=3, depth=4, width=16, encoding=SMALL, deviation=deviation))
    return RadianceField(
        RadianceFieldConfig(depth=3, width=16, encoding=SMALL, view_directions=kind == "views", deviation=deviation)
    )


def encode(net: Hypernet, items: int) -> torch.Tensor:
    return torch.randn(items, *net.weight_tokens.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "tokens", "heads", "base"),
    [
        # The paper's field: layers 120-256-256-256-256-256-4 with a bias each. A head has a norm of 2 D and a linear
        # layer of (D + 1) I values; here D = 768.
        # base: 121*256 + 4*257*256 + 257*4; tokens: 5*32 + 4 of width D
        ("trans-inr", 164 * 768, (1536 + 769 * 120) + 5 * (1536 + 769 * 256), 30_976 + 263_168 + 1_028),
        # one layer has a head; U (256, 256) stands where its weight was
        ("ipc", 256 * 768, 1536 + 769 * 256, 30_976 + 263_168 + 1_028),
        # seven outputs in place of four: three more tokens, 257 * 3 more base parameters
        ("ponp", 167 * 768, (1536 + 769 * 120) + 5 * (1536 + 769 * 256), 30_976 + 263_168 + 1_799),
    ],
)
def test_counts_by_role_equal_a_hand_count(name: str, tokens: int, heads: int, base: int) -> None:
    field = RadianceField(RadianceFieldConfig(deviation=ALGORITHMS.load(name).predicts_deviation))
    net = build(name, field.spec, 768)
    roles = net.parameter_roles()
    assert {role: sum(p.numel() for p in members) for role, members in roles.items()} == {
        "tokens": tokens,
        "heads": heads,
        "base": base,
    }
    listed = [id(p) for members in roles.values() for p in members]
    assert sorted(listed) == sorted(id(p) for p in net.parameters())
    assert sum(net.token_groups.values()) == len(net.weight_tokens)


@pytest.mark.parametrize("kind", ["mlp", "radiance_field", "views"])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_receives_a_gradient(name: str, kind: str) -> None:
    # DistributedDataParallel fails on parameters that are not used
    target = target_for(name, kind)
    # four columns to a token: a hidden unit that is dead at all points must not leave its token without a gradient
    net = build(name, target.spec, **({} if name == "ipc" else {"groups": 4}))
    rng = torch.Generator().manual_seed(2)
    query = torch.rand(3, 40, {"mlp": 2, "radiance_field": 3, "views": 6}[kind], generator=rng) * 2 - 1
    # the tokens themselves must be reached, not only what a backbone makes of them
    encoded = net.weight_tokens * (1 + 0.3 * torch.randn(3, 1, net.weight_tokens.shape[1], generator=rng))
    values = target(net.generate(encoded), query)
    mean, rest = values[..., :3], values[..., 3:]
    truth = torch.rand(mean.shape, generator=rng)
    error = gaussian_nll(mean, rest[..., -3:], truth) if net.predicts_deviation else mse(mean, truth)
    loss = error.mean()
    if kind != "mlp":
        loss = loss + rest[..., :1].mean()
    loss.backward()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name
    assert (net.weight_tokens.grad.abs().sum(1) > 0).all()
    last = {"mlp": "layer3", "radiance_field": "layer2", "views": "colour1"}[kind]
    if kind == "mlp" or net.predicts_deviation:
        assert (net.base[f"{last}_bias"].grad != 0).all()  # each output, deviations too


@pytest.mark.parametrize("gain", [1.0, 1.5])
@pytest.mark.parametrize("name", NAMES)
def test_columns_of_every_layer_have_unit_norm_times_gain(name: str, gain: float) -> None:
    net = build(name, target_for(name, "views").spec, gain=gain)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the norm is taken in float32 all the same
        low = net.generate(encode(net, 2))
    for params in (net.generate(encode(net, 2)), low):
        for tensor_name, tensor in params.tensors.items():
            if tensor_name.endswith(".weight"):
                assert tensor.dtype == torch.float32
                norms = tensor.norm(dim=1)
                torch.testing.assert_close(norms, torch.full_like(norms, gain))


@pytest.mark.parametrize("name", NAMES)
def test_scaling_columns_of_learned_weights_changes_nothing(name: str) -> None:
    # of Trans-INR's base, of IPC's shared factor and of its shared layers alike
    net = build(name, target_for(name, "mlp").spec)
    want = net.generate(encode(net, 2)).pack()
    with torch.no_grad():
        for parameter_name, parameter in net.base.items():
            if parameter_name.endswith("_weight"):
                parameter.mul_(torch.linspace(0.5, 3.0, parameter.shape[1]))
    torch.testing.assert_close(net.generate(encode(net, 2)).pack(), want)


@pytest.mark.parametrize("name", NAMES)
def test_items_do_not_depend_on_their_neighbours(name: str) -> None:
    net = build(name, target_for(name, "mlp").spec)
    encoded = encode(net, 3)
    together = net.generate(encoded)
    for item in range(3):
        alone = net.generate(encoded[item : item + 1]).pack()
        torch.testing.assert_close(together.select(item).pack(), alone)


@pytest.mark.parametrize("name", NAMES)
def test_tables_and_shared_weights_are_learned_and_left_alone(name: str) -> None:
    tensors = {
        "table0": TensorSpec((512, 2), shared=True, bound=1e-4),
        "codes": TensorSpec((16, 3)),
        "stem.weight": TensorSpec((400, 8), shared=True),
        "stem.bias": TensorSpec((1, 8), shared=True),
        "layer0.weight": TensorSpec((8, 8)),
        "layer0.bias": TensorSpec((1, 8), shared=True),
        "layer1.weight": TensorSpec((8, 3), bound=1e-3),
        "layer1.bias": TensorSpec((1, 3), shared=True),
    }
    net = build(name, TargetSpec(tensors, "own", {"deviation": True}), **({} if name == "ipc" else {"groups": 4}))
    params = net.generate(encode(net, 2))
    for tensor_name in ("table0", "codes", "stem.weight", "stem.bias", "layer0.bias", "layer1.bias"):
        assert torch.equal(params[tensor_name], net.base[tensor_name.replace(".", "_")][None])
    generated = ["layer1"] if name == "ipc" else ["layer0", "layer1"]
    assert list(net.token_groups) == generated
    bounds = {"table0": 1e-4, "stem_weight": 1 / 20, "stem_bias": 1 / 20, "layer0_weight": 1 / math.sqrt(8)}
    if name != "ipc":
        bounds["layer1_weight"] = 1e-3
    for key, bound in bounds.items():
        largest = net.base[key].abs().max().item()
        assert 0.6 * bound < largest <= bound, key
    for layer in ("layer0", "layer1"):
        columns = params[f"{layer}.weight"]
        torch.testing.assert_close(columns, F.normalize(columns, dim=1))


def test_names_in_the_state_dict_are_those_of_earlier_checkpoints() -> None:
    net = build("trans-inr", MLP(MLPConfig(depth=1, encoding=SMALL)).spec)
    assert list(net.state_dict()) == [
        "weight_tokens",
        "heads.layer0_weight.0.weight",
        "heads.layer0_weight.0.bias",
        "heads.layer0_weight.1.weight",
        "heads.layer0_weight.1.bias",
        "base.layer0_weight",
        "base.layer0_bias",
    ]


def test_random_numbers_are_drawn_in_a_fixed_order() -> None:
    # the same seed gives the same start in every version: tokens, then tensor by tensor the base and its head
    net = build("trans-inr", MLP(MLPConfig(outputs=2, depth=2, width=5, encoding=SMALL)).spec, groups=3, token_std=0.5)
    torch.manual_seed(0)
    assert torch.equal(net.weight_tokens, torch.randn(3 + 2, 12) * 0.5)
    for layer, fan_in, fan_out in (("layer0", 12, 5), ("layer1", 5, 2)):
        bound = 1 / math.sqrt(fan_in)
        assert torch.equal(net.base[f"{layer}_weight"], torch.empty(fan_in, fan_out).uniform_(-bound, bound))
        head = torch.nn.Linear(12, fan_in)
        assert torch.equal(net.heads[f"{layer}_weight"][1].weight, head.weight)
        assert torch.equal(net.heads[f"{layer}_weight"][1].bias, head.bias)
        assert torch.equal(net.base[f"{layer}_bias"], torch.empty(1, fan_out).uniform_(-bound, bound))
