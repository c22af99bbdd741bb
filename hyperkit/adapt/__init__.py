"""Adaptation of generated networks: test-time optimisation."""

from hyperkit.adapt.tto import TTOConfig, optimise
from hyperkit.adapt.views import optimise_on_views

__all__ = ["TTOConfig", "optimise", "optimise_on_views"]
