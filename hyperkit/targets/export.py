"""Generated networks as safetensors files: ordinary layers that plain PyTorch evaluates to the same values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperkit.contracts import TargetParams
from hyperkit.errors import HyperkitError
from hyperkit.files import atomic_path
from hyperkit.targets import target_from_spec
from hyperkit.targets.base import Target

FORMAT = "hyperkit-target"


def save_target(path: str | Path, params: TargetParams, extra: dict[str, Any] | None = None) -> None:
    """Write item 0 as safetensors.

    Every layer is stored as ``NAME.weight`` (O, I) and ``NAME.bias`` (O,), the layout of ``nn.Linear``; other tensors
    as they are. The metadata holds the target's kind and options, and ``extra`` (plain values), as JSON.
    """
    from safetensors.torch import save_file

    one = params.select(0).map(lambda t: t.detach().float().cpu())
    tensors = {}
    for name, tensor in one.tensors.items():
        tensors[name] = _to_file(name, tensor[0]).contiguous().clone()
    header = {"format": FORMAT, "kind": one.spec.kind, "options": dict(one.spec.options), "extra": extra or {}}
    with atomic_path(path) as temporary:
        save_file(tensors, str(temporary), metadata={"hyperkit": json.dumps(header)})


def load_target(path: str | Path) -> tuple[Target, TargetParams, dict[str, Any]]:
    """Read what ``save_target`` wrote.

    Returns:
        The target, its parameters with B = 1, and the extra values.

    Raises:
        HyperkitError: the file is missing, damaged, or was not written by ``save_target``.
    """
    from safetensors import SafetensorError, safe_open

    hint = "Expected a file written by `hyperkit render CKPT --weights-out FILE.safetensors`."
    if not Path(path).is_file():
        raise HyperkitError(f"The weights file {path} does not exist.", hint)
    try:
        with safe_open(str(path), framework="pt") as handle:
            header = json.loads((handle.metadata() or {}).get("hyperkit", "{}"))
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise HyperkitError(f"{path} cannot be read as safetensors: {error}.", hint) from error
    if header.get("format") != FORMAT:
        raise HyperkitError(f"{path} does not hold a generated network.", hint)
    cls_options = dict(header["options"])
    target = _rebuild(header["kind"], cls_options)
    missing = set(target.spec.tensors) ^ set(tensors)
    if missing:
        raise HyperkitError(f"{path} lacks or has too many tensors: {', '.join(sorted(missing))}.", hint)
    layers = {}
    for name in target.spec.tensors:
        layers[name] = _from_file(name, tensors[name])[None].contiguous()
    return target, TargetParams(layers, target.spec), header["extra"]


def _to_file(name: str, tensor: Tensor) -> Tensor:
    if name.endswith(".weight"):
        return tensor.T
    return tensor[0] if name.endswith(".bias") else tensor


def _from_file(name: str, tensor: Tensor) -> Tensor:
    if name.endswith(".weight"):
        return tensor.T
    return tensor[None] if name.endswith(".bias") else tensor


def _rebuild(kind: str, options: dict[str, Any]) -> Target:
    from hyperkit.contracts import TargetSpec

    return target_from_spec(TargetSpec({}, kind, options))
