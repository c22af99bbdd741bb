"""The stages put together as one module, and the objects that users get."""

from hyperkit.models.field import Field
from hyperkit.models.inr_hypernet import INRHypernet
from hyperkit.models.predictor import Predictor

__all__ = ["Field", "INRHypernet", "Predictor"]
