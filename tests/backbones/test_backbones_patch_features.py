"""Encoders that are distilled: whose features they are, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from hyperkit.backbones.patch_features import FeaturesConfig, PatchEncoder
from hyperkit.errors import HyperkitError

NANO = {"img_size": 64, "patch_size": 8, "depth": 3, "num_heads": 3, "num_classes": 0}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    model = timm.create_model("vit_tiny_patch16_224", **NANO)
    torch.save(model.state_dict(), tmp_path / "nano.pt")
    return tmp_path / "nano.pt"


@pytest.mark.parametrize(("size", "image_size", "grid"), [(64, None, 8), (32, None, 8), (48, 48, 6)])
def test_features_are_those_of_timm(weights: Path, size: int, image_size: int | None, grid: int) -> None:
    model = timm.create_model("vit_tiny_patch16_224", **NANO, dynamic_img_size=True)
    model.load_state_dict(torch.load(weights))
    model.eval()
    pictures = torch.rand(2, 3, size, size)
    encoder = PatchEncoder(FeaturesConfig(name="nano", weights=str(weights), image_size=image_size))
    before = torch.get_rng_state()
    found = encoder(pictures)
    assert torch.equal(torch.get_rng_state(), before)  # a training step draws the same numbers with it as without
    assert found.shape == (2, grid, grid, 192)
    side = 8 * grid
    if side != size:
        resize = {"mode": "bicubic", "antialias": True, "align_corners": False}
        pictures = torch.nn.functional.interpolate(pictures, (side, side), **resize).clamp(0, 1)  # type: ignore[arg-type]
    with torch.no_grad():
        expected = model.forward_features((pictures - 0.5) / 0.5)[:, 1:]
    assert torch.allclose(found.flatten(1, 2), expected, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(pictures), encoder(pictures.float()))
        assert torch.allclose(encoder(pictures).flatten(1, 2), expected, atol=1e-4)


def test_the_key_follows_the_weights_and_the_size(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save(timm.create_model("vit_tiny_patch16_224", **NANO).state_dict(), other)
    moved = tmp_path / "moved.pt"
    moved.write_bytes(weights.read_bytes())

    def key(**settings: object) -> str:
        return PatchEncoder(FeaturesConfig(name="nano", **settings)).key  # type: ignore[arg-type]

    first = key(weights=str(weights))
    assert key(weights=str(moved), dims=5) == first
    assert key(weights=str(other)) != first
    assert key(weights=str(weights), image_size=32) != first


def test_what_cannot_be_distilled_is_said_at_once() -> None:
    def refused(says: str, **settings: object) -> None:
        with pytest.raises(HyperkitError, match=says):
            PatchEncoder.check(FeaturesConfig(**settings))  # type: ignore[arg-type]

    refused("reads sounds, not pictures", name="whisper")
    refused("no pretrained weights.*\n.*--set features.weights=FILE", name="nano")
    refused("Did you mean 'dino'", name="dinno")
    refused("which encoder", weights="file.pt")
    PatchEncoder.check(FeaturesConfig())
    PatchEncoder.check(FeaturesConfig(name="dino"))
    with pytest.raises(HyperkitError) as missing:
        PatchEncoder(FeaturesConfig(name="dino")).require()
    text = str(missing.value)
    assert text.startswith("--features dino: The weights")
    assert "hyperkit prepare backbone dino" in text
    assert "--set features.weights=FILE" in text
