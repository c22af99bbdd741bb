"""A ReLU network on encoded coordinates: the ordinary INR."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from hyperkit.config import PartConfig
from hyperkit.contracts import TargetParams, TargetSpec, TensorSpec
from hyperkit.targets.base import Target, deviation_of, linear, ordinary_linear
from hyperkit.targets.encoding import EncodingConfig, PositionalEncoding


class MLPConfig(PartConfig):
    """An MLP of any depth and width.

    Attributes:
        coordinates: C, number of input coordinates.
        outputs: F, number of output values.
        depth: number of linear layers, the output layer included.
        width: width of the hidden layers.
        encoding: positional encoding of the coordinates.
        output_bias: constant added to the outputs (0.5 for pictures in Trans-INR), not to the deviations.
        deviation: the output layer also gives a deviation for each output (see ``base.deviation_of``).
        deviation_floor: lower limit of the deviation.
    """

    coordinates: int = Field(default=3, ge=1)
    outputs: int = Field(default=4, ge=1)
    depth: int = Field(default=6, ge=1)
    width: int = Field(default=256, ge=1)
    encoding: EncodingConfig = EncodingConfig()
    output_bias: float = 0.0
    deviation: bool = False
    deviation_floor: float = Field(default=0.01, gt=0)


class MLP(Target):
    """f(x) = W_L relu(... relu(W_1 enc(x) + b_1) ...) + b_L + output_bias, with layers ``layer0``, ``layer1``, ...

    With ``config.deviation`` the last layer has 2F outputs: the means, and what ``deviation_of`` makes deviations of.
    """

    kind = "mlp"
    config_model: ClassVar[type[PartConfig]] = MLPConfig

    def __init__(self, config: MLPConfig) -> None:
        self.config = config
        self.encoding = PositionalEncoding(config.encoding)
        last = config.outputs * (2 if config.deviation else 1)
        widths = [config.encoding.width(config.coordinates), *[config.width] * (config.depth - 1), last]
        tensors: dict[str, TensorSpec] = {}
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            tensors |= self.layer_tensors(f"layer{index}", fan_in, fan_out)
        self.spec = TargetSpec(tensors, self.kind, config.model_dump(mode="json"))

    def __call__(self, params: TargetParams, query: Tensor, state: Any = None) -> Tensor:
        """Evaluate at ``query`` (B, N, C) -> (B, N, F), or (B, N, 2F) = [mean, deviation] with a deviation."""
        h = self.encoding(query)
        for index in range(self.config.depth):
            h = linear(params, f"layer{index}", torch.relu(h) if index else h)
        if not self.config.deviation:
            return h + self.config.output_bias
        mean, rest = h.chunk(2, dim=-1)
        return _Deviations(self.config)(torch.cat((mean + self.config.output_bias, rest), dim=-1))

    def to_module(self, params: TargetParams) -> nn.Module:
        """Return item 0 as ``nn.Sequential`` of encoding, ``nn.Linear``, ``nn.ReLU`` and, last, the deviations."""
        modules: list[nn.Module] = [PositionalEncoding(self.config.encoding)]
        for index in range(self.config.depth):
            modules += [nn.ReLU()] * bool(index) + [ordinary_linear(params, f"layer{index}")]
        last = modules[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias[: self.config.outputs].add_(self.config.output_bias)
        if self.config.deviation:
            modules.append(_Deviations(self.config))
        return nn.Sequential(*modules)


class _Deviations(nn.Module):
    """Leaves the means as they are and makes deviations of the other half, (..., 2F) -> (..., 2F)."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.floor = config.deviation_floor

    def forward(self, raw: Tensor) -> Tensor:
        mean, rest = raw.chunk(2, dim=-1)
        deviation = deviation_of(rest, self.floor)
        return torch.cat((mean.to(deviation.dtype), deviation), dim=-1)
