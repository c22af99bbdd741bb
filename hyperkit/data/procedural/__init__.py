"""Procedural cars, chairs and lamps in the LearnIt layout: the built-in data set."""

from hyperkit.data.procedural.generate import generate
from hyperkit.data.procedural.objects import CLASSES, fingerprint, make_object

__all__ = ["CLASSES", "fingerprint", "generate", "make_object"]
