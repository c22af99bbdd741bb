"""Pretrained encoders behind one interface: ``tokenize``, ``encode``, ``features``, ``width``, ``family``.

Nothing heavy is imported until a backbone is built.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperkit.backbones.base import Backbone
    from hyperkit.backbones.build import build_backbone, require_weights
    from hyperkit.backbones.catalog import NAMED, paper_defaults, resolve_strategy
    from hyperkit.backbones.config import BackboneConfig, BackboneInfo, PaperDefaults
    from hyperkit.backbones.prepare import list_prepared, prepare_backbone

_HOME = {
    "Backbone": "base",
    "build_backbone": "build",
    "require_weights": "build",
    "NAMED": "catalog",
    "paper_defaults": "catalog",
    "resolve_strategy": "catalog",
    "BackboneConfig": "config",
    "BackboneInfo": "config",
    "PaperDefaults": "config",
    "list_prepared": "prepare",
    "prepare_backbone": "prepare",
}

__all__ = [
    "NAMED",
    "Backbone",
    "BackboneConfig",
    "BackboneInfo",
    "PaperDefaults",
    "build_backbone",
    "list_prepared",
    "paper_defaults",
    "prepare_backbone",
    "require_weights",
    "resolve_strategy",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"hyperkit.backbones.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
