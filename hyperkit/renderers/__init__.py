"""From targets to pictures: volume rendering, stateless and in chunks of bounded memory."""

from hyperkit.renderers.volume import RendererConfig, composite, render_rays, sample_along

__all__ = ["RendererConfig", "composite", "render_rays", "sample_along"]
