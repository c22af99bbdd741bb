"""Losses: means over items, so that gradients of parts of a batch average to the gradient of the whole."""

from hyperkit.objectives.likelihood import gaussian_nll
from hyperkit.objectives.reconstruction import foggy, mse, opacity_error

__all__ = ["foggy", "gaussian_nll", "mse", "opacity_error"]
