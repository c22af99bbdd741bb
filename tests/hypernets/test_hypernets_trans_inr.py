import pytest
import torch
from torch.nn import functional as F

from hyperkit.contracts import TargetSpec
from hyperkit.errors import HyperkitError
from hyperkit.hypernets import TransINR, TransINRConfig
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig

WIDTH = 12


def spec() -> TargetSpec:
    return RadianceField(RadianceFieldConfig(depth=3, width=10, encoding=EncodingConfig(frequencies=2))).spec


def build(**options: object) -> TransINR:
    torch.manual_seed(0)
    return TransINR(TransINRConfig.model_validate(options), spec(), WIDTH)


@pytest.mark.parametrize(("grouping", "groups"), [("tiled", 4), ("blocks", 4), ("tiled", 32), ("blocks", 3)])
def test_weights_are_those_of_the_papers_equation(grouping: str, groups: int) -> None:
    net = build(grouping=grouping, groups=groups)
    encoded = torch.randn(2, *net.weight_tokens.shape, generator=torch.Generator().manual_seed(1))
    params = net.generate(encoded)
    first = 0
    for name, tensor in spec().tensors.items():
        if tensor.shared:
            assert torch.equal(params[name], net.base[name.replace(".", "_")][None])
            continue
        fan_out = tensor.shape[1]
        count = min(groups, fan_out)
        block = -(-fan_out // count)
        count = count if grouping == "tiled" else -(-fan_out // block)
        norm, head = net.heads[name.replace(".", "_")]
        for column in range(fan_out):
            token = column % count if grouping == "tiled" else column // block
            vector = head(norm(encoded[:, first + token]))
            want = F.normalize(net.base[name.replace(".", "_")][:, column] * vector, dim=1)
            torch.testing.assert_close(params[name][:, :, column], want)
        first += count
    assert first == len(net.weight_tokens)


def test_columns_have_unit_norm_times_gain() -> None:
    for gain in (1.0, 1.5):
        net = build(gain=gain)
        params = net.generate(torch.randn(2, *net.weight_tokens.shape))
        norms = params["layer1.weight"].norm(dim=1)
        torch.testing.assert_close(norms, torch.full_like(norms, gain))


def test_the_papers_field_takes_164_tokens() -> None:
    net = TransINR(TransINRConfig(), RadianceField(RadianceFieldConfig()).spec, 8)
    assert len(net.weight_tokens) == 164


def test_groups_per_layer() -> None:
    net = build(groups={"layer0": 2, "layer1": 5, "layer2": 1})
    assert net.token_groups == {"layer0": 2, "layer1": 5, "layer2": 1}
    with pytest.raises(HyperkitError, match=r"no layer 'layer9'.*Did you mean"):
        build(groups={"layer9": 2})


@pytest.mark.parametrize("grouping", ["tiled", "blocks"])
def test_every_token_and_parameter_is_used(grouping: str) -> None:
    # blocks of ten columns over four tokens leave no token without a column (DDP fails on unused parameters)
    net = build(grouping=grouping, groups=4)
    encoded = net.weight_tokens[None] * 1.0
    sum(t.square().mul(torch.rand_like(t)).sum() for t in net.generate(encoded).tensors.values()).backward()
    assert (net.weight_tokens.grad.abs().sum(1) > 0).all()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_identity_heads_start_near_the_base_network() -> None:
    net = build(head_init="identity")
    params = net.generate(torch.randn(64, *net.weight_tokens.shape))
    base = F.normalize(net.base["layer1_weight"], dim=0)
    cosine = (params["layer1.weight"] * base).sum(1)
    assert cosine.mean() > 0.95
    assert (params["layer1.weight"].std(0) > 0).all()


def test_roles_cover_every_parameter_once() -> None:
    net = build()
    listed = [id(p) for parameters in net.parameter_roles().values() for p in parameters]
    assert sorted(listed) == sorted(id(p) for p in net.parameters())
