"""From targets to signals: volume rendering and evaluation at points, stateless and in chunks of bounded memory."""

from hyperkit.renderers.points import PointsConfig, evaluate_points
from hyperkit.renderers.volume import RendererConfig, composite, render_rays, sample_along

__all__ = ["PointsConfig", "RendererConfig", "composite", "evaluate_points", "render_rays", "sample_along"]
