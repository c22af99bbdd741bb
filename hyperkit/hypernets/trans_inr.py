"""Trans-INR (Chen & Wang 2022): each weight token makes a group of columns of one layer's weight."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hyperkit.config import PartConfig
from hyperkit.contracts import TargetParams, TargetSpec
from hyperkit.errors import unknown_name

Count = Annotated[int, Field(ge=1)]


class TransINRConfig(PartConfig):
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
    normalize: bool = True
    gain: float = Field(default=1.0, gt=0)
    token_std: float = Field(default=1.0, gt=0)
    head_init: Literal["linear", "identity"] = "linear"


class TransINR(nn.Module):
    """W_k = Norm(Head_k(LayerNorm(tokens)) * Base_k), biases learned and shared (P, eq. 2; T, section 3.3).

    Args:
        config: see ``TransINRConfig``.
        spec: what to generate: tensors that are not shared are generated, shared ones are learned.
        width: D of the backbone.
    """

    config_model = TransINRConfig

    def __init__(self, config: TransINRConfig, spec: TargetSpec, width: int) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.counts = _group_counts(config, spec)
        self.weight_tokens = nn.Parameter(torch.randn(sum(self.counts.values()), width) * config.token_std)
        self.heads = nn.ModuleDict()
        self.base = nn.ParameterDict()
        for name, tensor in spec.tensors.items():
            fan_in = spec.tensors[name.removesuffix(".bias") + ".weight"].shape[0] if tensor.shared else tensor.shape[0]
            bound = 1 / math.sqrt(fan_in)
            initial = torch.empty(tensor.shape).uniform_(-bound, bound)  # nn.Linear's own start, for both
            self.base[_key(name)] = nn.Parameter(initial)
            if not tensor.shared:
                self.heads[_key(name)] = nn.Sequential(nn.LayerNorm(width), _head(config, width, fan_in))
            self.register_buffer(f"columns_{_key(name)}", self._columns(name), persistent=False)

    def _columns(self, name: str) -> Tensor:
        """Return the index of the token that each column of a generated weight reads, (O,)."""
        if name not in self.counts:
            return torch.empty(0, dtype=torch.long)
        column, groups = torch.arange(self.spec.tensors[name].shape[-1]), self.counts[name]
        if self.config.grouping == "tiled":
            return column % groups
        return column // math.ceil(len(column) / groups)

    def generate(self, encoded: Tensor) -> TargetParams:
        """Turn the encoded weight tokens (B, Q, D) into the parameters of B targets."""
        tensors: dict[str, Tensor] = {}
        tokens = dict(zip(self.counts, encoded.split(list(self.counts.values()), dim=1), strict=True))
        for name, tensor in self.spec.tensors.items():
            base = self.base[_key(name)][None]
            if tensor.shared:
                tensors[name] = base
                continue
            columns: Tensor = getattr(self, f"columns_{_key(name)}")
            modulation = self.heads[_key(name)](tokens[name])  # (B, g, I): one column per token
            weight = base * modulation.index_select(1, columns).transpose(1, 2)
            if self.config.normalize:
                weight = self.config.gain * F.normalize(weight.float(), dim=1)
            tensors[name] = weight
        return TargetParams(tensors, self.spec)

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters by role: tokens, heads, base (biases are part of the base network)."""
        return {
            "tokens": [self.weight_tokens],
            "heads": list(self.heads.parameters()),
            "base": list(self.base.parameters()),
        }


def _key(name: str) -> str:
    return name.replace(".", "_")  # ParameterDict and ModuleDict keys may not hold a dot


def _head(config: TransINRConfig, width: int, fan_in: int) -> nn.Linear:
    head = nn.Linear(width, fan_in)
    if config.head_init == "identity":
        nn.init.normal_(head.weight, std=0.2 / math.sqrt(width))
        nn.init.ones_(head.bias)
    return head


def _group_counts(config: TransINRConfig, spec: TargetSpec) -> dict[str, int]:
    generated = {name: t for name, t in spec.tensors.items() if not t.shared}
    layers = [name.removesuffix(".weight") for name in generated]
    counts = {}
    if isinstance(config.groups, dict):
        for layer in config.groups:
            if layer not in layers:
                raise unknown_name("layer", layer, layers, "hypernet.groups takes a number, or layer: number.")
    for layer, (name, tensor) in zip(layers, generated.items(), strict=True):
        wanted = config.groups if isinstance(config.groups, int) else config.groups.get(layer, 32)
        count = min(wanted, tensor.shape[-1])
        if config.grouping == "blocks":  # with blocks of equal size the last tokens may get no column
            block = math.ceil(tensor.shape[-1] / count)
            count = math.ceil(tensor.shape[-1] / block)
        counts[name] = count
    return counts
