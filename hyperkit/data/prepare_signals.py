"""``prepare image|audio``: open the data ahead of time, and say what is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hyperkit.data.images import ImageData, ImageDataConfig
from hyperkit.data.layout import Problem
from hyperkit.data.signals import SignalData
from hyperkit.data.sounds import SoundData, SoundDataConfig
from hyperkit.data.splits import SPLITS
from hyperkit.errors import HyperkitError, unknown_name


@dataclass(frozen=True)
class SignalReport:
    """What was prepared.

    Attributes:
        task: "image" or "audio".
        root: the data set's folder; give it to ``train --data``.
        kind: "pictures" or "sounds".
        read_as: at which size or rate files were decoded.
        packed: folder of the decoded files, and ``bytes``: how much they take.
        counts: split -> class -> items.
        hashes: split -> SHA-256 of its items' names and contents and of how they are cropped.
        left_out: files that cannot be used, and why.
        notes: sentences for the user; among them why the data cannot be trained on, if it cannot.
    """

    task: str
    root: str
    kind: str
    read_as: str
    packed: str
    bytes: int
    counts: dict[str, dict[str, int]]
    hashes: dict[str, str]
    left_out: tuple[Problem, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for ``--json``."""
        return {**asdict(self), "left_out": [asdict(one) for one in self.left_out], "notes": list(self.notes)}


def prepare_signals(
    task: str,
    root: str | Path | None = None,
    config: ImageDataConfig | SoundDataConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SignalReport:
    """Check a data set of pictures or sounds, and decode it into the place that training reads from.

    Args:
        task: "image" or "audio".
        root: the data set's folder; None: the one that ``config`` names, or the built-in set.
        config: how it is read; None: the defaults.
        progress: called with (files done, files in all).

    Raises:
        HyperkitError: files cannot be used (all are listed).
        RunFailed: the disk is full.
    """
    changed = {} if root is None else {"root": str(root)}
    data: SignalData
    if task == "image":
        pictures = config if isinstance(config, ImageDataConfig) else ImageDataConfig()
        data = ImageData(pictures.model_copy(update=changed), seed=0, progress=progress)
    elif task == "audio":
        sounds = config if isinstance(config, SoundDataConfig) else SoundDataConfig()
        data = SoundData(sounds.model_copy(update=changed), seed=0, progress=progress)
    else:
        raise unknown_name("task with files of signals", task, ("image", "audio"))
    notes = data.notes
    try:
        data.check_training()
    except HyperkitError as error:  # it may be there to be evaluated on
        notes += (f"cannot be trained on: {error}",)
    return SignalReport(
        task=task,
        root=str(data.root),
        kind=data.kind.name,
        read_as=data.read_as(),
        packed=str(data.pack.folder),
        bytes=sum(path.stat().st_size for path in data.pack.folder.iterdir()),
        counts=data.counts(),
        hashes={split: data.hash(split) for split in SPLITS if data.splits[split]},
        left_out=data.left_out,
        notes=notes,
    )
