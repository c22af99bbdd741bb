"""Sound files of every ordinary kind as one channel at one rate."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperkit.data.flat_pack import BadFile, Decoded
from hyperkit.data.folders import Kind
from hyperkit.data.librispeech import speaker
from hyperkit.errors import HyperkitError

SOUNDS = Kind(
    name="sounds",
    suffixes=frozenset(
        (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64")
    ),
    unread=frozenset((".m4a", ".aac", ".wma", ".amr", ".ape", ".mp4", ".webm")),
    speaker=speaker,
)

SILENT, SCALED = "silent", "scaled"
"""Marks of sounds that stay below ``SILENCE``, and of those beyond [-1, 1] that were scaled down to peak 1."""

SILENCE = 1e-4
BLOCK = 1 << 20
LARGEST_BANK = 10_000_000
SIXTEEN_BITS = ("PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW")
CHUNK_SIZES = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
SLACK = 64
"""Bytes that a header may be wrong by; some writers miscount."""
UNKNOWN_LENGTH = 0x7FFF0000
"""Writers that do not know a file's length yet put numbers from here on, or 0, into its header."""


def prepare_sound(path: str | Path, rate: int) -> Tensor:
    """Read a sound file as (T,) float32 in [-1, 1] at ``rate`` Hz: channels are averaged, other rates resampled.

    What goes beyond [-1, 1] (in files of floats, or by resampling) is scaled down as a whole, so that its peak is 1.

    Raises:
        HyperkitError: the file is missing, not a sound, truncated, empty, or holds samples that are not finite.
    """
    path = Path(path)
    hint = "Give a WAV, FLAC, OGG, Opus, MP3 or AIFF file."
    if not path.is_file():
        raise HyperkitError(f"The sound {path} {'is a folder' if path.is_dir() else 'does not exist'}.", hint)
    try:
        return torch.from_numpy(as_float(_decode(rate, path.read_bytes()).values))
    except BadFile as error:
        raise HyperkitError(f"{path} {error}.", hint) from error


def as_float(values: np.ndarray) -> np.ndarray:
    """Return packed samples, int16 or float32, as a new float32 array in [-1, 1]."""
    scale = np.float32(1 / 32768 if values.dtype == np.int16 else 1)
    return values.astype(np.float32) * scale


def decoder(rate: int) -> Any:
    """Return the function that makes (T,) of a file's bytes: int16 where that is exact, float32 otherwise."""
    return partial(_decode, rate)


def _decode(rate: int, content: bytes) -> Decoded:
    import soundfile

    if not content:
        raise BadFile("is empty (0 bytes)")
    try:
        with soundfile.SoundFile(BytesIO(content)) as file:
            exact = file.subtype in SIXTEEN_BITS and file.channels == 1 and file.samplerate == rate
            found, expected = file.samplerate, file.frames
            samples = _read(file, "int16" if exact else "float32")
            if _cut_off(file.extra_info) or (len(samples) < expected < UNKNOWN_LENGTH):
                raise BadFile(f"is truncated: it ends after {len(samples) / found:.2f} s, earlier than its header says")
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").removesuffix(".")
        if "not recognised" in reason:
            raise BadFile("is not a sound of a known format") from error
        raise BadFile(f"cannot be decoded: {reason}") from error
    if len(samples) == 0:
        raise BadFile("holds no samples")
    if exact:
        values = samples[:, 0]
        return Decoded(values, (SILENT,) if np.abs(as_float(values)).max() < SILENCE else ())
    return _convert(samples, found, rate)


def _read(file: Any, dtype: str) -> np.ndarray:
    # In blocks: headers may promise more than there is, and memory would be taken for that.
    blocks = [file.read(BLOCK, dtype=dtype, always_2d=True)]
    while len(blocks[-1]) == BLOCK:
        blocks.append(file.read(BLOCK, dtype=dtype, always_2d=True))
    return np.concatenate(blocks)


def _cut_off(log: str) -> bool:
    """Tell from libsndfile's log whether the samples of a WAV, AIFF or AU file end earlier than its header says."""
    found = CHUNK_SIZES.search(log)
    return found is not None and int(found[2]) + SLACK < int(found[1]) < UNKNOWN_LENGTH


def _convert(samples: np.ndarray, found: int, rate: int) -> Decoded:
    if not (finite := np.isfinite(samples).all(axis=1)).all():
        count, first = int((~finite).sum()), int(np.argmin(finite))
        raise BadFile(f"has {count} NaN or infinite samples, the first at {first / found:.3f} s")
    values = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    if found != rate:
        values = _resample(values, found, rate)
    peak = np.abs(values).max()
    marks = [SILENT] if peak < SILENCE else []
    if peak > 1.0:
        values = values / peak
        marks.append(SCALED)
    return Decoded(values, tuple(marks))


def _resample(values: np.ndarray, found: int, rate: int) -> np.ndarray:
    """Resample by windowed sinc interpolation.

    Where the ratio of the rates has large terms (44101 : 16000), it is rounded, by at most 5e-4: the filter bank is as
    large as the product of the terms. The usual rates have small ones.
    """
    import torchaudio.functional  # type: ignore[import-untyped]

    ratio = Fraction(rate, found)
    if ratio.numerator * ratio.denominator > LARGEST_BANK:
        ratio = ratio.limit_denominator(1000)
    resampled = torchaudio.functional.resample(torch.from_numpy(values), ratio.denominator, ratio.numerator)
    return np.asarray(resampled.numpy())
