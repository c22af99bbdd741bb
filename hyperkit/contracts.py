"""What the stages pass to one another.

Axis letters, used in every signature: B items, V views, M data tokens, Q weight tokens, D width, R rays, S samples per
ray, P parameters per target, H and W picture height and width. Pictures are float32 in [0, 1], channels first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T", bound="_Movable")


@dataclass(frozen=True)
class _Movable:
    """A frozen dataclass of tensors that can be moved to a device as a whole."""

    def to(self: T, device: torch.device | str, non_blocking: bool = False) -> T:
        """Return a copy with every tensor on ``device``."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=non_blocking)
            return value.to(device, non_blocking) if isinstance(value, _Movable) else value

        return replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class Cameras(_Movable):
    """Pinhole cameras that share one picture size.

    Attributes:
        poses: (..., 4, 4) float32, camera to world, OpenGL axes (x right, y up, looking down -z).
        focal: (...) float32, focal length in pixels of a picture ``width`` wide; pixels are square.
        width, height: picture size in pixels; the principal point is its middle.
        near, far: distances from the camera's centre between which the scene lies, in world units.
    """

    poses: Tensor
    focal: Tensor
    width: int
    height: int
    near: float = 2.0
    far: float = 6.0


@dataclass(frozen=True)
class Rays(_Movable):
    """Rays in world coordinates.

    Attributes:
        origins: (B, R, 3).
        directions: (B, R, 3), not normalised: they reach the plane at distance 1 before the camera at length 1.
        near, far: range of the ray parameter t; a point is ``origin + t * direction``.
    """

    origins: Tensor
    directions: Tensor
    near: float = 2.0
    far: float = 6.0

    def __getitem__(self, part: slice) -> Rays:
        """Return the rays ``part`` of the ray axis."""
        return replace(self, origins=self.origins[:, part], directions=self.directions[:, part])


@dataclass(frozen=True)
class Rendered(_Movable):
    """What a renderer gives for each ray.

    Attributes:
        rgb: (B, R, 3), composited on the background.
        depth: (B, R), expected ray parameter t where the ray ends, the far end for what passes through.
        opacity: (B, R) in [0, 1].
        deviation: (B, R, 3), positive, where the target gives one: composited with the colours' weights.
        features: (B, R, F) where the target gives them.
    """

    rgb: Tensor
    depth: Tensor
    opacity: Tensor
    deviation: Tensor | None = None
    features: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """The colours, (B, R, 3): what is compared with the truth, as for a ``Signal``."""
        return self.rgb


@dataclass(frozen=True)
class Signal(_Movable):
    """What a target gives at coordinates, where nothing is composited: pictures and sounds.

    Attributes:
        values: (B, N, F), the signal, or its mean where the target also gives a deviation.
        deviation: (B, N, F), positive, where the target gives one.
    """

    values: Tensor
    deviation: Tensor | None = None


@dataclass(frozen=True)
class Batch(_Movable):
    """One batch of items, as data gives it and a task reads it.

    Attributes:
        context: what the hypernetwork sees: pictures (B, V, 3, H, W) in [0, 1]; waveform (B, T) in [-1, 1]; tokens.
        query: where the target is evaluated: ``Rays`` for radiance fields, coordinates (B, N, C) for others: (x, y) of
            pictures, t of sounds, each in [-1, 1] over the whole signal (``geometry`` says where samples lie).
        truth: (B, R, 3) or (B, N, F), the signal at ``query``.
        opacity: (B, R) in [0, 1], the truth's alpha at ``query``, not composited; NaN in the rows of items whose
            pictures are opaque everywhere, of which it says nothing. None where nothing is composited.
        mask: (B, M) bool, False where a context of tokens (B, M, D) is padded; None where it is no such context.
        ids: one id per item ("cars/0001").
        classes: one class name per item.
        context_cameras: cameras of the context pictures, shape (B, V), where known.
        query_size: (height, width) where the query is a whole picture in row-major order.
        labels: (B, R) int64, which part the truth shows at ``query``: 1 for the first, 0 for the background. None where
            the data knows no parts.
        features: (B, R, F), an encoder's features of what the truth shows at ``query``, 0 on the background. None where
            none are distilled.
    """

    context: Tensor
    query: Any
    truth: Tensor
    ids: tuple[str, ...]
    classes: tuple[str, ...] = ()
    context_cameras: Cameras | None = None
    query_size: tuple[int, int] | None = None
    labels: Tensor | None = None
    opacity: Tensor | None = None
    mask: Tensor | None = None
    features: Tensor | None = None


@dataclass(frozen=True)
class TensorSpec:
    """One generated (or shared) tensor of a target: its shape without the item axis.

    Attributes:
        shape: for a layer's weight (I, O), fan-in first; for its bias (1, O).
        shared: True where all items share the tensor (its item axis is then 1).
        bound: the learned part of it starts uniform in [-bound, bound]; None: 1 / sqrt(fan-in) of its layer.
    """

    shape: tuple[int, ...]
    shared: bool = False
    bound: float | None = None

    @property
    def numel(self) -> int:
        """Number of values of one item."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class TargetSpec:
    """The tensors that a target needs, in order, and what rebuilds the target itself.

    Attributes:
        tensors: ordered name -> ``TensorSpec``.
        kind: registry name of the target ("mlp", "radiance_field").
        options: the target's configuration as plain values.
    """

    tensors: Mapping[str, TensorSpec]
    kind: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def numel(self) -> int:
        """P: number of parameters of one target, shared ones included."""
        return sum(spec.numel for spec in self.tensors.values())


@dataclass(frozen=True)
class TargetParams:
    """The parameters of B targets: name -> tensor (B, *shape), or (1, *shape) where items share it."""

    tensors: Mapping[str, Tensor]
    spec: TargetSpec

    def __post_init__(self) -> None:
        if list(self.tensors) != list(self.spec.tensors):
            raise ValueError(f"tensors {list(self.tensors)} do not match the spec's {list(self.spec.tensors)}")
        for name, spec in self.spec.tensors.items():
            if tuple(self.tensors[name].shape[1:]) != spec.shape:
                raise ValueError(f"{name} has shape {tuple(self.tensors[name].shape)}, expected (B, *{spec.shape})")

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def items(self) -> int:
        """B, the number of targets."""
        return max((t.shape[0] for t in self.tensors.values()), default=0)

    def pack(self) -> Tensor:
        """Return all parameters as one flat tensor (B, P), in the spec's order; shared ones are repeated."""
        count = self.items
        return torch.cat([t.flatten(1).expand(count, -1) for t in self.tensors.values()], dim=1)

    @classmethod
    def unpack(cls, flat: Tensor, spec: TargetSpec) -> TargetParams:
        """Invert ``pack``, exactly. Shared tensors are taken from the first item.

        Args:
            flat: (B, P).
            spec: the spec that ``flat`` was packed by.
        """
        if flat.ndim != 2 or flat.shape[1] != spec.numel:
            raise ValueError(f"expected a flat tensor (B, {spec.numel}), got {tuple(flat.shape)}")
        parts = flat.split([t.numel for t in spec.tensors.values()], dim=1)
        return cls(
            {
                name: (part[:1] if t.shared else part).reshape(-1, *t.shape)
                for (name, t), part in zip(spec.tensors.items(), parts, strict=True)
            },
            spec,
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> TargetParams:
        """Return the parameters with ``change`` applied to every tensor."""
        return TargetParams({name: change(t) for name, t in self.tensors.items()}, self.spec)

    def select(self, index: int) -> TargetParams:
        """Return the parameters of item ``index`` alone, with B = 1."""
        return self.map(lambda t: t if t.shape[0] == 1 else t[index : index + 1])


@dataclass(frozen=True)
class Metric:
    """How a metric is read: its unit, and whether more is better."""

    name: str
    unit: str = ""
    higher_is_better: bool = True


@dataclass(frozen=True)
class Scores:
    """Values of metrics for each item.

    Attributes:
        values: metric name -> one float per item; None where the metric has no meaning for it.
        ids, classes: one per item.
        metrics: how each value is read.
        unavailable: metric name -> why it could not be computed and the command that helps.
    """

    values: Mapping[str, list[float]]
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)
