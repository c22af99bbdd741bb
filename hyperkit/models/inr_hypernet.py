"""backbone -> hypernet -> target -> renderer, as one module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hyperkit.contracts import Rays, Rendered, TargetParams
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.targets import Target


class INRHypernet(nn.Module):
    """A hypernetwork for radiance fields: context pictures in, rendered rays out.

    Args:
        backbone: ``tokenize`` (B, V, 3, H, W) -> (B, M, D); ``encode`` (B, M, D), (Q, D) -> (B, Q, D).
        hypernet: ``weight_tokens`` (Q, D); ``generate`` (B, Q, D) -> ``TargetParams``.
        target: the generated network.
        renderer: how its rays become colours.
    """

    def __init__(self, backbone: Any, hypernet: Any, target: Target, renderer: RendererConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.hypernet = hypernet
        self.target = target
        self.renderer = renderer

    def generate(self, context: Tensor) -> TargetParams:
        """Write one network per item of ``context`` (B, V, 3, H, W) in [0, 1]."""
        tokens = self.backbone.tokenize(context)
        encoded = self.backbone.encode(tokens, self.hypernet.weight_tokens)
        params: TargetParams = self.hypernet.generate(encoded)
        return params

    def render(self, params: TargetParams, rays: Rays, jitter: Tensor | None = None) -> Rendered:
        """Render generated fields along rays (B, R, 3)."""
        return render_rays(lambda points: self.target(params, self._query(points)), rays, self.renderer, jitter)

    def forward(self, context: Tensor, rays: Rays, jitter: Tensor | None = None) -> Rendered:
        """Generate and render: (B, V, 3, H, W) and rays (B, R, 3) -> ``Rendered`` (B, R, ...)."""
        return self.render(self.generate(context), rays, jitter)

    def _query(self, points: Tensor) -> Tensor:
        return points if getattr(self.target.config, "view_directions", False) else points[..., :3]  # type: ignore[attr-defined]

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters by role: backbone, adapters, tokens, heads, base."""
        return {
            "backbone": list(self.backbone.backbone_parameters()),
            "adapters": list(self.backbone.adapter_parameters()),
            **self.hypernet.parameter_roles(),
        }

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        device: torch.device = self.hypernet.weight_tokens.device
        return device
