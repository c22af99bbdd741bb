"""Checkpoints: one file of tensors and plain values, proven whole by a SHA-256 before anything in it is parsed.

The file is what ``torch.save`` writes, followed by a trailer of 48 bytes: ``MAGIC`` and the SHA-256 of all bytes before
the digest. ``torch.load`` ignores the trailer, so the file stays an ordinary one.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from hyperkit._version import __version__
from hyperkit.errors import HyperkitError
from hyperkit.files import write_bytes

FORMAT = "hyperkit-checkpoint"
VERSION = 1
MAGIC = b"hyperkit-sha256\n"
_DIGEST = 32
_PLAIN = (bool, int, float, str, bytes, type(None))


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        config: the resolved configuration of the run, as plain values.
        task: name of the task.
        model: state dict of the model, live weights.
        averages: averaged weights by name, empty where none are kept.
        average_updates: number of weights that went into the averages.
        optimizer: state dict of the optimizer; None in ``best.pt``, which cannot be resumed.
        step: optimizer steps done.
        seconds: time trained, over all parts of the run.
        best: {"step", "metric", "value"} of the best validation so far, or empty.
        validated: step of the last validation, -1 before the first.
        meter: sums of the losses since the last line of metrics.
        rng: states of torch's generators.
        samples: a few small inputs, so that the checkpoint works alone.
        versions: versions of hyperkit and torch that wrote it.
        slim: {"name", "keys", "sha256"} where a frozen backbone's tensors were left out, else None.
    """

    config: dict[str, Any]
    task: str
    model: dict[str, Tensor]
    averages: dict[str, Tensor] = field(default_factory=dict)
    average_updates: int = 0
    optimizer: dict[str, Any] | None = None
    step: int = 0
    seconds: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)
    validated: int = -1
    meter: dict[str, Any] = field(default_factory=dict)
    rng: dict[str, Tensor] = field(default_factory=dict)
    samples: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    slim: dict[str, Any] | None = None

    def weights(self) -> dict[str, Tensor]:
        """Return the state dict to evaluate: the averages where they are kept, in the model's own dtypes."""
        merged = dict(self.model)
        merged.update({name: mean.to(self.model[name].dtype) for name, mean in self.averages.items()})
        return merged


def versions() -> dict[str, str]:
    """Return the versions that a checkpoint records."""
    return {"hyperkit": __version__, "torch": str(torch.__version__)}


def plain(value: Any, path: str = "checkpoint") -> Any:
    """Return a copy of ``value`` that holds CPU tensors and plain values only.

    Mappings become dicts, parameters tensors; a tensor that is a part of a larger storage is copied out of it.

    Raises:
        TypeError: something else is in it; its path is named.
    """
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return tensor if whole and type(tensor) is Tensor else tensor.clone().as_subclass(Tensor)
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        for name in value:
            if type(name) not in (str, int):
                raise TypeError(f"{path} has the key {name!r} ({type(name).__name__}); keys are str or int")
        return {name: plain(item, f"{path}.{name}") for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(item, f"{path}[{i}]") for i, item in enumerate(value))
    raise TypeError(f"{path} is a {type(value).__name__}; checkpoints hold tensors and plain values only")


def save_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint to ``path``, at once or not at all.

    Raises:
        TypeError: it holds something other than tensors and plain values.
        RunFailed: the disk is full or the place cannot be written; what was at ``path`` is still there.
    """
    content = {name: plain(getattr(checkpoint, name), name) for name in Checkpoint.__dataclass_fields__}
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **content}, buffer)
    buffer.write(MAGIC)
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    write_bytes(path, buffer.getbuffer())  # type: ignore[arg-type]  # any buffer can be written


def load_checkpoint(path: str | os.PathLike[str], map_location: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint: its bytes are verified first, then parsed with ``weights_only=True``.

    Raises:
        HyperkitError: there is no such file; it is not a hyperkit checkpoint, is damaged or cut off, or was written by
            a newer version. Nothing in such a file is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise HyperkitError(f"There is no checkpoint {path}.", _what_is_there(path))
    with open(path, "rb") as handle:
        _verify(handle, path)
        handle.seek(0)
        try:
            content = torch.load(handle, map_location=map_location, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, zipfile.BadZipFile) as error:
            raise HyperkitError(
                f"{path} is whole, but holds something else than tensors and plain values.",
                "It was not written by hyperkit. Nothing in it was executed.",
            ) from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise _foreign(path)
    if (number := content.pop("version", None)) != VERSION:
        raise HyperkitError(
            f"{path} has checkpoint version {number}; this hyperkit reads version {VERSION}.",
            f"It was written by hyperkit {content.get('versions', {}).get('hyperkit')}: install that one or a newer.",
        )
    return Checkpoint(**content)


def _verify(handle: IO[bytes], path: Path) -> None:
    size = os.fstat(handle.fileno()).st_size
    body = size - _DIGEST
    if body < len(MAGIC):
        raise _foreign(path)
    handle.seek(body - len(MAGIC))
    if handle.read(len(MAGIC)) != MAGIC:
        raise _foreign(path)
    handle.seek(0)
    digest, left = hashlib.sha256(), body
    while chunk := handle.read(min(1 << 20, left)):
        digest.update(chunk)
        left -= len(chunk)
    if handle.read(_DIGEST) != digest.digest():
        raise HyperkitError(
            f"{path} is damaged: its bytes do not match their SHA-256.",
            "Nothing in it was read. Copy it again, or take another one of the run (last.pt, best.pt, step-*.pt).",
        )


def _foreign(path: Path) -> HyperkitError:
    return HyperkitError(
        f"{path} is not a whole hyperkit checkpoint: it does not end with hyperkit's SHA-256 trailer "
        f"({path.stat().st_size} bytes).",
        "It was cut off, or another program wrote it. Nothing in it was executed. Copy it again, or take another "
        "checkpoint of the run; weights of a backbone are given with --weights.",
    )


def _what_is_there(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    found = sorted(folder.rglob("*.pt"))[:8] if folder.is_dir() else []
    if found:
        return f"There are: {', '.join(str(p) for p in found)}."
    return f"There is no .pt file in {folder}." if folder.is_dir() else f"There is no folder {folder}."


def frozen_backbone_keys(model: nn.Module) -> frozenset[str]:
    """Return the state-dict names of the backbone's parameters that are not trained."""
    roles: Mapping[str, list[nn.Parameter]] = model.parameter_roles()  # type: ignore[operator]
    frozen = {id(p) for p in roles.get("backbone", []) if not p.requires_grad}
    return frozenset(n for n, p in model.state_dict(keep_vars=True).items() if id(p) in frozen)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return one SHA-256 over names, dtypes, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def slim(checkpoint: Checkpoint, keys: Collection[str], name: str) -> Checkpoint:
    """Leave the tensors ``keys`` of a frozen backbone out; their ``name`` and SHA-256 stay in their place."""
    left_out = {key: checkpoint.model[key] for key in sorted(keys)}
    note = {"name": name, "keys": list(left_out), "sha256": tensors_sha256(left_out)}
    kept = {key: tensor for key, tensor in checkpoint.model.items() if key not in left_out}
    return replace(checkpoint, model=kept, slim=note)


def restore_slim(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> Checkpoint:
    """Put the tensors that ``slim`` left out back, from the state dict of a model with its own weights loaded.

    Raises:
        HyperkitError: they are not the ones that the run was trained with.
    """
    if checkpoint.slim is None:
        return checkpoint
    found = {key: state[key] for key in checkpoint.slim["keys"] if key in state}
    if tensors_sha256(found) != checkpoint.slim["sha256"]:
        raise HyperkitError(
            f"The checkpoint leaves out the frozen weights of {checkpoint.slim['name']!r}, and those found here differ "
            "from the ones it was trained with.",
            "Give the file that was used in training with --weights FILE.",
        )
    return replace(checkpoint, model={**checkpoint.model, **found}, slim=None)
