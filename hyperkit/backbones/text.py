"""Which frozen network reads sentences, and how it is built. Imports no torch until one is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyperkit.config import PartConfig

if TYPE_CHECKING:
    from hyperkit.backbones.text_encoders import TextEncoder


class TextEncoderConfig(PartConfig):
    """Which frozen network turns sentences into tokens.

    Attributes:
        name: "minilm" (the package in the extra ``text`` carries its weights), "bert" or "t5" (transformers), "clip"
            (the text tower of the backbone of that name), or the path of a folder as transformers writes it, with
            config.json, the weights and the tokenizer's files.
        weights: where the weights of a named one are, if not in their usual place: such a folder, for "clip" a file
            as of the backbone.
    """

    name: str = "minilm"
    weights: str | None = None


def require_text_encoder(config: TextEncoderConfig) -> Path:
    """Find (or fetch) what a text encoder will need, without building it; commands call it first.

    Returns:
        The folder, or for "clip" the file, with its weights.

    Raises:
        HyperkitError: no such encoder; a package or weights are missing, which comes within seconds; or they are
            damaged.
    """
    from hyperkit.backbones.text_weights import find_text_weights

    return find_text_weights(config)


def build_text_encoder(config: TextEncoderConfig) -> TextEncoder:
    """Build a text encoder with its weights, on the CPU. The global random state stays as it is.

    Raises:
        HyperkitError: as ``require_text_encoder`` does; or the weights do not fit.
    """
    found = require_text_encoder(config)
    from hyperkit.backbones.text_encoders import load_clip_text, load_transformers

    return load_clip_text(config, found) if config.name == "clip" else load_transformers(config, found)
