"""What a user can set about a backbone, and what a backbone says about itself. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from hyperkit.config import PartConfig

Strategy = Literal["random", "finetune", "frozen", "lora"]
Schedule = Literal["step", "cos"]


class BackboneConfig(PartConfig):
    """Which encoder reads the context, where its weights come from, and which of them are trained.

    Attributes:
        name: a name of ``hyperkit.backbones.catalog.NAMED``, ``timm:NAME``, ``open_clip:NAME/TAG``, or an own one
            as ``package.module:Name``.
        weights: a file of weights to use in place of the named ones (safetensors, or a torch file of tensors).
        image_size: pictures are resized to this many pixels a side. None: see ``resize``.
        resize: what happens to pictures when ``image_size`` is None: "interpolate" leaves them at their own size
            (rounded to whole patches) and interpolates the position embedding; "resize" brings them to the size that
            the weights were made for.
        strategy: "random", "finetune", "frozen", "lora"; "auto" is "finetune" where there are weights, else "random".
        lora_rank: rank r of the adapters.
        lora_alpha: the adapters' output is scaled by alpha / r.
        lora_targets: names of the linear layers that get adapters; None: ``qkv``.
        gradient_checkpointing: compute the blocks' activations again in the backward pass instead of keeping them.
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


@dataclass(frozen=True)
class PaperDefaults:
    """Training settings of a backbone, from Gu & Yeung-Levy 2025, Table 6.

    Attributes:
        learning_rate: peak learning rate of Adam.
        batch_size: items per step.
        schedule: "step" (divided by 10 after 80 % of the epochs) or "cos" (cosine, 10 % warm-up).
        epochs: passes over the training data.
    """

    learning_rate: float
    batch_size: int
    schedule: Schedule
    epochs: int = 1000


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
        image_size: (height, width) that the position embedding was made for, in pixels.
        patch_size: (height, width) of one patch, in pixels.
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
