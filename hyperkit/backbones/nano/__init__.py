"""A small vision transformer for pictures of 64 pixels, and what pretrains it: self-distillation, masked pictures."""

from hyperkit.backbones.nano.architecture import NanoConfig, build_nano, class_features, mean_features, save_nano
from hyperkit.backbones.nano.distilled import DistilledNano, ProjectionHead
from hyperkit.backbones.nano.masked import MaskedDecoder, MaskedNano

__all__ = [
    "DistilledNano",
    "MaskedDecoder",
    "MaskedNano",
    "NanoConfig",
    "ProjectionHead",
    "build_nano",
    "class_features",
    "mean_features",
    "save_nano",
]
