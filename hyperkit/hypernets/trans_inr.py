"""Trans-INR (Chen & Wang 2022): each weight token makes a group of columns of one layer's weight."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hyperkit.contracts import TargetSpec
from hyperkit.errors import unknown_name
from hyperkit.hypernets.base import Hypernet, HypernetConfig, state_key, weight_layers

Count = Annotated[int, Field(ge=1)]


class TransINRConfig(HypernetConfig):
    """How tokens become weights.

    Attributes:
        groups: weight tokens per layer, at most its fan-out; a number, or layer name -> number.
        grouping: which token column j reads: ``tiled`` j mod g (the public implementation), ``blocks`` the token of
            its block of consecutive columns (the paper's text, floor(j / k)).
        normalize: L2-normalise each column over the fan-in (P, eq. 2).
        gain: factor after the norm. 1 as published; sqrt(2) keeps the variance of activations through ReLU layers.
        token_std: deviation of the weight tokens at the start.
        head_init: ``linear`` is torch's default (the public implementation); ``identity`` starts every head at 1 plus a
            small data-dependent part, so that training starts from the base network itself.
    """

    groups: Count | dict[str, Count] = 32
    grouping: Literal["tiled", "blocks"] = "tiled"
    head_init: Literal["linear", "identity"] = "linear"


class TransINR(Hypernet):
    """W_k = Norm(Head_k(LayerNorm(tokens)) * Base_k), biases learned and shared (P, eq. 2; T, section 3.3).

    Args:
        config: see ``TransINRConfig``.
        spec: what to generate: the weight of every layer; see ``Hypernet``.
        width: D of the backbone.
    """

    config_model: ClassVar[type[HypernetConfig]] = TransINRConfig
    config: TransINRConfig

    def __init__(self, config: TransINRConfig, spec: TargetSpec, width: int) -> None:
        super().__init__(config, spec, width, _group_counts(config, spec))
        for layer in self.token_groups:
            name = f"{layer}.weight"
            self.register_buffer(f"columns_{state_key(name)}", self._columns(layer), persistent=False)

    def _columns(self, layer: str) -> Tensor:
        """Return the index of the token that each column of a layer's weight reads, (O,)."""
        column, groups = torch.arange(self.spec.tensors[f"{layer}.weight"].shape[-1]), self.token_groups[layer]
        if self.config.grouping == "tiled":
            return column % groups
        return column // math.ceil(len(column) / groups)

    def make_head(self, width: int, fan_in: int) -> nn.Linear:
        """Build a head, at its start as ``config.head_init`` has it."""
        head = super().make_head(width, fan_in)
        if self.config.head_init == "identity":
            nn.init.normal_(head.weight, std=0.2 / math.sqrt(width))
            nn.init.ones_(head.bias)
        return head

    def compose(self, name: str, vectors: Tensor) -> Tensor:
        """Multiply each column of the base weight by the vector of its token, (B, g, I) -> (B, I, O)."""
        columns: Tensor = getattr(self, f"columns_{state_key(name)}")
        return self.base[state_key(name)] * vectors.index_select(1, columns).transpose(1, 2)


def _group_counts(config: TransINRConfig, spec: TargetSpec) -> dict[str, int]:
    layers = weight_layers(spec)
    counts = {}
    if isinstance(config.groups, dict):
        for layer in config.groups:
            if layer not in layers:
                raise unknown_name("layer", layer, layers, "hypernet.groups takes a number, or layer: number.")
    for layer in layers:
        fan_out = spec.tensors[f"{layer}.weight"].shape[-1]
        wanted = config.groups if isinstance(config.groups, int) else config.groups.get(layer, 32)
        count = min(wanted, fan_out)
        if config.grouping == "blocks":  # with blocks of equal size the last tokens may get no column
            block = math.ceil(fan_out / count)
            count = math.ceil(fan_out / block)
        counts[layer] = count
    return counts
