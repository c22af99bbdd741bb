"""Radiance fields: position (and view direction) to colour and density."""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from hyperkit.config import PartConfig
from hyperkit.contracts import TargetParams, TargetSpec, TensorSpec
from hyperkit.kernels.render_field import FieldShape
from hyperkit.kernels.render_field import reference as render_field
from hyperkit.targets.base import Target, deviation_of, linear, ordinary_linear
from hyperkit.targets.encoding import EncodingConfig, PositionalEncoding


class FieldOutputsConfig(PartConfig):
    """What the raw outputs of a radiance field of any kind become.

    Attributes:
        density: activation that makes the density non-negative; ``relu`` as in Trans-INR.
        density_scale: factor on the density, so that unit-norm weights can make surfaces that are sharp.
        density_shift: added before the activation, so that a field starts as fog. With ``relu`` and no shift one seed
            in six started, or soon became, empty everywhere, where the gradient is zero: white for ever.
        deviation: the field also gives a deviation of each colour channel (see ``base.deviation_of``).
        deviation_floor: lower limit of the deviation.
    """

    density: Literal["relu", "softplus"] = "relu"
    density_scale: float = Field(default=1.0, gt=0)
    density_shift: float = 0.5
    deviation: bool = False
    deviation_floor: float = Field(default=0.01, gt=0)


class RadianceFieldConfig(FieldOutputsConfig):
    """A NeRF-like MLP.

    Attributes:
        depth: number of linear layers from the position to density (and, without view directions, to colour).
        width: width of the hidden layers.
        encoding: encoding of positions; the default is P's "dimension 40 per coordinate".
        view_directions: colour also depends on the direction of view, through one more hidden layer (NeRF, fig. 7).
        direction_encoding: encoding of unit directions.
        density: activation that makes the density non-negative; ``relu`` as in Trans-INR.
        density_scale: factor on the density, so that unit-norm weights can make surfaces that are sharp.
        density_shift: added before the activation, so that a field starts as fog. With ``relu`` and no shift one seed
            in six started, or soon became, empty everywhere, where the gradient is zero: white for ever.
        deviation: the field also gives a deviation of each colour channel (see ``base.deviation_of``).
        deviation_floor: lower limit of the deviation.
        extra: E, further values at each point, such as logits of parts; they do not depend on the direction of view.
            Set by the task.
        extra_activation: ``softmax``: they become probabilities of E classes; ``none``: they stay as they are.
        extra_classes: the activation is for so many of them, the first ones; the others stay as they are. None: for
            all. Set by the task.
    """

    depth: int = Field(default=6, ge=2)
    width: int = Field(default=256, ge=1)
    encoding: EncodingConfig = EncodingConfig()
    view_directions: bool = False
    direction_encoding: EncodingConfig = EncodingConfig(frequencies=4, max_log2=3.0)
    extra: int = Field(default=0, ge=0)
    extra_activation: Literal["none", "softmax"] = "none"
    extra_classes: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _classes(self) -> RadianceFieldConfig:
        if self.extra_classes is not None and self.extra_classes > self.extra:
            raise ValueError(f"extra_classes must be at most extra, which is {self.extra}; found {self.extra_classes}")
        return self


class RadianceField(Target):
    """c, sigma = f(x, d): colour in [0, 1] by a sigmoid, density by ``config.density``.

    Without view directions: ``layer0`` ... ``layer{depth-1}``, the last one gives [rgb, density]. With them: the trunk
    ends at ``layer{depth-2}``; ``density`` reads it, and ``colour0``, ``colour1`` read it beside the encoded direction.
    With ``config.deviation`` the layer that gives the colour gives three more values, which ``deviation_of`` turns into
    the colour's deviation. With ``config.extra`` the layer that gives the density gives so many more, the last ones.
    """

    kind = "radiance_field"
    config_model: ClassVar[type[PartConfig]] = RadianceFieldConfig

    def __init__(self, config: RadianceFieldConfig) -> None:
        self.config = config
        self.encoding = PositionalEncoding(config.encoding)
        self.direction_encoding = PositionalEncoding(config.direction_encoding)
        widths = [config.encoding.width(3), *[config.width] * (config.depth - 1)]
        tensors: dict[str, TensorSpec] = {}
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            tensors |= self.layer_tensors(f"layer{index}", fan_in, fan_out)
        if config.view_directions:
            tensors |= self.layer_tensors("density", config.width, 1 + config.extra)
            tensors |= self.layer_tensors("colour0", config.width + config.direction_encoding.width(3), config.width)
            tensors |= self.layer_tensors("colour1", config.width, 6 if config.deviation else 3)
        else:
            outputs = (7 if config.deviation else 4) + config.extra
            tensors |= self.layer_tensors(f"layer{config.depth - 1}", config.width, outputs)
        self.spec = TargetSpec(tensors, self.kind, config.model_dump(mode="json"))

    def __call__(self, params: TargetParams, query: Tensor, state: Any = None) -> Tensor:
        """Evaluate the fields.

        Args:
            query: (B, N, 3) positions, or (B, N, 6) positions and directions of view of any length.

        Returns:
            (B, N, 4): rgb in [0, 1] and density >= 0 per unit of length, float32. With a deviation (B, N, 7): rgb,
            density, and the deviation of rgb. ``config.extra`` values follow.
        """
        h = self.encoding(query[..., :3])
        for index in range(self.config.depth - 1):
            h = torch.relu(linear(params, f"layer{index}", h))
        if self.config.view_directions:
            if query.shape[-1] != 6:
                raise ValueError("a field with view directions is queried at (B, N, 6): position and direction")
            directions = self.direction_encoding(F.normalize(query[..., 3:], dim=-1)).to(h.dtype)
            colour = torch.relu(linear(params, "colour0", torch.cat((h, directions), dim=-1)))
            raw = _join(linear(params, "colour1", colour), linear(params, "density", h))
        else:
            raw = linear(params, f"layer{self.config.depth - 1}", h)
        return _activate_all(raw, self.config)

    @cached_property
    def fused_shape(self) -> FieldShape:
        """What ``kernels.render_field`` has to know of the field beside its layers."""
        config = self.config
        bands = tuple(self.encoding.bands.tolist())
        return FieldShape(
            bands, config.encoding.include_input, config.density, config.density_scale, config.density_shift
        )

    def to_module(self, params: TargetParams) -> nn.Module:
        """Return item 0 as a torch module of ``nn.Linear`` layers, mapping (N, 3 or 6) to what calling gives."""
        return _OrdinaryField(self, params)


def activate(raw: Tensor, config: FieldOutputsConfig) -> Tensor:
    """Turn raw outputs (..., 4), or (..., 7), into colour, density and deviation, in float32 (at least)."""
    colour, density = render_field.activate(raw[..., :4], config.density, config.density_scale, config.density_shift)
    parts = [colour, density.unsqueeze(-1)]
    if raw.shape[-1] > 4:
        parts.append(deviation_of(raw[..., 4:], config.deviation_floor))
    return torch.cat(parts, dim=-1)


def _activate_all(raw: Tensor, config: RadianceFieldConfig) -> Tensor:
    """Turn raw outputs, the further values being the last ones, into what the field gives."""
    if not config.extra:
        return activate(raw, config)
    values, extra = activate(raw[..., : -config.extra], config), raw[..., -config.extra :]
    extra = extra.to(values.dtype)
    if config.extra_activation == "none":
        return torch.cat((values, extra), dim=-1)
    count = config.extra if config.extra_classes is None else config.extra_classes
    return torch.cat((values, extra[..., :count].softmax(-1), extra[..., count:]), dim=-1)


def _join(colour: Tensor, density: Tensor) -> Tensor:
    """Put the density between the colour and its deviation, where a field without view directions has it.

    What comes with the density, the further values, goes to the end.
    """
    return torch.cat((colour[..., :3], density[..., :1], colour[..., 3:], density[..., 1:]), dim=-1)


class _OrdinaryField(nn.Module):
    """One radiance field with weights of its own, in plain PyTorch."""

    def __init__(self, field: RadianceField, params: TargetParams) -> None:
        super().__init__()
        self.config = field.config
        self.encoding = PositionalEncoding(field.config.encoding)
        self.direction_encoding = PositionalEncoding(field.config.direction_encoding)
        names = [name.removesuffix(".weight") for name in field.spec.tensors if name.endswith(".weight")]
        self.layers = nn.ModuleDict({name: ordinary_linear(params, name) for name in names})

    def forward(self, query: Tensor) -> Tensor:
        h = self.encoding(query[..., :3])
        for index in range(self.config.depth - 1):
            h = torch.relu(self.layers[f"layer{index}"](h))
        if not self.config.view_directions:
            return _activate_all(self.layers[f"layer{self.config.depth - 1}"](h), self.config)
        directions = self.direction_encoding(F.normalize(query[..., 3:], dim=-1))
        colour = torch.relu(self.layers["colour0"](torch.cat((h, directions), dim=-1)))
        return _activate_all(_join(self.layers["colour1"](colour), self.layers["density"](h)), self.config)
