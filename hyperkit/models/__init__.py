"""The stages put together as one module, and the objects that users get."""

from hyperkit.models.field import Field
from hyperkit.models.inr_hypernet import INRHypernet
from hyperkit.models.predictor import Predictor
from hyperkit.models.signals import PictureINR, SoundINR

__all__ = ["Field", "INRHypernet", "PictureINR", "Predictor", "SoundINR"]
