"""Radiance fields whose layers are generated one after the other: grid and sinusoids, then an MLP with skips."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from hyperkit.config import PartConfig
from hyperkit.contracts import TargetParams, TargetSpec, TensorSpec
from hyperkit.targets.base import Target
from hyperkit.targets.encoding import EncodingConfig, PositionalEncoding
from hyperkit.targets.hash_grid import GridConfig, grid_features, grid_layout
from hyperkit.targets.radiance_field import FieldOutputsConfig, activate

WeightOf = Callable[[int, Tensor], Tensor]
"""Index i of a layer and what it reads, (B or 1, N, I) -> its weight (B or 1, I, O)."""


class SkipFieldConfig(GridConfig, FieldOutputsConfig):
    """A radiance field without biases, with skip connections every two layers.

    Attributes:
        depth: number of linear layers; even, so that the skips, over two layers each, join all hidden ones.
        width: width of the hidden layers.
        encoding: sinusoidal encoding of the position, beside the grid's features, with one frequency at least: there
            are no biases, so that a cosine of a low one has to take their part.
        levels: L, number of grids.
        features: F, values at each vertex.
        coarsest, finest: cells along each side of the first and of the last grid; those between grow geometrically.
        log2_table: a level has at most ``2 ** log2_table`` vectors; see ``GridConfig`` for the memory.
        density: activation that makes the density non-negative.
        density_scale: factor on the density.
        density_shift: added before the activation, so that a field starts as fog.
        deviation: the field also gives a deviation of each colour channel (see ``base.deviation_of``).
        deviation_floor: lower limit of the deviation.
        extra: further values at every point, as the last layer gives them: features, or logits of classes.
    """

    depth: int = Field(default=6, ge=2, multiple_of=2)
    width: int = Field(default=64, ge=1)
    encoding: EncodingConfig = EncodingConfig(frequencies=6, max_log2=5.0)
    density: Literal["relu", "softplus"] = "softplus"
    density_scale: float = Field(default=10.0, gt=0)
    density_shift: float = 0.0
    extra: int = Field(default=0, ge=0)

    @field_validator("encoding")
    @classmethod
    def _sinusoids(cls, encoding: EncodingConfig) -> EncodingConfig:
        if not encoding.frequencies:
            raise ValueError("frequencies must be at least 1: a field without biases needs a cosine in their place")
        return encoding


class SkipField(Target):
    """c, sigma = MLP([grid(x), enc(x)]), the field of HyperFields (section 4.3.3): 6 layers, width 64, no biases.

    h_0 = x W_0, h_i = h_{i-2} + relu(relu(h_{i-2}) W_{i-1}) W_i for even i, and the raw outputs relu(h_4) W_5. The
    thesis says "skip connections every two layers" and no more. They are residual here: layers keep one shape, so that
    what writes them does too, and a hypernetwork that is new passes the features on to the end.

    ``table`` (T, F) holds the grids. It starts uniform in +-1e-4, and items share it: what is generated for an item is
    ``layer0.weight`` ... ``layer{depth-1}.weight``. A field that is fitted alone has a table of its own.
    """

    kind = "skip_field"
    config_model: ClassVar[type[PartConfig]] = SkipFieldConfig

    def __init__(self, config: SkipFieldConfig) -> None:
        self.config = config
        self.layout = grid_layout(config)
        self.encoding = PositionalEncoding(config.encoding)
        inputs = self.layout.width + config.encoding.width(3)
        self.radiance = 7 if config.deviation else 4
        widths = [inputs, *[config.width] * (config.depth - 1), self.radiance + config.extra]
        tensors = {"table": TensorSpec((self.layout.rows, config.features), shared=True, bound=1e-4)}
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            tensors[f"layer{index}.weight"] = TensorSpec((fan_in, fan_out), bound=self._bound(index, fan_in))
        self.spec = TargetSpec(tensors, self.kind, config.model_dump(mode="json"))

    def _bound(self, index: int, fan_in: int) -> float:
        """Return the bound of a uniform start at which a layer gives values as large as it reads (He et al. 2015).

        Half of their mean square is lost in the ReLU; that of sines and cosines is 1/2 too, and of the table's features
        almost 0. The last layer starts smaller, in fog that is grey.
        """
        if index == self.config.depth - 1:
            return 1 / math.sqrt(fan_in)
        return math.sqrt(6 / (fan_in if index else fan_in - self.layout.width))

    def __call__(self, params: TargetParams, query: Tensor, state: Any = None) -> Tensor:
        """Evaluate the fields at ``query`` (B, N, 3) -> (B, N, 4), float32 or wider.

        With a deviation (B, N, 7); with ``extra`` as many more values behind the others, as the last layer gives them.
        """
        raw = self.evaluate(self.inputs(params["table"], query), lambda index, _: params[f"layer{index}.weight"])
        return self.activate(raw)

    def inputs(self, table: Tensor, points: Tensor) -> Tensor:
        """Return what the first layer reads, [grid(x), enc(x)], at points (B or 1, N, 3) -> (B or 1, N, I)."""
        features = grid_features(table, points, self.layout)
        encoded = self.encoding(points).expand(len(features), -1, -1)
        return torch.cat((features, encoded.to(features.dtype)), dim=-1)

    def evaluate(self, inputs: Tensor, weight_of: WeightOf) -> Tensor:
        """Pass ``inputs`` through the layers, each weight asked for when what its layer reads is known.

        Args:
            inputs: (B or 1, N, I).
            weight_of: called with (0, inputs), then with (i, relu(h_{i-1})) for the layers i = 1, 2, ... in order.

        Returns:
            The raw outputs (B, N, 4 or more).
        """

        def layer(index: int, read: Tensor) -> Tensor:
            return _multiply(read, weight_of(index, read))

        h = layer(0, inputs)
        for index in range(1, self.config.depth - 1, 2):
            h = h + layer(index + 1, torch.relu(layer(index, torch.relu(h))))
        return layer(self.config.depth - 1, torch.relu(h))

    def activate(self, raw: Tensor) -> Tensor:
        """Turn raw outputs into colour, density, deviation; the extra values stay what they are."""
        radiance = activate(raw[..., : self.radiance], self.config)
        if not self.config.extra:
            return radiance
        return torch.cat((radiance, raw[..., self.radiance :].to(radiance.dtype)), dim=-1)

    def to_module(self, params: TargetParams) -> nn.Module:
        """Return item 0 as a torch module of a table and ``nn.Linear`` layers, mapping (N, 3) to (N, 4 or more)."""
        return _OrdinarySkipField(self, params)


def _multiply(x: Tensor, weight: Tensor) -> Tensor:
    """Return x (B or 1, N, I) times weight (B or 1, I, O); one that items share in one plain product."""
    return torch.matmul(x, (weight[0] if len(weight) == 1 else weight).to(x.dtype))


class _OrdinarySkipField(nn.Module):
    """One field with a table and weights of its own, in plain PyTorch."""

    def __init__(self, field: SkipField, params: TargetParams) -> None:
        super().__init__()
        self.field = field
        self.table = nn.Parameter(params["table"][0].detach().clone())
        self.layers = nn.ModuleList()
        for index in range(field.config.depth):
            weight = params[f"layer{index}.weight"][0].detach()
            fan_in, fan_out = weight.shape
            layer = nn.Linear(fan_in, fan_out, bias=False, dtype=weight.dtype, device=weight.device)
            layer.weight = nn.Parameter(weight.T.clone())
            self.layers.append(layer)

    def forward(self, query: Tensor) -> Tensor:
        h = self.layers[0](self.field.inputs(self.table[None], query[None])[0])
        for first, second in zip(self.layers[1:-1:2], self.layers[2:-1:2], strict=True):
            h = h + second(torch.relu(first(torch.relu(h))))
        return self.field.activate(self.layers[-1](torch.relu(h)))
