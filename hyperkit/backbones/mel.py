"""Backbones that read pictures, over the log-mel spectrogram of a sound as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks, spectrogram  # type: ignore[import-untyped]

from hyperkit.backbones.base import Arrangement, Backbone, Branches
from hyperkit.backbones.catalog import Entry
from hyperkit.backbones.config import BackboneConfig, TokenLayout
from hyperkit.backbones.sound import SoundBackbone, without_autocast

FLOOR, RANGE = -90.0, 100.0  # dB


class MelBackbone(SoundBackbone):
    """``mel:NAME``: the spectrogram of a sound goes through the backbone NAME as a picture, weights and all.

    The power in each mel band relative to a sine of full scale, in windows of 25 ms every 10 ms, becomes grey values

        picture = clamp((10 log10(S) + 90) / 100, 0, 1)

    on three channels: rows are mel bands from low to high, columns are times. There are 128 bands from 0 Hz to half
    the sample rate, 96 or so at 12 kHz, 64 at 8 kHz and below. A clip of T samples has 1 + floor(T / hop) columns, hop
    being a hundredth of the sample rate. From there on it is a picture: brought to the size that
    ``config.image_size`` and ``config.resize`` say, with the inner backbone's normalisation, patches and positions.

    Args:
        config: the part's configuration.
        entry: its own.
        inner: the backbone that reads pictures.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, config: BackboneConfig, entry: Entry, inner: Backbone) -> None:
        info = replace(inner.info, name=entry.name, source=f"mel spectrogram, {inner.info.source}", paper=entry.paper)
        super().__init__(config, info, inner.width, inner.family)
        self.inner = inner
        self.lora_targets = inner.lora_targets
        self.prefix_tokens = inner.prefix_tokens
        rate = config.sample_rate
        self.hop = max(1, round(rate / 100))
        self.bands = min(128, max(64, 16 * round(rate / 2000)))
        self.points = max(1, round(rate * 0.064))  # finer than the window, so that no low band falls between them
        self.register_buffer("window", torch.hann_window(max(1, round(rate / 40))), persistent=False)
        filters = melscale_fbanks(self.points // 2 + 1, 0.0, rate / 2, self.bands, rate)
        self.register_buffer("filters", filters, persistent=False)

    def picture(self, waveforms: Tensor) -> Tensor:
        """Return the spectrograms of (B, T) as pictures (B, 3, bands, 1 + T // hop) in [0, 1]."""
        with without_autocast(waveforms):
            power = spectrogram(
                waveforms,
                pad=0,
                window=self.window,
                n_fft=self.points,
                hop_length=self.hop,
                win_length=len(self.window),
                power=2.0,
                normalized=False,
                pad_mode="constant",  # takes clips of any length
            )
            full_scale = (self.window.sum() / 2).square()
            mels = self.filters.T @ power / full_scale
            grey = (10 * mels.clamp(min=1e-10).log10() - FLOOR) / RANGE
        return grey.clamp(0, 1)[:, None].expand(-1, 3, -1, -1)

    def token_layout(self, height: int, width: int) -> TokenLayout:
        """Return the inner backbone's layout of the spectrogram: rows are bands from low to high, columns times."""
        return self.inner.token_layout(self.bands, 1 + width // self.hop)

    def embed(self, waveforms: Tensor) -> Tensor:
        """Tokenize the spectrograms of (B, T) with the inner backbone."""
        return self.inner.tokenize(self.picture(waveforms)[:, None])

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """The inner backbone's blocks."""
        return self.inner.blocks

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply the inner backbone's norm."""
        return self.inner.final_norm(tokens)

    def arrange(self, layout: TokenLayout | None, data_tokens: int, weight_tokens: int) -> Arrangement:
        """Return the inner backbone's arrangement."""
        return self.inner.arrange(layout, data_tokens, weight_tokens)

    def branches(self, block: nn.Module) -> Branches | None:
        """Return those of the inner backbone's block."""
        return self.inner.branches(block)

    def weights_file(self) -> str:
        """Return the path of the inner backbone's weights."""
        return self.inner.weights_file()

    def load_weights(self, state: Mapping[str, Tensor], origin: str) -> None:
        """Load the inner backbone's weights."""
        self.inner.load_weights(state, origin)

    def load_file(self, path: Path) -> None:
        """Load the inner backbone's weights from a file."""
        self.inner.load_file(path)
