"""Weights from caches, and what happens where there is no network."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hyperkit.backbones import BackboneConfig, build_backbone, list_prepared, prepare_backbone, require_weights
from hyperkit.backbones.catalog import NAMED, find_entry
from hyperkit.backbones.hub import cached_weights, unreachable
from hyperkit.errors import HyperkitError, RunFailed

NAME = "deit-tiny"


@pytest.fixture(scope="module")
def model() -> Any:
    import timm

    torch.manual_seed(0)
    return timm.create_model(NAMED[NAME].model, pretrained=False).eval()


def put_in_hub_cache(state: dict[str, torch.Tensor], repository: str, file: str, folder: Path) -> Path:
    """Lay a file out as the hub's client does: a blob called by its hash, and a link to it in a snapshot."""
    home = folder / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    save_file({name: value.contiguous() for name, value in state.items()}, snapshot / file)
    digest = hashlib.sha256((snapshot / file).read_bytes()).hexdigest()
    (home / "blobs").mkdir()
    (snapshot / file).rename(home / "blobs" / digest)
    (snapshot / file).symlink_to(home / "blobs" / digest)
    return home / "blobs" / digest


@pytest.fixture
def cached(model: Any, tmp_path: Path) -> Path:
    repository = "timm/deit_tiny_distilled_patch16_224.fb_in1k"
    return put_in_hub_cache(model.state_dict(), repository, "model.safetensors", tmp_path / "hub")


def test_weights_in_the_hubs_cache_are_found_without_a_network(cached: Path, model: Any) -> None:
    backbone = build_backbone(BackboneConfig(name=NAME)).eval()
    pictures = torch.rand(1, 3, 224, 224)
    expected = model.forward_features((pictures - backbone.mean) / backbone.deviation)
    torch.testing.assert_close(backbone.features(pictures[:, None]), expected, atol=1e-5, rtol=0)
    assert backbone.info.weights_sha256 == cached.name
    assert backbone.info.license == "apache-2.0"
    assert backbone.info.strategy == "finetune"


def test_weights_in_timms_old_cache_are_found_and_checked(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    path = folder / "deit_tiny_distilled_patch16_224-b40b3cf7.pth"
    torch.save({"model": model.state_dict()}, path)
    with pytest.raises(HyperkitError, match=r"damaged: its SHA-256 is .*, expected b40b3cf7"):
        build_backbone(BackboneConfig(name=NAME))
    assert cached_weights(NAMED[NAME], verify=False) == path


def test_a_flipped_bit_in_the_cache_is_found(cached: Path) -> None:
    content = bytearray(cached.read_bytes())
    content[-1000] ^= 1
    cached.write_bytes(bytes(content))
    with pytest.raises(HyperkitError, match="damaged"):
        build_backbone(BackboneConfig(name=NAME))


def test_open_clips_file_is_found_beside_timms(open_clip_names: Any, tmp_path: Path) -> None:
    import open_clip

    other = open_clip.create_model(open_clip_names("ViT-B-16-quickgelu"))
    repository = "timm/vit_base_patch16_clip_224.openai"
    blob = put_in_hub_cache(other.state_dict(), repository, "open_clip_model.safetensors", tmp_path / "hub")
    found = cached_weights(NAMED["clip"])
    assert found is not None
    assert found.resolve() == blob
    assert cached_weights(NAMED["clip-large"]) is None
    archive = tmp_path / ".cache" / "clip" / "ViT-L-14.pt"  # OpenAI's own, which is not loaded
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("ViT-L-14/constants.pkl", b"")
    assert cached_weights(NAMED["clip-large"]) is None


def test_weights_are_asked_for_without_building(cached: Path, tmp_path: Path) -> None:
    found = require_weights(BackboneConfig(name=NAME))
    assert found is not None
    assert found.resolve() == cached
    assert require_weights(BackboneConfig(name="nano")) is None
    assert require_weights(BackboneConfig(name="clip", strategy="random")) is None
    with pytest.raises(HyperkitError, match="does not exist"):
        require_weights(BackboneConfig(name="clip", weights=str(tmp_path / "none.pt")))


def test_preparing_checks_records_and_copies(cached: Path, tmp_path: Path) -> None:
    record = prepare_backbone(NAME, weights_out=tmp_path / "out" / "deit")
    assert record["sha256"] == cached.name
    assert record["license"] == "apache-2.0"
    assert record["parameters"] == 5_524_416 + 2 * 192  # ViT-Ti/16, and the distillation token with its position
    assert record["bytes"] == cached.stat().st_size
    stored = json.loads((tmp_path / "hyperkit" / "backbones" / "deit-tiny.json").read_text())
    assert stored == record
    assert Path(record["copy"]) == tmp_path / "out" / "deit.safetensors"
    again = build_backbone(BackboneConfig(name=NAME, weights=record["copy"]))
    assert again.info.weights_sha256 == cached.name
    (tmp_path / "hyperkit" / "backbones" / "old.json").write_text('{"name": "timm:no_such_model"}')
    (tmp_path / "hyperkit" / "backbones" / "damaged.json").write_text("{")
    listed = {item["name"]: item for item in list_prepared()}
    assert listed[NAME]["sha256"] == cached.name
    assert listed[NAME]["bytes"] == record["bytes"]
    assert listed["clip"]["file"] is None
    assert set(listed) == {name for name, entry in NAMED.items() if entry.pretrained}


def test_weights_that_give_no_numbers_are_not_prepared(model: Any, tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["blocks.0.mlp.fc1.weight"][0, 0] = torch.nan
    repository = "timm/deit_tiny_distilled_patch16_224.fb_in1k"
    put_in_hub_cache(state, repository, "model.safetensors", tmp_path / "hub")
    with pytest.raises(RunFailed, match="not finite"):
        prepare_backbone(NAME)
    assert not (tmp_path / "hyperkit").exists()


def test_backbones_without_weights_cannot_be_prepared() -> None:
    with pytest.raises(HyperkitError, match="no pretrained weights to prepare"):
        prepare_backbone("nano")


@pytest.mark.parametrize("build", [build_backbone, require_weights])
@pytest.mark.parametrize("name", ["clip", "dinov3", "open_clip:ViT-B-32/laion2b_s34b_b79k", "whisper-base", "mel:dino"])
def test_offline_says_what_is_missing_and_both_ways_to_get_it(name: str, build: Any) -> None:
    start = time.monotonic()
    with pytest.raises(HyperkitError) as caught:
        build(BackboneConfig(name=name))
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert caught.value.exit_code == 2
    for part in (find_entry(name).model, "not on this machine", f"hyperkit prepare backbone {name}", "--weights FILE"):
        assert part in message


def test_a_whole_process_without_network_ends_within_seconds(tmp_path: Path) -> None:
    code = "from hyperkit.backbones import *; require_weights(BackboneConfig(name='clip'))"
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert time.monotonic() - start < 20  # measured: 5.4 s, 4.2 s of them imports; the hub's client by itself takes 50
    assert done.returncode == 1
    assert "hyperkit prepare backbone clip" in done.stderr


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def server() -> Iterator[str]:
    class NotFound(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), NotFound) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.usefixtures("online")
def test_any_answer_counts_as_a_network(server: str) -> None:
    assert unreachable(server) is None


@pytest.mark.usefixtures("online")
def test_a_host_that_never_answers_is_given_up_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        reason = unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.3)
        assert reason is not None
        assert time.monotonic() - start < 2
    assert unreachable("http://127.0.0.1:9", seconds=0.3) is not None


@pytest.mark.usefixtures("online")
def test_downloads_try_the_next_file_and_report_failures(
    model: Any, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    asked = []

    def hub(repository: str, file: str, revision: str | None) -> str:
        asked.append((repository, file, revision))
        if file.endswith(".safetensors"):
            raise EntryNotFoundError("no such file")
        torch.save(model.state_dict(), tmp_path / file)
        return str(tmp_path / file)

    monkeypatch.setattr(constants, "ENDPOINT", server)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    assert require_weights(BackboneConfig(name=NAME)) == tmp_path / "pytorch_model.bin"
    repository = "timm/deit_tiny_distilled_patch16_224.fb_in1k"
    assert asked == [(repository, "model.safetensors", None), (repository, "pytorch_model.bin", None)]

    def broken(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("the connection broke off")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    with pytest.raises(HyperkitError, match=r"the download failed \(the connection broke off\)"):
        require_weights(BackboneConfig(name=NAME))


@pytest.mark.usefixtures("online")
def test_files_that_are_not_on_the_hub_are_downloaded_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from http.server import SimpleHTTPRequestHandler

    from hyperkit.backbones import hub

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "site"))

        def log_message(self, *_: Any) -> None:
            pass

    (tmp_path / "site").mkdir()
    content = b"some weights"
    good = f"a-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    for name in (good, "b-00000000.pth"):
        (tmp_path / "site" / name).write_bytes(content)
    with HTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        for name in (good, "b-00000000.pth"):
            url = f"http://127.0.0.1:{running.server_port}/{name}"
            monkeypatch.setattr(hub, "_remote", lambda _, u=url: hub.Remote(None, None, (), u, tmp_path / "cache"))
            if name == good:
                assert hub.find_weights(NAMED[NAME]).read_bytes() == content
            else:
                with pytest.raises(HyperkitError, match="damaged"):
                    hub.find_weights(NAMED[NAME])
        running.shutdown()
