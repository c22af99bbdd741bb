"""Data of audio reconstruction: sounds in folders, random crops to train on, the first seconds to evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from hyperkit.data.flat_pack import Decoded
from hyperkit.data.layout import Problem
from hyperkit.data.signals import SignalData, SignalDataConfig
from hyperkit.data.sound_files import SCALED, SILENCE, SILENT, SOUNDS, as_float, decoder, prepare_sound
from hyperkit.geometry import time_coordinates

__all__ = ["SoundData", "SoundDataConfig", "prepare_sound"]

SHORT = "lasts "
"""Beginning of what is said about clips that are shorter than the crop."""


class SoundDataConfig(SignalDataConfig):
    """Which sounds are read and how training batches are drawn from them.

    Attributes:
        root: a folder of sounds at any depth, in folders of classes if there are any, and these in train, val and test
            if there are such (LibriSpeech's ``train-clean-100``, ``dev-clean``, ... as well); None: the built-in set,
            made on first use.
        builtin: which built-in set, where ``root`` is None.
        classes: classes that are trained on; None: all.
        test_classes: classes that are evaluated on; None: those that are trained on.
        train_fraction: part of each class's training sounds that is used; 0.01 is contained in 0.1.
        test_fraction: part set aside for testing, where no folder is named test; of LibriSpeech, speakers.
        val_fraction: part set aside for validation, where no folder is named val or dev; of LibriSpeech, speakers.
        skip_bad: leave files that cannot be used out instead of refusing the data set.
        rate: sample rate in Hz; files of other rates are resampled to it.
        seconds: length of the crop that the model sees; T = rate * seconds samples.
        start: where the crop of evaluation begins, in seconds; 0 as in IPC.
        samples_per_item: N, random samples of a crop that a training batch asks for; None: all T.
        augment: ``gain`` multiplies training crops by a random sign and a factor in [0.5, 1].
    """

    rate: int = Field(default=16000, ge=100, le=384000)
    seconds: float = Field(default=1.0, gt=0.0, le=3600.0)
    start: float = Field(default=0.0, ge=0.0)
    samples_per_item: int | None = Field(default=None, ge=1)
    augment: Literal["none", "gain"] = "none"

    @model_validator(mode="after")
    def _fits(self) -> SoundDataConfig:
        if self.length < 16:
            raise ValueError(f"rate * seconds must be at least 16 samples, found {self.length}")
        if self.samples_per_item is not None and self.samples_per_item > self.length:
            raise ValueError(f"samples_per_item must be at most rate * seconds = {self.length}")
        return self

    @property
    def length(self) -> int:
        """T, samples of the crop."""
        return round(self.rate * self.seconds)

    @property
    def first(self) -> int:
        """The first sample of the crop of evaluation."""
        return round(self.rate * self.start)


class SoundData(SignalData):
    """A data set of sounds. Batches hold context (B, T) in [-1, 1], query (B, N, 1) and truth (B, N, 1).

    Training draws a random crop of T samples; evaluation takes the T from ``config.start``. See ``SignalData``.

    Attributes:
        rate: Hz.
        length: T.
    """

    kind: ClassVar = SOUNDS
    config: SoundDataConfig

    def __init__(self, config: SoundDataConfig, seed: int, progress: Callable[[int, int], None] | None = None) -> None:
        self.rate, self.length = config.rate, config.length
        super().__init__(config, seed, progress)

    def _pack_name(self) -> str:
        return f"sounds-{self.rate}"

    def _decoder(self) -> Callable[[bytes], Decoded]:
        return decoder(self.rate)

    def _framing(self) -> str:
        start = f" from {self.config.first}" if self.config.first else ""
        return f"{self._pack_name()} {self.length}{start}"

    def read_as(self) -> str:
        """Say at which rate files are decoded."""
        return f"{self.rate} Hz, {self.config.seconds:g} s at a time"

    def _unusable(self) -> tuple[Problem, ...]:
        lengths = self.pack.shapes[:, 0] if len(self.pack.ids) else np.empty(0, np.int64)
        after = f" after the first {self.config.start:g} s" if self.config.start else ""
        wanted = f"the crop of {self.config.seconds:g} s{after}"
        return tuple(
            Problem(
                str(self.root / self.pack.ids[row]),
                f"{SHORT}{lengths[row] / self.rate:.3f} s, shorter than {wanted}",
            )
            for row in np.flatnonzero(lengths < self.config.first + self.length)
        )

    def _hints(self) -> dict[str, str]:
        lengths = self.pack.shapes[:, 0] if len(self.pack.ids) else np.zeros(1, np.int64)
        shortest = (int(lengths.min()) - self.config.first) * 1000 // self.rate / 1000
        if round(shortest * self.rate) < 16:
            return {}
        return {SHORT: f"For the short ones, --set data.seconds={shortest:g} or less would do."}

    def _mark_notes(self, marked: dict[str, list[str]]) -> list[str]:
        notes = []
        if silent := marked.get(SILENT):
            notes.append(f"{len(silent)} sounds are silent (they stay below {SILENCE:g}) and are kept")
        if scaled := marked.get(SCALED):
            notes.append(f"{len(scaled)} sounds went beyond [-1, 1] and are scaled to peak 1, such as {scaled[0]}")
        return notes

    def _grid(self) -> Tensor:
        return time_coordinates(self.length)

    def _random_crop(self, row: int, rng: np.random.Generator) -> np.ndarray:
        sound = self.pack.values(row)
        start = rng.integers(0, len(sound) - self.length + 1)
        crop = as_float(sound[start : start + self.length])
        if self.config.augment == "gain":
            crop *= np.float32(rng.choice((-1.0, 1.0)) * rng.uniform(0.5, 1.0))
        return crop

    def _fixed_crop(self, row: int) -> np.ndarray:
        first = self.config.first
        return as_float(self.pack.values(row)[first : first + self.length])

    def _signals(self, crops: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(crops) if crops else np.empty((0, self.length), np.float32))

    def _context(self, signals: Tensor) -> Tensor:
        return signals

    def _points(self, signals: Tensor) -> Tensor:
        return signals[..., None]

    @property
    def _points_per_item(self) -> int | None:
        return self.config.samples_per_item

    @property
    def _query_size(self) -> tuple[int, int] | None:
        return None

    def constants(
        self, split: str = "test", classes: Sequence[str] | None = None, limit: int | None = None
    ) -> dict[str, dict[str, float]]:
        """Return the PSNR (peak 1) of silence over the items that ``pairs`` gives: {"silence": scores}.

        Scores are class -> mean in dB of -10 log10 of the mean square, at most 100, and "all".
        """
        items = self.pairs(split, classes, limit=limit)
        return {"silence": items.scores(lambda sounds: sounds.double().square().mean(dim=1))}

    def samples(self, count: int) -> list[dict[str, Any]]:
        """Return a few held-out clips for a checkpoint, spread over the classes.

        Each holds ``id``, ``class``, ``waveform`` (T,) float32, the first T samples, and ``rate``.
        """
        return [
            {
                "id": name,
                "class": self.class_of[name],
                "waveform": torch.from_numpy(self._fixed_crop(self._rows[name])),
                "rate": self.rate,
            }
            for name in self._spread(count)
        ]
