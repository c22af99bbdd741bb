"""The small backbone: its features are timm's own, its file loads as any other, and what pretrains it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from hyperkit.backbones import (
    NAMED,
    BackboneConfig,
    build_backbone,
    hub,
    list_prepared,
    prepare_backbone,
)
from hyperkit.backbones.nano import (
    DistilledNano,
    MaskedDecoder,
    MaskedNano,
    NanoConfig,
    ProjectionHead,
    build_nano,
    class_features,
    mean_features,
    save_nano,
)
from hyperkit.backbones.nano.architecture import LARGEST
from hyperkit.errors import HyperkitError
from hyperkit.files import sha256_of

TINY = NanoConfig(size=32, patch=8, width=24, depth=2, heads=2)


@pytest.mark.parametrize("side", [64, 32])
def test_features_are_those_of_timms_own_model(side: int) -> None:
    torch.manual_seed(0)
    backbone = build_nano(NanoConfig()).eval()
    pictures = torch.rand(3, 3, side, side)
    with torch.no_grad():
        tokens = backbone.trunk.forward_features((pictures - 0.5) / 0.5)
        torch.testing.assert_close(class_features(backbone, pictures), tokens[:, 0], rtol=0, atol=1e-5)  # 2e-6 seen
        torch.testing.assert_close(mean_features(backbone, pictures), tokens[:, 1:].mean(1), rtol=0, atol=1e-5)


def test_it_keeps_to_the_sizes_it_may_have(tmp_path: Path) -> None:
    for depth, parameters in ((3, 1.4e6), (11, 5.0e6)):
        backbone = build_nano(NanoConfig(depth=depth))
        assert backbone.info.parameters <= parameters
        assert (backbone.info.image_size, backbone.info.patch_size) == ((64, 64), (8, 8))
        save_nano(tmp_path / "nano.safetensors", backbone, {})
        assert (tmp_path / "nano.safetensors").stat().st_size <= LARGEST
    with pytest.raises(ValueError, match="bytes"):
        save_nano(tmp_path / "large.safetensors", build_nano(NanoConfig(depth=14)), {})
    assert not (tmp_path / "large.safetensors").exists()


def test_a_stored_network_is_read_by_name_as_any_file_of_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = build_nano(NanoConfig()).eval()
    save_nano(tmp_path / "nano.safetensors", backbone, {"method": "dino"})
    found = build_backbone(BackboneConfig(name="nano", weights=str(tmp_path / "nano.safetensors"), strategy="frozen"))
    pictures = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        own, read = backbone.features(pictures), found.eval().features(pictures)
    assert read.dtype == torch.float32
    torch.testing.assert_close(read, own, rtol=0, atol=0.01)  # float16 weights; 0.002 seen
    assert found.info.pretrained


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A backbone "nano-test" whose file, of random weights, lies where the package keeps its own; the file's path."""
    path = tmp_path / "weights" / "nano-test.safetensors"
    save_nano(path, build_nano(NanoConfig()), {"method": "mae"})
    monkeypatch.setattr(hub, "SHIPPED", path.parent)
    monkeypatch.setitem(NAMED, "nano-test", replace(NAMED["nano"], name="nano-test", **SHIPPED))  # type: ignore[misc]
    return path


SHIPPED = {"shipped": "nano-test.safetensors", "pretrained": True, "license": "apache-2.0"}


def test_weights_of_the_package_are_found_without_a_network(shipped: Path) -> None:
    backbone = build_backbone(BackboneConfig(name="nano-test")).eval()
    assert (backbone.info.strategy, backbone.info.license) == ("finetune", "apache-2.0")
    assert backbone.info.source == "hyperkit nano-test"
    assert backbone.info.weights_sha256 == sha256_of(shipped)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, patch_size=8, depth=3, num_heads=3, num_classes=0
    ).eval()
    model.load_state_dict({name: value.float() for name, value in load_file(shipped).items()})
    pictures = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        expected = model.forward_features((pictures[:, 0] - 0.5) / 0.5)
        torch.testing.assert_close(backbone.features(pictures), expected, rtol=0, atol=1e-5)  # 2e-6 seen
    assert build_backbone(BackboneConfig(name="nano-test", strategy="random")).info.weights_sha256 is None
    over_sounds = build_backbone(BackboneConfig(name="mel:nano-test", strategy="frozen"))
    assert over_sounds.info.weights_sha256 == sha256_of(shipped)


def test_they_are_prepared_and_listed_as_others_are(shipped: Path) -> None:
    record = prepare_backbone("nano-test")
    assert (record["file"], record["sha256"], record["license"]) == (str(shipped), sha256_of(shipped), "apache-2.0")
    assert (record["parameters"], record["bytes"]) == (1_384_704, shipped.stat().st_size)
    (listed,) = (known for known in list_prepared() if known["name"] == "nano-test")
    assert (listed["file"], listed["sha256"]) == (str(shipped), record["sha256"])


def test_a_package_without_its_file_says_so(shipped: Path) -> None:
    shipped.unlink()
    with pytest.raises(HyperkitError, match=r"'nano-test' come with hyperkit, but .* is not there.\nInstall hyperkit"):
        build_backbone(BackboneConfig(name="nano-test"))
    assert [known["file"] for known in list_prepared() if known["name"] == "nano-test"] == [None]


def test_every_file_that_is_named_comes_with_the_package() -> None:
    named = {entry.name: entry for entry in NAMED.values() if entry.shipped is not None}
    in_package = {path.name for path in hub.SHIPPED.glob("*")}
    assert in_package == {entry.shipped for entry in named.values()}
    for name in named:
        backbone = build_backbone(BackboneConfig(name=name, strategy="frozen"))
        assert backbone.info.parameters <= 5_000_000
        assert (hub.SHIPPED / str(named[name].shipped)).stat().st_size <= LARGEST


def test_the_heads_logits_are_cosines_to_its_directions() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(8, 5, hidden=7, bottleneck=4).double()
    features = torch.randn(3, 8, dtype=torch.float64)
    x = features
    for layer in (head.layers[0], head.layers[2], head.layers[4]):
        x = torch.nn.functional.gelu(x) if layer is not head.layers[0] else x
        x = x @ layer.weight.T + layer.bias  # type: ignore[union-attr, operator]
    expected = torch.stack([torch.stack([torch.dot(a, b) / (a.norm() * b.norm()) for b in head.directions]) for a in x])
    torch.testing.assert_close(head(features), expected)
    head(features, learn_directions=False).sum().backward()
    assert head.directions.grad is None
    assert head.layers[0].weight.grad is not None


def crops(items: int, count: int, side: int) -> Tensor:
    return torch.rand(items, count, 3, side, side)


def test_student_and_teacher_start_alike_and_the_teacher_sees_global_crops_alone() -> None:
    torch.manual_seed(0)
    model = DistilledNano(TINY, outputs=6, hidden=16, bottleneck=8)
    wide, near = crops(3, 2, 32), crops(3, 4, 16)
    student, teacher = model(wide, near)
    assert (student.shape, teacher.shape) == ((6, 3, 6), (2, 3, 6))
    torch.testing.assert_close(student[:2], teacher, rtol=0, atol=1e-6)
    head, backbone = model.student["head"], model.student["backbone"]
    for crop, item in ((0, 2), (1, 0), (3, 1), (5, 2)):
        shown = wide[item, crop] if crop < 2 else near[item, crop - 2]
        torch.testing.assert_close(
            student[crop, item], head(class_features(backbone, shown[None]))[0], rtol=0, atol=1e-6
        )  # type: ignore[arg-type]
    (student.sum() + teacher.sum()).backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.student.parameters())
    trained = [id(p) for role in model.parameter_roles().values() for p in role]
    assert sorted(trained) == sorted(id(p) for p in model.student.parameters())
    assert model(wide, near[:, :0])[0].shape == (2, 3, 6)


def test_the_encoder_sees_no_pixel_of_hidden_patches() -> None:
    torch.manual_seed(0)
    model = MaskedNano(TINY, width=12, depth=1, heads=2).eval()
    pictures, seen = torch.rand(1, 3, 32, 32), torch.tensor([[1, 6, 15]])
    changed = pictures.clone()
    changed[:, :, :8, :8] = 0  # patch 0
    other = pictures.clone()
    other[:, :, :8, 8:16] = 0  # patch 1
    with torch.no_grad():
        found = model(pictures, seen)
        assert found.shape == (1, 16, 192)
        assert torch.equal(model(changed, seen), found)
        assert not torch.allclose(model(other, seen), found, atol=1e-4)


def test_the_decoder_puts_patches_at_their_places() -> None:
    torch.manual_seed(0)
    decoder = MaskedDecoder(10, 9, 12, width=12, depth=1, heads=2).double()
    encoded, seen = torch.randn(2, 4, 10, dtype=torch.float64), torch.tensor([[0, 3, 4, 8], [1, 2, 5, 7]])
    found = decoder(encoded, seen)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(decoder(encoded[:, order], seen[:, order]), found)
    with torch.no_grad():  # without positions, hidden patches are all alike and seen ones are not
        decoder.pos_embed.zero_()
    plain = decoder(encoded, seen).detach()
    hidden = [k for k in range(9) if k not in seen[0].tolist()]
    torch.testing.assert_close(plain[0, hidden], plain[0, hidden[:1]].expand(5, -1))
    assert float((plain[0, seen[0]] - plain[0, hidden[0]]).abs().amax(-1).min()) > 1e-3


def test_every_parameter_of_the_masked_model_learns() -> None:
    torch.manual_seed(0)
    model = MaskedNano(TINY, width=12, depth=1, heads=2)
    model(torch.rand(2, 3, 32, 32), torch.tensor([[0, 5], [3, 9]])).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    trained = [id(p) for role in model.parameter_roles().values() for p in role]
    assert sorted(trained) == sorted(id(p) for p in model.parameters())
