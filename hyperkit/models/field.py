"""What a user gets: one object that can be rendered from any side, meshed and saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hyperkit.contracts import Cameras, Rays, Rendered, TargetParams
from hyperkit.errors import HyperkitError
from hyperkit.geometry import focal_from_angle, picture_rays, turntable
from hyperkit.kernels.hardware import fast_precision
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.renderers.culled import Tally
from hyperkit.renderers.fast import fast_renderer
from hyperkit.renderers.fused import field_points, is_fusible, render_fused
from hyperkit.renderers.volume import Field_
from hyperkit.targets import Target
from hyperkit.targets.export import load_target, save_target
from hyperkit.targets.radiance_field import RadianceField

Quality = Literal["fast", "exact"]


@dataclass(frozen=True)
class Framing:
    """The cameras that a data set was made with.

    Attributes:
        camera_angle_x: horizontal field of view, radians.
        radius: distance of the cameras from the origin, world units.
        size: picture size in pixels.
        near, far: range of the rays.
    """

    camera_angle_x: float = 2 * math.atan(0.27)
    radius: float = 4.0
    size: int = 128
    near: float = 2.0
    far: float = 6.0

    def cameras(self, poses: Tensor, size: int | None = None) -> Cameras:
        """Return cameras with these poses (V, 4, 4) and square pictures of ``size`` pixels."""
        size = size or self.size
        focal = torch.full(poses.shape[:-2], focal_from_angle(self.camera_angle_x, size))
        return Cameras(poses.float(), focal, size, size, self.near, self.far)


@dataclass(frozen=True)
class Views:
    """Rendered pictures.

    Attributes:
        rgb: (V, H, W, 3) float32 in [0, 1].
        depth: (V, H, W), distance along the view, the far end where nothing is.
        opacity: (V, H, W) in [0, 1].
        cameras: where they were taken from.
        deviation: (V, H, W, 3) of the colours, where the field gives one.
        culled: share of the samples that were not evaluated, because nothing is there or nothing is seen of it.
        features: (V, H, W, F), where the field gives features: of parts, their probabilities, then those that were
            distilled from an encoder, if any.
        parts: names of the parts that the first of the features are probabilities of.
    """

    rgb: Tensor
    depth: Tensor
    opacity: Tensor
    cameras: Cameras
    deviation: Tensor | None = None
    culled: float = 0.0
    features: Tensor | None = None
    parts: tuple[str, ...] = ()

    def labels(self) -> Tensor:
        """Return which part each pixel shows, (V, H, W) uint8: i for ``parts[i - 1]``, 0 for the background.

        It is the likeliest part where at least half of the light is stopped; see ``part_labels``.

        Raises:
            HyperkitError: the field knows no parts.
        """
        if self.features is None or not self.parts:
            raise HyperkitError(
                "This field knows no parts, so that there are no label maps.", "Models of `hyperkit train segment` do."
            )
        return part_labels(self.features[..., : len(self.parts)], self.opacity).to(torch.uint8)

    @property
    def distilled(self) -> Tensor | None:
        """The features (V, H, W, F) that were distilled from an encoder, 0 on the background; None without any."""
        if self.features is None or self.features.shape[-1] == len(self.parts):
            return None
        return self.features[..., len(self.parts) :]

    def frames(self) -> list[np.ndarray]:
        """Return the pictures as uint8 arrays (H, W, 3)."""
        return list((self.rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


@dataclass(frozen=True)
class Field:
    """One generated radiance field.

    Attributes:
        target, params: the network, with B = 1.
        renderer: how it is rendered.
        framing: the cameras that suit it.
        precision: dtype of the matrix products.
        parts: names of the parts of which it gives the probabilities at each point, where it does.
    """

    target: Target
    params: TargetParams
    renderer: RendererConfig = RendererConfig()
    framing: Framing = field(default_factory=Framing)
    precision: torch.dtype = torch.float32
    parts: tuple[str, ...] = ()

    def query(self, points: Tensor) -> Tensor:
        """Return colour, density, the colours' deviation where the field gives one (N, 4 or 7), and its features.

        Args:
            points: positions, or positions and directions, (N, 3 or 6).
        """
        return self._evaluate(points, self.precision)

    def _evaluate(self, points: Tensor, precision: torch.dtype) -> Tensor:
        with_directions = bool(self.params.spec.options.get("view_directions"))
        if with_directions and points.shape[-1] == 3:
            # without a direction of view, look from outside towards the centre
            points = torch.cat((points, -points), dim=-1)
        points = points if with_directions else points[..., :3]
        enabled = precision != torch.float32
        with torch.autocast(self.device.type, dtype=precision if enabled else torch.bfloat16, enabled=enabled):
            return self.target(self.params, points[None].to(self.device))[0]

    @property
    def extra(self) -> int:
        """F, number of features at each point."""
        return int(self.params.spec.options.get("extra", 0))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.params.tensors.values())).device

    @torch.no_grad()
    def render(
        self,
        views: int = 50,
        *,
        poses: Tensor | None = None,
        size: int | None = None,
        elevation: float = 30.0,
        background: str | None = None,
        samples: int | None = None,
        quality: Quality = "fast",
    ) -> Views:
        """Render a turntable, or given views.

        Args:
            views: number of views of one turn.
            poses: (V, 4, 4) camera-to-world poses instead of the turn.
            size: picture size in pixels; the training size by default.
            elevation: of the turntable's cameras, degrees above the ground plane.
            background: "white" or "black" instead of the renderer's.
            samples: samples per ray instead of the renderer's.
            quality: ``exact``: every sample, in float32. ``fast``: in bf16 where the hardware multiplies it, by the
                fused kernel on a GPU, without the samples that cannot be seen on a CPU; see ``renderers.fast``.
        """
        changes = {"background": background, "samples": samples}
        values = self.renderer.model_dump() | {k: v for k, v in changes.items() if v is not None}
        config = type(self.renderer).model_validate(values)
        if poses is None:
            poses = turntable(views, math.radians(elevation), self.framing.radius)
        cameras = self.framing.cameras(poses, size)
        cameras = cameras.to(self.device)
        tally = Tally()
        render = self._renderer(cameras, config, quality, tally)
        shape = (len(poses), cameras.height, cameras.width)
        rgb, depth, opacity = torch.empty(*shape, 3), torch.empty(shape), torch.empty(shape)
        deviation = torch.empty(*shape, 3) if self.params.spec.options.get("deviation") else None
        features = torch.empty(*shape, self.extra) if self.extra else None
        for index in range(len(poses)):
            one = replace(cameras, poses=cameras.poses[index, None], focal=cameras.focal[index, None])
            view = render(picture_rays(one))
            rgb[index] = view.rgb.reshape(*shape[1:], 3)
            depth[index], opacity[index] = view.depth.reshape(shape[1:]), view.opacity.reshape(shape[1:])
            if deviation is not None and view.deviation is not None:
                deviation[index] = view.deviation.reshape(*shape[1:], 3)
            if features is not None and view.features is not None:
                features[index] = view.features.reshape(*shape[1:], -1)
        return Views(rgb, depth, opacity, cameras, deviation, tally.culled, features, self.parts)

    def _renderer(
        self, cameras: Cameras, config: RendererConfig, quality: Quality, tally: Tally
    ) -> Callable[[Rays], Rendered]:
        if quality not in get_args(Quality):
            raise HyperkitError(f"There is no quality {quality!r}.", f"Allowed: {', '.join(get_args(Quality))}.")
        if quality == "exact":
            return lambda rays: render_rays(self._field(torch.float32), rays, config, extra=self.extra)
        precision = fast_precision(self.device)
        if self.device.type == "cuda" and is_fusible(self.target, config):
            assert isinstance(self.target, RadianceField)
            target = self.target
            return lambda rays: render_fused(target, self.params, rays, config, precision=precision)
        deviation = bool(self.params.spec.options.get("deviation"))
        name = f"{self.params.spec.kind} of {self.params.spec.numel} parameters, {precision}"
        field = self._field(precision)
        if isinstance(self.target, RadianceField) and is_fusible(self.target, config):
            points = field_points(self.target, self.params, precision)
            field = lambda query: points(query[0, :, :3])[None]  # noqa: E731
        return fast_renderer(field, cameras, config, name, deviation, tally, self.extra)

    def _field(self, precision: torch.dtype) -> Field_:
        return lambda points: self._evaluate(points[0], precision)[None]

    @torch.no_grad()
    def density_grid(self, resolution: int = 128, extent: float = 1.05) -> Tensor:
        """Return the density (N, N, N) on a regular grid over [-extent, extent]^3, axes x, y, z."""
        axis = torch.linspace(-extent, extent, resolution)
        slices = []
        for x in axis:
            y, z = torch.meshgrid(axis, axis, indexing="ij")
            points = torch.stack((x.expand_as(y), y, z), dim=-1).reshape(-1, 3)
            slices.append(self._chunked(points)[:, 3].reshape(resolution, resolution).cpu())
        return torch.stack(slices)

    @torch.no_grad()
    def _chunked(self, points: Tensor) -> Tensor:
        return torch.cat([self.query(chunk) for chunk in points.split(self.renderer.chunk_points)])

    def mesh(self, resolution: int = 128, threshold: float | None = None) -> Any:
        """Extract the surface by marching cubes, with the field's colour at each vertex.

        Args:
            resolution: grid points per axis.
            threshold: density of the surface. By default the density at which half of the light is stopped
                over a twentieth of the unit sphere's radius, or half of the largest density if that is lower.

        Returns:
            A ``trimesh.Trimesh`` with y up (as glTF has it).

        Raises:
            HyperkitError: the field has no surface at that density.
        """
        import trimesh
        from skimage.measure import marching_cubes

        extent = 1.05
        density = self.density_grid(resolution, extent).numpy()
        level = threshold if threshold is not None else min(math.log(2) / 0.05, 0.5 * float(density.max()))
        if not float(density.min()) < level < float(density.max()):
            raise HyperkitError(
                f"The field has no surface at density {level:.3g}: it lies between "
                f"{density.min():.3g} and {density.max():.3g}.",
                "Choose another --mesh-threshold, or train for longer: an untrained field is empty or fog.",
            )
        vertices, faces, _, _ = marching_cubes(density, level, spacing=(2 * extent / (resolution - 1),) * 3)
        vertices = vertices - extent
        colour = self._chunked(torch.from_numpy(vertices.astype(np.float32)))[:, :3].clamp(0, 1).cpu().numpy()
        upright = vertices[:, [0, 2, 1]] * np.array([1.0, 1.0, -1.0])  # z up -> y up
        rgba = np.concatenate([colour, np.ones_like(colour[:, :1])], axis=1)
        mesh = trimesh.Trimesh(upright, faces, vertex_colors=(rgba * 255).round().astype(np.uint8), process=False)
        if mesh.is_watertight and mesh.volume < 0:
            mesh.invert()
        return mesh

    def to_module(self) -> torch.nn.Module:
        """Return the generated network as an ordinary torch module, (N, 3 or 6) -> what ``query`` gives."""
        return self.target.to_module(self.params)

    def save(self, path: str | Path) -> None:
        """Write the generated weights, with cameras and renderer, as safetensors (see ``targets.export``)."""
        extra: dict[str, Any] = {"renderer": self.renderer.model_dump(mode="json"), "framing": vars(self.framing)}
        if self.parts:
            extra["parts"] = list(self.parts)
        save_target(path, self.params, extra)

    @classmethod
    def load(cls, path: str | Path) -> Field:
        """Read a field that ``save`` wrote.

        Raises:
            HyperkitError: the file is missing, damaged, or holds another kind of network.
        """
        target, params, extra = load_target(path)
        if "signal" in extra:
            kind = extra["signal"]
            raise HyperkitError(f"{path} holds a {kind}, not a Field.", f"Load it with {kind}.load.")
        renderer = RendererConfig.model_validate(extra.get("renderer", {}))
        framing = Framing(**extra.get("framing", {}))
        return cls(target, params, renderer, framing, parts=tuple(extra.get("parts", ())))


def part_labels(probabilities: Tensor, opacity: Tensor) -> Tensor:
    """Return which part each ray shows, int64: i for part i of 1 to K, 0 for the background.

    It is the likeliest part where at least half of the light is stopped, as a pixel's label is that of the part that
    covers most of it where at least half of it is covered.

    Args:
        probabilities: (..., K), composited, so that they add up to the opacity.
        opacity: (...).
    """
    return torch.where(opacity >= 0.5, probabilities.argmax(-1) + 1, 0)
