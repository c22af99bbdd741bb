"""Rotary positions: every view's patches are rotated by their own place, weight tokens are not, whatever the order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperkit.backbones import BackboneConfig, build_backbone
from hyperkit.backbones.catalog import NAMED

TOLERANCE = 1e-5  # measured: 1.9e-6
KINDS = {
    "dinov3": (NAMED["dinov3"].model, {"img_size": 64}),
    "pe-core": (NAMED["pe-core"].model, {"img_size": 64}),
    "separate queries and keys": ("eva02_base_patch16_clip_224", {"img_size": 64}),
}
ALL = pytest.mark.parametrize("kind", KINDS)
CONTEXT = torch.rand(2, 2, 3, 32, 48, generator=torch.Generator().manual_seed(3))


def pair_of(kind: str, timm_pair: Callable[..., Any], **options: Any) -> tuple[Any, Any]:
    model, size = KINDS[kind]
    reference, backbone = timm_pair(model, dynamic_img_size=True, **size, **options)
    return reference, backbone


def rotate(x: Tensor, rope: Tensor, half: bool) -> Tensor:
    """Turn pairs of channels by the angles that timm's embedding holds: (i, i + C / 2), or neighbours."""
    sine, cosine = rope.chunk(2, dim=-1)
    partner = torch.empty_like(x)
    if half:
        first, second = x.chunk(2, dim=-1)
        partner = torch.cat([-second, first], dim=-1)
    else:
        partner[..., 0::2], partner[..., 1::2] = -x[..., 1::2], x[..., 0::2]
    return x * cosine + partner * sine


def block_by_hand(block: Any, tokens: Tensor, angles: Tensor) -> Tensor:
    """Apply a block of timm in the order of the tokens given; ``angles`` (m, C) are zero where nothing is rotated."""
    attention, half = block.attn, block.attn.rotate_half
    x = block.norm1(tokens)
    if attention.qkv is not None:
        q, k, v = attention.qkv(x).chunk(3, dim=-1)
    else:
        q, k, v = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    q, k, v = (part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
    q, k = rotate(q, angles, half), rotate(k, angles, half)
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)
    mixed = attention.proj(attention.norm((weights @ v).transpose(1, 2).flatten(2)))
    tokens = tokens + (mixed if block.gamma_1 is None else block.gamma_1 * mixed)
    hidden = block.mlp(block.norm2(tokens))
    return tokens + (hidden if block.gamma_2 is None else block.gamma_2 * hidden)


def angles_of(reference: Any, layout: Any, views: int, weights: int) -> Tensor:
    """Return sine and cosine for [view 0: prefix, patches; ...; weight tokens], sine 0 and cosine 1 for no rotation."""
    rope = reference.rope.get_embed(shape=(layout.rows, layout.columns))
    still = torch.cat([torch.zeros(1, rope.shape[1] // 2), torch.ones(1, rope.shape[1] // 2)], dim=1)
    view = torch.cat([still.expand(layout.prefix, -1), rope])
    return torch.cat([view] * views + [still.expand(weights, -1)])


@ALL
def test_encoding_equals_blocks_run_by_hand_in_the_order_of_the_tokens(
    kind: str, timm_pair: Callable[..., Any]
) -> None:
    reference, backbone = pair_of(kind, timm_pair)
    layout = backbone.token_layout(32, 48)
    assert (layout.rows, layout.columns) == (2, 3)
    data, extra = backbone.tokenize(CONTEXT), torch.randn(2, 4, 48)
    expected = torch.cat([data, extra], dim=1)
    angles = angles_of(reference, layout, views=2, weights=4)
    for block in reference.blocks:
        expected = block_by_hand(block, expected, angles)
    expected = backbone.final_norm(expected)
    torch.testing.assert_close(backbone.encode(data, extra), expected[:, -4:], atol=TOLERANCE, rtol=0)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = backbone.encode(data, extra[:, order])
    torch.testing.assert_close(shuffled, expected[:, -4:][:, order], atol=TOLERANCE, rtol=0)
    # the features are the same blocks without the weight tokens
    expected = data
    for block in reference.blocks:
        expected = block_by_hand(block, expected, angles[:-4])
    torch.testing.assert_close(backbone.features(CONTEXT), backbone.final_norm(expected), atol=TOLERANCE, rtol=0)


@ALL
def test_patches_that_change_places_change_the_result(kind: str, timm_pair: Callable[..., Any]) -> None:
    _, backbone = pair_of(kind, timm_pair)
    data, extra = backbone.tokenize(CONTEXT[:, :1]), torch.randn(2, 4, 48)
    swapped = data.clone()
    swapped[:, -2:] = data[:, -2:].flip(1)
    assert (backbone.encode(swapped, extra) - backbone.encode(data, extra)).abs().max() > 1e-3


@ALL
def test_tokens_may_be_added_to_and_joined_between_tokenizing_and_encoding(
    kind: str, timm_pair: Callable[..., Any]
) -> None:
    _, backbone = pair_of(kind, timm_pair)
    data, extra = backbone.tokenize(CONTEXT), torch.randn(3, 48)
    joined = torch.cat([backbone.tokenize(CONTEXT[:, i : i + 1]) for i in range(2)], dim=1) + torch.zeros(48)
    torch.testing.assert_close(backbone.encode(joined, extra), backbone.encode(data, extra), atol=TOLERANCE, rtol=0)
    alone = backbone.encode(data[:, :0], extra)  # without any picture there is nothing to rotate
    assert alone.shape == (2, 3, 48)
    with pytest.raises(ValueError, match="takes the tokens of whole views"):
        backbone.encode(data[:, :-1], extra)
    fresh = build_backbone(BackboneConfig(name="timm:vit_tiny_patch16_dinov3_qkvb", strategy="random"))
    with pytest.raises(ValueError, match="takes the tokens of whole views"):
        fresh.encode(torch.zeros(1, 9, fresh.width), torch.zeros(1, fresh.width))


@ALL
def test_the_blocks_own_number_of_prefix_tokens_is_put_back(kind: str, timm_pair: Callable[..., Any]) -> None:
    reference, backbone = pair_of(kind, timm_pair)
    own = [block.attn.num_prefix_tokens for block in reference.blocks]
    data = backbone.tokenize(CONTEXT)
    backbone.encode(data, torch.randn(3, 48))
    with pytest.raises(RuntimeError):
        backbone.encode(data[..., :40], torch.randn(3, 40))
    assert [block.attn.num_prefix_tokens for block in backbone.blocks] == own
