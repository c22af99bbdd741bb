import math
from statistics import NormalDist, fmean

import numpy as np
import pytest
import torch

from hyperkit.errors import HyperkitError
from hyperkit.hypernets import PONP, TransINR, TransINRConfig
from hyperkit.objectives import gaussian_nll
from hyperkit.targets.base import Target
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.mlp import MLP, MLPConfig
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig

SMALL = EncodingConfig(frequencies=2)


def target(kind: str, deviation: bool) -> Target:
    if kind == "mlp":
        return MLP(MLPConfig(coordinates=2, outputs=3, depth=3, width=10, encoding=SMALL, deviation=deviation))
    return RadianceField(RadianceFieldConfig(depth=3, width=10, encoding=SMALL, deviation=deviation))


@pytest.mark.parametrize("kind", ["mlp", "radiance_field"])
def test_generates_trans_inrs_network_up_to_the_output_layer(kind: str) -> None:
    # groups no more than the outputs, so that both have as many tokens and draw the same random numbers
    config = TransINRConfig(groups=2)
    nets: list[TransINR] = []
    for algorithm, deviation in ((TransINR, False), (PONP, True)):
        torch.manual_seed(0)
        nets.append(algorithm(config, target(kind, deviation).spec, 12))
    encoded = torch.randn(2, *nets[0].weight_tokens.shape, generator=torch.Generator().manual_seed(1))
    plain, with_deviation = (net.generate(encoded) for net in nets)
    assert torch.equal(nets[0].weight_tokens, nets[1].weight_tokens)
    for name, tensor in plain.tensors.items():
        if name.startswith("layer2"):
            outputs = tensor.shape[-1]
            assert with_deviation[name].shape[-1] == outputs + 3
        else:
            assert torch.equal(tensor, with_deviation[name]), name


def test_weights_follow_trans_inrs_equation_in_the_output_layer_too() -> None:
    spec = target("radiance_field", True).spec
    torch.manual_seed(0)
    ponp = PONP(TransINRConfig(), spec, 12)
    trans_inr = TransINR(TransINRConfig(), spec, 12)
    trans_inr.load_state_dict(ponp.state_dict())
    encoded = torch.randn(2, *ponp.weight_tokens.shape)
    assert torch.equal(ponp.generate(encoded).pack(), trans_inr.generate(encoded).pack())
    assert ponp.predicts_deviation
    assert not trans_inr.predicts_deviation


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_likelihood_equals_numpy_in_float64(dtype: torch.dtype) -> None:
    mlp = target("mlp", True)
    torch.manual_seed(0)
    net = PONP(TransINRConfig(), mlp.spec, 12).to(dtype)
    rng = torch.Generator().manual_seed(1)
    params = net.generate(torch.randn(2, *net.weight_tokens.shape, generator=rng, dtype=dtype))
    query = torch.rand(2, 30, 2, generator=rng, dtype=dtype) * 2 - 1
    truth = torch.rand(2, 30, 3, generator=rng, dtype=dtype)
    mean, deviation = mlp(params, query).chunk(2, dim=-1)
    got = gaussian_nll(mean, deviation, truth)
    weights = {name: tensor.detach().double().numpy() for name, tensor in params.tensors.items()}
    for item in range(2):
        angles = (query[item].double().numpy()[:, :, None] * [1.0, 256.0]).reshape(30, 4)
        h = np.concatenate([np.cos(angles), np.sin(angles)], 1)
        for layer in range(3):
            h = np.maximum(h, 0) if layer else h
            h = h @ weights[f"layer{layer}.weight"][item] + weights[f"layer{layer}.bias"][0]
        spread = 0.01 + np.log1p(np.exp(h[:, 3:] - 2))
        values = zip(h[:, :3].flat, spread.flat, truth[item].double().flatten().tolist(), strict=True)
        want = -fmean(math.log(NormalDist(m, s).pdf(y)) for m, s, y in values)
        # worst difference seen, relative: 3e-16 in float64, 1.4e-7 in float32
        assert got[item].item() == pytest.approx(want, rel=1e-6)


def test_a_target_without_deviation_is_refused() -> None:
    with pytest.raises(HyperkitError, match=r"(?s)'mlp' gives none.*target\.deviation=true"):
        PONP(TransINRConfig(), target("mlp", False).spec, 12)
