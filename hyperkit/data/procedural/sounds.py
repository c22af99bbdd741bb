"""Procedural sounds: harmonic tones and chirps; the built-in data set of audio.

A sound is a function of continuous time: from ``FULL_RATE`` samples per second on, every rate samples the same one, so
that a network which was given a sound at one rate can be compared at another. All is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperkit.data.procedural.sets import Item, place, write_items
from hyperkit.errors import HyperkitError, unknown_name
from hyperkit.randomness import numpy_rng

Array = NDArray[np.float64]
Generator = np.random.Generator

LOWEST, HIGHEST = 50.0, 300.0
"""Range of fundamentals and of the ends of chirps, in Hz; where 0.4 times the sample rate is less, it ends there."""

HIGHEST_PARTIAL = 1500.0
"""No partial lies above this, in Hz, nor above ``BAND`` times the sample rate."""

BAND = 0.45
FULL_RATE = 4000
"""From this rate on a sound is the same at every rate, in samples per second."""


@dataclass(frozen=True)
class Voice:
    """One sinusoid ``gain(t) sin(phase(t))`` at times in seconds; ``highest`` is its highest frequency in Hz."""

    phase: Callable[[Array], Array]
    gain: Callable[[Array], Array]
    highest: float


def sound(class_name: str, index: int, rate: int, seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Return the sound of a class with a given number: a pure function of its arguments.

    ``harmonic``: a fundamental of 50 to 300 Hz (log-uniform) and up to four of its multiples, whose amplitudes fall
    with their number; a third has vibrato. ``chirp``: one or two tones that sweep between two such frequencies,
    linearly or exponentially. Each has an envelope with a smooth rise and fall; many fade or tremble in between.

    Args:
        class_name: one of ``CLASSES``.
        index: its number, from 0.
        rate: samples per second, at least 100.
        seconds: its length. Samples lie at ``(i + 1/2) / rate``, as ``geometry.time_coordinates`` has them.
        seed: changes all sounds.

    Returns:
        (round(rate * seconds),) float32; the largest magnitude is between 0.5 and 0.9, up to what lies between
        samples.

    Raises:
        HyperkitError: there is no such class, the rate is below 100, or there would be no sample.
    """
    if class_name not in _MAKERS:
        raise unknown_name("class of sounds", class_name, _MAKERS)
    count = round(rate * seconds)
    if rate < 100 or count < 1:
        raise HyperkitError(
            f"Sounds of {seconds} s at {rate} samples per second cannot be made.",
            "The rate must be at least 100, the length at least one sample.",
        )
    rng = numpy_rng(seed, "sounds", class_name, index)
    peak = rng.uniform(0.5, 0.9)
    high = min(HIGHEST, 0.4 * rate)
    voices = _MAKERS[class_name](rng, place(class_name, seed, index), min(LOWEST, high / 4), high, seconds)
    limit = min(HIGHEST_PARTIAL, BAND * rate)
    kept = [voice for voice in voices if voice.highest <= limit]
    # the peak is looked for on a fine grid of its own, which does not depend on the rate
    fine = _sum(kept, (np.arange(math.ceil(2 * FULL_RATE * seconds)) + 0.5) / (2 * FULL_RATE))
    wave = _sum(kept, (np.arange(count) + 0.5) / rate)
    return (wave * (peak / np.abs(fine).max())).astype(np.float32)


def make_sounds(
    root: Path,
    counts: tuple[int, int, int],
    rate: int,
    seconds: float,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write sounds as ``root/{train,val,test}/{class}/NNNN.flac``, mono, 16 bit.

    A call that is killed leaves half a set: build in ``data.places.new_folder`` and rename.

    Args:
        root: the folder; made if absent.
        counts: sounds in train, val and test, over all classes; divided evenly, the first class gets what is left.
        rate, seconds, seed: as for ``sound``.
        progress: called with (sounds done, sounds in all).

    Raises:
        HyperkitError: a negative count, none above 0, or sounds that cannot be made.
    """
    import soundfile

    def write(item: Item) -> None:
        levels = to_int16(sound(item.class_name, item.index, rate, seconds, seed))
        soundfile.write(item.path, levels, rate, format="FLAC", subtype="PCM_16")

    write_items(Path(root), counts, CLASSES, "flac", write, progress)


def to_int16(waveform: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return samples in [-1, 1) as 16-bit levels: times 32768, rounded to the nearest."""
    return np.clip(np.round(waveform.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)


def _sum(voices: Sequence[Voice], times: Array) -> Array:
    total = np.zeros_like(times)
    for voice in voices:
        total += voice.gain(times) * np.sin(voice.phase(times))
    return total


def _harmonic(rng: Generator, place: float, low: float, high: float, seconds: float) -> list[Voice]:
    """Return 1 to 5 partials of one fundamental; how many lies at ``place`` in [0, 1)."""
    fundamental = _log_uniform(rng, low, high)
    falloff = rng.uniform(0.8, 2.0)
    depth = rng.uniform(0.002, 0.01) if rng.random() < 0.35 else 0.0
    speed, start = 2 * math.pi * rng.uniform(3.0, 7.0), rng.uniform(0, 2 * math.pi)
    envelope = _envelope(rng, seconds)

    def partial(number: int, amplitude: float, shift: float) -> Voice:
        turn = 2 * math.pi * number * fundamental
        # the frequency is number * fundamental * (1 + depth * sin(speed t + start))
        return Voice(
            lambda t: turn * (t - depth / speed * np.cos(speed * t + start)) + shift,
            lambda t: amplitude * envelope(t),
            number * fundamental * (1 + depth),
        )

    count = 1 + int(5 * place)
    amplitudes = np.append(1.0, rng.uniform(0.3, 1.0, 4)) * np.arange(1.0, 6.0) ** -falloff
    shifts = rng.uniform(0, 2 * math.pi, 5)
    return [partial(k + 1, amplitudes[k], shifts[k]) for k in range(count)]


def _chirp(rng: Generator, place: float, low: float, high: float, seconds: float) -> list[Voice]:
    """Return a sweep, or two where ``place`` is in [1/2, 1)."""

    def sweep(amplitude: float) -> Voice:
        first, last = _log_uniform(rng, low, high), _log_uniform(rng, low, high)
        shift, exponential, envelope = rng.uniform(0, 2 * math.pi), rng.random() < 0.5, _envelope(rng, seconds)
        ratio = math.log(last / first)

        def phase(t: Array) -> Array:
            if exponential and ratio:  # frequency first * exp(ratio t / seconds)
                cycles = first * seconds / ratio * np.expm1(ratio * t / seconds)
            else:  # frequency first + (last - first) t / seconds
                cycles = first * t + (last - first) / (2 * seconds) * t * t
            return 2 * math.pi * cycles + shift

        return Voice(phase, lambda t: amplitude * envelope(t), max(first, last))

    return [sweep(1.0)] + ([sweep(rng.uniform(0.3, 0.8))] if place >= 0.5 else [])


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return low * (high / low) ** rng.random()


def _envelope(rng: Generator, seconds: float) -> Callable[[Array], Array]:
    """Draw an envelope: rise and fall as raised cosines, between them constant, fading or trembling; 0 at both ends."""
    begin, end = rng.uniform(0.0, 0.12), rng.uniform(0.82, 1.0)
    rise, fall = rng.uniform(0.02, 0.12), rng.uniform(0.05, 0.25)
    fade = rng.uniform(0.5, 3.0) if rng.random() < 0.5 else 0.0
    depth = rng.uniform(0.1, 0.4) if rng.random() < 0.25 else 0.0
    speed, start = 2 * math.pi * rng.uniform(2.0, 6.0), rng.uniform(0, 2 * math.pi)

    def envelope(t: Array) -> Array:
        part = t / seconds
        up = np.clip((part - begin) / rise, 0, 1)
        down = np.clip((end - part) / fall, 0, 1)
        edges = (0.5 - 0.5 * np.cos(math.pi * up)) * (0.5 - 0.5 * np.cos(math.pi * down))
        tremble = 1 - depth * (0.5 + 0.5 * np.sin(speed * t + start))
        return edges * tremble * np.exp(-fade * np.clip(part - begin, 0, None))

    return envelope


_MAKERS: dict[str, Callable[[Generator, float, float, float, float], list[Voice]]] = {
    "harmonic": _harmonic,
    "chirp": _chirp,
}
CLASSES = tuple(_MAKERS)
