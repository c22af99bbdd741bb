"""A plain transformer on patches of raw samples, as Instance Pattern Composers (IPC) read sounds."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, init_weights_vit_timm
from torch import Tensor, nn

from hyperkit.backbones.base import Branches
from hyperkit.backbones.catalog import Entry
from hyperkit.backbones.config import BackboneConfig, BackboneInfo, TokenLayout
from hyperkit.backbones.sound import SoundBackbone
from hyperkit.backbones.timm_vit import block_branches
from hyperkit.errors import HyperkitError

LONGEST = 10  # seconds: learned positions need an end, and clips of a second are what IPC trains on


class PatchesBackbone(SoundBackbone):
    """Patches of ``config.patch_samples`` samples -> linear -> learned positions -> pre-norm blocks -> norm.

    Clips are filled up with zeros to whole patches. There are positions for 10 s at the configuration's sample rate;
    those beyond the clips of the training are never trained.

    Args:
        config: the part's configuration.
        entry: its options give ``width``, ``depth`` and ``heads``; the blocks' hidden layers are 4 times the width.
    """

    def __init__(self, config: BackboneConfig, entry: Entry) -> None:
        width, depth, heads = (int(entry.options[key]) for key in ("width", "depth", "heads"))
        self.longest = LONGEST * config.sample_rate
        info = BackboneInfo(entry.name, entry.source, (1, self.longest), (1, config.patch_samples), entry.paper)
        super().__init__(config, info, width)
        self.patch = nn.Linear(config.patch_samples, width)
        self.positions = nn.Parameter(torch.empty(-(-self.longest // config.patch_samples), width))
        self.layers = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.layers.apply(init_weights_vit_timm)

    def token_layout(self, height: int, width: int) -> TokenLayout:
        """Return (0, 1, patches).

        Raises:
            HyperkitError: the clip is longer than 10 s.
        """
        if width > self.longest:
            rate = self.settings.sample_rate
            raise HyperkitError(
                f"The backbone {self.info.name!r} takes clips of up to {LONGEST} s, but got {width} samples at {rate} "
                f"Hz, {width / rate:.4g} s.",
                "Give shorter clips, or choose the backbone mel:NAME, which takes any length, or whisper (30 s).",
            )
        return TokenLayout(0, 1, -(-width // self.settings.patch_samples))

    def embed(self, waveforms: Tensor) -> Tensor:
        """Cut (B, T) into patches, project them and add their positions."""
        missing = -waveforms.shape[1] % self.settings.patch_samples
        patches = F.pad(waveforms, (0, missing)).unflatten(1, (-1, self.settings.patch_samples))
        tokens: Tensor = self.patch(patches)
        return tokens + self.positions[: tokens.shape[1]]

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """timm's pre-norm blocks."""
        return self.layers

    def branches(self, block: nn.Module) -> Branches | None:
        """Return those of timm's block."""
        return block_branches(block)

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply the norm after the last block."""
        normed: Tensor = self.norm(tokens)
        return normed
