"""The interface of a generated network, and the layer that all of them are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hyperkit.config import PartConfig
from hyperkit.contracts import TargetParams, TargetSpec, TensorSpec


class Target(ABC):
    """A network without parameters of its own.

    Attributes:
        spec: the tensors that it needs. Names end in ``.weight`` (I, O) and ``.bias`` (1, O).
    """

    kind: ClassVar[str]
    config_model: ClassVar[type[PartConfig]]
    spec: TargetSpec

    @abstractmethod
    def __call__(self, params: TargetParams, query: Tensor, state: Any = None) -> Tensor:
        """Evaluate the B targets at ``query`` (B, N, C) and return (B, N, F)."""

    @abstractmethod
    def to_module(self, params: TargetParams) -> nn.Module:
        """Return item 0 as an ordinary torch module that maps (N, C) to (N, F)."""

    def layer_tensors(self, name: str, fan_in: int, fan_out: int) -> dict[str, TensorSpec]:
        """Return the specs of one linear layer: generated weight, shared bias."""
        return {
            f"{name}.weight": TensorSpec((fan_in, fan_out)),
            f"{name}.bias": TensorSpec((1, fan_out), shared=True),
        }


def linear(params: TargetParams, name: str, x: Tensor) -> Tensor:
    """Apply layer ``name`` of every item to its own points: one batched product, x (B, N, I) -> (B, N, O)."""
    bias, weight = params[f"{name}.bias"], params[f"{name}.weight"]
    items = max(x.shape[0], weight.shape[0])
    return torch.baddbmm(bias.to(x.dtype), x.expand(items, -1, -1), weight.to(x.dtype).expand(items, -1, -1))


def ordinary_linear(params: TargetParams, name: str) -> nn.Linear:
    """Return layer ``name`` of item 0 as ``nn.Linear``."""
    weight, bias = params[f"{name}.weight"][0].detach(), params[f"{name}.bias"][0, 0].detach()
    layer = nn.Linear(weight.shape[0], weight.shape[1], dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight.T)
        layer.bias.copy_(bias)
    return layer
