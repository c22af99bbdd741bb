"""The interface that all encoders share, and the work that is the same for every vision transformer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from hyperkit.backbones.config import BackboneConfig, BackboneInfo, Strategy
from hyperkit.errors import HyperkitError


class Backbone(nn.Module, ABC):
    """An encoder that reads pictures together with weight tokens.

    A subclass gives ``embed``, ``blocks`` and ``final_norm``, and holds no parameter that these do not use. From
    outside the package it is named ``package.module:Name`` and built as ``Name(config)``; a function of the
    configuration that returns a ``Backbone`` does as well. One with pretrained weights sets ``has_weights`` and gives
    ``weights_file``.

    Args:
        config: the part's configuration.
        info: what it says about itself; ``parameters`` is counted later.
        width: D, the width of its tokens.
        family: "vit" for vision transformers.
        mean, deviation: of the pictures that the weights were trained on, one value per channel, for values in [0, 1].
    """

    has_weights: ClassVar[bool] = False
    license: ClassVar[str | None] = None
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        config: BackboneConfig,
        info: BackboneInfo,
        width: int,
        family: str = "vit",
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        deviation: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        self.settings = config
        self.info = info
        self.width = width
        self.family = family
        self.strategy: Strategy = info.strategy
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, -1, 1, 1), persistent=False)

    @abstractmethod
    def embed(self, pictures: Tensor) -> Tensor:
        """Return the tokens that enter the first block.

        Args:
            pictures: (N, 3, h, w), normalised, h and w multiples of the patch size.

        Returns:
            (N, m, D): prefix tokens and patch tokens with their positions, after the norm before the blocks if any.
        """

    @property
    @abstractmethod
    def blocks(self) -> Iterable[nn.Module]:
        """The transformer blocks in order, each (B, m, D) -> (B, m, D)."""

    @abstractmethod
    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply the norm after the last block to (B, m, D)."""

    def weights_file(self) -> str:
        """Return the path of the pretrained weights' file; for backbones from outside that have weights."""
        raise HyperkitError(f"Backbone {self.info.name!r} does not say where its weights are.", "Give --weights FILE.")

    def load_weights(self, state: Mapping[str, Tensor], origin: str) -> None:
        """Load a state dict as its library writes it; one that does not fit is refused.

        Args:
            state: name -> tensor.
            origin: the file that it came from, for the error message.
        """
        from hyperkit.backbones.weights import load_checked

        load_checked(self, state, origin)

    def load_file(self, path: Path) -> None:
        """Load a file of weights: safetensors, or a torch file of tensors."""
        from hyperkit.backbones.weights import read_state_dict

        self.load_weights(read_state_dict(path), str(path))

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size at which a picture of ``height`` by ``width`` pixels enters the encoder.

        It is ``image_size``, else for "resize" the pretrained size, else the picture's own; each side is brought to
        the nearest multiple of the patch size, at least one patch.
        """
        if self.settings.image_size is not None:
            height = width = self.settings.image_size
        elif self.settings.resize == "resize":
            height, width = self.info.image_size
        rows, columns = self.info.patch_size
        return _multiple(height, rows), _multiple(width, columns)

    def tokenize(self, context: Tensor) -> Tensor:
        """Turn pictures into data tokens.

        Pictures are resized to ``input_size`` (bicubic, anti-aliased) where they differ from it, and normalised with
        the model's own mean and deviation. Every view brings its own prefix tokens.

        Args:
            context: (B, V, 3, H, W) in [0, 1].

        Returns:
            (B, M, D), the V views' tokens one after the other.
        """
        items, views = context.shape[:2]
        pictures = context.flatten(0, 1)
        height, width = pictures.shape[-2:]
        size = self.input_size(height, width)
        if size != (height, width):
            pictures = F.interpolate(pictures.float(), size, mode="bicubic", antialias=True, align_corners=False)
            pictures = pictures.clamp(0, 1)  # bicubic overshoots at edges
        tokens = self.embed((pictures - self.mean) / self.deviation)
        return tokens.reshape(items, views * tokens.shape[1], self.width)

    def encode(self, data_tokens: Tensor, weight_tokens: Tensor) -> Tensor:
        """Run all blocks over data tokens and weight tokens together.

        Args:
            data_tokens: (B, M, D), from ``tokenize``.
            weight_tokens: (Q, D), the same for all items, or (B, Q, D). They get no position embedding.

        Returns:
            (B, Q, D), the outputs at the weight tokens after the final norm.
        """
        if weight_tokens.ndim == 2:
            weight_tokens = weight_tokens.expand(data_tokens.shape[0], -1, -1)
        tokens = self._run(torch.cat([data_tokens, weight_tokens], dim=1))
        return self.final_norm(tokens[:, data_tokens.shape[1] :])

    def features(self, context: Tensor) -> Tensor:
        """Return all data tokens after the final norm, without weight tokens, as the library's own model does.

        Args:
            context: (B, V, 3, H, W) in [0, 1].

        Returns:
            (B, M, D).
        """
        return self.final_norm(self._run(self.tokenize(context)))

    def _run(self, tokens: Tensor) -> Tensor:
        # a frozen encoder is in eval mode and still needs the backward pass to its weight tokens
        save_memory = self.settings.gradient_checkpointing and torch.is_grad_enabled()
        training_on_cpu = tokens.device.type == "cpu" and torch.is_grad_enabled()
        mode = float32_attention if training_on_cpu and torch.is_autocast_enabled("cpu") else nullcontext

        def run(block: nn.Module, x: Tensor) -> Tensor:
            with mode():
                result: Tensor = block(x)
            return result

        for block in self.blocks:
            tokens = checkpoint(run, block, tokens, use_reentrant=False) if save_memory else run(block, tokens)
        return tokens

    def train(self, mode: bool = True) -> Backbone:
        """Switch between training and evaluation; a frozen encoder (also under LoRA) stays in evaluation."""
        return super().train(mode and self.strategy in ("random", "finetune"))  # type: ignore[return-value]

    def set_strategy(self, strategy: Strategy, config: BackboneConfig | None = None) -> None:
        """Choose what is trained. Adapters are put in for "lora", and merged into the weights for another strategy.

        Args:
            strategy: one of "random", "finetune" (all is trained), "frozen" (nothing), "lora" (adapters).
            config: rank, alpha and targets of the adapters, where they differ from those it was built with.
        """
        from hyperkit.backbones.lora import add_adapters, merge_adapters

        if self.adapter_parameters():
            merge_adapters(self)
        count = sum(parameter.numel() for parameter in self.parameters())
        self.strategy = strategy
        self.info = replace(self.info, strategy=strategy, parameters=count)
        self.requires_grad_(strategy in ("random", "finetune"))
        if strategy == "lora":
            add_adapters(self, config or self.settings)
        self.train(self.training)

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return the adapters' parameters; none unless the strategy is "lora"."""
        return [p for name, p in self.named_parameters() if _is_adapter(name)]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return the encoder's own parameters, embeddings included and adapters not."""
        return [p for name, p in self.named_parameters() if not _is_adapter(name)]


class float32_attention(TorchFunctionMode):
    """While it is active, ``scaled_dot_product_attention`` computes in float32.

    On CPUs its bf16 backward pass takes twice the time of the float32 one (measured with 117 tokens and heads of 64:
    27 against 13 ms), which was a sixth of a training step.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Intercept the one function; everything else passes."""
        if func is not F.scaled_dot_product_attention or args[0].dtype != torch.bfloat16:
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(*(x.float() for x in args[:3]), *args[3:], **(kwargs or {})).to(torch.bfloat16)


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _multiple(length: int, step: int) -> int:
    return max(1, round(length / step)) * step
