"""tokens of a sentence -> hypernet -> field -> renderer, as one module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperkit.contracts import Rays, Rendered, TargetParams
from hyperkit.hypernets.dynamic import Dynamic
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.targets.skip_field import SkipField


class TextHypernet(nn.Module):
    """A hypernetwork from sentences to radiance fields (HyperFields, figure 4.2). The frozen text encoder is not in it.

    Args:
        hypernet: tokens and mask -> ``TargetParams``.
        target: the field that it writes.
        renderer: how rays become colours.
    """

    def __init__(self, hypernet: Dynamic, target: SkipField, renderer: RendererConfig) -> None:
        super().__init__()
        self.hypernet, self.target, self.renderer = hypernet, target, renderer

    def generate(self, tokens: Tensor, mask: Tensor | None = None) -> TargetParams:
        """Write one field for each of B sentences.

        Args:
            tokens: (B, T, D).
            mask: (B, T) bool, False where a sentence is padded.
        """
        return self.hypernet.generate(tokens, mask)

    def render(self, params: TargetParams, rays: Rays, jitter: Tensor | None = None) -> Rendered:
        """Render generated fields along rays (B, R, 3)."""
        return render_rays(lambda points: self.target(params, points[..., :3]), rays, self.renderer, jitter)

    def forward(self, tokens: Tensor, mask: Tensor | None, rays: Rays, jitter: Tensor | None = None) -> Rendered:
        """Generate and render."""
        return self.render(self.generate(tokens, mask), rays, jitter)

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters by role; nothing of a backbone is among them."""
        return {"backbone": [], "adapters": [], **self.hypernet.parameter_roles()}

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.hypernet.conditioning.device
