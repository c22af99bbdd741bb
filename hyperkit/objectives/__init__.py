"""Losses: means over items, so that gradients of parts of a batch average to the gradient of the whole."""

from hyperkit.objectives.distillation import feature_error
from hyperkit.objectives.likelihood import gaussian_nll
from hyperkit.objectives.reconstruction import foggy, mse, opacity_error
from hyperkit.objectives.segmentation import part_nll

__all__ = ["feature_error", "foggy", "gaussian_nll", "mse", "opacity_error", "part_nll"]
