"""The interface that all encoders share, and the work that is the same for every vision transformer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hyperkit.backbones.attention import LastQueries, attention_to_data
from hyperkit.backbones.config import BackboneConfig, BackboneInfo, Modality, Strategy, TokenLayout
from hyperkit.backbones.on_cpu import cpu_attention, cpu_patches
from hyperkit.errors import HyperkitError

Branches = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


class Arrangement:
    """How tokens go through the blocks: here data tokens and then weight tokens, and nothing else enters a block."""

    def enter(self, tokens: Tensor) -> Tensor:
        """Bring (B, M + Q, D), data tokens and then weight tokens, into the order in which the blocks take them."""
        return tokens

    def leave(self, tokens: Tensor) -> Tensor:
        """Bring (B, M + Q, D) back into the order of data tokens and then weight tokens."""
        return tokens

    def call(self, index: int, block: nn.Module, tokens: Tensor) -> Tensor:
        """Apply the block ``index`` to (B, M + Q, D)."""
        result: Tensor = block(tokens)
        return result


class Backbone(nn.Module, ABC):
    """An encoder that reads pictures, or sounds, together with weight tokens.

    A subclass gives ``embed``, ``blocks`` and ``final_norm``, sets ``prefix_tokens`` if it has any, and holds no
    parameter that these do not use. From outside the package it is named ``package.module:Name`` and built as
    ``Name(config)``; a function of the configuration that returns a ``Backbone`` does as well. One with pretrained
    weights sets ``has_weights`` and gives ``weights_file``. One that reads sounds derives from
    ``hyperkit.backbones.sound.SoundBackbone``.

    Args:
        config: the part's configuration.
        info: what it says about itself; ``parameters`` is counted later.
        width: D, the width of its tokens.
        family: "vit" for vision transformers.
        mean, deviation: of the pictures that the weights were trained on, one value per channel, for values in [0, 1].
    """

    modality: ClassVar[Modality] = "picture"
    has_weights: ClassVar[bool] = False
    license: ClassVar[str | None] = None
    lora_targets: tuple[str, ...] = ("qkv",)
    prefix_tokens: int = 0
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
        self._layout: TokenLayout | None = None  # that of the last ``tokenize``
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

    def arrange(self, layout: TokenLayout | None, data_tokens: int, weight_tokens: int) -> Arrangement:
        """Return how tokens go through the blocks; for encoders whose blocks need to know where each token lies.

        Args:
            layout: of each view of the pictures that were tokenized last, None if there were none.
            data_tokens: M, a multiple of the tokens per view.
            weight_tokens: Q.
        """
        return Arrangement()

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

    def token_layout(self, height: int, width: int) -> TokenLayout:
        """Return where the data tokens of one view lie, for pictures of ``height`` by ``width`` pixels.

        For sounds ``height`` is 1 and ``width`` the number of samples. V views have M = V * layout.tokens data tokens.
        """
        size, patch = self.input_size(height, width), self.info.patch_size
        return TokenLayout(self.prefix_tokens, size[0] // patch[0], size[1] // patch[1])

    def context_layout(self, context: Tensor) -> TokenLayout:
        """Return ``token_layout`` of one view of a context.

        Raises:
            ValueError: the context is none that the backbone reads.
        """
        if context.ndim != 5 or context.shape[2] != 3:
            raise ValueError(
                f"The backbone {self.info.name!r} reads pictures (B, V, 3, H, W), but the context has the shape "
                f"{tuple(context.shape)}{', as sounds have' if context.ndim == 2 else ''}."
            )
        return self.token_layout(*context.shape[-2:])

    def tokenize(self, context: Tensor) -> Tensor:
        """Turn pictures into data tokens.

        Pictures are resized to ``input_size`` (bicubic, anti-aliased) where they differ from it, and normalised with
        the model's own mean and deviation. Every view brings its own prefix tokens. The next ``encode`` takes it
        that its data tokens lie as these do, which matters to encoders with rotary positions; something of the same
        shape may be added to them in between, and views tokenized one by one may be joined.

        Args:
            context: (B, V, 3, H, W) in [0, 1].

        Returns:
            (B, M, D), the V views' tokens one after the other, each as ``token_layout`` says.

        Raises:
            ValueError: the context has another shape, or ``embed`` gives tokens that are not as the layout says.
        """
        layout = self.context_layout(context)
        items, views = context.shape[:2]
        pictures = context.flatten(0, 1)
        height, width = pictures.shape[-2:]
        size = self.input_size(height, width)
        if size != (height, width):
            pictures = F.interpolate(pictures.float(), size, mode="bicubic", antialias=True, align_corners=False)
            pictures = pictures.clamp(0, 1)  # bicubic overshoots at edges
        bf16_on_cpu = pictures.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        with cpu_patches() if bf16_on_cpu else nullcontext():
            tokens = self.embed((pictures - self.mean) / self.deviation)
        self.remember(layout, tokens)
        return tokens.reshape(items, views * tokens.shape[1], self.width)

    def remember(self, layout: TokenLayout, tokens: Tensor) -> None:
        """Keep the layout for the next ``encode``, after a check that ``tokens`` (N, m, D) of one view are as it says.

        Raises:
            ValueError: they are not.
        """
        if tokens.shape[1] != layout.tokens:
            raise ValueError(
                f"{type(self).__name__}.embed gave {tokens.shape[1]} tokens where its layout has {layout.tokens} "
                f"({layout}): set prefix_tokens, or give token_layout."
            )
        self._layout = layout

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
        return self.final_norm(self._run(torch.cat([data_tokens, weight_tokens], dim=1), weight_tokens.shape[1]))

    def attention(self, context: Tensor, weight_tokens: Tensor, data_tokens: Tensor | None = None) -> Tensor:
        """Return how much each weight token attends to each data token in the last block, averaged over the heads.

        Nothing is differentiated.

        Args:
            context: as for ``tokenize``.
            weight_tokens: (Q, D) or (B, Q, D).
            data_tokens: (B, M, D), where they are not ``tokenize(context)`` itself but something was added.

        Returns:
            (B, Q, M), float32, in the order of ``tokenize``. The rest of a row up to 1 goes to the weight tokens.

        Raises:
            HyperkitError: the block computes its attention in a way that cannot be watched.
        """
        with torch.no_grad():
            data_tokens = self.tokenize(context) if data_tokens is None else data_tokens
            self._layout = self.context_layout(context)
            return attention_to_data(self, self._layout, data_tokens, weight_tokens)

    def features(self, context: Tensor) -> Tensor:
        """Return all data tokens after the final norm, without weight tokens, as the library's own model does.

        Args:
            context: as for ``tokenize``.

        Returns:
            (B, M, D).
        """
        return self.final_norm(self._run(self.tokenize(context), 0))

    def branches(self, block: nn.Module) -> Branches | None:
        """Return the two residual branches of a block, for those that are y + mlp(y) with y = x + attention(x).

        All but ``attention`` acts on each token by itself. With the branches the last block computes the outputs at the
        weight tokens alone; None, as here, computes all of them.
        """
        return None

    def _run(self, tokens: Tensor, weight_tokens: int) -> Tensor:
        # the outputs of the last block at the weight tokens; at all tokens where there are no weight tokens
        arrangement = self.arrange(self._layout, tokens.shape[1] - weight_tokens, weight_tokens)
        # a frozen encoder is in eval mode and still needs the backward pass to its weight tokens
        save_memory = self.settings.gradient_checkpointing and torch.is_grad_enabled()
        training_on_cpu = tokens.device.type == "cpu" and torch.is_grad_enabled()
        mode = cpu_attention if training_on_cpu and torch.is_autocast_enabled("cpu") else nullcontext

        def run(index: int, block: nn.Module, x: Tensor, kept: int) -> Tensor:
            with mode():
                return self._last(arrangement, index, block, x, kept) if kept else arrangement.call(index, block, x)

        tokens = arrangement.enter(tokens)
        blocks = list(self.blocks)
        for index, block in enumerate(blocks):
            step = (index, block, tokens, weight_tokens if index == len(blocks) - 1 else 0)
            tokens = checkpoint(run, *step, use_reentrant=False) if save_memory else run(*step)
        return tokens if weight_tokens else arrangement.leave(tokens)

    def _last(self, arrangement: Arrangement, index: int, block: nn.Module, tokens: Tensor, kept: int) -> Tensor:
        branches = self.branches(block) if type(arrangement) is Arrangement else None
        if branches is None:
            return arrangement.leave(arrangement.call(index, block, tokens))[:, -kept:]
        attention, mlp = branches
        with LastQueries(kept, tokens.shape[1]):
            attended = attention(tokens)[:, -kept:]
        tokens = tokens[:, -kept:] + attended
        return tokens + mlp(tokens)

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


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _multiple(length: int, step: int) -> int:
    return max(1, round(length / step)) * step
