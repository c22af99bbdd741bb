"""Transformers on patches of samples, backbones for pictures over spectrograms, and which name reads what."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperkit.backbones import (
    NAMED,
    BackboneConfig,
    PaperDefaults,
    SoundBackbone,
    build_backbone,
    modality_of,
    paper_defaults,
    resolve_strategy,
)
from hyperkit.backbones.catalog import find_entry
from hyperkit.errors import HyperkitError

TOLERANCE = 1e-5  # measured: 1.2e-6


class Heard(SoundBackbone):
    """A backbone from outside that reads sounds; it is only asked what it reads."""


def test_names_say_what_they_read_without_being_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "my_sounds", sys.modules[__name__])
    sounds = {name for name in NAMED if modality_of(name) == "sound"}
    assert sounds == {name for name in NAMED if name.partition("-")[0] in ("whisper", "patches")}
    assert {modality_of(name) for name in NAMED if name not in sounds} == {"picture"}
    assert modality_of("mel:dino") == modality_of("mel:timm:vit_base_patch16_224") == "sound"
    assert modality_of("timm:vit_base_patch16_224") == modality_of("open_clip:ViT-B-32") == "picture"
    assert modality_of("my_sounds:Heard") == "sound"
    assert modality_of("hyperkit.backbones.base:Backbone") == "picture"
    with pytest.raises(HyperkitError, match="Did you mean 'patches-nano'"):
        modality_of("patches-nanno")
    with pytest.raises(HyperkitError, match="'whisper' reads sounds"):
        modality_of("mel:whisper")
    with pytest.raises(HyperkitError, match="Did you mean 'dino'"):
        modality_of("mel:dno")


def make_patches(config: BackboneConfig) -> Any:
    return build_backbone(config.model_copy(update={"name": "patches-nano"}))


def test_a_function_from_outside_must_say_what_its_backbone_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "my_sounds", sys.modules[__name__])
    config = BackboneConfig(name="my_sounds:make_patches")
    with pytest.raises(HyperkitError, match=r"reads sounds, .* reads pictures(.|\n)*make_patches.modality = 'sound'"):
        build_backbone(config)
    monkeypatch.setattr(make_patches, "modality", "sound", raising=False)
    assert build_backbone(config).modality == modality_of(config.name) == "sound"


def test_defaults_are_those_of_the_papers_table_5() -> None:
    table = PaperDefaults(1e-4, 64, "constant", epochs=100)
    for name in ("whisper", "whisper-tiny", "patches", "patches-small", "mel:dino", "mel:mae"):
        for strategy in ("random", "lora", "frozen") if find_entry(name).pretrained else ("random",):
            assert paper_defaults(BackboneConfig(name=name, strategy=strategy)) == table  # type: ignore[arg-type]
    for name in ("patches-nano", "mel:nano"):
        assert paper_defaults(BackboneConfig(name=name)) == PaperDefaults(1e-3, 24, "cos")


def test_strategies_of_sounds() -> None:
    assert resolve_strategy(BackboneConfig(name="whisper")) == "finetune"
    assert resolve_strategy(BackboneConfig(name="mel:dino")) == "finetune"
    assert resolve_strategy(BackboneConfig(name="patches")) == resolve_strategy(BackboneConfig(name="mel:nano"))
    with pytest.raises(HyperkitError) as caught:
        resolve_strategy(BackboneConfig(name="patches", strategy="frozen"))
    assert "whisper-tiny" in str(caught.value)
    assert "dino" not in str(caught.value)


@torch.no_grad()
def test_patches_equal_torchs_own_encoder_on_cut_and_projected_samples(small_patches: Any) -> None:
    sounds = torch.rand(2, 1450) * 2 - 1
    layers = []
    for block in small_patches.blocks:
        layer = nn.TransformerEncoderLayer(48, 3, 192, 0.0, F.gelu, 1e-6, batch_first=True, norm_first=True).eval()
        pairs = {
            layer.self_attn.in_proj_weight: block.attn.qkv.weight,
            layer.self_attn.in_proj_bias: block.attn.qkv.bias,
            layer.self_attn.out_proj.weight: block.attn.proj.weight,
            layer.self_attn.out_proj.bias: block.attn.proj.bias,
            layer.linear1.weight: block.mlp.fc1.weight,
            layer.linear1.bias: block.mlp.fc1.bias,
            layer.linear2.weight: block.mlp.fc2.weight,
            layer.linear2.bias: block.mlp.fc2.bias,
        }
        for index in (1, 2):
            for part in ("weight", "bias"):
                own, theirs = getattr(layer, f"norm{index}"), getattr(block, f"norm{index}")
                pairs[getattr(own, part)] = getattr(theirs, part)
        for own, theirs in pairs.items():
            own.copy_(theirs)
        layers.append(layer)
    x = torch.stack(
        [
            sounds[:, 200 * i : 200 * (i + 1)] @ small_patches.patch.weight.T + small_patches.patch.bias
            for i in range(7)
        ],
        1,
    )
    last = sounds[:, 1400:] @ small_patches.patch.weight[:, :50].T + small_patches.patch.bias  # what is missing is zero
    x = torch.cat([x, last[:, None]], dim=1) + small_patches.positions[:8]
    torch.testing.assert_close(small_patches.tokenize(sounds), x, atol=TOLERANCE, rtol=0)
    extra = torch.randn(2, 3, 48)
    x = torch.cat([x, extra], dim=1)
    for layer in layers:
        x = layer(x)
    expected = F.layer_norm(x, (48,), small_patches.norm.weight, small_patches.norm.bias, 1e-6)[:, 8:]
    torch.testing.assert_close(
        small_patches.encode(small_patches.tokenize(sounds), extra), expected, atol=TOLERANCE, rtol=0
    )


def test_patches_have_ipcs_size_and_positions_for_ten_seconds() -> None:
    backbone = build_backbone(BackboneConfig(name="patches"))
    block = 768 * 3 * 768 + 3 * 768 + 768**2 + 768 + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert backbone.info.parameters == 6 * block + 200 * 768 + 768 + 800 * 768 + 2 * 768
    assert {block.attn.num_heads for block in backbone.blocks} == {12}  # type: ignore[union-attr]
    assert backbone.token_layout(1, 16000).columns == 80
    other = build_backbone(BackboneConfig(name="patches-nano", sample_rate=8000, patch_samples=300))
    assert other.tokenize(torch.zeros(1, 80000)).shape[1] == len(other.positions) == 267  # type: ignore[arg-type]
    with pytest.raises(HyperkitError, match=r"up to 10 s, but got 80001 samples at 8000 Hz"):
        other.tokenize(torch.zeros(1, 80001))
    with pytest.raises(ValueError, match="reads sounds"):
        other.tokenize(torch.zeros(1, 1, 3, 64, 64))


def mel_power(sound: np.ndarray, rate: int, bands: int) -> np.ndarray:
    """Return the power per mel band and time in float64, from the definitions alone: (bands, times)."""
    window, hop, points = round(rate / 40), round(rate / 100), round(rate * 0.064)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    padded = np.pad(sound.astype(np.float64), points // 2)
    start = (points - window) // 2
    times = 1 + len(sound) // hop
    frames = np.stack([padded[hop * i + start : hop * i + start + window] * hann for i in range(times)])
    power = np.abs(np.fft.rfft(frames, points)) ** 2 / (hann.sum() / 2) ** 2
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    frequencies = np.linspace(0, rate // 2, points // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling)) @ power.T


@pytest.mark.parametrize(("rate", "bands"), [(8000, 64), (12000, 96), (16000, 128), (22050, 128), (48000, 128)])
def test_the_picture_is_the_spectrogram_in_decibels(rate: int, bands: int) -> None:
    backbone: Any = build_backbone(BackboneConfig(name="mel:nano", sample_rate=rate))
    assert backbone.bands == bands
    assert (backbone.filters.sum(dim=0) > 0).all()  # no band falls between the frequencies
    times = torch.arange(rate // 2) / rate
    sound = 0.3 * torch.sin(2 * torch.pi * 1000 * times) + 0.01 * torch.randn(len(times))
    picture = backbone.picture(sound[None])
    decibel = 10 * np.log10(np.maximum(mel_power(sound.numpy(), rate, bands), 1e-10))
    expected = torch.tensor(np.clip((decibel + 90) / 100, 0, 1))
    for channel in range(3):
        found = picture[0, channel].double()
        torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)  # measured: 3.3e-6
    quieter = backbone.picture(sound[None] / 10)  # 20 dB
    inside = (expected > 0.25) & (expected < 0.99)
    torch.testing.assert_close(
        (picture - quieter)[0, 0][inside], torch.full((int(inside.sum()),), 0.2), atol=1e-4, rtol=0
    )
    assert backbone.picture(torch.zeros(1, 50)).abs().max() == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(backbone.picture(sound[None]), picture, atol=0, rtol=0)


INNER = ["nano", "timm:vit_tiny_patch16_dinov3_qkvb"]


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("settings", [{}, {"resize": "resize"}, {"image_size": 96}])
@torch.no_grad()
def test_mel_is_the_inner_backbone_on_that_picture(name: str, settings: dict[str, Any]) -> None:
    backbone: Any = build_backbone(BackboneConfig(name=f"mel:{name}", strategy="random", **settings)).eval()
    inner: Any = build_backbone(BackboneConfig(name=name, strategy="random", **settings)).eval()
    inner.load_state_dict(backbone.inner.state_dict())
    sounds, extra = torch.rand(2, 4000) - 0.5, torch.randn(3, inner.width)
    pictures = backbone.picture(sounds)[:, None]
    assert pictures.shape == (2, 1, 3, 128, 26)
    assert backbone.context_layout(sounds) == inner.context_layout(pictures)
    torch.testing.assert_close(backbone.features(sounds), inner.features(pictures), atol=0, rtol=0)
    expected = inner.encode(inner.tokenize(pictures), extra)
    torch.testing.assert_close(backbone.encode(backbone.tokenize(sounds), extra), expected, atol=0, rtol=0)
    expected = inner.attention(pictures, extra)
    torch.testing.assert_close(backbone.attention(sounds, extra), expected, atol=0, rtol=0)
    with pytest.raises(ValueError, match="reads sounds"):
        backbone.tokenize(pictures)


@torch.no_grad()
def test_short_sounds_are_embedded_whole_under_autocast_on_cpus() -> None:
    torch.manual_seed(0)
    backbone: Any = build_backbone(BackboneConfig(name="mel:nano")).eval()
    for count, columns in ((500, 1), (8000, 6)):
        sounds = torch.rand(4, count) - 0.5
        layout = backbone.token_layout(1, count)
        assert (layout.rows, layout.columns) == (16, columns)
        expected = backbone.tokenize(sounds)
        with torch.autocast("cpu", torch.bfloat16):
            junk = [torch.full((n,), math.nan) for n in (64, 1000, 5000, 40000)]  # what memory may hold
            del junk
            found = backbone.tokenize(sounds).float()
        # bf16 holds 8 bits: measured 2.7e-3 of values up to 0.9
        torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)


def test_mel_loads_the_inner_backbones_weights(tmp_path: Any) -> None:
    import timm

    entry = NAMED["nano"]
    model = timm.create_model(entry.model, num_classes=7, **entry.options)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    backbone: Any = build_backbone(
        BackboneConfig(name="mel:nano", weights=str(tmp_path / "a.pt"), strategy="lora", lora_rank=2)
    )
    assert len(backbone.adapter_parameters()) == 6
    assert torch.equal(backbone.inner.trunk.cls_token, model.cls_token)
    backbone.train()
    assert not any(part.training for part in backbone.modules())
    assert backbone.info.source == "mel spectrogram, timm vit_tiny_patch16_224"


def test_tokens_may_be_added_to(whisper_pair: Callable[..., Any], small_patches: Any) -> None:
    mel = build_backbone(BackboneConfig(name="mel:nano")).eval()
    sounds = torch.rand(2, 3000) - 0.5
    for backbone in (whisper_pair()[1], small_patches, mel):
        tokens, extra = backbone.tokenize(sounds), torch.randn(3, backbone.width)
        mark: Tensor = torch.randn(tokens.shape[1], backbone.width, requires_grad=True)
        loss = backbone.encode(tokens + mark, extra).square().sum()
        (gradient,) = torch.autograd.grad(loss, mark)
        assert (gradient.abs().amax(dim=1) > 0).all()
