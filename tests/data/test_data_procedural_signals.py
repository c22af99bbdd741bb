"""Procedural pictures and sounds: the same everywhere and at every size or rate, band-limited, varied."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from hyperkit.data.procedural import pictures, sounds
from hyperkit.data.procedural.canvas import SPLINE_POWER, Canvas, spline
from hyperkit.data.procedural.pictures import make_pictures, picture
from hyperkit.data.procedural.sounds import make_sounds, sound, to_int16
from hyperkit.errors import HyperkitError
from hyperkit.randomness import numpy_rng

GOLDEN = json.loads((Path(__file__).resolve().parents[1] / "golden" / "signals.json").read_text())


def sha256(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def test_pictures_and_sounds_are_those_of_the_golden_file() -> None:
    # Everything is computed in float64 and rounded to 8 and 16 bits, which hides the last bits of sines and sums.
    # A change here changes the built-in data sets: give them another folder.
    for class_name, hashes in GOLDEN["pictures"].items():
        assert [sha256(picture(class_name, i, 32)) for i in range(len(hashes))] == hashes, class_name
    for class_name, hashes in GOLDEN["sounds"].items():
        assert [sha256(to_int16(sound(class_name, i, 4000, 0.5))) for i in range(len(hashes))] == hashes, class_name
    assert list(GOLDEN["pictures"]) == list(pictures.CLASSES)
    assert list(GOLDEN["sounds"]) == list(sounds.CLASSES)


@pytest.mark.parametrize("class_name", pictures.CLASSES)
def test_a_small_picture_is_the_average_of_the_large_one(class_name: str) -> None:
    for index in range(4):
        small = picture(class_name, index, 48).astype(float)
        large = picture(class_name, index, 192).astype(float).reshape(48, 4, 48, 4, 3).mean(axis=(1, 3))
        # edges are one sample wide, and samples are not the same; worst mean 0.33, worst pixel 13 of 255 levels
        assert np.abs(small - large).mean() < 0.5, index
        assert np.abs(small - large).max() < 20, index


@pytest.mark.parametrize("class_name", pictures.CLASSES)
def test_pictures_differ_and_use_the_range_of_levels(class_name: str) -> None:
    seen = np.stack([picture(class_name, index, 32).astype(float) / 255 for index in range(16)])
    others = [picture(class_name, 0, 32, seed=1).astype(float) / 255]
    psnr = [-10 * math.log10(((a - b) ** 2).mean()) for k, a in enumerate(seen) for b in [*seen[:k], *others]]
    assert np.mean(psnr) < 14  # worst of the classes: 11.8
    assert np.max(psnr) < 22  # 18.5
    assert (np.abs(seen.reshape(16, -1, 3) - seen.mean(axis=(1, 2))[:, None]).max(axis=(1, 2)) > 0.15).all()  # not flat
    assert seen.min() < 0.1
    assert seen.max() > 0.9


@pytest.mark.parametrize("class_name", pictures.CLASSES)
def test_power_falls_with_frequency_as_in_photographs(class_name: str) -> None:
    # Photographs: about the power -2. Measured here: -3.05 to -3.29.
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64, 1 / 64), np.fft.fftfreq(64, 1 / 64)))
    power = np.zeros((64, 64))
    for index in range(20):
        grey = picture(class_name, index, 64).mean(axis=-1)
        power += np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    bands = [2, 4, 8, 16]
    means = [power[(frequency >= f) & (frequency < 1.5 * f)].mean() for f in bands]
    assert -3.6 < np.polyfit(np.log(bands), np.log(means), 1)[0] < -2.5


def test_splines_sum_to_one_reproduce_lines_and_have_the_stated_power() -> None:
    basis = spline(64, 5)
    assert basis.sum(axis=1) == pytest.approx(np.ones(64))
    places = (np.arange(64) + 0.5) / 64 * 5
    assert basis @ np.arange(-1.0, 7.0) == pytest.approx(places)  # coefficients on a line give the line
    assert (spline(4096, 16) ** 2).sum(axis=1).mean() == pytest.approx(SPLINE_POWER, rel=1e-5)
    noise = Canvas(64).noise(numpy_rng("noise"), (16, 24), 1.0)
    assert noise.std() == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("class_name", sounds.CLASSES)
def test_every_rate_samples_the_same_sound(class_name: str) -> None:
    for index in range(8):
        # (i + 1/2) / 4000 = (3 i + 1 + 1/2) / 12000
        assert np.abs(sound(class_name, index, 4000, 0.7) - sound(class_name, index, 12000, 0.7)[1::3]).max() < 1e-6


@pytest.mark.parametrize("class_name", sounds.CLASSES)
@pytest.mark.parametrize("rate", [400, 4000])
def test_sounds_are_band_limited_loud_and_begin_and_end_in_silence(class_name: str, rate: int) -> None:
    for index in range(40):
        wave = sound(class_name, index, rate, 1.0).astype(float)
        assert 0.49 <= np.abs(wave).max() <= 0.9 + 1e-6  # worst 0.4989: the peak lies between samples
        assert np.abs(wave[[0, -1]]).max() < 2e-4  # worst 6e-5, at 400 samples per second
        power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
        frequency = np.fft.rfftfreq(len(wave), 1 / rate)
        # the envelope's rise and the vibrato widen lines by some Hz; worst 2e-7, at 400 samples per second
        assert power[frequency > min(sounds.BAND * rate, sounds.HIGHEST_PARTIAL) + 10].sum() < 1e-6 * power.sum()


def test_sounds_have_no_clicks() -> None:
    # The second difference of a sine is at most amplitude * (2 pi f / rate)^2, here 0.0056 for 600 Hz; partials above
    # are weak. Worst 0.0036; a step has its height.
    for class_name in sounds.CLASSES:
        for index in range(40):
            wave = sound(class_name, index, 48000, 1.0).astype(float)
            bound = 0.9 * (2 * math.pi * 600 / 48000) ** 2
            assert np.abs(np.diff(wave, 2)).max() < bound


def test_chirps_sweep_from_end_to_end_linearly_or_exponentially() -> None:
    t = np.linspace(0, 2, 2001)
    kinds = set()
    for index in range(20):
        for voice in sounds._chirp(numpy_rng("chirp", index), index / 20, 50.0, 300.0, 2.0):
            frequency = np.gradient(voice.phase(t), t)[1:-1] / (2 * math.pi)
            assert 50 <= frequency.min() <= frequency.max() <= 300
            assert frequency.max() == pytest.approx(voice.highest, rel=3e-3)
            linear = np.abs(np.diff(frequency, 2)).max() / np.ptp(frequency)
            exponential = np.abs(np.diff(np.log(frequency), 2)).max() / np.ptp(np.log(frequency))
            assert min(linear, exponential) < 1e-9 < max(linear, exponential)  # worst 9e-11, least 4e-9
            kinds.add(linear < exponential)
    assert kinds == {True, False}


def test_partials_are_multiples_of_the_fundamental() -> None:
    t = np.linspace(0, 1, 4001)
    for index in range(10):
        voices = sounds._harmonic(numpy_rng("harmonic", index), index / 10, 50.0, 300.0, 1.0)
        assert len(voices) == 1 + index // 2
        first = np.gradient(voices[0].phase(t), t)[1:-1]
        for number, voice in enumerate(voices, start=1):
            frequency = np.gradient(voice.phase(t), t)[1:-1]
            assert frequency == pytest.approx(number * first, rel=1e-9)
            assert frequency.max() <= 2 * math.pi * voice.highest * (1 + 1e-6)


def files(root: Path) -> dict[str, Path]:
    return {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_folder_of_pictures_holds_the_classes_evenly_and_splits_share_nothing(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make_pictures(tmp_path, (6, 4, 1), 16, seed=3, progress=lambda *call: calls.append(call))
    assert calls == [(done, 11) for done in range(12)]
    made = files(tmp_path)
    assert list(made) == sorted(
        [
            *(f"train/{c}/{i:04d}.png" for c, n in zip(pictures.CLASSES, (2, 2, 1, 1), strict=True) for i in range(n)),
            *(f"val/{c}/{i:04d}.png" for c, i in zip(pictures.CLASSES, (2, 2, 1, 1), strict=True)),
            "test/landscapes/0003.png",
        ]
    )
    for name, path in made.items():
        _, class_name, file = name.split("/")
        with Image.open(path) as stored:
            assert (np.asarray(stored) == picture(class_name, int(file[:4]), 16, seed=3)).all()


def test_a_folder_of_sounds_reads_back_exactly(tmp_path: Path) -> None:
    make_sounds(tmp_path, (2, 2, 2), 2000, 0.25, seed=1)
    made = files(tmp_path)
    assert len(made) == 6
    for name, path in made.items():
        split, class_name, file = name.split("/")
        assert int(file[:4]) == ("train", "val", "test").index(split)
        wave, rate = soundfile.read(path, dtype="float64")
        info = soundfile.info(path)
        assert (rate, info.format, info.subtype, info.channels) == (2000, "FLAC", "PCM_16", 1)
        assert np.abs(wave - sound(class_name, int(file[:4]), 2000, 0.25, seed=1)).max() <= 0.5 / 32768 + 1e-9


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HyperkitError, match="Did you mean 'landscapes'"):
        picture("landscape", 0, 8)
    with pytest.raises(HyperkitError, match="Did you mean 'chirp'"):
        sound("chirps", 0, 4000, 1.0)
    with pytest.raises(HyperkitError, match="size of pictures is 0"):
        make_pictures(tmp_path / "a", (1, 0, 0), 0)
    with pytest.raises(HyperkitError, match="counts are"):
        make_pictures(tmp_path / "b", (0, 0, 0), 8)
    with pytest.raises(HyperkitError, match="counts are"):
        make_sounds(tmp_path / "b", (2, -1, 0), 4000, 1.0)
    with pytest.raises(HyperkitError, match="at 50 samples"):
        sound("chirp", 0, 50, 1.0)
    with pytest.raises(HyperkitError, match="0.0 s"):
        sound("chirp", 0, 4000, 0.0)
    assert not (tmp_path / "b").exists()
