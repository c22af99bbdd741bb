"""The encoder of openai-whisper on clips of any length up to 30 s, without padding them to 30 s."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import whisper
from torch import Tensor, nn
from torchaudio.functional import resample  # type: ignore[import-untyped]
from whisper.audio import CHUNK_LENGTH, HOP_LENGTH, N_FFT, N_SAMPLES, N_SAMPLES_PER_TOKEN, SAMPLE_RATE, mel_filters
from whisper.model import AudioEncoder, ResidualAttentionBlock

from hyperkit.backbones.base import Branches
from hyperkit.backbones.catalog import NAMED, Entry
from hyperkit.backbones.config import BackboneConfig, BackboneInfo, TokenLayout
from hyperkit.backbones.hub import Remote
from hyperkit.backbones.sound import SoundBackbone, without_autocast
from hyperkit.backbones.weights import load_checked
from hyperkit.errors import HyperkitError

_SHORTEST = N_FFT // 2 + 1  # the spectrogram reflects half a window at either end


def whisper_remote(model: str) -> Remote:
    """Return where openai-whisper keeps the weights of a model; the address holds the file's SHA-256."""
    url = whisper._MODELS[model]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return Remote(None, None, (), url, cache / "whisper", sha256=url.split("/")[-2])


class WhisperBackbone(SoundBackbone):
    """Whisper's ``AudioEncoder``: log-mel spectrogram, two convolutions, sinusoidal positions, blocks, ``ln_post``.

    A clip of T samples at 16 kHz gives ceil(floor(T / 160) / 2) tokens, 50 per second, with the first so many
    positions. Other sample rates are resampled to 16 kHz. The weights' only learned part that is not here is the
    decoder.

    Args:
        config: the part's configuration.
        entry: which model; its options are those of ``AudioEncoder`` without ``n_ctx``.
    """

    lora_targets = ("query", "key", "value")
    window: Tensor
    filters: Tensor

    def __init__(self, config: BackboneConfig, entry: Entry) -> None:
        most = CHUNK_LENGTH * config.sample_rate
        samples = max(1, round(N_SAMPLES_PER_TOKEN * config.sample_rate / SAMPLE_RATE))
        info = BackboneInfo(entry.name, entry.source, (1, most), (1, samples), entry.paper)
        super().__init__(config, info, entry.options["n_state"], family="whisper")
        self.trunk = AudioEncoder(n_ctx=N_SAMPLES // N_SAMPLES_PER_TOKEN, **entry.options)
        filters = mel_filters("cpu", entry.options["n_mels"]).clone()
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    def token_layout(self, height: int, width: int) -> TokenLayout:
        """Return (0, 1, frames): 50 frames per second.

        Raises:
            HyperkitError: the clip is longer than 30 s, or shorter than the 201 samples at 16 kHz of a frame.
        """
        rate = self.settings.sample_rate
        samples = math.ceil(width * SAMPLE_RATE / rate)
        if not _SHORTEST <= samples <= N_SAMPLES:
            raise HyperkitError(
                f"The backbone {self.info.name!r} takes clips of {math.ceil(1000 * _SHORTEST / SAMPLE_RATE)} ms to "
                f"{CHUNK_LENGTH} s, but got {width} samples at {rate} Hz, {width / rate:.4g} s.",
                "Give clips of another length, or choose the backbone mel:NAME, which takes any.",
            )
        return TokenLayout(0, 1, -(-(samples // HOP_LENGTH) // 2))

    def embed(self, waveforms: Tensor) -> Tensor:
        """Apply resampling, log-mel spectrogram, convolutions and the first positions to (B, T)."""
        if self.settings.sample_rate != SAMPLE_RATE:
            waveforms = resample(waveforms, self.settings.sample_rate, SAMPLE_RATE)
        x = F.gelu(self.trunk.conv1(self.spectrogram(waveforms)))
        x = F.gelu(self.trunk.conv2(x)).transpose(1, 2)
        positioned: Tensor = (x + self.trunk.positional_embedding[: x.shape[1]]).to(x.dtype)
        return positioned

    def spectrogram(self, waveforms: Tensor) -> Tensor:
        """Return ``whisper.log_mel_spectrogram`` of each of (B, T) at 16 kHz: (B, mels, T // 160).

        The library's own takes the floor of the values, 8 below the largest, over a whole batch: a clip's tokens would
        depend on its neighbours.
        """
        with without_autocast(waveforms):
            spectrum = torch.stft(waveforms, N_FFT, HOP_LENGTH, window=self.window, return_complex=True)
            mels = (self.filters @ spectrum[..., :-1].abs().square()).clamp(min=1e-10).log10()
            floor = mels.amax(dim=(-2, -1), keepdim=True) - 8.0
            return (torch.maximum(mels, floor) + 4.0) / 4.0

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """Whisper's residual attention blocks."""
        return self.trunk.blocks

    def branches(self, block: Any) -> Branches | None:
        """Return those of Whisper's block."""
        if type(block) is not ResidualAttentionBlock:
            return None
        return lambda x: block.attn(block.attn_ln(x))[0], lambda x: block.mlp(block.mlp_ln(x))

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply ``ln_post``."""
        normed: Tensor = self.trunk.ln_post(tokens)
        return normed

    def load_weights(self, state: Mapping[str, Tensor], origin: str) -> None:
        """Load the encoder from a state dict of a whole Whisper model, or of its encoder alone.

        Raises:
            HyperkitError: the file is that of a Whisper of another size, or of something else.
        """
        encoder = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
        encoder = encoder if "conv1.weight" in encoder else dict(state)
        found, own = _size(encoder), _size(self.trunk.state_dict())
        if found is not None and found != own:
            raise HyperkitError(
                f"The file {origin} does not fit the backbone {self.info.name!r}: it is of {_describe(found)}, "
                f"and wanted is {_describe(own)}.",
                "Choose the backbone that the file was made for.",
            )
        load_checked(self.trunk, encoder, origin)


def _size(state: Mapping[str, Tensor]) -> tuple[int, int, int] | None:
    """Return (mels, width, blocks) of an encoder's state dict; None if it is none."""
    stem = state.get("conv1.weight")
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    return None if stem is None or stem.ndim != 3 else (stem.shape[1], stem.shape[0], len(blocks))


def _describe(size: tuple[int, int, int] | None) -> str:
    """Return the names of the Whisper models with an encoder of this size, and the size."""
    assert size is not None
    mels, width, depth = size
    keys = ("n_mels", "n_state", "n_layer")
    named = (entry for entry in NAMED.values() if entry.library == "whisper" and entry.name != "whisper")
    names = [entry.name for entry in named if tuple(entry.options[key] for key in keys) == size]
    sizes = f"{mels} mels, width {width}, {depth} blocks"
    return f"{' or '.join(names)} ({sizes})" if names else f"an encoder with {sizes}"
