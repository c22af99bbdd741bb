"""From a configuration to a backbone with its weights and its strategy."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from hyperkit.backbones.base import Backbone
from hyperkit.backbones.catalog import Entry, find_entry, is_outside, paper_defaults, resolve_strategy
from hyperkit.backbones.config import BackboneConfig
from hyperkit.errors import HyperkitError
from hyperkit.files import sha256_of
from hyperkit.registry import import_attribute

log = logging.getLogger("hyperkit")


def build_backbone(config: BackboneConfig, *, load_weights: bool = True) -> Backbone:
    """Build an encoder, load its weights and set what of it is trained.

    Weights come from ``config.weights``, else from the caches of the libraries, else from the network. Fresh
    parameters are drawn from torch's global generator.

    Args:
        config: the part's configuration.
        load_weights: False when a checkpoint's tensors are loaded right after: no file is looked for, and the
            strategies that need weights are allowed for every backbone.

    Raises:
        HyperkitError: no such backbone; a kind that is not supported; weights that are missing or do not fit.
    """
    entry = find_entry(config.name)
    strategy = resolve_strategy(config, entry, from_checkpoint=not load_weights)
    pretrained = strategy != "random"
    # looked for before anything large is built, so that it fails at once
    file = _file(config, entry) if pretrained and load_weights else None
    backbone = _construct(config, entry)
    backbone.info = replace(
        backbone.info,
        name=config.name,
        pretrained=pretrained,
        license=entry.license if pretrained else None,
        paper=paper_defaults(config, strategy),
    )
    if pretrained and load_weights:
        file = file or Path(backbone.weights_file())
        backbone.load_file(file)
        backbone.info = replace(backbone.info, weights_sha256=sha256_of(file))
        _show_licence(backbone, file)
    backbone.set_strategy(strategy)
    return backbone


def require_weights(config: BackboneConfig) -> Path | None:
    """Find (or fetch) the weights that a backbone will need, without building it; commands call it first.

    Returns:
        Their file; None where none is needed, or where a backbone from outside finds its own.

    Raises:
        HyperkitError: as ``build_backbone`` does, within seconds.
    """
    entry = find_entry(config.name)
    return None if resolve_strategy(config, entry) == "random" else _file(config, entry)


def _file(config: BackboneConfig, entry: Entry) -> Path | None:
    if config.weights is not None:
        if not Path(config.weights).is_file():
            raise HyperkitError(
                f"The file of weights {config.weights} does not exist.",
                f"Leave --weights out to use those of {config.name!r}." if entry.pretrained else None,
            )
        return Path(config.weights)
    if is_outside(entry):
        return None
    from hyperkit.backbones.hub import find_weights

    return find_weights(entry)


def _construct(config: BackboneConfig, entry: Entry) -> Backbone:
    if entry.library == "timm":
        from hyperkit.backbones.timm_vit import build_timm

        return build_timm(config, entry)
    if entry.library == "open_clip":
        from hyperkit.backbones.open_clip_vit import build_open_clip

        return build_open_clip(config, entry)
    if entry.library == "whisper":
        from hyperkit.backbones.whisper_encoder import WhisperBackbone

        return WhisperBackbone(config, entry)
    if entry.library == "hyperkit":
        from hyperkit.backbones.patches import PatchesBackbone

        return PatchesBackbone(config, entry)
    if entry.library == "mel":
        from hyperkit.backbones.mel import MelBackbone

        inner = find_entry(entry.model)
        return MelBackbone(config, entry, _construct(config.model_copy(update={"name": entry.model}), inner))
    backbone = import_attribute(entry.model, "backbone")(config)
    if not isinstance(backbone, Backbone):
        raise HyperkitError(
            f"{entry.model} gave {type(backbone).__name__}, not a backbone.",
            "It must be a subclass of hyperkit.backbones.Backbone, or a function that returns one.",
        )
    if backbone.modality != entry.modality:
        raise HyperkitError(
            f"{entry.model} gave a backbone that reads {backbone.modality}s, and says that it reads {entry.modality}s.",
            f"A function says it with an attribute: {entry.model.rpartition(':')[2]}.modality = {backbone.modality!r}.",
        )
    return backbone


def _show_licence(backbone: Backbone, file: Path) -> None:
    info = backbone.info
    text = f"Backbone {info.name}: weights of {info.source} from {file.name}, licence {info.license or 'not known'}"
    if info.license and "nc" in info.license.lower().split("-"):
        log.warning("%s: not for commercial use.", text)
    else:
        log.info("%s.", text)
