"""How good reproduced sounds are: PSNR, SI-SDR and log-spectral distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from hyperkit.contracts import Scores
from hyperkit.errors import unknown_name
from hyperkit.metrics.catalogue import SOUND_METRICS
from hyperkit.metrics.image import psnr

WINDOW, HOP = 0.025, 0.010
"""Length of a frame of the spectra and distance between two, in seconds, as is usual for speech."""

FLOOR = 1e-8
"""Power below which spectra are not compared: 80 dB below a sine of amplitude 1."""

SILENCE = 2.0**-16
"""A sound whose root mean square is below this, half a step of 16-bit levels, is silent."""


def power_spectrum(waveform: Tensor, rate: int, window: float = WINDOW, hop: float = HOP) -> Tensor:
    """Return the short-time power spectrum, scaled so that a sine of amplitude 1 on a bin has power 1 there.

    Frames of ``round(window * rate)`` samples (at least 4) under a periodic Hann window w, one every
    ``round(hop * rate)`` samples, from the first sample on; zeros follow the last one so that every sample is in a
    frame. The power is |4 X^2| / (sum w)^2 with X the frame's discrete Fourier transform.

    Args:
        waveform: (B, T), T at least 1.
        rate: samples per second.
        window, hop: in seconds.

    Returns:
        (B, F, K) float64: F = frame // 2 + 1 frequencies from 0 to rate / 2, K frames.
    """
    frame, step = frame_samples(rate, window, hop)
    count = waveform.shape[-1]
    frames = 1 + max(0, -(-(count - frame) // step))
    padded = pad(waveform.double(), (0, (frames - 1) * step + frame - count))
    weights = torch.hann_window(frame, dtype=torch.float64, device=waveform.device)
    if not waveform.shape[0]:  # not every FFT takes an empty batch
        return padded.new_zeros(0, frame // 2 + 1, frames)
    spectrum = torch.stft(padded, frame, step, window=weights, center=False, return_complex=True)
    return spectrum.abs().square() * (4 / weights.sum().square())


def frame_samples(rate: int, window: float = WINDOW, hop: float = HOP) -> tuple[int, int]:
    """Return the length of a frame and the distance between two, in samples."""
    return max(4, round(window * rate)), max(1, round(hop * rate))


def log_spectral_distance(prediction: Tensor, truth: Tensor, rate: int) -> Tensor:
    """Return the log-spectral distance of each sound, 0 where spectra agree (above the floor).

    mean over frames of sqrt(mean over frequencies of (10 log10(max(P, f) / max(Q, f)))^2), with the power spectra P and
    Q of frames of 25 ms (``power_spectrum``) and the floor f = 1e-8, 80 dB below full scale. Phases do not count.

    Args:
        prediction, truth: (B, T) in [-1, 1].
        rate: samples per second.

    Returns:
        (B,) float64 in dB.
    """
    first, second = (10 * power_spectrum(x, rate).clamp(min=FLOOR).log10() for x in (prediction, truth))
    return (first - second).square().mean(1).sqrt().mean(1)


def si_sdr(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return the scale-invariant signal-to-distortion ratio of each sound (Le Roux et al. 2019), by torchmetrics.

    10 log10(|a s|^2 / |a s - p|^2) with a = <p, s> / |s|^2, in float64. Means are not taken out. A scaled copy has as
    much as the arithmetic allows (more than 140 dB, not infinity), a silent prediction 0 dB.

    Args:
        prediction, truth: (B, T).

    Returns:
        (B,) float64 in dB; of no meaning where the truth is silent (see ``silent``).
    """
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

    if prediction.shape[0] == 0:
        return torch.zeros(0, dtype=torch.float64, device=prediction.device)
    value: Tensor = scale_invariant_signal_distortion_ratio(prediction.double(), truth.double())
    return value


def silent(waveform: Tensor) -> Tensor:
    """Return which sounds (B, T) are silent: a root mean square below half a step of 16-bit levels."""
    return waveform.double().square().mean(-1).sqrt() < SILENCE


class SoundMetrics:
    """Collects the metrics of predicted sounds, batch by batch; the interface of ``ImageMetrics``.

    SI-SDR has no meaning where the truth is silent. The value of such an item is None, ``aggregate`` leaves it out,
    and a note says how many there were.

    Args:
        device: where the metrics are computed.
        names: which metrics of ``SOUND_METRICS``.

    Attributes:
        unavailable: metric -> reason: always empty, no network is needed.
        weights: always empty.
        notes: metric -> what to keep in mind when reading its value.

    Raises:
        HyperkitError: an unknown name.
    """

    def __init__(self, device: torch.device | str = "cpu", names: Sequence[str] = tuple(SOUND_METRICS)) -> None:
        for name in names:
            if name not in SOUND_METRICS:
                raise unknown_name("metric of sounds", name, SOUND_METRICS)
        self.names = tuple(names)
        self.unavailable: dict[str, str] = {}
        self.weights: dict[str, dict[str, str]] = {}
        self.notes: dict[str, str] = {}
        self._device = device
        self._values: dict[str, list[float | None]] = {name: [] for name in names}
        self._ids: list[str] = []
        self._classes: list[str] = []
        self._silent_truths = self._silent_predictions = 0

    def update(
        self, prediction: Tensor, truth: Tensor, ids: Sequence[str], classes: Sequence[str], rate: int
    ) -> Scores:
        """Take in one batch and return its scores.

        Args:
            prediction, truth: (B, T), the truth in [-1, 1], T at least 1. Nothing is clamped.
            ids: B names.
            classes: B class names, or none at all.
            rate: samples per second.

        Raises:
            ValueError: counts or shapes do not match.
        """
        count = prediction.shape[0]
        fits = prediction.ndim == 2 and prediction.shape == truth.shape and prediction.shape[1] > 0
        if not fits or len(ids) != count or len(classes) not in (0, count):
            raise ValueError(
                f"expected sounds (B, T), B ids and B or no classes; got {tuple(prediction.shape)} and "
                f"{tuple(truth.shape)}, {len(ids)} ids, {len(classes)} classes"
            )
        if self._ids and bool(self._classes) != bool(classes) and count:
            raise ValueError("some batches have classes and others have none")
        batch = self._items(prediction.detach().to(self._device), truth.detach().to(self._device), rate)
        for name, values in batch.items():
            self._values[name].extend(values)
        self._ids.extend(ids)
        self._classes.extend(classes)
        return self._scores(batch, ids, classes)

    def _items(self, prediction: Tensor, truth: Tensor, rate: int) -> dict[str, list[float | None]]:
        result: dict[str, list[float | None]] = {}
        if "psnr" in self.names:
            result["psnr"] = psnr(prediction, truth).tolist()
        if "si_sdr" in self.names:
            quiet = silent(truth)
            values = si_sdr(prediction, truth).tolist()
            result["si_sdr"] = [None if q else v for q, v in zip(quiet.tolist(), values, strict=True)]
            self._note(int(quiet.sum()), int((~quiet & (prediction == 0).all(-1)).sum()))
        if "lsd" in self.names:
            result["lsd"] = log_spectral_distance(prediction, truth, rate).tolist()
        return result

    def _note(self, truths: int, predictions: int) -> None:
        self._silent_truths += truths
        self._silent_predictions += predictions
        notes = []
        if self._silent_truths:
            notes.append(f"left out where the truth is silent: {_items(self._silent_truths)}")
        if self._silent_predictions:
            notes.append(f"0 dB where the prediction is all zeros: {_items(self._silent_predictions)}")
        if notes:
            self.notes["si_sdr"] = "; ".join(notes)

    def _scores(self, values: Mapping[str, list[float | None]], ids: Sequence[str], classes: Sequence[str]) -> Scores:
        kept = cast("dict[str, list[float]]", {name: list(v) for name, v in values.items()})
        return Scores(kept, tuple(ids), tuple(classes), {n: SOUND_METRICS[n] for n in self.names})

    def scores(self) -> Scores:
        """Return the per-item values of all batches so far, in their order."""
        return self._scores(self._values, self._ids, self._classes)

    def distribution(self) -> dict[str, dict[str, float | None]]:
        """Return nothing: no metric of sounds is one of a whole set."""
        return {}


def _items(count: int) -> str:
    return f"{count} item" if count == 1 else f"{count} items"
