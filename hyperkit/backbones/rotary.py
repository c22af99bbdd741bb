"""timm's ``Eva`` models (DINOv3, PE-core, EVA-02): transformers whose attention rotates queries and keys by place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.models.eva import Eva, checkpoint_filter_fn
from torch import Tensor, nn

from hyperkit.backbones.base import Arrangement
from hyperkit.backbones.catalog import Entry
from hyperkit.backbones.config import BackboneConfig, TokenLayout
from hyperkit.backbones.timm_vit import TimmBackbone


class RotaryArrangement(Arrangement):
    """Tokens without a place go before those with one, as timm's rotary attention wants them.

    The blocks take [prefix tokens of all views, weight tokens, patches of all views] and are told that all but the
    patches are prefix tokens. The patches of every view get the rotary embedding of their place in their own view.

    Args:
        layout: of each view.
        views: V.
        weight_tokens: Q.
        rope: (rows * columns, C), or with leading axes; a leading axis per block if ``mixed``. None: no rotation.
        mixed: each block has an embedding of its own.
    """

    def __init__(self, layout: TokenLayout, views: int, weight_tokens: int, rope: Tensor | None, mixed: bool) -> None:
        self.views = views
        self.prefix = views * layout.prefix
        self.weights = weight_tokens
        self.patches = views * layout.rows * layout.columns
        self.rope = None if rope is None or not views else torch.cat([rope] * views, dim=-2)
        self.mixed = mixed

    def enter(self, tokens: Tensor) -> Tensor:
        """Bring [view 0: prefix, patches; view 1: ...; weight tokens] into the order of the blocks."""
        data, weights = tokens.split([self.prefix + self.patches, self.weights], dim=1)
        if not self.views:
            return weights
        views = data.unflatten(1, (self.views, -1))
        prefix, patches = views.split([self.prefix // self.views, self.patches // self.views], dim=2)
        return torch.cat([prefix.flatten(1, 2), weights, patches.flatten(1, 2)], dim=1)

    def leave(self, tokens: Tensor) -> Tensor:
        """Undo ``enter``."""
        prefix, weights, patches = tokens.split([self.prefix, self.weights, self.patches], dim=1)
        if not self.views:
            return weights
        views = torch.cat([part.unflatten(1, (self.views, -1)) for part in (prefix, patches)], dim=2)
        return torch.cat([views.flatten(1, 2), weights], dim=1)

    def call(self, index: int, block: nn.Module, tokens: Tensor) -> Tensor:
        """Apply a block with the patches' rotation; its own number of prefix tokens is put back afterwards."""
        attention: Any = block.attn
        own = attention.num_prefix_tokens
        attention.num_prefix_tokens = self.prefix + self.weights
        try:
            result: Tensor = block(tokens, rope=self.rope[index] if self.mixed and self.rope is not None else self.rope)
        finally:
            attention.num_prefix_tokens = own
        return result


class RotaryBackbone(TimmBackbone):
    """An ``Eva`` of timm without pooling and head.

    Weight tokens have no place, and are not rotated. The rotation follows the size of the pictures that were
    tokenized last.

    Args:
        config: the part's configuration.
        entry: which model.
        mean, deviation: of the pictures that its weights were trained on; None: those that timm has for the model.
    """

    trunk_class: ClassVar[type[nn.Module]] = Eva

    def __init__(
        self,
        config: BackboneConfig,
        entry: Entry,
        mean: Sequence[float] | None = None,
        deviation: Sequence[float] | None = None,
    ) -> None:
        super().__init__(config, entry, mean, deviation)
        if self.trunk.blocks[0].attn.qkv is None:
            self.lora_targets = ("q_proj", "k_proj", "v_proj")
        for block in self.trunk.blocks:
            # otherwise a qkv with biases is read and not called, and adapters on it would do nothing
            block.attn.qkv_bias_separate = True

    def embed(self, pictures: Tensor) -> Tensor:
        """Apply timm's patch embedding, prefix tokens, learned positions if it has any, and ``norm_pre``."""
        tokens, _ = self.trunk._pos_embed(self.trunk.patch_embed(pictures))
        normed: Tensor = self.trunk.norm_pre(tokens)
        return normed

    def arrange(self, layout: TokenLayout | None, data_tokens: int, weight_tokens: int) -> RotaryArrangement:
        """Return an arrangement that gives every view's patches the rotation of their place.

        Raises:
            ValueError: the data tokens are not those of whole views of the pictures that were tokenized last.
        """
        if layout is None or data_tokens % layout.tokens:
            raise ValueError(
                f"{self.info.name!r} has rotary positions: encode takes the tokens of whole views as the last "
                f"tokenize gave them ({layout}), but there are {data_tokens}."
            )
        rope = None if self.trunk.rope is None else self.trunk.rope.get_embed(shape=(layout.rows, layout.columns))
        return RotaryArrangement(
            layout, data_tokens // layout.tokens, weight_tokens, rope, mixed=bool(self.trunk.rope_mixed)
        )

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bring a state dict of timm or of an original repository to the trunk's names and position grid."""
        return dict(checkpoint_filter_fn(state, self.trunk))
