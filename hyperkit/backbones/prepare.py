"""``hyperkit prepare backbone NAME``: weights fetched and checked ahead of time, and a list of those that are here."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from hyperkit.backbones.base import Backbone
from hyperkit.backbones.build import build_backbone
from hyperkit.backbones.catalog import NAMED, find_entry, is_outside
from hyperkit.backbones.config import BackboneConfig
from hyperkit.backbones.hub import cached_weights, find_weights
from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.files import atomic_path, cache_dir, write_text


def prepare_backbone(name: str, weights_out: str | Path | None = None) -> dict[str, Any]:
    """Get a backbone's weights, check that they load and work, and record their hash and licence in the cache.

    Args:
        name: a backbone with pretrained weights.
        weights_out: also copy the file there, for ``--weights FILE`` on a machine without a network. Without a
            suffix it gets that of the file.

    Returns:
        The record: name, source, license, sha256, file, bytes, parameters, width, copy.

    Raises:
        HyperkitError: no such backbone; it has no weights; they cannot be had or do not fit.
        RunFailed: the weights give values that are not finite.
    """
    entry = find_entry(name)
    if not entry.pretrained or is_outside(entry):
        ready = ", ".join(known for known, other in NAMED.items() if other.pretrained)
        own = "Pretrain it: hyperkit prepare backbone nano --pretrain dino. " if name == "nano" else ""
        raise HyperkitError(
            f"Backbone {name!r} has no pretrained weights to prepare.", f"{own}Those that have: {ready}."
        )
    file = find_weights(entry)
    backbone = build_backbone(BackboneConfig(name=name, strategy="frozen")).eval()
    with torch.inference_mode():
        features = backbone.features(_example(backbone))
    if not bool(features.isfinite().all()):
        raise RunFailed(f"The weights of {name!r} in {file} give values that are not finite.", "Get the file again.")
    info = backbone.info
    record: dict[str, Any] = {
        "name": name,
        "source": info.source,
        "license": info.license,
        "sha256": info.weights_sha256,
        "file": str(file),
        "bytes": file.stat().st_size,
        "parameters": info.parameters,
        "width": backbone.width,
        "copy": None if weights_out is None else str(_copy(file, Path(weights_out))),
    }
    write_text(_record_path(name), json.dumps(record, indent=2) + "\n")
    return record


def _example(backbone: Backbone) -> torch.Tensor:
    """Return a fixed context: a second of a rising tone, or a picture (1, 1, 3, height, width), a ramp per channel."""
    if backbone.modality == "sound":
        return torch.linspace(0, 3000, backbone.settings.sample_rate).square().div(3000).sin()[None] / 2
    height, width = backbone.info.image_size
    rows = torch.linspace(0, 1, height)[:, None].expand(height, width)
    columns = torch.linspace(0, 1, width).expand(height, width)
    return torch.stack([rows, columns, (rows + columns) / 2])[None, None]


def _copy(file: Path, target: Path) -> Path:
    if not target.suffix:
        target = target.with_suffix(file.suffix)
    with atomic_path(target) as temporary:
        shutil.copyfile(file, temporary)
    return target


def _record_path(name: str) -> Path:
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    return cache_dir() / "backbones" / f"{plain}.json"


def list_prepared() -> list[dict[str, Any]]:
    """List the backbones with weights: the named ones, and others that were prepared.

    Returns:
        For each its name, source, license, file (None where it is not on this machine), bytes and sha256 (None where
        it was not prepared). Files are not read; the network is not used.
    """
    records = _records()
    others = []
    for name in records:
        with suppress(HyperkitError):  # a name that the installed library no longer has
            others += [find_entry(name)] if name not in NAMED else []
    listed = []
    for entry in [entry for entry in NAMED.values() if entry.pretrained] + others:
        file = cached_weights(entry, verify=False)
        listed.append(
            {
                "name": entry.name,
                "source": entry.source,
                "license": entry.license,
                "file": None if file is None else str(file),
                "bytes": 0 if file is None else file.stat().st_size,
                "sha256": records.get(entry.name, {}).get("sha256"),
            }
        )
    return listed


def _records() -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted((cache_dir() / "backbones").glob("*.json")):
        try:
            record = json.loads(path.read_text())
            found[str(record["name"])] = dict(record)
        except (ValueError, KeyError, TypeError):
            continue  # a damaged record is as good as none: preparing again writes it anew
    return found
