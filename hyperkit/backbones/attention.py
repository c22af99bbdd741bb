"""Attention weights of a block, read by watching the functions that compute attention, whatever the block's code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hyperkit.errors import HyperkitError

if TYPE_CHECKING:
    from hyperkit.backbones.base import Backbone
    from hyperkit.backbones.config import TokenLayout


class WatchAttention(TorchFunctionMode):
    """While it is active, keeps the weights of self-attention over sequences of one length, averaged over the heads.

    It knows ``scaled_dot_product_attention`` and ``multi_head_attention_forward``, which ``nn.MultiheadAttention``
    calls; torch's fused evaluation of the latter stands aside while a mode is active.

    Args:
        rows: (Q,) which queries are kept.
        length: n, of the sequences; attention among fewer tokens (in windows, or in a pooling) is passed over.
    """

    def __init__(self, rows: Tensor, length: int) -> None:
        super().__init__()
        self.rows = rows
        self.length = length
        self.weights: Tensor | None = None  # (B, Q, n), of the last such call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the two functions; everything else passes."""
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            found: Any = func(*args, **{**kwargs, "need_weights": True, "average_attn_weights": False})
            output, per_head = found
            weights = per_head.mean(dim=-3)
            if tuple(weights.shape[-2:]) == (self.length, self.length):
                self.weights = weights[..., self.rows, :].float()
            if not kwargs.get("need_weights", True):
                return output, None
            return output, weights if kwargs.get("average_attn_weights", True) else per_head
        if func is F.scaled_dot_product_attention:
            self._watch(*args, **kwargs)
        return func(*args, **kwargs)

    def _watch(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> None:
        if not query.shape[-2] == key.shape[-2] == self.length:
            return
        if is_causal:
            attn_mask = torch.ones(self.length, self.length, dtype=torch.bool, device=query.device).tril()
        if attn_mask is not None and attn_mask.shape[-2] > 1:
            attn_mask = attn_mask[..., self.rows, :]
        # with the identity for values, attention returns its own weights
        identity = torch.eye(self.length, device=key.device).expand(*key.shape[:-1], self.length)
        queries = query[..., self.rows, :].float()
        with torch.autocast(query.device.type, enabled=False):
            weights = F.scaled_dot_product_attention(queries, key.float(), identity, attn_mask, **options)
        self.weights = weights.mean(dim=1)


class LastQueries(TorchFunctionMode):
    """While it is active, ``scaled_dot_product_attention`` computes the last ``count`` outputs; the others are zeros.

    Calls with a mask, or over another number of tokens (in windows, or in a pooling), pass as they are.

    Args:
        count: of outputs.
        length: n, of the sequences.
    """

    def __init__(self, count: int, length: int) -> None:
        super().__init__()
        self.count = count
        self.length = length

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Intercept the one function; everything else passes."""
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or args[0].shape[-2] != self.length or _masked(*args, **kwargs):
            return func(*args, **kwargs)
        last = func(args[0][..., -self.count :, :], *args[1:], **kwargs)
        return F.pad(last, (0, 0, self.length - self.count, 0))


def _masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> bool:
    return attn_mask is not None or is_causal


def attention_to_data(backbone: Backbone, layout: TokenLayout, data_tokens: Tensor, weight_tokens: Tensor) -> Tensor:
    """Return the attention from weight tokens to data tokens in the last block, averaged over the heads.

    Args:
        backbone: the encoder.
        layout: of one view.
        data_tokens: (B, M, D).
        weight_tokens: (Q, D) or (B, Q, D).

    Returns:
        (B, Q, M), in the order of the data tokens.

    Raises:
        HyperkitError: the block calls none of the functions that can be watched.
    """
    items, data = data_tokens.shape[:2]
    weight_tokens = weight_tokens.expand(items, -1, -1)
    tokens = torch.cat([data_tokens, weight_tokens], dim=1)
    length = tokens.shape[1]
    arrangement = backbone.arrange(layout, data, length - data)
    place = torch.arange(length, device=tokens.device)
    place = arrangement.enter(place[None, :, None]).flatten().argsort()  # of each token in the sequence
    tokens = arrangement.enter(tokens)
    *first, last = enumerate(backbone.blocks)
    for index, block in first:
        tokens = arrangement.call(index, block, tokens)
    with WatchAttention(place[data:], length) as watch:
        arrangement.call(*last, tokens)
    if watch.weights is None:
        raise HyperkitError(
            f"The attention of the backbone {backbone.info.name!r} cannot be read: its last block calls neither "
            "torch's scaled_dot_product_attention nor multi_head_attention_forward over all tokens.",
            "With timm's models, leave TIMM_FUSED_ATTN unset.",
        )
    return watch.weights[:, :, place[:data]]
