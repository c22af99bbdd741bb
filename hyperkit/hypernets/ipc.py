"""Instance Pattern Composers (Kim et al. 2023): one layer of the target is an item's own, all others are shared."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hyperkit.contracts import TargetSpec
from hyperkit.errors import HyperkitError
from hyperkit.hypernets.base import Hypernet, HypernetConfig, state_key, weight_layers


class IPCConfig(HypernetConfig):
    """Which layer is composed, and of how many patterns.

    Attributes:
        rank: r, number of weight tokens and of rows of the shared factor, at most the layer's fan-out.
        layer: index of the layer that is an item's own, counted from 0 over the target's layers.
        normalize: L2-normalise each column of every layer's weight, shared ones too, over the fan-in.
        gain: factor after the norm. 1 as published; sqrt(2) keeps the variance of activations through ReLU layers.
        token_std: deviation of the weight tokens at the start.
    """

    rank: int = Field(default=256, ge=1)
    layer: int = Field(default=1, ge=0)


class IPC(Hypernet):
    """W = Norm(V U) for one layer: column r of V (I, r) is Head(LayerNorm(token r)), U (r, O) is shared (IPC).

    That layer has no base weight: U stands in its place among the parameters, and starts as N(0, 1) / sqrt(r I), which
    gives V U the variance of an ordinary layer. All other layers are learned and shared.

    Args:
        config: see ``IPCConfig``.
        spec: the target; its layers are counted in the order of their weights.
        width: D of the backbone.

    Raises:
        HyperkitError: the target has no layer ``config.layer``.
    """

    config_model: ClassVar[type[HypernetConfig]] = IPCConfig
    config: IPCConfig

    def __init__(self, config: IPCConfig, spec: TargetSpec, width: int) -> None:
        layers = weight_layers(spec)
        if config.layer >= len(layers):
            listed = ", ".join(f"{index} ({name})" for index, name in enumerate(layers)) or "none"
            raise HyperkitError(
                f"The target has no layer {config.layer} for ipc to compose; its layers: {listed}.",
                "Choose one with --set hypernet.layer=INDEX, or make the target deeper (target.depth).",
            )
        layer = layers[config.layer]
        fan_out = spec.tensors[f"{layer}.weight"].shape[1]
        super().__init__(config, spec, width, {layer: min(config.rank, fan_out)})

    def base_start(self, name: str) -> Tensor:
        """Draw the start of a learned tensor; for the composed layer that is U."""
        rank = self.token_groups.get(name.removesuffix(".weight"))
        if rank is None:
            return super().base_start(name)
        fan_in, fan_out = self.spec.tensors[name].shape
        return torch.randn(rank, fan_out) / math.sqrt(rank * fan_in)

    def compose(self, name: str, vectors: Tensor) -> Tensor:
        """Multiply V, whose columns are ``vectors`` (B, r, I), by U: (B, I, O)."""
        return vectors.transpose(1, 2) @ self.base[state_key(name)]
