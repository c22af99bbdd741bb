"""Files of weights: every accepted form loads to the same values, and nothing else is loaded."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hyperkit.backbones import BackboneConfig, build_backbone
from hyperkit.backbones.weights import read_state_dict
from hyperkit.errors import HyperkitError
from hyperkit.files import sha256_of

CONTEXT = torch.rand(1, 1, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def nano() -> nn.Module:
    """Return timm's own model for the backbone ``nano``, with a head."""
    import timm

    from hyperkit.backbones.catalog import NAMED

    entry = NAMED["nano"]
    return timm.create_model(entry.model, num_classes=7, **entry.options).eval()


def features_of(model: nn.Module) -> Tensor:
    return model.forward_features((CONTEXT[:, 0] - 0.5) / 0.5)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


TIMM_FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model, module.": lambda state: {"model": prefixed(state, "module."), "args": argparse.Namespace(lr=0.1)},
    "teacher, backbone.": lambda state: {
        "student": {"x": torch.zeros(1)},
        "teacher": {**prefixed(state, "module.backbone."), "module.head.mlp.0.weight": torch.zeros(3)},
    },
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "decoder beside it": lambda state: {"model": {**state, "decoder_embed.weight": torch.zeros(3)}},
    "half precision": lambda state: {name: value.half().float() for name, value in state.items()},
}


@pytest.mark.parametrize("form", TIMM_FORMS)
def test_timm_files_load_in_every_wrapping(form: str, nano: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(TIMM_FORMS[form](nano.state_dict()), path)
    if form == "half precision":
        nano.load_state_dict({name: value.half().float() for name, value in nano.state_dict().items()})
    backbone = build_backbone(BackboneConfig(name="nano", weights=str(path))).eval()
    torch.testing.assert_close(backbone.features(CONTEXT), features_of(nano), atol=1e-5, rtol=0)
    assert backbone.info.pretrained
    assert backbone.info.strategy == "finetune"
    assert backbone.info.weights_sha256 == sha256_of(path)


def test_safetensors_load(nano: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(nano.state_dict(), path)
    backbone = build_backbone(BackboneConfig(name="nano", weights=str(path), strategy="frozen"))
    torch.testing.assert_close(backbone.features(CONTEXT), features_of(nano), atol=1e-5, rtol=0)


def test_positions_of_another_grid_are_interpolated_as_timm_does(nano: nn.Module, tmp_path: Path) -> None:
    import timm

    path = tmp_path / "weights.pth"
    torch.save(nano.state_dict(), path)
    backbone = build_backbone(BackboneConfig(name="nano", weights=str(path), image_size=96)).eval()
    options = {"img_size": 96, "patch_size": 8, "depth": 3, "num_heads": 3, "num_classes": 7}
    larger = timm.create_model(
        "vit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay={"file": str(path), "num_classes": 7}, **options
    ).eval()
    assert backbone.trunk.pos_embed.shape[1] == 145
    torch.testing.assert_close(backbone.trunk.pos_embed, larger.pos_embed, atol=0, rtol=0)


@pytest.fixture
def tiny_clip(open_clip_names: Callable[..., str]) -> tuple[str, nn.Module]:
    import open_clip

    name = open_clip_names("ViT-B-16-quickgelu")
    return f"open_clip:{name}", open_clip.create_model(name).eval()


def clip_features(model: nn.Module, backbone: Any) -> Tensor:
    model.visual.output_tokens = True
    tokens: Tensor = model.visual((CONTEXT[:, 0] - backbone.mean) / backbone.deviation)[1]
    return tokens


CLIP_FORMS: dict[str, Callable[[Any], Any]] = {
    "whole model": lambda model: model.state_dict(),
    "training checkpoint": lambda model: {"epoch": 1, "state_dict": prefixed(model.state_dict(), "module.")},
    "vision tower": lambda model: model.visual.state_dict(),
}


@pytest.mark.parametrize("form", CLIP_FORMS)
def test_open_clip_files_load(form: str, tiny_clip: tuple[str, nn.Module], tmp_path: Path) -> None:
    name, model = tiny_clip
    path = tmp_path / "clip.pt"
    torch.save(CLIP_FORMS[form](model), path)
    for strategy in ("finetune", "frozen", "lora"):
        backbone = build_backbone(BackboneConfig(name=name, weights=str(path), strategy=strategy)).eval()
        found = backbone.features(CONTEXT)[:, 1:]
        torch.testing.assert_close(found, clip_features(model, backbone), atol=1e-5, rtol=0)
    save_file({n: v.contiguous() for n, v in model.state_dict().items()}, tmp_path / "clip.safetensors")
    backbone = build_backbone(BackboneConfig(name=name, weights=str(tmp_path / "clip.safetensors"))).eval()
    torch.testing.assert_close(backbone.features(CONTEXT)[:, 1:], clip_features(model, backbone), atol=1e-5, rtol=0)


def test_open_clip_positions_of_another_grid_are_interpolated(
    tiny_clip: tuple[str, nn.Module], open_clip_names: Callable[..., str], tmp_path: Path
) -> None:
    import open_clip

    _, model = tiny_clip
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    name = open_clip_names("ViT-B-16-quickgelu", name="larger", image_size=96)
    larger = open_clip.create_model(name)
    open_clip.load_checkpoint(larger, str(tmp_path / "clip.pt"))
    backbone = build_backbone(BackboneConfig(name=f"open_clip:{name}", weights=str(tmp_path / "clip.pt")))
    expected = larger.visual.positional_embedding
    torch.testing.assert_close(backbone.trunk.positional_embedding, expected, atol=1e-6, rtol=0)


def test_a_clip_file_of_open_clip_loads_into_timms_clip(
    tiny_clip: tuple[str, nn.Module], timm_pair: Callable[..., Any]
) -> None:
    _, model = tiny_clip
    backbone = timm_pair("vit_base_patch16_clip_quickgelu_224.openai", img_size=64)[1]
    backbone.load_weights(model.state_dict(), "test")
    found = backbone.features(CONTEXT)[:, 1:]
    torch.testing.assert_close(found, clip_features(model, backbone), atol=1e-5, rtol=0)


def test_patches_of_another_size_are_refused_under_clips_names_too(
    open_clip_names: Callable[..., str], timm_pair: Callable[..., Any]
) -> None:
    import open_clip

    other = open_clip.create_model(open_clip_names("ViT-B-16-quickgelu", patch_size=32, image_size=128))
    backbone = timm_pair("vit_base_patch16_clip_quickgelu_224.openai", img_size=64)[1]
    with pytest.raises(HyperkitError, match=r"visual.conv1.weight: \(48, 3, 32, 32\) in the file, \(48, 3, 16, 16\)"):
        backbone.load_weights(other.state_dict(), "test")


class Trap:
    """Leaves a trace if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def refused(path: Path, name: str = "nano") -> str:
    with pytest.raises(HyperkitError) as caught:
        build_backbone(BackboneConfig(name=name, weights=str(path)))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_pickle_with_code_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"model": Trap(trace)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Trap(trace)))
    for name in ("a.pt", "b.pt"):
        assert "nothing in it was run" in refused(tmp_path / name)
    assert not trace.exists()


def test_torchscript_is_refused_with_the_way_round(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is going away; the files stay
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "clip.pt"))
    message = refused(tmp_path / "clip.pt")
    assert "TorchScript" in message
    assert "state_dict()" in message


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "cut short", "cut safetensors", "no tensors"])
def test_what_is_not_a_whole_file_of_tensors_is_refused(kind: str, nano: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / ("a.safetensors" if "safetensors" in kind else "a.pt")
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not weights")
    elif kind == "cut short":
        torch.save(nano.state_dict(), path)
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind == "cut safetensors":
        save_file(nano.state_dict(), path)
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind == "no tensors":
        torch.save({"epoch": 3, "lr": 0.1}, path)
    assert str(path) in refused(path)


def test_keys_that_are_missing_or_unknown_are_listed(nano: nn.Module, tmp_path: Path) -> None:
    state = nano.state_dict()
    del state["blocks.2.mlp.fc1.bias"]
    state["blocks.9.norm1.weight"] = torch.zeros(192)
    torch.save(state, tmp_path / "a.pt")
    message = refused(tmp_path / "a.pt")
    assert "missing (1 of 42): blocks.2.mlp.fc1.bias" in message
    assert "not known to it (1): blocks.9.norm1.weight" in message
    assert "head" not in message


def test_wrong_shapes_are_named(nano: nn.Module, tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=0).state_dict(), tmp_path / "a.pt")
    message = refused(tmp_path / "a.pt")  # timm by itself would resample the patches
    assert "patch_embed.proj.weight: (192, 3, 16, 16) in the file, (192, 3, 8, 8) in the backbone" in message
    wide = {n: torch.zeros(96) if n == "norm.weight" else v for n, v in nano.state_dict().items()}
    torch.save(wide, tmp_path / "b.pt")
    assert "norm.weight: (96,) in the file, (192,) in the backbone" in refused(tmp_path / "b.pt")


def test_files_of_another_family_are_refused_by_name(
    nano: nn.Module, tiny_clip: tuple[str, nn.Module], tmp_path: Path
) -> None:
    torch.save(nano.state_dict(), tmp_path / "timm.pt")
    assert "names are those of timm" in refused(tmp_path / "timm.pt", tiny_clip[0])
    torch.save(tiny_clip[1].state_dict(), tmp_path / "clip.pt")
    assert "does not fit" in refused(tmp_path / "clip.pt")
    torch.save({"encoder.layer.0.attention.weight": torch.zeros(3)}, tmp_path / "hf.pt")
    assert "transformers" in refused(tmp_path / "hf.pt")


def test_a_file_that_does_not_fit_changes_nothing(nano: nn.Module) -> None:
    backbone = build_backbone(BackboneConfig(name="nano"))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    state = {name: value + 1 for name, value in nano.state_dict().items() if name != "norm.bias"}
    with pytest.raises(HyperkitError):
        backbone.load_weights(state, "test")
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_googles_npz_loads(nano: nn.Module, tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / "weights.npz"
    np.savez(path, **big_vision(nano.state_dict()))
    backbone = build_backbone(BackboneConfig(name="nano", weights=str(path))).eval()
    torch.testing.assert_close(backbone.features(CONTEXT), features_of(nano), atol=1e-5, rtol=0)
    np.savez(path, something=np.zeros(3))
    assert "does not fit" in refused(path)


def big_vision(state: dict[str, Tensor], heads: int = 3, depth: int = 3) -> dict[str, Any]:
    """Write a timm state dict as Google's JAX code names and lays it out."""
    width = state["cls_token"].shape[-1]
    out = {
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
    }
    for index in range(depth):
        own, block = f"blocks.{index}.", f"Transformer/encoderblock_{index}/"
        attention = f"{block}MultiHeadDotProductAttention_1/"
        weights, biases = state[f"{own}attn.qkv.weight"].chunk(3), state[f"{own}attn.qkv.bias"].chunk(3)
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            out[f"{attention}{part}/kernel"] = weight.T.reshape(width, heads, -1)
            out[f"{attention}{part}/bias"] = bias.reshape(heads, -1)
        out[f"{attention}out/kernel"] = state[f"{own}attn.proj.weight"].T.reshape(heads, -1, width)
        out[f"{attention}out/bias"] = state[f"{own}attn.proj.bias"]
        for norm, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            out[f"{block}{theirs}/scale"] = state[f"{own}{norm}.weight"]
            out[f"{block}{theirs}/bias"] = state[f"{own}{norm}.bias"]
        for part in (0, 1):
            out[f"{block}MlpBlock_3/Dense_{part}/kernel"] = state[f"{own}mlp.fc{part + 1}.weight"].T
            out[f"{block}MlpBlock_3/Dense_{part}/bias"] = state[f"{own}mlp.fc{part + 1}.bias"]
    return {name: value.numpy() for name, value in out.items()}


def test_read_state_dict_keeps_only_tensors(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.a": torch.ones(2), "step": 3}}, tmp_path / "a.pt")
    assert list(read_state_dict(tmp_path / "a.pt")) == ["a"]
