"""Adaptation of generated networks: test-time optimisation."""

from hyperkit.adapt.observations import observed_picture, observed_sound, observed_views
from hyperkit.adapt.tto import Observations, TTOConfig, optimise, optimise_on
from hyperkit.adapt.views import optimise_on_views

__all__ = [
    "Observations",
    "TTOConfig",
    "observed_picture",
    "observed_sound",
    "observed_views",
    "optimise",
    "optimise_on",
    "optimise_on_views",
]
