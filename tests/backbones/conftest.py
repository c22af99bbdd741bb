"""Small models of each family, made by their own libraries with weights that the tests draw."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hyperkit.backbones.catalog import NAMED, Entry

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's own caches, and the network, out of the tests."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "hyperkit"))


def stir(model: nn.Module) -> nn.Module:
    """Give every parameter values of ordinary size, so that no part of the model is invisible."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture
def timm_pair() -> Callable[..., tuple[nn.Module, Any]]:
    """Return a function that makes a small timm model, and our backbone over it with the same weights."""

    def make(model: str, config: Any = None, **options: Any) -> tuple[nn.Module, Any]:
        import timm

        from hyperkit.backbones.config import BackboneConfig
        from hyperkit.backbones.timm_vit import build_timm

        options = {**SMALL, **options}
        reference = stir(timm.create_model(model, num_classes=0, **options))
        entry = Entry(f"timm:{model}", "timm", model, options=options)
        backbone = build_timm(config or BackboneConfig(name=entry.name), entry)
        backbone.load_weights(reference.state_dict(), "test")
        backbone.set_strategy("finetune")
        return reference, backbone.eval()

    return make


@pytest.fixture
def whisper_pair() -> Callable[..., tuple[nn.Module, Any]]:
    """Return a function that makes a small Whisper encoder, and our backbone over it with the same weights."""

    def make(config: Any = None, n_mels: int = 80) -> tuple[nn.Module, Any]:
        from whisper.model import AudioEncoder

        from hyperkit.backbones.config import BackboneConfig
        from hyperkit.backbones.whisper_encoder import WhisperBackbone

        sizes = {"n_mels": n_mels, "n_state": 48, "n_head": 3, "n_layer": 2}
        reference = stir(AudioEncoder(n_ctx=1500, **sizes))
        backbone = WhisperBackbone(config or BackboneConfig(), replace(NAMED["whisper"], options=sizes))
        backbone.load_weights(reference.state_dict(), "test")
        backbone.set_strategy("finetune")
        return reference, backbone.eval()

    return make


@pytest.fixture
def small_patches() -> Any:
    """Return a small transformer on patches of samples, with weights of ordinary size."""
    from hyperkit.backbones.config import BackboneConfig
    from hyperkit.backbones.patches import PatchesBackbone

    sizes = {"width": 48, "depth": 2, "heads": 3}
    backbone = PatchesBackbone(BackboneConfig(), replace(NAMED["patches"], options=sizes))
    backbone.set_strategy("finetune")
    return stir(backbone)


@pytest.fixture
def open_clip_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return a function that registers a small open_clip model made from the configuration of a known one."""
    from open_clip import factory

    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))

    def register(base: str, name: str = "tiny", **vision: Any) -> str:
        config = copy.deepcopy(factory.get_model_config(base))
        config["embed_dim"] = 24
        config["vision_cfg"].update({"layers": 2, "width": 48, "head_width": 16, "image_size": 64, **vision})
        config["text_cfg"].update({"width": 16, "heads": 2, "layers": 1, "vocab_size": 50, "context_length": 8})
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(config))
        factory.add_model_config(path)
        return name

    return register


@pytest.fixture
def clip_pair(open_clip_names: Callable[..., str]) -> Callable[..., tuple[nn.Module, Any]]:
    """Return a function that makes a small open_clip model, and our backbone over it with the same weights."""

    def make(base: str = NAMED["clip"].model, config: Any = None, **vision: Any) -> tuple[nn.Module, Any]:
        import open_clip

        from hyperkit.backbones.config import BackboneConfig
        from hyperkit.backbones.open_clip_vit import build_open_clip, open_clip_entry

        name = open_clip_names(base, **vision)
        reference = stir(open_clip.create_model(name))
        entry = replace(open_clip_entry(name), pretrained=True)
        backbone = build_open_clip(config or BackboneConfig(name=entry.name), entry)
        backbone.load_weights(reference.state_dict(), "test")
        backbone.set_strategy("finetune")
        return reference, backbone.eval()

    return make
