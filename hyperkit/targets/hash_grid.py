"""Radiance fields on a multiresolution hash grid (Müller et al. 2022): learned tables and a small generated MLP."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from hyperkit.config import PartConfig
from hyperkit.contracts import TargetParams, TargetSpec, TensorSpec
from hyperkit.targets.base import Target, linear, ordinary_linear
from hyperkit.targets.encoding import EncodingConfig, PositionalEncoding
from hyperkit.targets.radiance_field import FieldOutputsConfig, activate

EXTENT = 1.05
"""The grid covers the cube [-EXTENT, EXTENT]^3 around the unit sphere; points beyond it are read at its border."""

PRIMES = (1, 2654435761, 805459861)
"""Factors of the spatial hash, one for each coordinate (Müller et al. 2022, eq. 4)."""


class GridConfig(PartConfig):
    """A multiresolution grid of feature vectors.

    Attributes:
        levels: L, number of grids.
        features: F, values at each vertex.
        coarsest, finest: cells along each side of the first and of the last grid; those between grow geometrically.
        log2_table: a level has at most ``2 ** log2_table`` vectors. Levels whose (cells + 1)^3 vertices fit have one
            for each; those of the others share them by a spatial hash. The default makes 47 MiB of tables (190 MiB with
            Adam's state), which a laptop has; test-time optimisation needs that for every item of the batch. 14 makes
            1.9 MiB.
    """

    levels: int = Field(default=16, ge=1)
    features: int = Field(default=2, ge=1)
    coarsest: int = Field(default=16, ge=1)
    finest: int = Field(default=2048, ge=1, le=65536)
    log2_table: int = Field(default=19, ge=3, le=30)

    @model_validator(mode="after")
    def _order(self) -> GridConfig:
        if self.finest < self.coarsest:
            raise ValueError("finest must be at least coarsest")
        return self


@dataclass(frozen=True)
class GridLayout:
    """Where the vectors of each level lie in the table.

    Attributes:
        resolutions: cells along each side, for each level.
        sizes: rows of the table, for each level; the levels follow one another.
        dense: number of levels, the first ones, that have one row for each vertex.
        features: F.
    """

    resolutions: tuple[int, ...]
    sizes: tuple[int, ...]
    dense: int
    features: int

    @property
    def rows(self) -> int:
        """T, rows of the whole table."""
        return sum(self.sizes)

    @property
    def width(self) -> int:
        """Number of features of a point, L * F."""
        return len(self.sizes) * self.features


@lru_cache
def grid_layout(config: GridConfig) -> GridLayout:
    """Lay out the levels: level l has floor(coarsest * (finest / coarsest)^(l / (L - 1))) cells along each side."""
    ratio, steps = config.finest / config.coarsest, max(config.levels - 1, 1)
    # a power that is a whole number may come out a little below it
    resolutions = tuple(int(config.coarsest * ratio ** (level / steps) + 1e-6) for level in range(config.levels))
    vertices = [(cells + 1) ** 3 for cells in resolutions]
    limit = 2**config.log2_table
    dense = sum(count <= limit for count in vertices)
    return GridLayout(resolutions, tuple(min(count, limit) for count in vertices), dense, config.features)


def grid_features(table: Tensor, points: Tensor, layout: GridLayout) -> Tensor:
    """Interpolate the vectors of every level at points: trilinear in the cell that the point is in.

    Args:
        table: (B, T, F), or (1, T, F) where items share it; ``layout.rows`` rows.
        points: (B, N, 3), or (1, N, 3) where items share them.

    Returns:
        (B, N, L * F), level by level, float32 or wider. The gradient with respect to the points is that inside of
        the cells; it jumps from one cell to the next.
    """
    kind = torch.promote_types(points.dtype, torch.float32)
    cells = torch.tensor(layout.resolutions, dtype=kind, device=points.device).unsqueeze(-1)
    unit = 0.5 * ((points.to(kind) / EXTENT).clamp(-1, 1) + 1)
    scaled = unit.unsqueeze(-2) * cells  # (B or 1, N, L, 3)
    lowest = torch.minimum(scaled.detach().floor(), cells - 1)
    index = _rows(lowest.long(), layout)
    if len(table) > 1:  # one index over the tables of all items
        index = index + layout.rows * torch.arange(len(table), device=index.device)[:, None, None, None]
    vectors = table.flatten(0, 1).index_select(0, index.flatten()).to(kind).unflatten(0, index.shape)
    weights = _corners((1 - (scaled - lowest), scaled - lowest), torch.mul)
    return (vectors * weights.unsqueeze(-1)).sum(-2).flatten(-2)


def _rows(lowest: Tensor, layout: GridLayout) -> Tensor:
    """Return the rows (B, N, L, 8) of the corners of cells whose lowest vertices are (B, N, L, 3).

    A dense level with n vertices along each side counts x + n y + n^2 z; the others hash to
    (x xor p_2 y xor p_3 z) mod 2^log2_table. Products of 64 bits have the same low bits as those of 32.
    """
    dense = layout.dense
    side = [cells + 1 for cells in layout.resolutions[:dense]]
    factors = [(1, n, n * n) for n in side] + [PRIMES] * (len(layout.sizes) - dense)
    factor = torch.tensor(factors, device=lowest.device)
    terms = (lowest * factor, (lowest + 1) * factor)
    parts = [_corners([t[..., :dense, :] for t in terms], torch.add)]
    if dense < len(layout.sizes):
        hashed = _corners([t[..., dense:, :] for t in terms], torch.bitwise_xor)
        parts.append(hashed & (layout.sizes[-1] - 1))
    starts = torch.tensor([0, *itertools.accumulate(layout.sizes[:-1])], device=lowest.device)
    return torch.cat(parts, dim=-2) + starts.unsqueeze(-1)


def _corners(sides: Sequence[Tensor], combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine the coordinates of the two sides (..., 3) to one value (..., 8) for each corner, x changing slowest."""
    x, y, z = torch.stack(list(sides), dim=-1).unbind(-2)
    plane = combine(x.unsqueeze(-1), y.unsqueeze(-2))
    return combine(plane.unsqueeze(-1), z.unsqueeze(-2).unsqueeze(-2)).flatten(-3)


class HashGridConfig(GridConfig, FieldOutputsConfig):
    """A radiance field whose MLP reads grid features.

    Attributes:
        depth: number of linear layers of the MLP.
        width: width of its hidden layers.
        encoding: encoding of the position, joined to the grid features; 0 frequencies: none.
        levels: L, number of grids.
        features: F, values at each vertex.
        coarsest, finest: cells along each side of the first and of the last grid; those between grow geometrically.
        log2_table: a level has at most ``2 ** log2_table`` vectors; see ``GridConfig`` for the memory.
        density: activation that makes the density non-negative.
        density_scale: factor on the density.
        density_shift: added before the activation, so that a field starts as fog.
        deviation: the field also gives a deviation of each colour channel (see ``base.deviation_of``).
        deviation_floor: lower limit of the deviation.
    """

    depth: int = Field(default=3, ge=2)
    width: int = Field(default=64, ge=1)
    encoding: EncodingConfig = EncodingConfig(frequencies=0)


class HashGridField(Target):
    """c, sigma = MLP([grid(x), enc(x)]) (Müller et al. 2022), outputs as those of ``RadianceField``.

    ``table`` (T, F) holds the grids. It starts uniform in +-1e-4, and items share it: what is generated for an item is
    the MLP, ``layer0`` ... ``layer{depth-1}``. Test-time optimisation gives every item a table of its own.
    """

    kind = "hash_grid"
    config_model: ClassVar[type[PartConfig]] = HashGridConfig

    def __init__(self, config: HashGridConfig) -> None:
        self.config = config
        self.layout = grid_layout(config)
        self.encoding = PositionalEncoding(config.encoding)
        inputs = self.layout.width + config.encoding.width(3)
        widths = [inputs, *[config.width] * (config.depth - 1), 7 if config.deviation else 4]
        tensors = {"table": TensorSpec((self.layout.rows, config.features), shared=True, bound=1e-4)}
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            tensors |= self.layer_tensors(f"layer{index}", fan_in, fan_out)
        self.spec = TargetSpec(tensors, self.kind, config.model_dump(mode="json"))

    def __call__(self, params: TargetParams, query: Tensor, state: Any = None) -> Tensor:
        """Evaluate the fields at ``query`` (B, N, 3) -> (B, N, 4), or with a deviation (B, N, 7), float32 or wider."""
        h = self._inputs(params["table"], query)
        for index in range(self.config.depth):
            h = linear(params, f"layer{index}", torch.relu(h) if index else h)
        return activate(h, self.config)

    def _inputs(self, table: Tensor, points: Tensor) -> Tensor:
        features = grid_features(table, points, self.layout)
        encoded = self.encoding(points).expand(len(features), -1, -1)
        return torch.cat((features, encoded.to(features.dtype)), dim=-1)

    def to_module(self, params: TargetParams) -> nn.Module:
        """Return item 0 as a torch module of a table and ``nn.Linear`` layers, mapping (N, 3) to (N, 4), or (N, 7)."""
        return _OrdinaryHashGrid(self, params)


class _OrdinaryHashGrid(nn.Module):
    """One field with a table and weights of its own, in plain PyTorch."""

    def __init__(self, field: HashGridField, params: TargetParams) -> None:
        super().__init__()
        self.field = field
        self.table = nn.Parameter(params["table"][0].detach().clone())
        self.layers = nn.ModuleList(ordinary_linear(params, f"layer{i}") for i in range(field.config.depth))

    def forward(self, query: Tensor) -> Tensor:
        h = self.field._inputs(self.table[None], query[None])[0]
        for index, layer in enumerate(self.layers):
            h = layer(torch.relu(h) if index else h)
        return activate(h, self.field.config)
