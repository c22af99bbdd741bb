"""backbone -> hypernet -> target -> renderer, as one module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hyperkit.contracts import Cameras, Rays, Rendered, Signal, TargetParams
from hyperkit.models.context import ContextTokens
from hyperkit.renderers import PointsConfig, RendererConfig, evaluate_points, render_rays
from hyperkit.renderers.fused import is_fusible, render_fused
from hyperkit.targets import Target
from hyperkit.targets.radiance_field import RadianceField


class INRHypernet(nn.Module):
    """A hypernetwork for coordinate networks: context in; rendered rays, or values at coordinates, out.

    Args:
        backbone: ``tokenize`` context -> (B, M, D); ``encode`` (B, M, D), (Q, D) -> (B, Q, D).
        hypernet: ``weight_tokens`` (Q, D); ``generate`` (B, Q, D) -> ``TargetParams``.
        target: the generated network.
        renderer: how its rays become colours, or how many points are evaluated at once.
        context: what joins the data tokens: marks of views, poses.
    """

    def __init__(
        self,
        backbone: Any,
        hypernet: Any,
        target: Target,
        renderer: RendererConfig | PointsConfig,
        context: ContextTokens,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.hypernet = hypernet
        self.target = target
        self.renderer = renderer
        self.context = context

    def tokens(self, context: Tensor, cameras: Cameras | None = None) -> Tensor:
        """Return the data tokens (B, M, D) of a context: pictures (B, V, 3, H, W) or waveforms (B, T)."""
        tokens: Tensor = self.backbone.tokenize(context)
        if context.ndim != 5:
            return tokens
        return self.context(tokens, self.backbone.token_layout(*context.shape[-2:]), context.shape[1], cameras)

    def generate(self, context: Tensor, cameras: Cameras | None = None) -> TargetParams:
        """Write one network per item of the context.

        Args:
            context: pictures (B, V, 3, H, W) in [0, 1], or waveforms (B, T) in [-1, 1].
            cameras: of the pictures, (B, V); needed by models with pose tokens.
        """
        encoded = self.backbone.encode(self.tokens(context, cameras), self.hypernet.weight_tokens)
        params: TargetParams = self.hypernet.generate(encoded)
        return params

    def render(self, params: TargetParams, query: Rays | Tensor, jitter: Tensor | None = None) -> Rendered | Signal:
        """Render generated fields along rays (B, R, 3), or evaluate generated signals at coordinates (B, N, C)."""
        if isinstance(query, Rays):
            assert isinstance(self.renderer, RendererConfig)
            if isinstance(self.target, RadianceField) and self._is_fused(query):
                return render_fused(self.target, params, query, self.renderer, jitter)
            extra = int(getattr(self.target.config, "extra", 0))  # type: ignore[attr-defined]
            field = lambda points: self.target(params, self._point(points))  # noqa: E731
            return render_rays(field, query, self.renderer, jitter, extra)
        assert isinstance(self.renderer, PointsConfig)
        deviation = bool(getattr(self.target.config, "deviation", False))  # type: ignore[attr-defined]
        outputs = int(self.target.config.outputs)  # type: ignore[attr-defined]
        return evaluate_points(lambda points: self.target(params, points), query, self.renderer, outputs, deviation)

    def forward(
        self, context: Tensor, query: Rays | Tensor, jitter: Tensor | None = None, cameras: Cameras | None = None
    ) -> Rendered | Signal:
        """Generate and render: context and query -> ``Rendered`` (B, R, ...) or ``Signal`` (B, N, ...)."""
        return self.render(self.generate(context, cameras), query, jitter)

    def _point(self, points: Tensor) -> Tensor:
        return points if getattr(self.target.config, "view_directions", False) else points[..., :3]  # type: ignore[attr-defined]

    def _is_fused(self, rays: Rays) -> bool:
        # on a CPU without gradients the chunks of the renderer's own configuration hold
        pays = rays.origins.device.type == "cuda" or torch.is_grad_enabled()
        return pays and is_fusible(self.target, self.renderer)  # type: ignore[arg-type]

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters by role: backbone, adapters, tokens, heads, base."""
        roles: dict[str, list[nn.Parameter]] = self.hypernet.parameter_roles()
        return {
            "backbone": list(self.backbone.backbone_parameters()),
            "adapters": list(self.backbone.adapter_parameters()),
            **roles,
            "tokens": [*roles["tokens"], *self.context.parameters()],
        }

    @torch.no_grad()
    def attention(self, context: Tensor, cameras: Cameras | None = None) -> dict[str, Tensor]:
        """Return where the weight tokens of each generated layer look in the last block.

        Returns:
            Layer -> (B, M): the attention from its weight tokens to each data token, averaged over these tokens and
            over heads; what is missing to 1 falls on weight tokens.
        """
        tokens = self.tokens(context, cameras)
        weights = self.backbone.attention(context, self.hypernet.weight_tokens, tokens)
        groups = self.hypernet.token_groups
        parts = weights.split(list(groups.values()), dim=1)
        return {layer: part.mean(1) for layer, part in zip(groups, parts, strict=True)}

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        device: torch.device = self.hypernet.weight_tokens.device
        return device
