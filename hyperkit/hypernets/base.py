"""What every algorithm shares: weight tokens, heads, the learned base network, the norm of its columns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hyperkit.config import PartConfig
from hyperkit.contracts import TargetParams, TargetSpec


class HypernetConfig(PartConfig):
    """What all algorithms can be told.

    Attributes:
        normalize: L2-normalise each column of every layer's weight over the fan-in (P, eq. 2).
        gain: factor after the norm. 1 as published; sqrt(2) keeps the variance of activations through ReLU layers.
        token_std: deviation of the weight tokens at the start.
    """

    normalize: bool = True
    gain: float = Field(default=1.0, gt=0)
    token_std: float = Field(default=1.0, gt=0)


class Hypernet(nn.Module, ABC):
    """Turns encoded weight tokens into the parameters of a target.

    A layer that has weight tokens gets its weight (I, O) from them, one for each item: ``compose`` makes it of the
    vectors head(LayerNorm(token)) in R^I. All else is learned and shared by all items (leading axis 1): the weights of
    layers without tokens, the biases, and any tensor that is no layer's weight or that the spec marks as shared. The
    columns of a layer's weight, generated or learned, are L2-normalised over the fan-in and multiplied by the gain;
    weights that the spec marks as shared, biases and other tensors are used as they are.

    Args:
        config: see the algorithm's own configuration.
        spec: the tensors of the target.
        width: D of the backbone.
        token_groups: layer name -> number of its weight tokens.

    Attributes:
        weight_tokens: (Q, D), what the backbone reads beside its data tokens.
        token_groups: layer name (without ``.weight``) -> number of its weight tokens, in the order of
            ``weight_tokens``.
        predicts_deviation: whether the target gives a deviation beside the mean, and training maximises its likelihood.
    """

    config_model: ClassVar[type[HypernetConfig]]
    predicts_deviation: ClassVar[bool] = False

    weight_tokens: nn.Parameter
    token_groups: dict[str, int]

    def __init__(self, config: HypernetConfig, spec: TargetSpec, width: int, token_groups: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.token_groups = dict(token_groups)
        self._normalised = {f"{layer}.weight" for layer in weight_layers(spec)} if config.normalize else set()
        self.weight_tokens = nn.Parameter(torch.randn(sum(token_groups.values()), width) * config.token_std)
        self.heads = nn.ModuleDict()
        self.base = nn.ParameterDict()
        for name, tensor in spec.tensors.items():  # one tensor after the other: the order fixes the random draws
            self.base[state_key(name)] = nn.Parameter(self.base_start(name))
            if name.removesuffix(".weight") in token_groups:
                norm = nn.LayerNorm(width)
                self.heads[state_key(name)] = nn.Sequential(norm, self.make_head(width, tensor.shape[0]))

    def base_start(self, name: str) -> Tensor:
        """Draw the start of the learned part of tensor ``name``: uniform in +-``bound`` of its spec."""
        tensor = self.spec.tensors[name]
        bound = tensor.bound
        if bound is None:  # nn.Linear's own start, for weights and biases
            weight = self.spec.tensors.get(name.removesuffix(".bias") + ".weight", tensor)
            bound = 1 / math.sqrt(weight.shape[0])
        return torch.empty(tensor.shape).uniform_(-bound, bound)

    def make_head(self, width: int, fan_in: int) -> nn.Linear:
        """Build the linear layer that maps a normalised token (D,) to a vector (I,)."""
        return nn.Linear(width, fan_in)

    @abstractmethod
    def compose(self, name: str, vectors: Tensor) -> Tensor:
        """Make the weight ``name`` (B, I, O) of the vectors (B, g, I) that its head gives for its g tokens."""

    def generate(self, encoded: Tensor) -> TargetParams:
        """Turn the encoded weight tokens (B, Q, D) into the parameters of B targets."""
        tokens = dict(zip(self.token_groups, encoded.split(list(self.token_groups.values()), dim=1), strict=True))
        tensors: dict[str, Tensor] = {}
        for name in self.spec.tensors:
            key = state_key(name)
            if key in self.heads:
                tensor = self.compose(name, self.heads[key](tokens[name.removesuffix(".weight")]))
            else:
                tensor = self.base[key][None]
            if name in self._normalised:
                kind = torch.promote_types(tensor.dtype, torch.float32)
                tensor = self.config.gain * F.normalize(tensor.to(kind), dim=1)
            tensors[name] = tensor
        return TargetParams(tensors, self.spec)

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters by role: tokens, heads, base (all that items share of the target itself)."""
        return {
            "tokens": [self.weight_tokens],
            "heads": list(self.heads.parameters()),
            "base": list(self.base.parameters()),
        }


def weight_layers(spec: TargetSpec) -> list[str]:
    """List the layers whose weights an algorithm may generate: tensors ``NAME.weight`` that are not shared."""
    return [n.removesuffix(".weight") for n, t in spec.tensors.items() if n.endswith(".weight") and not t.shared]


def state_key(name: str) -> str:
    """Return the name of a tensor in ``heads`` and ``base``, whose keys may not hold a dot."""
    return name.replace(".", "_")
