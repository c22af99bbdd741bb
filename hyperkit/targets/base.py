"""The interface of a generated network, the layer that all of them are made of, and the deviation they may give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyperkit.config import PartConfig
from hyperkit.contracts import TargetParams, TargetSpec, TensorSpec
from hyperkit.kernels.render_field.reference import linear as apply_linear


class Target(ABC):
    """A network without parameters of its own.

    Attributes:
        spec: the tensors that it needs. Layers are ``NAME.weight`` (I, O) and ``NAME.bias`` (1, O); tensors of other
            names, such as tables of features, are learned and shared whatever the algorithm.
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


DEVIATION_SHIFT = 2.0
"""Raw outputs are near 0 at the start, where the deviation is then floor + softplus(-2) = floor + 0.127."""


def deviation_of(raw: Tensor, floor: float) -> Tensor:
    """Turn raw outputs into deviations, in float32 at least: floor + log(1 + exp(raw - 2)).

    The second term falls as exp(raw - 2), so that the floor can be reached and the gradient never stops; it grows as
    raw - 2.
    """
    raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
    return floor + F.softplus(raw - DEVIATION_SHIFT)


def linear(params: TargetParams, name: str, x: Tensor) -> Tensor:
    """Apply layer ``name`` of every item to its own points: x (B, N, I) -> (B, N, O); see the kernels' ``linear``."""
    return apply_linear(x, params[f"{name}.weight"], params[f"{name}.bias"])


def ordinary_linear(params: TargetParams, name: str) -> nn.Linear:
    """Return layer ``name`` of item 0 as ``nn.Linear``."""
    weight, bias = params[f"{name}.weight"][0].detach(), params[f"{name}.bias"][0, 0].detach()
    layer = nn.Linear(weight.shape[0], weight.shape[1], dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight.T)
        layer.bias.copy_(bias)
    return layer
