"""Tokens through our interface equal those of the libraries' own models, for each family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperkit.backbones import BackboneConfig
from hyperkit.backbones.catalog import NAMED

TOLERANCE = (
    1e-5  # measured: 0 against the libraries (1.7e-6 for CLIP in full size), 1e-6 where tokens are in another order
)

FAMILIES = {
    "mae": (NAMED["mae"].model, {"img_size": 64}),
    "supervised": (NAMED["supervised"].model, {"img_size": 64}),
    "deit": (NAMED["deit"].model, {"img_size": 64}),
    "dino": (NAMED["dino"].model, {"img_size": 64}),
    "dinov2": (NAMED["dinov2"].model, {"img_size": 70}),
    "dinov2 with registers": ("vit_base_patch14_reg4_dinov2.lvd142m", {"img_size": 70}),
    "clip in timm": ("vit_base_patch16_clip_quickgelu_224.openai", {"img_size": 64}),
    "siglip, no class token": ("vit_base_patch16_siglip_224.webli", {"img_size": 64}),
    "deit 3": ("deit3_small_patch16_224.fb_in1k", {"img_size": 64}),
    "norm of queries and keys": ("vit_base_patch16_224", {"img_size": 64, "qk_norm": True}),
    "siglip 2": (NAMED["siglip2"].model, {"img_size": 64}),
    "dinov3": (NAMED["dinov3"].model, {"img_size": 64}),
    "dinov3 with biases": ("vit_base_patch16_dinov3_qkvb.lvd1689m", {"img_size": 64}),
    "pe-core": (NAMED["pe-core"].model, {"img_size": 64}),
    "rotation that each block learns": ("vit_small_patch16_rope_mixed_224.naver_in1k", {"img_size": 64}),
}
PARITY = pytest.mark.parametrize("family", FAMILIES)


def normalise(pictures: Tensor, backbone: Any) -> Tensor:
    return (pictures - backbone.mean) / backbone.deviation


@PARITY
def test_timm_features_equal_forward_features(family: str, timm_pair: Callable[..., Any]) -> None:
    model, options = FAMILIES[family]
    reference, backbone = timm_pair(model, **options)
    pictures = torch.rand(2, 3, options["img_size"], options["img_size"])
    expected = reference.forward_features(normalise(pictures, backbone))
    assert expected.std() > 0.1
    torch.testing.assert_close(backbone.features(pictures[:, None]), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", ["dinov2", "deit", "dino", "siglip, no class token", "deit 3", "dinov3", "pe-core"])
def test_timm_positions_are_interpolated_as_timm_does(family: str, timm_pair: Callable[..., Any]) -> None:
    model, options = FAMILIES[family]
    reference, backbone = timm_pair(model, dynamic_img_size=True, **options)
    patch = backbone.info.patch_size[0]
    pictures = torch.rand(2, 3, 6 * patch, 9 * patch)
    expected = reference.forward_features(normalise(pictures, backbone))
    torch.testing.assert_close(backbone.features(pictures[:, None]), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("model", ["vit_base_patch16_224", "eva02_base_patch16_clip_224"])
def test_a_norm_that_timm_has_after_pooling_is_applied_to_each_token(model: str, timm_pair: Callable[..., Any]) -> None:
    options = {"use_fc_norm": True} if "eva" in model else {}
    reference, backbone = timm_pair(model, img_size=64, global_pool="avg", **options)
    pictures = torch.rand(2, 3, 64, 64)
    assert isinstance(reference.norm, nn.Identity)
    expected = reference.fc_norm(reference.forward_features(normalise(pictures, backbone)))
    torch.testing.assert_close(backbone.features(pictures[:, None]), expected, atol=TOLERANCE, rtol=0)


def test_means_and_deviations_are_the_models_own(timm_pair: Callable[..., Any], clip_pair: Callable[..., Any]) -> None:
    expected = {"supervised": (0.5, 0.5), "dino": (0.485, 0.229)}
    for family, (mean, deviation) in expected.items():
        backbone = timm_pair(*FAMILIES[family][:1], img_size=64)[1]
        assert (backbone.mean.flatten()[0].item(), backbone.deviation.flatten()[0].item()) == pytest.approx(
            (mean, deviation)
        )
    backbone = clip_pair()[1]
    assert backbone.mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert backbone.deviation.flatten().tolist() == pytest.approx([0.26862954, 0.26130258, 0.27577711])


CLIPS = {
    "clip": (NAMED["clip"].model, {"patch_size": 16}),
    "gelu": ("ViT-B-16", {"patch_size": 16}),
    "layer scale, no norm before the blocks": ("ViT-B-16", {"ls_init_value": 0.5, "no_ln_pre": True}),
    "fixed positions": ("ViT-B-16", {"pos_embed_type": "sin_cos_2d"}),
    "custom blocks": ("ViT-B-16", {"qk_norm": True, "scale_attn_inner": True, "scale_fc": True}),
}


@pytest.mark.parametrize("kind", CLIPS)
def test_open_clip_features_equal_the_tokens_before_pooling(kind: str, clip_pair: Callable[..., Any]) -> None:
    base, vision = CLIPS[kind]
    reference, backbone = clip_pair(base, **vision)
    pictures = torch.rand(2, 3, 64, 64)
    reference.visual.output_tokens = True
    pooled, tokens = reference.visual(normalise(pictures, backbone))
    found = backbone.features(pictures[:, None])
    torch.testing.assert_close(found[:, 1:], tokens, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(found[:, 0] @ reference.visual.proj, pooled, atol=TOLERANCE, rtol=0)


def test_open_clip_positions_are_interpolated_as_open_clip_does(clip_pair: Callable[..., Any]) -> None:
    import open_clip
    from open_clip.model import resize_pos_embed

    reference, backbone = clip_pair()
    larger = open_clip.create_model("tiny", force_image_size=96).eval()
    state = reference.state_dict()
    resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    larger.visual.output_tokens = True
    pictures = torch.rand(2, 3, 96, 96)
    _, tokens = larger.visual(normalise(pictures, backbone))
    torch.testing.assert_close(backbone.features(pictures[:, None])[:, 1:], tokens, atol=TOLERANCE, rtol=0)


def test_the_named_clip_is_quick_gelu_and_the_plain_name_follows_its_weights(
    open_clip_names: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg
    from open_clip.transformer import QuickGELU

    from hyperkit.backbones import open_clip_vit

    for name in ("clip", "clip-large"):
        entry = NAMED[name]
        assert open_clip.get_model_config(entry.model)["quick_gelu"]
        assert get_pretrained_cfg(entry.model, entry.tag)["quick_gelu"]
    name = open_clip_names("ViT-B-16")
    config = BackboneConfig(name=f"open_clip:{name}/openai")
    for quick in (True, False):
        monkeypatch.setattr(open_clip_vit, "get_pretrained_cfg", lambda *_, q=quick: {"quick_gelu": q})
        tower = open_clip_vit.build_open_clip(config, open_clip_vit.open_clip_entry(f"{name}/openai")).trunk
        assert isinstance(tower.transformer.resblocks[0].mlp.gelu, QuickGELU) == quick


def test_towers_of_open_clip_that_are_timms_equal_the_trunk(open_clip_names: Callable[..., str]) -> None:
    import open_clip
    from open_clip import factory

    from hyperkit.backbones.open_clip_vit import build_open_clip, open_clip_entry

    name = open_clip_names("ViT-B-16-SigLIP")
    vision = factory._MODEL_CONFIGS[name]["vision_cfg"]
    for key in ("layers", "width", "head_width"):
        del vision[key]
    vision.update(timm_model_name="vit_tiny_patch16_224", timm_pool="", image_size=224)
    reference = open_clip.create_model(name).eval()
    backbone = build_open_clip(BackboneConfig(name=f"open_clip:{name}"), open_clip_entry(name)).eval()
    backbone.load_weights(reference.state_dict(), "test")
    pictures = torch.rand(1, 3, 224, 224)
    expected = reference.visual.trunk.forward_features(normalise(pictures, backbone))
    torch.testing.assert_close(backbone.features(pictures[:, None]), expected, atol=TOLERANCE, rtol=0)


def pair_of(kind: str, timm_pair: Callable[..., Any], clip_pair: Callable[..., Any], **config: Any) -> Any:
    settings = BackboneConfig(name="vit_tiny", **config)
    if kind == "clip":
        return clip_pair(config=settings)[1]
    model, options = FAMILIES[kind]
    return timm_pair(model, settings, **options)[1]


BOTH = pytest.mark.parametrize("kind", ["deit", "dinov2", "siglip, no class token", "clip"])
ROTARY = ["dinov3", "pe-core", "rotation that each block learns"]
ALSO_ROTARY = pytest.mark.parametrize("kind", ["deit", "dinov2", "siglip, no class token", "clip", *ROTARY])


@BOTH
def test_weight_tokens_go_through_all_blocks_beside_the_data_tokens(
    kind: str, timm_pair: Callable[..., Any], clip_pair: Callable[..., Any]
) -> None:
    backbone = pair_of(kind, timm_pair, clip_pair)
    context = torch.rand(2, 1, 3, 70, 70)
    data, extra = backbone.tokenize(context), torch.randn(5, backbone.width)
    found = backbone.encode(data, extra)
    assert found.shape == (2, 5, backbone.width)
    # the same tokens, all of them taken for weight tokens, are the features
    torch.testing.assert_close(backbone.encode(data[:, :0], data), backbone.features(context), atol=TOLERANCE, rtol=0)
    # they have no positions: their order does not matter; and they do see the picture and one another
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(backbone.encode(data, extra[order]), found[:, order], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(backbone.encode(data, extra.expand(2, -1, -1)), found, atol=0, rtol=0)
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert (backbone.encode(data, extra[:1]) - found[:, :1]).abs().max() > 1e-3


@ALSO_ROTARY
def test_views_bring_their_own_tokens_and_their_order_does_not_matter(
    kind: str, timm_pair: Callable[..., Any], clip_pair: Callable[..., Any]
) -> None:
    backbone = pair_of(kind, timm_pair, clip_pair)
    views = torch.rand(2, 2, 3, 70, 70)
    tokens = backbone.tokenize(views)
    single = [backbone.tokenize(views[:, i : i + 1]) for i in range(2)]
    torch.testing.assert_close(tokens, torch.cat(single, dim=1), atol=TOLERANCE, rtol=0)
    extra = torch.randn(3, backbone.width)
    swapped = backbone.encode(backbone.tokenize(views.flip(1)), extra)
    torch.testing.assert_close(backbone.encode(tokens, extra), swapped, atol=TOLERANCE, rtol=0)


def test_sizes_are_rounded_to_whole_patches_or_brought_to_the_pretrained_size(timm_pair: Callable[..., Any]) -> None:
    model, options = FAMILIES["dinov2"]
    cases = [({}, 126), ({"resize": "resize"}, 70), ({"image_size": 100}, 98)]
    context = torch.rand(1, 1, 3, 128, 128)
    for settings, size in cases:
        _, backbone = timm_pair(model, BackboneConfig(**settings), **options)
        assert backbone.input_size(128, 128) == (size, size)
        resized = F.interpolate(context[:, 0], (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        expected = backbone.trunk.forward_features(normalise(resized, backbone))
        torch.testing.assert_close(backbone.features(context), expected, atol=TOLERANCE, rtol=0)
    assert backbone.input_size(3, 3) == (98, 98)


@ALSO_ROTARY
def test_attention_is_scaled_dot_product_attention(
    kind: str, timm_pair: Callable[..., Any], clip_pair: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = pair_of(kind, timm_pair, clip_pair)
    calls = []
    original = F.scaled_dot_product_attention

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(args[0].shape)
        return original(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    with torch.no_grad():
        backbone.features(torch.rand(1, 1, 3, 70, 70))
    assert len(calls) == len(list(backbone.blocks)) == 2


@ALSO_ROTARY
@pytest.mark.parametrize("strategy", ["finetune", "frozen"])
def test_gradient_checkpointing_changes_no_gradient(
    kind: str, strategy: Any, timm_pair: Callable[..., Any], clip_pair: Callable[..., Any]
) -> None:
    backbone = pair_of(kind, timm_pair, clip_pair)
    backbone.set_strategy(strategy)
    backbone.train()
    context, extra = torch.rand(2, 1, 3, 70, 70), torch.randn(4, backbone.width, requires_grad=True)
    found, saved = [], []
    for gradient_checkpointing in (False, True):
        backbone.settings = BackboneConfig(gradient_checkpointing=gradient_checkpointing)
        trained = [extra, *(p for p in backbone.parameters() if p.requires_grad)]
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            loss = backbone.encode(backbone.tokenize(context), extra).square().sum()
        saved.append(sum(kept))
        found.append(torch.autograd.grad(loss, trained))
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=0, rtol=0)
    assert saved[1] < saved[0] / 2


@ALSO_ROTARY
def test_each_token_is_where_the_layout_says(
    kind: str, timm_pair: Callable[..., Any], clip_pair: Callable[..., Any]
) -> None:
    backbone = pair_of(kind, timm_pair, clip_pair)
    patch = backbone.info.patch_size[0]
    layout = backbone.token_layout(2 * patch, 5 * patch)
    assert (layout.rows, layout.columns) == (2, 5)
    context = torch.rand(1, 2, 3, 2 * patch, 5 * patch)
    other = context.clone()
    other[:, 1, :, patch : 2 * patch, 3 * patch : 4 * patch] += 0.1  # second view, second row, fourth column
    change = (backbone.tokenize(other) - backbone.tokenize(context)).abs().amax(dim=(0, 2))
    assert change.nonzero().flatten().tolist() == [layout.tokens + layout.prefix + 1 * 5 + 3]
    assert backbone.tokenize(context).shape[1] == 2 * layout.tokens


@ALSO_ROTARY
def test_sounds_are_refused_by_backbones_that_read_pictures(
    kind: str, timm_pair: Callable[..., Any], clip_pair: Callable[..., Any]
) -> None:
    backbone = pair_of(kind, timm_pair, clip_pair)
    with pytest.raises(ValueError, match=r"reads pictures .* has the shape \(2, 16000\), as sounds have"):
        backbone.tokenize(torch.rand(2, 16000))
    with pytest.raises(ValueError, match=r"has the shape \(1, 3, 64, 64\)"):
        backbone.tokenize(torch.rand(1, 3, 64, 64))
