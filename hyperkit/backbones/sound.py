"""What encoders that read sounds have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from hyperkit.backbones.base import Backbone
from hyperkit.backbones.config import BackboneConfig, BackboneInfo, Modality, TokenLayout


class SoundBackbone(Backbone):
    """An encoder that reads waveforms (B, T) in [-1, 1] at ``config.sample_rate`` together with weight tokens.

    A subclass gives ``embed`` for waveforms, ``token_layout``, ``blocks`` and ``final_norm``.

    Args:
        config: the part's configuration.
        info: what it says about itself.
        width: D, the width of its tokens.
        family: what kind of encoder it is.
    """

    modality: ClassVar[Modality] = "sound"

    def __init__(self, config: BackboneConfig, info: BackboneInfo, width: int, family: str = "vit") -> None:
        super().__init__(config, info, width, family, mean=(0.0,), deviation=(1.0,))

    @abstractmethod
    def embed(self, waveforms: Tensor) -> Tensor:
        """Return the tokens that enter the first block.

        Args:
            waveforms: (B, T), float32, in [-1, 1].

        Returns:
            (B, M, D), with their positions.
        """

    @abstractmethod
    def token_layout(self, height: int, width: int) -> TokenLayout:
        """Return where the data tokens of a sound of ``width`` samples lie; ``height`` is 1."""

    def context_layout(self, context: Tensor) -> TokenLayout:
        """Return ``token_layout`` of a context.

        Raises:
            ValueError: the context is no batch of waveforms.
        """
        if context.ndim != 2 or not context.shape[1]:
            raise ValueError(
                f"The backbone {self.info.name!r} reads sounds (B, T), but the context has the shape "
                f"{tuple(context.shape)}{', as pictures have' if context.ndim == 5 else ''}."
            )
        return self.token_layout(1, context.shape[1])

    def tokenize(self, context: Tensor) -> Tensor:
        """Turn sounds into data tokens, to which something of the same shape may be added before ``encode``.

        Args:
            context: (B, T) in [-1, 1], at the configuration's sample rate.

        Returns:
            (B, M, D), as ``token_layout`` says.

        Raises:
            ValueError: the context has another shape.
            HyperkitError: the sounds are too short or too long.
        """
        layout = self.context_layout(context)
        tokens = self.embed(context.float())
        self.remember(layout, tokens)
        return tokens


def without_autocast(x: Tensor) -> torch.autocast:
    """Return a context in which spectra keep float32: products in bf16 would blur their logarithms."""
    return torch.autocast(x.device.type, enabled=False)
