"""Reading files of weights, safely, and loading them only if they fit."""

from __future__ import annotations

import argparse
import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperkit.errors import HyperkitError

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "teacher")
_PREFIXES = ("_orig_mod.", "module.", "backbone.")
_ACCEPTED = (
    "Accepted: safetensors, or a torch file that holds only tensors (torch.save(model.state_dict(), FILE)), as timm, "
    "open_clip or openai-whisper name them; for timm also the original .npz."
)
_TRANSFORMERS = ("encoder.layer.", "vision_model.", "embeddings.", "model.encoder.layers.", "encoder.layers.")
_SHOWN = 6


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors or torch file, without running anything that is in it.

    Wrappings ({"state_dict": ...}, "model", "teacher") and prefixes ("module.", "backbone.", "_orig_mod.") are
    taken off.

    Returns:
        name -> tensor, on the CPU.

    Raises:
        HyperkitError: the file does not exist, is a TorchScript archive or a pickle of something else than tensors,
            is damaged, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise HyperkitError(f"The file of weights {path} does not exist.", _ACCEPTED)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _tensors(content)
    if not state:
        found = ", ".join(map(str, list(content)[:_SHOWN])) if isinstance(content, Mapping) else type(content).__name__
        raise HyperkitError(f"The file {path} holds no named tensors; found: {found or 'nothing'}.", _ACCEPTED)
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, ValueError, OSError) as error:
        raise HyperkitError(f"{path} is not a whole safetensors file: {error}", "Get the file again.") from error


def _read_torch(path: Path) -> Any:
    if is_torchscript(path):
        raise HyperkitError(
            f"{path} is a TorchScript archive (OpenAI's own CLIP file is one); it holds code, and is not loaded.",
            'Where open_clip can load it, write its tensors out: python -c "import open_clip, torch; torch.save('
            "open_clip.create_model('ViT-B-16-quickgelu', pretrained='openai').state_dict(), 'clip.pt')\"",
        )
    try:
        # timm, DeiT and DINO keep their arguments beside the weights; a Namespace is plain values
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, before the file is refused for good
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise HyperkitError(
            f"{path} is not a file of tensors alone, or is damaged; nothing in it was run. ({_first_line(error)})",
            _ACCEPTED,
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise HyperkitError(f"{path} is not a whole torch file: {_first_line(error)}", _ACCEPTED) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def is_torchscript(path: Path) -> bool:
    """Tell whether a file is a TorchScript archive: a zip file with code in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            return _tensors(content[wrapper])
    return {_plain(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _plain(name: str) -> str:
    while prefix := next((p for p in _PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    return name


def load_checked(module: nn.Module, state: Mapping[str, Tensor], origin: str, ignored: Sequence[str] = ()) -> None:
    """Load ``state`` into ``module`` if every tensor is there with its shape, else change nothing.

    Args:
        module: what is filled.
        state: name -> tensor.
        origin: the file, for the error message.
        ignored: beginnings of names that ``module`` need not have, such as heads.

    Raises:
        HyperkitError: tensors are missing, left over or of another shape; they are listed.
    """
    expected = module.state_dict()
    check_shapes(expected, state, origin)
    missing = [name for name in expected if name not in state]
    extra = [name for name in state if name not in expected and not name.startswith(tuple(ignored))]
    if missing or extra:
        lines = [f"The file {origin} does not fit the backbone:"]
        if missing:
            lines.append(f"  missing ({len(missing)} of {len(expected)}): {_some(missing)}")
        if extra:
            lines.append(f"  not known to it ({len(extra)}): {_some(extra)}")
        raise HyperkitError("\n".join(lines), f"{_guess(state)}Choose the backbone that the file was made for.")
    module.load_state_dict({name: state[name] for name in expected}, strict=True)


def check_shapes(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], origin: str) -> None:
    """Refuse ``state`` if a tensor that is also in ``expected`` has another shape there."""
    both = [name for name in expected if name in state]
    wrong = [(n, tuple(state[n].shape), tuple(expected[n].shape)) for n in both if state[n].shape != expected[n].shape]
    if wrong:
        raise shape_error(origin, wrong)


def shape_error(origin: str, wrong: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> HyperkitError:
    """Build the error for tensors of wrong shapes: (name, shape in the file, shape in the backbone)."""
    lines = [f"  {name}: {found} in the file, {own} in the backbone" for name, found, own in wrong[:_SHOWN]]
    if len(wrong) > _SHOWN:
        lines.append(f"  and {len(wrong) - _SHOWN} more")
    return HyperkitError(
        f"The file {origin} does not fit the backbone; tensors have other shapes:\n" + "\n".join(lines),
        "Choose the backbone that the file was made for.",
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _guess(state: Mapping[str, Tensor]) -> str:
    if any(name.startswith(("visual.", "transformer.resblocks.")) for name in state):
        return "Its names are those of open_clip (open_clip:NAME). "
    if any(name.startswith("blocks.0.attn.qkv.") for name in state):
        return "Its names are those of timm (timm:NAME). "
    if any(name.startswith(("encoder.blocks.", "decoder.blocks.")) for name in state):
        return "Its names are those of openai-whisper (whisper-NAME). "
    if any(name.startswith(_TRANSFORMERS) for name in state):
        return "Its names are those of transformers, which are not read. "
    return ""
