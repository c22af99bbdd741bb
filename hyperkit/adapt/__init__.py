"""Adaptation of generated networks: test-time optimisation."""

from hyperkit.adapt.tto import TTOConfig, optimise

__all__ = ["TTOConfig", "optimise"]
