"""The last block computes the weight tokens' outputs alone, and these are what the whole block gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperkit.backbones import BackboneConfig
from hyperkit.backbones.attention import LastQueries

TOLERANCE = 1e-5  # of values of up to 4; measured: 0
KINDS = ["deit", "dinov2", "clip", "patches", "whisper", "parallel"]
QUERIES = 5


@pytest.fixture
def build(
    timm_pair: Callable[..., Any], clip_pair: Callable[..., Any], whisper_pair: Callable[..., Any], small_patches: Any
) -> Callable[[str], Any]:
    models = {
        "deit": ("deit_base_distilled_patch16_224", {"img_size": 64}),
        "dinov2": ("vit_base_patch14_dinov2.lvd142m", {"img_size": 70}),
        "parallel": ("vit_base_patch16_224", {"img_size": 64, "block_fn": _parallel()}),
    }

    def make(kind: str) -> Any:
        if kind in models:
            model, options = models[kind]
            return timm_pair(model, BackboneConfig(name="vit_tiny"), **options)[1]
        return {"clip": lambda: clip_pair()[1], "whisper": lambda: whisper_pair()[1]}.get(kind, lambda: small_patches)()

    return make


def _parallel() -> type[nn.Module]:
    from timm.models.vision_transformer import ParallelScalingBlock

    return ParallelScalingBlock


def context_of(kind: str) -> Tensor:
    return torch.rand(2, 4000) - 0.5 if kind in ("patches", "whisper") else torch.rand(2, 1, 3, 70, 70)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_whole_blocks(kind: str, build: Callable[[str], Any]) -> None:
    backbone = build(kind)
    data, extra = backbone.tokenize(context_of(kind)), torch.randn(2, QUERIES, backbone.width)
    tokens = torch.cat([data, extra], dim=1)
    for block in backbone.blocks:
        tokens = block(tokens)
    whole, found = backbone.final_norm(tokens)[:, -QUERIES:], backbone.encode(data, extra)
    torch.testing.assert_close(found, whole, atol=TOLERANCE, rtol=0)
    trained = list(backbone.parameters())
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((x * weight).sum(), trained, retain_graph=True) for x in (found, whole)]
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5 * float(other.abs().max()), rtol=0)  # measured: 2e-7


@pytest.mark.parametrize(
    ("kind", "name"), [("deit", "norm2"), ("clip", "ln_2"), ("patches", "norm2"), ("whisper", "mlp_ln")]
)
def test_nothing_else_goes_through_the_last_mlp(kind: str, name: str, build: Callable[[str], Any]) -> None:
    backbone = build(kind)
    seen: list[int] = []
    for block in backbone.blocks:
        getattr(block, name).register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    data = backbone.tokenize(context_of(kind))
    backbone.encode(data, torch.randn(QUERIES, backbone.width))
    assert seen == [data.shape[1] + QUERIES, QUERIES]


def test_last_queries_are_those_of_all_and_other_calls_pass() -> None:
    q, k, v = torch.randn(3, 2, 3, 9, 8)
    whole = F.scaled_dot_product_attention(q, k, v)
    with LastQueries(4, 9):
        part = F.scaled_dot_product_attention(q, k, v)
        shorter = F.scaled_dot_product_attention(q[..., :8, :], k, v)
        masked = F.scaled_dot_product_attention(q, k, v, torch.ones(9, 9).tril().bool())
        causal = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(part[..., 5:, :], whole[..., 5:, :])
    assert not part[..., :5, :].any()
    torch.testing.assert_close(shorter, whole[..., :8, :])
    assert torch.equal(masked, causal)
    assert masked[..., :5, :].any()
