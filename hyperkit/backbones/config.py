"""What a user can set about a backbone, and what a backbone says about itself. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from hyperkit.config import PartConfig

Strategy = Literal["random", "finetune", "frozen", "lora"]
Schedule = Literal["step", "cos", "constant"]
Modality = Literal["picture", "sound"]


class BackboneConfig(PartConfig):
    """Which encoder reads the context, where its weights come from, and which of them are trained.

    Attributes:
        name: a name of ``hyperkit.backbones.catalog.NAMED``, ``timm:NAME``, ``open_clip:NAME/TAG``, ``mel:NAME`` for
            one that reads pictures over the mel spectrogram of sounds, or an own one as ``package.module:Name``.
        weights: a file of weights to use in place of the named ones (safetensors, or a torch file of tensors).
        image_size: pictures are resized to this many pixels a side. None: see ``resize``.
        resize: what happens to pictures when ``image_size`` is None: "interpolate" leaves them at their own size
            (rounded to whole patches) and interpolates the position embedding; "resize" brings them to the size that
            the weights were made for.
        strategy: "random", "finetune", "frozen", "lora"; "auto" is "finetune" where there are weights, else "random".
        lora_rank: rank r of the adapters.
        lora_alpha: the adapters' output is scaled by alpha / r.
        lora_targets: names of the linear layers that get adapters; None: those to queries, keys and values.
        gradient_checkpointing: compute the blocks' activations again in the backward pass instead of keeping them.
        sample_rate: samples per second of the sounds that come in; for backbones that read sounds.
        patch_samples: samples per token of the backbones called ``patches``.
    """

    name: str = "vit_tiny"
    weights: str | None = None
    image_size: int | None = Field(default=None, ge=1)
    resize: Literal["interpolate", "resize"] = "interpolate"
    strategy: Literal["auto", "random", "finetune", "frozen", "lora"] = "auto"
    lora_rank: int = Field(default=16, ge=1)
    lora_alpha: float = Field(default=16.0, gt=0)
    lora_targets: tuple[str, ...] | None = Field(default=None, min_length=1)
    gradient_checkpointing: bool = False
    sample_rate: int = Field(default=16000, ge=1)
    patch_samples: int = Field(default=200, ge=1)


@dataclass(frozen=True)
class PaperDefaults:
    """Training settings of a backbone, from Gu & Yeung-Levy 2025, Tables 5 and 6.

    Attributes:
        learning_rate: peak learning rate of Adam.
        batch_size: items per step.
        schedule: "step" (divided by 10 after 80 % of the epochs), "cos" (cosine, 10 % warm-up) or "constant".
        epochs: passes over the training data.
    """

    learning_rate: float
    batch_size: int
    schedule: Schedule
    epochs: int = 1000


@dataclass(frozen=True)
class TokenLayout:
    """Where the data tokens of one view lie: prefix tokens first, then the patches row by row.

    Attributes:
        prefix: number of class, distillation and register tokens.
        rows: patches from top to bottom; 1 for sounds that are read as samples.
        columns: patches from left to right, or tokens along time.
    """

    prefix: int
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """Data tokens per view: prefix + rows * columns."""
        return self.prefix + self.rows * self.columns


@dataclass(frozen=True)
class BackboneInfo:
    """What a backbone says about itself; stored with every run.

    Attributes:
        name: the name that it was asked for by.
        source: library and name there ("timm vit_base_patch16_224.dino").
        license: licence of the pretrained weights, None where it is not known or there are none.
        pretrained: whether it holds pretrained weights.
        weights_sha256: SHA-256 of the file that they came from, None without one.
        parameters: number of the encoder's parameters, adapters not counted.
        image_size: (height, width) that the position embedding was made for, in pixels. Where sounds are read as
            samples: (1, the most samples that it takes).
        patch_size: (height, width) of one patch, in pixels; or (1, samples per token).
        strategy: what is trained, "auto" resolved.
        paper: the paper's training settings for it.
    """

    name: str
    source: str
    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    paper: PaperDefaults
    license: str | None = None
    pretrained: bool = False
    weights_sha256: str | None = None
    parameters: int = 0
    strategy: Strategy = "random"
