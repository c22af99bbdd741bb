"""A trained text-to-field model as users hold it: a sentence in, a ``Field`` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hyperkit.backbones.text_encoders import TextEncoder
from hyperkit.contracts import TargetParams
from hyperkit.models.field import Field, Framing
from hyperkit.models.predictor import autocast
from hyperkit.models.text_hypernet import TextHypernet


@dataclass(frozen=True)
class TextPredictor:
    """A model with all that is needed to use it.

    Attributes:
        model: the trained hypernetwork, in eval mode.
        encoder: of its sentences, frozen; it is not in the checkpoint.
        precision: dtype of the matrix products.
        samples: what the checkpoint carries: captions and framing.
        framing: the cameras of the scenes that it was trained on.
    """

    model: TextHypernet
    encoder: TextEncoder
    precision: torch.dtype = torch.float32
    samples: Mapping[str, Any] = field(default_factory=dict)
    framing: Framing = field(default_factory=Framing)

    def __call__(self, sentence: str) -> Field:
        """Write the field that a sentence describes.

        Raises:
            HyperkitError: the sentence is empty.
        """
        return self.wrap(self.generate(*self.encode([sentence])))

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
