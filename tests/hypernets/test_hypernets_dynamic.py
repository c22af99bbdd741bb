"""The dynamic hypernetwork: equal to its formula by hand, a function of the sentence alone, and not a static one."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyperkit.contracts import Rays
from hyperkit.hypernets.dynamic import Dynamic, DynamicConfig, adaptive_mean, probe_points
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.targets.encoding import EncodingConfig
from hyperkit.targets.skip_field import SkipField, SkipFieldConfig

FIELD = SkipField(
    SkipFieldConfig(
        levels=3, coarsest=3, finest=24, log2_table=9, width=16, encoding=EncodingConfig(frequencies=3, max_log2=2)
    )
)
TEXT = 10


def build(**options: object) -> Dynamic:
    torch.manual_seed(0)
    small = {"blocks": 2, "heads": 3, "head_width": 4, "hidden": 20, "probes": 50}
    net = Dynamic(DynamicConfig.model_validate(small | options), FIELD, TEXT)
    with torch.no_grad():
        net.base["table"].uniform_(-1, 1)  # as if it had been trained
        for writer in net.writers:
            if writer.affine is not None:
                writer.affine.weight.normal_(std=0.1)
                writer.affine.bias.normal_(std=0.1)
    return net.double()


def sentences(items: int = 3, length: int = 5, seed: int = 1) -> Tensor:
    return torch.randn(items, length, TEXT, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(net: Dynamic, tokens: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    params = net.generate(tokens, mask)
    return [params[f"layer{index}.weight"] for index in range(6)]


def test_weights_equal_the_formula_by_hand() -> None:
    net = build()
    tokens = sentences()
    got = weights(net, tokens)
    token = net.condition(tokens)
    x = FIELD.inputs(net.base["table"][None], net.probes)[0]
    state = {name: value.detach() for name, value in net.state_dict().items()}
    for item in range(3):
        ct = token[item].detach()
        h: list[Tensor] = []
        for index in range(6):
            read = x if index == 0 else h[-1].clamp(min=0)
            given = ct
            if index:
                scale, shift = (state[f"writers.{index}.affine.weight"] @ ct).chunk(2)
                more_scale, more_shift = state[f"writers.{index}.affine.bias"].chunk(2)
                total = torch.zeros(16, dtype=torch.float64)
                for point in read:
                    centred = point - point.mean()
                    normal = centred / (centred.square().mean() + 1e-5).sqrt()
                    total += (1 + scale + more_scale) * normal + shift + more_shift
                given = torch.cat((ct, total / len(read)))
            hidden = (state[f"writers.{index}.hidden.weight"] @ given + state[f"writers.{index}.hidden.bias"]).clamp(0)
            out = state[f"writers.{index}.out.weight"] @ hidden + state[f"writers.{index}.out.bias"]
            weight = out.reshape(got[index].shape[1:])
            # worst difference seen: 4e-16
            torch.testing.assert_close(got[index][item], weight, atol=1e-12, rtol=0)
            h.append(read @ weight + (h[-2] if index in (2, 4) else 0))


@pytest.mark.parametrize("static", [False, True])
def test_activations_enter_a_dynamic_network_and_no_static_one(static: bool) -> None:
    net = build(static=static)
    tokens = sentences(1)
    with torch.no_grad():
        before = weights(net, tokens)
        net.base["table"].neg_()  # the same sentence, other activations
        after = weights(net, tokens)
    assert torch.equal(before[0], after[0])  # the first layer is written before there are any
    for one, other in zip(before[1:], after[1:], strict=True):
        change = float((one - other).norm() / one.norm())
        # dynamic, measured: 0.05 to 0.1
        assert change == 0 if static else change > 0.02


def test_a_norm_over_points_would_leave_nothing_of_the_activations() -> None:
    generator = torch.Generator().manual_seed(0)
    scale, shift = torch.randn(2, 2, 7, generator=generator, dtype=torch.float64)
    found = []
    for _ in range(2):
        activation = torch.randn(2, 40, 7, generator=generator, dtype=torch.float64).relu()
        over_points = F.instance_norm(activation.transpose(1, 2)).transpose(1, 2)
        mean = (scale[:, None] * over_points + shift[:, None]).mean(1)
        torch.testing.assert_close(mean, shift, atol=1e-14, rtol=0)  # whatever the activations are
        found.append(adaptive_mean(activation, scale, shift))
        centred = activation - activation.mean(2, keepdim=True)
        normal = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
        want = (scale[:, None] * normal + shift[:, None]).mean(1)
        torch.testing.assert_close(found[-1], want, atol=1e-13, rtol=0)
    assert (found[0] - found[1]).abs().max() > 0.1


def test_gradients_do_not_flow_through_activations() -> None:
    net = build()
    written = weights(net, sentences())
    before: list[nn.Parameter] = [net.base["table"]]
    for index, weight in enumerate(written):
        earlier = torch.autograd.grad(weight.square().sum(), before, retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in earlier), index
        own = torch.autograd.grad(weight.square().sum(), list(net.writers[index].parameters()), retain_graph=True)
        assert all(gradient.abs().max() > 0 for gradient in own)
        before += list(net.writers[index].parameters())


def test_weights_do_not_depend_on_the_order_of_the_probe_points() -> None:
    net = build()
    want = weights(net, sentences())
    net.probes = net.probes[:, torch.randperm(50, generator=torch.Generator().manual_seed(0))]
    for one, other in zip(want, weights(net, sentences()), strict=True):
        # worst difference seen: 3e-16
        torch.testing.assert_close(one, other, atol=1e-13, rtol=0)


def test_rendering_does_not_depend_on_how_rays_are_batched() -> None:
    net, tokens = build().float().eval(), sentences().float()
    generator = torch.Generator().manual_seed(3)
    origins = F.normalize(torch.randn(3, 60, 3, generator=generator), dim=-1) * 4
    rays = Rays(origins, -origins / 4 + 0.1 * torch.randn(3, 60, 3, generator=generator))
    renderer = RendererConfig(samples=8, sampling="bins", bounds="sphere")
    with torch.no_grad():
        whole = None
        for chunk in (1_000_000, 24 * 7, 24):  # points: all rays, seven or one of each field at once
            params = net.generate(tokens)
            config = renderer.model_copy(update={"chunk_points": chunk})
            got = render_rays(lambda points, params=params: FIELD(params, points[..., :3]), rays, config)
            if whole is None:
                whole, want = params, got
            assert all(torch.equal(params[name], whole[name]) for name in params.tensors)
            # worst difference seen: 1.2e-7
            torch.testing.assert_close(got.rgb, want.rgb, atol=1e-6, rtol=0)
        # taken at the points of a batch, as published, the weights change with the batch
        net.probes = net.probes[:, :25]
        other = net.generate(tokens)["layer5.weight"]
    assert float((other - whole["layer5.weight"]).norm() / other.norm()) > 0.01  # measured: 0.03


def test_sentences_do_not_depend_on_padding_or_neighbours() -> None:
    net = build()
    short, long = sentences(1, 3), sentences(1, 7, seed=2)
    tokens, mask = torch.full((2, 7, TEXT), 50.0, dtype=torch.float64), torch.zeros(2, 7, dtype=torch.bool)
    tokens[0, :3], tokens[1], mask[0, :3], mask[1] = short[0], long[0], True, True
    for mode in (True, False):  # torch computes the blocks in another way where no gradient is needed
        net.train(mode)
        with torch.set_grad_enabled(mode):
            together = weights(net, tokens, mask)
            alone, other = weights(net, short), weights(net, long, torch.ones(1, 7, dtype=torch.bool))
        for index, weight in enumerate(together):
            # worst difference seen: 3e-16
            torch.testing.assert_close(weight[0], alone[index][0], atol=1e-12, rtol=0)
            torch.testing.assert_close(weight[1], other[index][0], atol=1e-12, rtol=0)
    unmasked = net.condition(tokens)
    assert (unmasked[0] - net.condition(tokens, mask)[0]).abs().max() > 0.01


@pytest.mark.parametrize("static", [False, True])
def test_weights_start_as_large_as_the_field_wants_and_differ_between_scenes(static: bool) -> None:
    torch.manual_seed(0)
    target = SkipField(SkipFieldConfig(levels=4, coarsest=4, finest=16, log2_table=12))
    net = Dynamic(DynamicConfig(static=static), target, 384)
    with torch.no_grad():
        params = net.generate(torch.randn(16, 6, 384))
    for name, spec in target.spec.tensors.items():
        if spec.shared:
            assert float(params[name].detach().abs().max()) <= spec.bound
            continue
        weight = params[name]
        # of a uniform draw: bound / sqrt(3); measured: 0.86 to 1.0 of it
        assert 0.75 < float(weight.std()) * 3**0.5 / spec.bound < 1.2, name
        # half of the variance is written, and most of what is written is common to all; measured: 0.1 to 0.25
        between = float((weight - weight.mean(0)).square().mean() / weight.square().mean())
        assert 0.05 < between < 0.5, name


@pytest.mark.parametrize("static", [False, True])
def test_every_parameter_receives_a_gradient_and_has_one_role(static: bool) -> None:
    net = build(static=static)
    FIELD(net.generate(sentences()), probe_points(40, 3)[None].double()).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    roles = net.parameter_roles()
    assert set(roles) == {"tokens", "heads", "base"}
    listed = [id(p) for members in roles.values() for p in members]
    assert sorted(listed) == sorted(id(p) for p in net.parameters())
    assert [p.shape for p in roles["base"]] == [(FIELD.layout.rows, 2)]


def test_size_equals_a_hand_count() -> None:
    # as published: six blocks of width 12 * 16 over BERT's 768; the blocks' MLPs are four times as wide
    net = Dynamic(DynamicConfig(hidden=100), FIELD, 768)
    block = 4 * 193 * 192 + 193 * 768 + 769 * 192 + 4 * 192
    transformer = 769 * 192 + 6 * block + 2 * 192
    layers = [(24, 16), *[(16, 16)] * 4, (16, 4)]  # 3 levels of 2 and 18 sinusoids
    writers = 0
    for index, (fan_in, fan_out) in enumerate(layers):
        channels = fan_in if index else 0
        writers += 193 * 2 * channels + (192 + channels + 1) * 100 + 101 * fan_in * fan_out
    assert sum(p.numel() for p in net.parameter_roles()["heads"]) == transformer + writers


def test_generation_is_in_full_precision_under_autocast() -> None:
    net = build().float()
    want = weights(net, sentences().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = weights(net, sentences().to(torch.bfloat16).float())
        same = weights(net, sentences().float())
    assert all(torch.equal(one, other) for one, other in zip(want, same, strict=True))
    assert all(weight.dtype == torch.float32 for weight in got)


def test_checkpoints_hold_the_probe_points() -> None:
    net, other = build(), build(seed=1)
    assert not torch.equal(net.probes, other.probes)
    assert torch.equal(net.probes, build().probes)
    other.load_state_dict(net.state_dict())
    for one, same in zip(weights(net, sentences()), weights(other, sentences()), strict=True):
        assert torch.equal(one, same)


def test_probe_points_fill_the_sphere_evenly() -> None:
    points = probe_points(20_000, 0).double()
    radius = points.norm(dim=1)
    assert float(radius.max()) <= 1 + 1e-6
    # E r^3 is 1/2 with deviation 1/sqrt(12) of a uniform variable; E x = 0 with variance 1/5 per axis
    assert abs(float((radius**3).mean()) - 0.5) < 4 / (12 * 20_000) ** 0.5
    assert float(points.mean(0).abs().max()) < 4 / (5 * 20_000) ** 0.5
    torch.testing.assert_close(points.T @ points / 20_000, torch.eye(3).double() / 5, atol=0.01, rtol=0)
    assert torch.equal(probe_points(10, 0), probe_points(10, 0))
