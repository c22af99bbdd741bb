"""Whisper's encoder through our interface, against openai-whisper's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from hyperkit.backbones import BackboneConfig, build_backbone, list_prepared, prepare_backbone, require_weights
from hyperkit.backbones.catalog import NAMED
from hyperkit.backbones.hub import cached_weights
from hyperkit.errors import HyperkitError

TOLERANCE = 1e-5  # measured: 0 on 30 s, 1.7e-6 against float64 on 1 s, 2.3e-6 alone and in a batch


def tone(samples: int, seed: int = 0) -> Tensor:
    """Return (samples,) of a chirp with some noise, at 16 kHz."""
    times = torch.arange(samples) / 16000
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    return 0.4 * torch.sin(2 * torch.pi * (200 + 300 * times) * times) + 0.02 * noise


def tiny() -> nn.Module:
    """Return the library's encoder in the size of whisper-tiny, with weights of ordinary size."""
    from whisper.model import AudioEncoder

    encoder = AudioEncoder(80, 1500, 384, 6, 4)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return encoder.eval()


def openai_file(encoder: nn.Module) -> dict[str, Any]:
    """Return what a file of OpenAI holds: sizes, and all tensors in half precision, the decoder's among them."""
    state = {f"encoder.{name}": value.half() for name, value in encoder.state_dict().items()}
    state["decoder.token_embedding.weight"] = torch.zeros(7, 384).half()
    return {"dims": {"n_mels": 80, "n_audio_state": 384}, "model_state_dict": state}


@torch.no_grad()
def test_features_of_a_clip_padded_to_30_s_equal_the_librarys(tmp_path: Path) -> None:
    import whisper

    encoder = tiny()
    torch.save({"dims": {}, "model_state_dict": encoder.state_dict()}, tmp_path / "tiny.pt")
    backbone = build_backbone(BackboneConfig(name="whisper-tiny", weights=str(tmp_path / "tiny.pt"))).eval()
    clip = whisper.pad_or_trim(tone(5 * 16000))
    expected = encoder(whisper.log_mel_spectrogram(clip)[None])
    assert expected.shape == (1, 1500, 384)
    assert expected.std() > 0.1
    torch.testing.assert_close(backbone.features(clip[None]), expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("mels", [80, 128])
def test_features_of_a_second_equal_its_parts_run_by_hand_on_the_first_positions(
    mels: int, whisper_pair: Callable[..., Any]
) -> None:
    import whisper

    encoder, backbone = whisper_pair(n_mels=mels)
    clip = tone(16000)
    found = backbone.features(clip[None])
    mel = whisper.log_mel_spectrogram(clip, mels)[None].double()
    encoder.double()
    x = F.gelu(F.conv1d(mel, encoder.conv1.weight, encoder.conv1.bias, padding=1))
    x = F.gelu(F.conv1d(x, encoder.conv2.weight, encoder.conv2.bias, padding=1, stride=2)).transpose(1, 2)
    x = x + encoder.positional_embedding[:50]
    for block in encoder.blocks:
        x = by_hand(block, x)
    expected = norm(encoder.ln_post, x)
    assert expected.shape == (1, 50, 48)
    torch.testing.assert_close(found, expected.float(), atol=TOLERANCE, rtol=0)


def norm(layer: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias, layer.eps)


def by_hand(block: Any, x: Tensor) -> Tensor:
    attention, normed = block.attn, norm(block.attn_ln, x)
    assert attention.key.bias is None
    q, k, v = (
        part(normed).unflatten(2, (attention.n_head, -1)).transpose(1, 2)
        for part in (attention.query, attention.key, attention.value)
    )
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
    x = x + attention.out((weights @ v).transpose(1, 2).flatten(2))
    hidden = block.mlp[0](norm(block.mlp_ln, x))
    return x + block.mlp[2](F.gelu(hidden))


@torch.no_grad()
def test_the_spectrogram_of_each_clip_is_the_librarys_whatever_its_neighbours(whisper_pair: Callable[..., Any]) -> None:
    import whisper

    _, backbone = whisper_pair()
    clips = torch.stack([tone(9000), 1e-4 * tone(9000, seed=1), torch.zeros(9000)])
    expected = torch.stack([whisper.log_mel_spectrogram(clip) for clip in clips])
    torch.testing.assert_close(backbone.spectrogram(clips), expected, atol=TOLERANCE, rtol=0)  # measured: 0
    assert (whisper.log_mel_spectrogram(clips)[1] - expected[1]).abs().max() > 0.1  # as a batch it is not
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(backbone.spectrogram(clips), expected, atol=TOLERANCE, rtol=0)
    alone = backbone.features(clips[1:2])
    torch.testing.assert_close(backbone.features(clips)[1:2], alone, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_other_rates_are_resampled_to_16_khz(whisper_pair: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    _, backbone = whisper_pair()
    torch.manual_seed(0)
    _, faster = whisper_pair(BackboneConfig(sample_rate=48000))
    times = torch.arange(48000)[None] / 48000
    sounds = 0.5 * torch.sin(2 * torch.pi * 440 * times)
    # the same sound, sampled three times as often; the ends are filtered against silence
    difference = (faster.tokenize(sounds) - backbone.tokenize(sounds[:, ::3])).abs()[:, 2:-2]
    scale = backbone.tokenize(sounds[:, ::3]).std()
    assert difference.mean() < 1e-3 * scale  # measured: 4e-5
    assert (faster.tokenize(sounds[:, ::3]).shape, faster.token_layout(1, 48000).columns) == ((1, 17, 48), 50)


def test_lengths_are_counted_as_they_come_out(whisper_pair: Callable[..., Any]) -> None:
    for rate, lengths in ((16000, (201, 319, 320, 321, 479, 480, 16001)), (22050, (300, 22050, 22053)), (8000, (101,))):
        _, backbone = whisper_pair(BackboneConfig(sample_rate=rate))
        for samples in lengths:
            backbone.tokenize(torch.zeros(1, samples))  # checks its tokens against its layout
        assert backbone.token_layout(1, rate).columns == 50
        assert backbone.token_layout(1, 30 * rate).columns == 1500
        for samples in (30 * rate + 1, rate // 80 - 1):
            with pytest.raises(HyperkitError, match=f"takes clips of 13 ms to 30 s, but got {samples} samples at"):
                backbone.tokenize(torch.zeros(1, samples))


def test_pictures_are_refused(whisper_pair: Callable[..., Any]) -> None:
    _, backbone = whisper_pair()
    with pytest.raises(ValueError, match=r"reads sounds \(B, T\), .* \(1, 1, 3, 64, 64\), as pictures have"):
        backbone.tokenize(torch.rand(1, 1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"\(1, 0\)"):
        backbone.tokenize(torch.rand(1, 0))


def test_every_accepted_form_of_the_weights_loads(tmp_path: Path) -> None:
    encoder = tiny()
    forms = {
        "openai.pt": openai_file(encoder),
        "encoder.pt": encoder.half().state_dict(),
        "whole.pt": {"state_dict": openai_file(encoder)["model_state_dict"]},
    }
    for name, content in forms.items():
        torch.save(content, tmp_path / name)
    save_file(openai_file(encoder)["model_state_dict"], tmp_path / "encoder.safetensors")
    for name in (*forms, "encoder.safetensors"):
        backbone = build_backbone(BackboneConfig(name="whisper-tiny", weights=str(tmp_path / name), strategy="frozen"))
        state = backbone.trunk.state_dict()
        assert all(torch.equal(state[key], value.float()) for key, value in encoder.state_dict().items())
        assert {value.dtype for value in state.values()} == {torch.float32}


def test_files_of_other_sizes_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(openai_file(tiny()), tmp_path / "a.pt")
    with pytest.raises(
        HyperkitError, match=r"of whisper-tiny \(80 mels, width 384, 4 blocks\).*whisper-base \(80 mels"
    ):
        build_backbone(BackboneConfig(name="whisper", weights=str(tmp_path / "a.pt")))
    with pytest.raises(HyperkitError, match="names are those of openai-whisper"):
        build_backbone(BackboneConfig(name="nano", weights=str(tmp_path / "a.pt")))
    content = openai_file(tiny())
    del content["model_state_dict"]["encoder.blocks.2.attn.out.bias"]
    torch.save(content, tmp_path / "b.pt")
    with pytest.raises(HyperkitError, match=r"missing \(1 of .*blocks.2.attn.out.bias"):
        build_backbone(BackboneConfig(name="whisper-tiny", weights=str(tmp_path / "b.pt")))
    torch.save({"model.encoder.layers.0.fc1.weight": torch.zeros(2)}, tmp_path / "c.pt")
    with pytest.raises(HyperkitError, match="those of transformers"):
        build_backbone(BackboneConfig(name="whisper-tiny", weights=str(tmp_path / "c.pt")))


@pytest.mark.parametrize("place", ["home", "XDG_CACHE_HOME"])
def test_weights_in_whispers_own_cache_are_found_checked_and_prepared(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import whisper

    home = tmp_path / ".cache"
    if place != "home":
        home = tmp_path / "elsewhere"
        monkeypatch.setenv(place, str(home))
    path = home / "whisper" / "tiny.pt"
    path.parent.mkdir(parents=True)
    encoder = tiny()
    torch.save(openai_file(encoder), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert cached_weights(NAMED["whisper-tiny"], verify=False) == path
    with pytest.raises(HyperkitError, match=f"damaged: its SHA-256 is {digest}, expected 65147644a518d12f"):
        require_weights(BackboneConfig(name="whisper-tiny"))
    monkeypatch.setitem(whisper._MODELS, "tiny", f"https://nowhere.invalid/{digest}/tiny.pt")
    record = prepare_backbone("whisper-tiny")
    assert (record["sha256"], record["license"], record["width"]) == (digest, "mit", 384)
    # the encoder alone: two convolutions, four blocks (keys have no bias) and a norm
    blocks = 4 * (4 * 384**2 + 3 * 384 + 2 * 4 * 384**2 + 5 * 384 + 4 * 384)
    assert record["parameters"] == 3 * 80 * 384 + 384 + 3 * 384**2 + 384 + blocks + 2 * 384 == 7_632_384
    listed = {item["name"]: item for item in list_prepared()}
    assert (listed["whisper-tiny"]["file"], listed["whisper-tiny"]["sha256"]) == (str(path), digest)
    assert listed["whisper"]["file"] is None
    backbone = build_backbone(BackboneConfig(name="whisper-tiny"))
    assert torch.equal(backbone.trunk.conv1.weight, encoder.conv1.weight.half().float())
    assert (backbone.info.weights_sha256, backbone.info.strategy) == (digest, "finetune")
    damaged = bytearray(path.read_bytes())
    damaged[-1000] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(HyperkitError, match="damaged"):
        build_backbone(BackboneConfig(name="whisper-tiny"))
