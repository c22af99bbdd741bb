"""Frozen networks that turn sentences into tokens: those of transformers, and CLIP's text tower of open_clip."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperkit.backbones.catalog import find_entry
from hyperkit.backbones.text import TextEncoderConfig
from hyperkit.backbones.text_weights import ENTRIES, WANTED, model_type_of, weights_hash
from hyperkit.errors import HyperkitError
from hyperkit.files import sha256_of

_SHOWN = 40


@dataclass(frozen=True)
class _Kind:
    """How a kind of network is built: its class, whether it has a pooling layer that can be left out, and how many of
    its positions no token can take."""

    model: str
    pooling: bool = False
    reserved: int = 0


# RoBERTa and MPNet number positions from two on
_KINDS = {
    "bert": _Kind("BertModel", pooling=True),
    "distilbert": _Kind("DistilBertModel"),
    "mpnet": _Kind("MPNetModel", pooling=True, reserved=2),
    "roberta": _Kind("RobertaModel", pooling=True, reserved=2),
    "t5": _Kind("T5EncoderModel"),
}


class TextEncoder(nn.Module, ABC):
    """A frozen network that turns sentences into tokens. It stays in evaluation, and nothing is differentiated.

    A subclass gives ``token_ids`` and ``encode``.

    Attributes:
        name: as the configuration has it.
        source: library and name there, for people.
        license: of the weights, None where it is not known.
        hash: SHA-256 of the file of weights.
        width: D, the width of a token.
        longest: the most tokens of a sentence, special ones included; None where there is no limit.
    """

    def __init__(
        self, name: str, source: str, license: str | None, hash: str, width: int, longest: int | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self.source = source
        self.license = license
        self.hash = hash
        self.width = width
        self.longest = longest

    @abstractmethod
    def token_ids(self, sentence: str) -> list[int]:
        """Return the numbers of a sentence's tokens, with the special ones at the start and the end."""

    @abstractmethod
    def encode(self, ids: Tensor) -> Tensor:
        """Return the network's output (1, T, D) for the numbers (1, T) of one sentence's tokens."""

    def train(self, mode: bool = True) -> TextEncoder:
        """Stay in evaluation, whatever ``mode`` says."""
        return super().train(False)  # type: ignore[return-value]

    def forward(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the tokens of each sentence: the last layer's output, special tokens included.

        Each sentence goes through the network by itself, so that its tokens are the same to the last bit whatever
        stands beside it.

        Returns:
            ``(tokens (B, T, D), mask (B, T))``, float32 and bool; T is the length of the longest sentence. Where the
            mask is False there is no token, and the values are 0.

        Raises:
            HyperkitError: sentences that are empty or too long; all are listed.
            ValueError: no sentences, or a string in place of a list of them.
        """
        rows = [torch.tensor([ids], device=self._device()) for ids in self._checked(sentences)]
        width = max(row.shape[1] for row in rows)
        tokens = torch.zeros(len(rows), width, self.width, device=self._device())
        mask = torch.zeros(len(rows), width, dtype=torch.bool, device=self._device())
        with torch.no_grad(), torch.autocast(self._device().type, enabled=False):
            for index, row in enumerate(rows):
                tokens[index, : row.shape[1]] = self.encode(row)[0]
                mask[index, : row.shape[1]] = True
        return tokens, mask

    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _checked(self, sentences: Sequence[str]) -> list[list[int]]:
        if isinstance(sentences, str) or not sentences:
            raise ValueError(f"expected a list of sentences, got {sentences!r}")
        rows = [self.token_ids(sentence) for sentence in sentences]
        special = len(self.token_ids(""))
        problems = []
        for number, (sentence, ids) in enumerate(zip(sentences, rows, strict=True), start=1):
            if not sentence.strip() or len(ids) <= special:
                problems.append(f"sentence {number} ({sentence[:_SHOWN]!r}) has no words")
            elif self.longest is not None and len(ids) > self.longest:
                text = f"sentence {number} ({sentence[:_SHOWN]!r}...) has {len(ids)} tokens"
                problems.append(f"{text}, and {self.name} takes at most {self.longest}")
        if problems:
            raise HyperkitError(
                "Some sentences cannot be encoded:\n" + "\n".join(f"  {text}" for text in problems),
                'A sentence is a few words, such as "a red chair".',
            )
        return rows


class _TransformersText(TextEncoder):
    def __init__(self, network: Any, tokenizer: Any, longest: int | None, **info: Any) -> None:
        super().__init__(width=network.get_input_embeddings().embedding_dim, longest=longest, **info)
        self.network = network
        self.tokenizer = tokenizer

    def token_ids(self, sentence: str) -> list[int]:
        # unless told not to, the tokenizer warns of long sentences, which are refused later
        ids: list[int] = self.tokenizer(sentence, verbose=False)["input_ids"]
        return ids

    def encode(self, ids: Tensor) -> Tensor:
        tokens: Tensor = self.network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return tokens


def load_transformers(config: TextEncoderConfig, folder: Path) -> TextEncoder:
    """Load a text encoder from a folder that transformers wrote; nothing in it is run.

    Raises:
        HyperkitError: files are damaged, or lack tensors.
    """
    import transformers

    kind, entry = _KINDS[model_type_of(folder)], ENTRIES.get(config.name)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    extra = {"add_pooling_layer": False} if kind.pooling else {}
    try:
        with _quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            network, report = getattr(transformers, kind.model).from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, **options, **extra
            )
    except Exception as error:  # damaged files fail in the families of errors of four libraries
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise HyperkitError(f"The text encoder in {folder} cannot be loaded: {reason}", WANTED) from error
    # the library fills what is missing with random values
    if lacking := sorted(report["missing_keys"]):
        some = ", ".join(lacking[:6]) + (f" and {len(lacking) - 6} more" if len(lacking) > 6 else "")
        raise HyperkitError(f"The weights in {folder} are not whole; missing: {some}.", WANTED)
    positions = getattr(network.config, "max_position_embeddings", None)
    limits = [tokenizer.model_max_length] + ([positions - kind.reserved] if positions else [])
    encoder = _TransformersText(
        network,
        tokenizer,
        longest=min(limits) if min(limits) < 10**6 else None,  # transformers writes 10^30 for none
        name=config.name,
        source=f"transformers {entry.repositories[0] if entry else folder.name}",
        license=entry.license if entry else None,
        hash=weights_hash(folder),
    )
    return _frozen(encoder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bar and its report of tensors that are left over (the pooling layer's, a decoder's) away."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


class _ClipText(TextEncoder):
    def __init__(self, tower: Any, tokenizer: Any, **info: Any) -> None:
        super().__init__(width=tower.width, longest=tower.context_length, **info)
        self.tower = tower
        self.tokenizer = tokenizer

    def token_ids(self, sentence: str) -> list[int]:
        return [self.tokenizer.sot_token_id, *self.tokenizer.encode(sentence), self.tokenizer.eot_token_id]

    def encode(self, ids: Tensor) -> Tensor:
        # the tower wants its whole context; what follows the end does not count, for attention looks back only
        whole = nn.functional.pad(ids, (0, self.tower.context_length - ids.shape[1]))
        tokens: Tensor = self.tower(whole)[1]
        return tokens[:, : ids.shape[1]]


def load_clip_text(config: TextEncoderConfig, file: Path) -> TextEncoder:
    """Load CLIP's text tower from a file with the whole model, as open_clip writes it.

    Its tokens are those before pooling and projection, after the last norm, up to the end of the text.

    Raises:
        HyperkitError: the file does not fit.
    """
    import open_clip
    from open_clip.model import _build_text_tower

    from hyperkit.backbones.weights import load_checked, read_state_dict

    entry = find_entry("clip")
    model = open_clip.get_model_config(entry.model)
    with torch.random.fork_rng(devices=[]):
        tower = _build_text_tower(
            model["embed_dim"], {**model["text_cfg"], "output_tokens": True}, quick_gelu=model["quick_gelu"]
        )
    # a model is written with its text tower's tensors in it, or under "text."
    state = {name.removeprefix("text."): value for name, value in read_state_dict(file).items()}
    load_checked(tower, state, str(file), ignored=["visual.", "logit_"])
    info = {"name": config.name, "source": entry.source, "license": entry.license, "hash": sha256_of(file)}
    return _frozen(_ClipText(tower, open_clip.get_tokenizer(entry.model), **info))


def _frozen(encoder: TextEncoder) -> TextEncoder:
    return encoder.requires_grad_(False).float().eval()
