"""A trained text-to-field model as users hold it: a sentence in, a ``Field`` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hyperkit.backbones.text import TextEncoderConfig, build_text_encoder
from hyperkit.backbones.text_encoders import TextEncoder
from hyperkit.contracts import TargetParams
from hyperkit.errors import HyperkitError
from hyperkit.models.field import Field, Framing
from hyperkit.models.predictor import autocast
from hyperkit.models.text_hypernet import TextHypernet


@dataclass(frozen=True)
class TextPredictor:
    """A model with all that is needed to use it.

    Attributes:
        model: the trained hypernetwork, in eval mode.
        precision: dtype of the matrix products.
        samples: what the checkpoint carries: captions and framing.
        framing: the cameras of the scenes that it was trained on.
        text: the encoder of its sentences, which is not in the checkpoint.
    """

    model: TextHypernet
    precision: torch.dtype = torch.float32
    samples: Mapping[str, Any] = field(default_factory=dict)
    framing: Framing = field(default_factory=Framing)
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)

    def __call__(self, sentence: str) -> Field:
        """Write the field that a sentence describes.

        Raises:
            HyperkitError: the sentence is empty, or the text encoder is not to be had.
        """
        return self.wrap(self.generate(*self.encode([sentence])))

    @cached_property
    def encoder(self) -> TextEncoder:
        """The frozen text encoder, built when it is first needed."""
        encoder = build_text_encoder(self.text)
        known = self.samples.get("text_hash")
        if known is not None and encoder.hash != known:
            raise HyperkitError(
                f"The text encoder {encoder.name!r} has other weights than the one that the model was trained with.",
                "Give the same weights: --set text.weights=PATH.",
            )
        return encoder.to(self.model.device)

    def encode(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return tokens (B, T, D) and mask (B, T) of sentences."""
        tokens, mask = self.encoder(list(sentences))
        return tokens, mask

    @torch.no_grad()
    def generate(self, tokens: Tensor, mask: Tensor | None = None) -> TargetParams:
        """Write the parameters of B fields."""
        self.model.eval()
        device = self.model.device
        with autocast(device, self.precision):
            params = self.model.generate(tokens.to(device), None if mask is None else mask.to(device))
        return params.map(lambda t: t.float())

    def wrap(self, params: TargetParams, index: int = 0) -> Field:
        """Return item ``index`` as a field that can be rendered from any side."""
        return Field(self.model.target, params.select(index), self.model.renderer, self.framing, self.precision)
