"""Adaptation of generated networks: test-time optimisation."""

from hyperkit.adapt.observations import observed_picture, observed_sound, observed_views
from hyperkit.adapt.tto import Observations, TTOConfig, optimise, optimise_on

__all__ = [
    "Observations",
    "TTOConfig",
    "observed_picture",
    "observed_sound",
    "observed_views",
    "optimise",
    "optimise_on",
]
