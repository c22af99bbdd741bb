"""The backbones that have a name: where each comes from, its licence, and the paper's settings for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hyperkit.backbones.config import BackboneConfig, Modality, PaperDefaults, Strategy
from hyperkit.errors import HyperkitError, unknown_name
from hyperkit.registry import import_attribute

_RANDOM = PaperDefaults(1e-4, 32, "step")
_FROZEN = PaperDefaults(1e-3, 32, "step")
_STEP = PaperDefaults(1e-4, 128, "step")
_COS = PaperDefaults(1e-4, 128, "cos")
_SMALL = PaperDefaults(1e-3, 24, "cos")
_NANO = {"img_size": 64, "patch_size": 8, "depth": 3, "num_heads": 3}
# Table 5, whose caption takes what it does not name from IPC: a constant learning rate
_SOUND = PaperDefaults(1e-4, 64, "constant", epochs=100)

OTHER_NAMES = (
    "Or timm:NAME, open_clip:NAME/TAG, mel:NAME for sounds as pictures of their mel spectrogram, or an own class as "
    "package.module:Name."
)


@dataclass(frozen=True)
class Entry:
    """Where a backbone comes from.

    Attributes:
        name: what the user calls it.
        library: "timm", "open_clip", "whisper"; "mel" for a backbone over mel spectrograms; "hyperkit" for one of ours;
            "outside" for a class of the user's own.
        model: its name there; for "mel" the name of the backbone that reads pictures; for "outside" the
            ``package.module:Name``.
        tag: open_clip's name of the weights.
        pretrained: whether the library knows weights for it.
        license: licence of these weights.
        paper: the paper's training settings.
        options: keyword arguments for timm's ``create_model``, or the sizes of a network that is built from them.
        modality: what it reads.
        shipped: name of the file of weights that comes with the package; None: the library knows where they are.
    """

    name: str
    library: Literal["timm", "open_clip", "whisper", "mel", "hyperkit", "outside"]
    model: str
    tag: str | None = None
    pretrained: bool = True
    license: str | None = None
    paper: PaperDefaults = _COS
    options: Mapping[str, Any] = field(default_factory=dict)
    modality: Modality = "picture"
    shipped: str | None = None

    @property
    def source(self) -> str:
        """Library and name there, for people."""
        if self.shipped is not None:
            return f"hyperkit {self.name}"
        return f"{self.library} {self.model}" + (f" {self.tag}" if self.tag else "")


def _timm(name: str, model: str, license: str | None, paper: PaperDefaults, **options: Any) -> Entry:
    return Entry(name, "timm", model, pretrained=license is not None, license=license, paper=paper, options=options)


def _nano(name: str, shipped: str | None = None) -> Entry:
    """Return the small network, with weights that hyperkit pretrained where there are some."""
    license = None if shipped is None else "apache-2.0"
    return replace(_timm(name, "vit_tiny_patch16_224", license, _SMALL, **_NANO), shipped=shipped)


def _openai(name: str, model: str) -> Entry:
    return Entry(name, "open_clip", model, tag="openai", license="mit", paper=_COS)


def _whisper(name: str, model: str, width: int, heads: int, depth: int, mels: int = 80) -> Entry:
    sizes = {"n_mels": mels, "n_state": width, "n_head": heads, "n_layer": depth}
    return Entry(name, "whisper", model, license="mit", paper=_SOUND, options=sizes, modality="sound")


def _patches(name: str, paper: PaperDefaults, width: int, depth: int, heads: int) -> Entry:
    sizes = {"width": width, "depth": depth, "heads": heads}
    return Entry(name, "hyperkit", name, pretrained=False, paper=paper, options=sizes, modality="sound")


_SUPERVISED = PaperDefaults(1e-4, 32, "step")
_ENTRIES = (
    _timm("mae", "vit_base_patch16_224.mae", "cc-by-nc-4.0", _STEP),
    _timm("mae-large", "vit_large_patch16_224.mae", "cc-by-nc-4.0", _STEP),
    _timm("supervised", "vit_base_patch16_224.augreg_in21k", "apache-2.0", _SUPERVISED),
    _timm("supervised-tiny", "vit_tiny_patch16_224.augreg_in21k", "apache-2.0", _SUPERVISED),
    _timm("supervised-small", "vit_small_patch16_224.augreg_in21k", "apache-2.0", _SUPERVISED),
    _timm("supervised-large", "vit_large_patch16_224.augreg_in21k", "apache-2.0", _SUPERVISED),
    _timm("deit", "deit_base_distilled_patch16_224.fb_in1k", "apache-2.0", _STEP),
    _timm("deit-tiny", "deit_tiny_distilled_patch16_224.fb_in1k", "apache-2.0", _STEP),
    _timm("deit-small", "deit_small_distilled_patch16_224.fb_in1k", "apache-2.0", _STEP),
    _timm("dino", "vit_base_patch16_224.dino", "apache-2.0", _COS),
    _timm("dino-small", "vit_small_patch16_224.dino", "apache-2.0", _COS),
    _timm("dinov2", "vit_base_patch14_dinov2.lvd142m", "apache-2.0", _COS),
    _timm("dinov2-small", "vit_small_patch14_dinov2.lvd142m", "apache-2.0", _COS),
    _timm("dinov2-large", "vit_large_patch14_dinov2.lvd142m", "apache-2.0", _COS),
    # OpenAI's weights were trained with quick-GELU; the names without it build another network.
    _openai("clip", "ViT-B-16-quickgelu"),
    _openai("clip-large", "ViT-L-14-quickgelu"),
    # newer than the paper
    _timm("dinov3", "vit_base_patch16_dinov3.lvd1689m", "dinov3-license", _COS),
    _timm("dinov3-small", "vit_small_patch16_dinov3.lvd1689m", "dinov3-license", _COS),
    _timm("siglip2", "vit_base_patch16_siglip_224.v2_webli", "apache-2.0", _COS),
    _timm("pe-core", "vit_pe_core_base_patch16_224.fb", "apache-2.0", _COS),
    _timm("random", "vit_base_patch16_224", None, _RANDOM),
    # Trans-INR's own transformer for pictures of 178x178: six layers of 768, patches of 9
    _timm("vit_base_d6_p9", "vit_base_patch16_224", None, _RANDOM, img_size=180, patch_size=9, depth=6),
    _timm("vit_tiny", "vit_tiny_patch16_224", None, _SMALL, img_size=128),
    _nano("nano"),
    _nano("nano-dino", "nano-dino.safetensors"),
    _nano("nano-mae", "nano-mae.safetensors"),
    _whisper("whisper", "base", 512, 8, 6),
    _whisper("whisper-tiny", "tiny", 384, 6, 4),
    _whisper("whisper-base", "base", 512, 8, 6),
    _whisper("whisper-small", "small", 768, 12, 12),
    _whisper("whisper-medium", "medium", 1024, 16, 24),
    _whisper("whisper-large-v1", "large-v1", 1280, 20, 32),
    _whisper("whisper-large-v2", "large-v2", 1280, 20, 32),
    _whisper("whisper-large-v3", "large-v3", 1280, 20, 32, mels=128),
    _whisper("whisper-large", "large", 1280, 20, 32, mels=128),
    _whisper("whisper-large-v3-turbo", "large-v3-turbo", 1280, 20, 32, mels=128),
    _whisper("whisper-turbo", "turbo", 1280, 20, 32, mels=128),
    _patches("patches", _SOUND, width=768, depth=6, heads=12),  # as IPC has it
    _patches("patches-small", _SOUND, width=384, depth=6, heads=6),
    _patches("patches-nano", _SMALL, width=192, depth=3, heads=3),
)

NAMED: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def find_entry(name: str) -> Entry:
    """Return where the backbone called ``name`` comes from; the library is asked about names of its own.

    Raises:
        HyperkitError: no such name; the nearest ones are listed.
    """
    if name in NAMED:
        return NAMED[name]
    library, colon, rest = name.partition(":")
    if colon and library == "timm":
        from hyperkit.backbones.timm_vit import timm_entry

        return timm_entry(rest)
    if colon and library == "open_clip":
        from hyperkit.backbones.open_clip_vit import open_clip_entry

        return open_clip_entry(rest)
    if colon and library == "mel":
        return _over_spectrograms(rest)
    if colon:
        factory = import_attribute(name, "backbone")
        modality: Modality = getattr(factory, "modality", "picture")
        return Entry(
            name,
            "outside",
            name,
            pretrained=bool(getattr(factory, "has_weights", False)),
            license=getattr(factory, "license", None),
            paper=_SOUND if modality == "sound" else _COS,
            modality=modality,
        )
    raise unknown_name("backbone", name, NAMED, OTHER_NAMES)


def _over_spectrograms(name: str) -> Entry:
    inner = find_entry(name)
    if inner.modality != "picture":
        pictures = ", ".join(known for known, entry in NAMED.items() if entry.modality == "picture")
        raise HyperkitError(
            f"mel:{name} asks for a backbone that reads pictures, but {name!r} reads sounds.",
            f"Use {name} by itself, or mel: with one of {pictures}.",
        )
    paper = _SMALL if inner.paper == _SMALL else _SOUND
    return Entry(
        f"mel:{name}", "mel", name, pretrained=inner.pretrained, license=inner.license, paper=paper, modality="sound"
    )


def is_outside(entry: Entry) -> bool:
    """Tell whether a backbone, or the one that reads its spectrograms, is a class of the user's own."""
    return entry.library == "outside" or (entry.library == "mel" and is_outside(find_entry(entry.model)))


def modality_of(name: str) -> Modality:
    """Return what the backbone called ``name`` reads, "picture" or "sound"; nothing is built.

    Raises:
        HyperkitError: no such name; the nearest ones are listed.
    """
    return find_entry(name).modality


def resolve_strategy(config: BackboneConfig, entry: Entry | None = None, *, from_checkpoint: bool = False) -> Strategy:
    """Return what is trained, with "auto" resolved: "finetune" where there are pretrained weights, else "random".

    Args:
        config: the backbone's configuration.
        entry: what ``find_entry(config.name)`` gave, where it is at hand.
        from_checkpoint: the weights come from a checkpoint, so that the backbone needs none of its own.

    Raises:
        HyperkitError: pretrained weights are needed and there are none; or weights are given that would not be used.
    """
    entry = entry or find_entry(config.name)
    available = entry.pretrained or config.weights is not None
    if config.strategy == "auto":
        return "finetune" if available else "random"
    if config.strategy == "random":
        if config.weights is not None:
            raise HyperkitError(
                f"Strategy 'random' starts from fresh weights, but the file {config.weights} was given.",
                "Leave the file out, or choose --strategy finetune, frozen or lora.",
            )
        return "random"
    if not available and not from_checkpoint:
        alike = [known for known in NAMED.values() if known.pretrained and known.modality == entry.modality]
        with_weights = ", ".join(known.name for known in alike)
        raise HyperkitError(
            f"Strategy {config.strategy!r} needs pretrained weights, and backbone {config.name!r} has none.",
            f"Give a file with --weights FILE, choose --strategy random, or a backbone that has weights: "
            f"{with_weights}.",
        )
    return config.strategy


def paper_defaults(config: BackboneConfig, strategy: Strategy | None = None) -> PaperDefaults:
    """Return the paper's training settings for a backbone and what is trained of it (its Table 6).

    The table says nothing about LoRA, which gets the settings of fine-tuning, nor about backbones that the paper did
    not use, which get those of DINO. Backbones that read sounds have the settings of its Table 5, whatever is trained.
    The small ones for CPUs have settings of ours.

    Args:
        config: the backbone's configuration.
        strategy: the resolved strategy; None: resolved here.
    """
    entry = find_entry(config.name)
    strategy = strategy or resolve_strategy(config, entry)
    if entry.paper == _SMALL or entry.modality == "sound":
        return entry.paper
    if strategy == "random":
        return _RANDOM
    return _FROZEN if strategy == "frozen" else entry.paper
