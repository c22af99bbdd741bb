"""Pretrained encoders behind one interface: ``tokenize``, ``encode``, ``features``, ``attention``, ``token_layout``.

Nothing heavy is imported until a backbone is built.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperkit.backbones.base import Backbone
    from hyperkit.backbones.build import build_backbone, require_weights
    from hyperkit.backbones.catalog import NAMED, modality_of, paper_defaults, resolve_strategy
    from hyperkit.backbones.config import BackboneConfig, BackboneInfo, Modality, PaperDefaults, TokenLayout
    from hyperkit.backbones.prepare import list_prepared, prepare_backbone
    from hyperkit.backbones.sound import SoundBackbone

_HOME = {
    "Backbone": "base",
    "build_backbone": "build",
    "require_weights": "build",
    "NAMED": "catalog",
    "modality_of": "catalog",
    "paper_defaults": "catalog",
    "resolve_strategy": "catalog",
    "BackboneConfig": "config",
    "BackboneInfo": "config",
    "Modality": "config",
    "PaperDefaults": "config",
    "TokenLayout": "config",
    "list_prepared": "prepare",
    "prepare_backbone": "prepare",
    "SoundBackbone": "sound",
}

__all__ = [
    "NAMED",
    "Backbone",
    "BackboneConfig",
    "BackboneInfo",
    "Modality",
    "PaperDefaults",
    "SoundBackbone",
    "TokenLayout",
    "build_backbone",
    "list_prepared",
    "modality_of",
    "paper_defaults",
    "prepare_backbone",
    "require_weights",
    "resolve_strategy",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"hyperkit.backbones.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
