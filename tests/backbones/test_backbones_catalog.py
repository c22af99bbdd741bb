"""Names, defaults, strategies, backbones from outside, and what is imported when."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyperkit.backbones import (
    NAMED,
    Backbone,
    BackboneConfig,
    BackboneInfo,
    PaperDefaults,
    build_backbone,
    paper_defaults,
    resolve_strategy,
)
from hyperkit.backbones.catalog import find_entry
from hyperkit.config import validate
from hyperkit.errors import HyperkitError


def test_the_libraries_know_every_named_backbone() -> None:
    import open_clip
    import timm
    import whisper
    from open_clip.pretrained import get_pretrained_cfg

    for entry in NAMED.values():
        if entry.library == "timm":
            known = timm.get_pretrained_cfg(entry.model)
            assert known is not None
            if entry.pretrained and entry.shipped is None:
                assert known.tag == entry.model.partition(".")[2]
                assert known.has_weights
                assert known.license == entry.license
        elif entry.library == "open_clip":
            assert entry.model in open_clip.list_models()
            assert get_pretrained_cfg(entry.model, entry.tag)
            assert entry.license == "mit"
        elif entry.library == "whisper":
            assert entry.license == "mit"
    multilingual = {name for name in whisper.available_models() if not name.endswith(".en")}
    assert {entry.model for entry in NAMED.values() if entry.library == "whisper"} == multilingual
    assert {name for name in NAMED if name.startswith("whisper-")} == {f"whisper-{name}" for name in multilingual}
    assert NAMED["whisper"].model == "base"


def test_the_small_ones_have_the_sizes_that_are_promised() -> None:
    nano, same = (build_backbone(BackboneConfig(name=name)) for name in ("nano", "nano-mae"))
    tiny = build_backbone(BackboneConfig(name="vit_tiny"))
    assert (nano.width, len(list(nano.blocks)), nano.info.patch_size, nano.info.image_size) == (
        192,
        3,
        (8, 8),
        (64, 64),
    )
    assert (tiny.width, len(list(tiny.blocks)), tiny.info.patch_size) == (192, 12, (16, 16))
    assert build_backbone(BackboneConfig(name="nano", image_size=130)).info.image_size == (128, 128)
    assert nano.family == "vit"
    assert {name: value.shape for name, value in same.state_dict().items()} == {
        name: value.shape for name, value in nano.state_dict().items()
    }
    assert paper_defaults(config("nano")) == paper_defaults(config("nano-mae"))


def config(name: str, **settings: Any) -> BackboneConfig:
    return BackboneConfig(name=name, **settings)


def test_defaults_are_those_of_the_papers_table_6() -> None:
    table = {
        "mae": (128, "step"),
        "supervised": (32, "step"),
        "deit": (128, "step"),
        "dino": (128, "cos"),
        "clip": (128, "cos"),
        "dinov2": (128, "cos"),
        "dinov2-large": (128, "cos"),
        "random": (32, "step"),
    }
    for name, (batch_size, schedule) in table.items():
        assert paper_defaults(config(name)) == PaperDefaults(1e-4, batch_size, schedule)  # type: ignore[arg-type]
    assert paper_defaults(config("dino", strategy="frozen")) == PaperDefaults(1e-3, 32, "step")
    assert paper_defaults(config("dino", strategy="lora")) == PaperDefaults(1e-4, 128, "cos")
    assert paper_defaults(config("dino", strategy="random")) == PaperDefaults(1e-4, 32, "step")
    assert paper_defaults(config("nano")) == PaperDefaults(1e-3, 24, "cos")


def test_strategies_are_resolved_by_whether_there_are_weights() -> None:
    assert resolve_strategy(config("clip")) == "finetune"
    assert resolve_strategy(config("clip", strategy="random")) == "random"
    assert resolve_strategy(config("nano")) == "random"
    assert resolve_strategy(config("nano", weights="a.pt")) == "finetune"
    assert resolve_strategy(config("nano", weights="a.pt", strategy="lora")) == "lora"
    assert resolve_strategy(config("timm:vit_base_patch16_224.dino")) == "finetune"
    assert resolve_strategy(config("open_clip:ViT-B-32/laion2b_s34b_b79k")) == "finetune"
    assert resolve_strategy(config("open_clip:ViT-B-32")) == "random"
    for strategy in ("finetune", "frozen", "lora"):
        with pytest.raises(HyperkitError, match="needs pretrained weights"):
            resolve_strategy(config("nano", strategy=strategy))
    with pytest.raises(HyperkitError, match="fresh weights"):
        resolve_strategy(config("clip", strategy="random", weights="a.pt"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clp", "Did you mean 'clip'"),
        ("timm:vit_bse_patch16_224", "vit_base_patch16_224"),
        ("timm:vit_base_patch16_224.dinno", "Did you mean 'dino'"),
        ("open_clip:ViT-B-166/openai", "Nearest: ViT-B-16"),
        ("open_clip:ViT-B-16/openaii", "Did you mean 'openai'"),
        ("no_such_package.vit:Net", "no module 'no_such_package'"),
        ("hyperkit.backbones.base:Net", "has no 'Net'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(HyperkitError, match=message):
        find_entry(name)


@pytest.mark.parametrize(
    "name", ["timm:beit_base_patch16_224", "timm:swin_tiny_patch4_window7_224", "timm:resnet18", "open_clip:RN50"]
)
def test_other_kinds_of_networks_are_refused(name: str) -> None:
    with pytest.raises(HyperkitError, match="Supported are timm models of the classes VisionTransformer"):
        build_backbone(config(name, strategy="random"))


def test_a_misspelt_value_is_refused() -> None:
    for wrong in ({"strategy": "frozn"}, {"resize": "crop"}, {"lora_rank": 0}, {"image_size": 0}, {"nmae": "clip"}):
        with pytest.raises(HyperkitError):
            validate(BackboneConfig, wrong)


class Outside(Backbone):
    """A backbone as a user writes one: one token per pixel of a 2x2 picture, one linear layer."""

    def __init__(self, settings: BackboneConfig) -> None:
        info = BackboneInfo("outside", "here", (2, 2), (1, 1), PaperDefaults(1e-3, 8, "cos"))
        super().__init__(settings, info, width=4, mean=(0, 0, 0), deviation=(1, 1, 1))
        self.stem = nn.Linear(3, 4)
        self.mix = nn.Linear(4, 4)

    def embed(self, pictures: Tensor) -> Tensor:
        tokens: Tensor = self.stem(pictures.flatten(2).transpose(1, 2))
        return tokens

    @property
    def blocks(self) -> Iterable[nn.Module]:
        return [self.mix]

    def final_norm(self, tokens: Tensor) -> Tensor:
        return tokens - tokens.mean(-1, keepdim=True)


class Pretrained(Outside):
    has_weights = True
    license = "mit"
    file = ""

    def weights_file(self) -> str:
        return type(self).file


def make_outside(settings: BackboneConfig) -> Backbone:
    return Outside(settings)


def no_backbone(settings: BackboneConfig) -> nn.Module:
    return nn.Linear(2, 2)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, "my_backbones", sys.modules[__name__])
    return "my_backbones"


def test_classes_and_functions_from_outside_plug_in(here: str) -> None:
    for attribute in ("Outside", "make_outside"):
        backbone = build_backbone(config(f"{here}:{attribute}", image_size=2))
        context = torch.rand(2, 1, 3, 2, 2)
        tokens, extra = backbone.tokenize(context), torch.randn(3, 4)
        pixels = context.flatten(3)[:, 0].transpose(1, 2)
        torch.testing.assert_close(tokens, pixels @ backbone.stem.weight.T + backbone.stem.bias)
        expected = backbone.final_norm(backbone.mix(extra)).expand(2, -1, -1)
        torch.testing.assert_close(backbone.encode(tokens, extra), expected)
        assert backbone.info.name == f"{here}:{attribute}"
        assert backbone.info.strategy == "random"
        assert backbone.info.parameters == 36
    with pytest.raises(HyperkitError, match="Linear, not a backbone"):
        build_backbone(config(f"{here}:no_backbone"))


def test_backbones_from_outside_bring_their_own_weights(here: str, tmp_path: Path) -> None:
    source = Outside(BackboneConfig())
    torch.save(source.state_dict(), tmp_path / "own.pt")
    Pretrained.file = str(tmp_path / "own.pt")
    backbone = build_backbone(config(f"{here}:Pretrained", strategy="frozen"))
    torch.testing.assert_close(backbone.stem.weight, source.stem.weight, atol=0, rtol=0)
    assert backbone.info.license == "mit"
    backbone = build_backbone(config(f"{here}:Outside", weights=Pretrained.file, strategy="lora", lora_targets=["mix"]))
    assert len(backbone.adapter_parameters()) == 2


def test_importing_the_configuration_imports_nothing_heavy() -> None:
    code = (
        "import sys; from hyperkit.backbones import BackboneConfig, NAMED, resolve_strategy; "
        "assert 'torch' not in sys.modules, 'torch'; from hyperkit.backbones import Backbone, build_backbone; "
        "resolve_strategy(BackboneConfig(name='clip')); "
        "print([m for m in ('timm', 'open_clip', 'peft', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
