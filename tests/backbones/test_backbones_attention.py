"""Attention from weight tokens to data tokens, against the attention that a block's own weights give."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperkit.backbones import Backbone, BackboneConfig, BackboneInfo, PaperDefaults, build_backbone
from hyperkit.backbones.attention import WatchAttention
from hyperkit.errors import HyperkitError

TOLERANCE = 1e-5  # measured: 6e-8
PICTURES = torch.rand(2, 2, 3, 32, 48, generator=torch.Generator().manual_seed(3))
SOUNDS = torch.rand(2, 3000, generator=torch.Generator().manual_seed(4)) - 0.5


def by_hand(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) averaged over the heads, in float64."""
    q, k = (x.double().unflatten(2, (heads, -1)).transpose(1, 2) for x in (queries, keys))
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1)


def last_input(blocks: Iterable[Any], data: Tensor, extra: Tensor) -> tuple[Any, Tensor]:
    *first, last = blocks
    tokens = torch.cat([data, extra.expand(len(data), -1, -1)], dim=1)
    for block in first:
        tokens = block(tokens)
    return last, tokens


def check(backbone: Any, context: Tensor, extra: Tensor, expected: Tensor) -> None:
    data = backbone.tokenize(context).shape[1]
    found = backbone.attention(context, extra)
    assert found.shape == (2, len(extra), data)
    assert found.dtype == torch.float32
    assert expected.std() > 1e-3  # far from even attention
    torch.testing.assert_close(found, expected[:, data:, :data].float(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("model", ["deit_base_distilled_patch16_224", "vit_base_patch16_siglip_224"])
def test_timm(model: str, timm_pair: Callable[..., Any]) -> None:
    reference, backbone = timm_pair(model, img_size=64, dynamic_img_size=True)
    extra = torch.randn(5, 48)
    block, tokens = last_input(reference.blocks, backbone.tokenize(PICTURES), extra)
    q, k, _ = block.attn.qkv(block.norm1(tokens)).chunk(3, dim=-1)
    check(backbone, PICTURES, extra, by_hand(q, k, heads=3))


def test_open_clip_equals_the_weights_that_its_own_attention_returns(clip_pair: Callable[..., Any]) -> None:
    reference, backbone = clip_pair()
    extra = torch.randn(5, 48)
    block, tokens = last_input(reference.visual.transformer.resblocks, backbone.tokenize(PICTURES), extra)
    normed = block.ln_1(tokens)
    check(backbone, PICTURES, extra, block.attn(normed, normed, normed, need_weights=True)[1])


def test_whisper(whisper_pair: Callable[..., Any]) -> None:
    reference, backbone = whisper_pair()
    extra = torch.randn(5, 48)
    block, tokens = last_input(reference.blocks, backbone.tokenize(SOUNDS), extra)
    normed = block.attn_ln(tokens)
    check(backbone, SOUNDS, extra, by_hand(block.attn.query(normed), block.attn.key(normed), heads=3))


@pytest.mark.parametrize("model", ["vit_base_patch16_dinov3.lvd1689m", "vit_pe_core_base_patch16_224.fb"])
def test_rotary_ones_in_the_order_of_the_tokens(model: str, timm_pair: Callable[..., Any]) -> None:
    from timm.layers import apply_rot_embed_cat

    reference, backbone = timm_pair(model, img_size=64, dynamic_img_size=True, depth=1)
    block, extra = reference.blocks[0], torch.randn(5, 48)
    tokens = torch.cat([backbone.tokenize(PICTURES), extra.expand(2, -1, -1)], dim=1)
    qkv = block.attn.qkv(block.norm1(tokens)).detach().unflatten(2, (3, 3, -1))
    q, k = qkv[:, :, 0].clone(), qkv[:, :, 1].clone()
    rope = reference.rope.get_embed(shape=(2, 3))[:, None]
    prefix = backbone.prefix_tokens
    for x in (q, k):
        for start in (prefix, 6 + 2 * prefix):  # the patches of either view
            x[:, start : start + 6] = apply_rot_embed_cat(x[:, start : start + 6], rope, half=block.attn.rotate_half)
    check(backbone, PICTURES, extra, by_hand(q.flatten(2), k.flatten(2), heads=3))


def pair_of(kind: str, request: pytest.FixtureRequest) -> Any:
    if kind == "clip":
        return request.getfixturevalue("clip_pair")()[1]
    model = {"deit": "deit_base_distilled_patch16_224", "dinov3": "vit_base_patch16_dinov3.lvd1689m"}[kind]
    return request.getfixturevalue("timm_pair")(model, img_size=64, dynamic_img_size=True)[1]


@pytest.mark.parametrize("kind", ["deit", "clip", "dinov3"])
def test_rows_follow_the_weight_tokens_and_columns_the_views(kind: str, request: pytest.FixtureRequest) -> None:
    backbone = pair_of(kind, request)
    extra = torch.randn(5, 48)
    found = backbone.attention(PICTURES, extra)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(backbone.attention(PICTURES, extra[order]), found[:, order], atol=TOLERANCE, rtol=0)
    views = found.unflatten(2, (2, -1)).flip(2).flatten(2)
    torch.testing.assert_close(backbone.attention(PICTURES.flip(1), extra), views, atol=TOLERANCE, rtol=0)
    assert (found - views).abs().max() > 1e-3
    # what is left of each row goes to the weight tokens: all of it but for them
    assert ((found.sum(dim=2) < 1) & (found.sum(dim=2) > 0.5)).all()
    # tokens that something was added to
    data = backbone.tokenize(PICTURES)
    torch.testing.assert_close(backbone.attention(PICTURES, extra, data + 0), found, atol=0, rtol=0)
    assert (backbone.attention(PICTURES, extra, data + torch.randn(48)) - found).abs().max() > 1e-3


def test_autocast_blurs_the_tokens_and_not_the_softmax(timm_pair: Callable[..., Any]) -> None:
    backbone = timm_pair("vit_base_patch16_224", img_size=64, dynamic_img_size=True)[1]
    extra = torch.randn(5, 48)
    plain = backbone.attention(PICTURES, extra)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = backbone.attention(PICTURES, extra)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain, atol=2e-3, rtol=0)  # measured: 4e-4


def explicit(q: Tensor, k: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    scores = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(dim=-1).mean(dim=1)


@pytest.mark.parametrize("options", ["plain", "bool mask", "float mask", "broadcast mask", "causal", "scale", "groups"])
def test_every_form_of_the_function_is_understood(options: str) -> None:
    q, k, v = (torch.randn(2, 4, 6, 8) for _ in range(3))
    rows = torch.tensor([5, 2])
    masks = {
        "bool mask": torch.rand(6, 6) < 0.7,
        "float mask": torch.randn(2, 1, 6, 6),
        "broadcast mask": torch.tensor([True, True, False, True, True, False]).expand(1, 6),
        "causal": torch.ones(6, 6, dtype=torch.bool).tril(),
    }
    mask = masks.get(options)
    if options == "bool mask":
        mask[:, 0] = True  # type: ignore[index]
    with WatchAttention(rows, 6) as watch:
        if options == "causal":
            output = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif options == "scale":
            output = F.scaled_dot_product_attention(q, k, v, scale=0.7)
        elif options == "groups":
            output = F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True)
        else:
            output = F.scaled_dot_product_attention(q, k, v, mask)
        F.scaled_dot_product_attention(q[:, :, :3], k[:, :, :3], v[:, :, :3])  # over other tokens: passed over
    keys = k[:, :2].repeat_interleave(2, dim=1) if options == "groups" else k
    expected = explicit(q, keys, mask, 0.7 if options == "scale" else None)[:, rows]
    assert watch.weights is not None
    torch.testing.assert_close(watch.weights, expected, atol=1e-6, rtol=0)
    assert output.shape == q.shape


class Encoder(Backbone):
    """A backbone from outside: a token per pixel, and torch's own encoder layers."""

    def __init__(self, config: BackboneConfig) -> None:
        info = BackboneInfo("encoder", "here", (2, 2), (1, 1), PaperDefaults(1e-3, 8, "cos"))
        super().__init__(config, info, width=16, mean=(0, 0, 0), deviation=(1, 1, 1))
        self.stem = nn.Linear(3, 16)
        layers = [nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True) for _ in range(2)]
        self.layers = nn.ModuleList(layers)

    def embed(self, pictures: Tensor) -> Tensor:
        tokens: Tensor = self.stem(pictures.flatten(2).transpose(1, 2))
        return tokens

    @property
    def blocks(self) -> Iterable[nn.Module]:
        return self.layers

    def final_norm(self, tokens: Tensor) -> Tensor:
        return tokens


class Blind(Encoder):
    @property
    def blocks(self) -> Iterable[nn.Module]:
        return [self.stem_again]

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        self.stem_again = nn.Linear(16, 16)


def test_torchs_own_encoder_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "my_attention", sys.modules[__name__])
    backbone: Any = build_backbone(BackboneConfig(name="my_attention:Encoder")).eval()
    context, extra = torch.rand(2, 1, 3, 2, 2), torch.randn(3, 16)
    block, tokens = last_input(backbone.blocks, backbone.tokenize(context), extra)
    normed = block.norm1(tokens)
    expected = block.self_attn(normed, normed, normed, need_weights=True)[1]
    check(backbone, context, extra, expected.detach())
    blind = build_backbone(BackboneConfig(name="my_attention:Blind")).eval()
    with pytest.raises(HyperkitError, match="attention of the backbone 'my_attention:Blind' cannot be read"):
        blind.attention(context, extra)
