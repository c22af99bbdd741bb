"""Sounds in folders: exact samples, crops and times, rates and channels, every kind of file, silence."""

from __future__ import annotations

import math
import shutil
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hyperkit import randomness
from hyperkit.contracts import Batch
from hyperkit.data import sound_files
from hyperkit.data.prepare_signals import prepare_signals
from hyperkit.data.procedural import sounds
from hyperkit.data.sounds import SoundData, SoundDataConfig, prepare_sound
from hyperkit.errors import HyperkitError

RATE = 1000


def _noise(count: int, *key: int | str) -> np.ndarray:
    return randomness.numpy_rng("test sounds", *key).integers(-32768, 32768, count, dtype=np.int16)


def _sine(frequency: float, rate: int, seconds: float = 1.0, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


def _save(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype=subtype)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten training sounds of two classes, 50 to 59 samples long, and three to validate and four to test."""
    root = tmp_path / "data"
    for split, count in (("train", 5), ("val", 3), ("test", 4)):
        for class_name in ("bells", "horns"):
            for index in range(count):
                length = 50 + index + 5 * (class_name == "horns")
                _save(root / split / class_name / f"{index:02d}.flac", _noise(length, split, class_name, index))
    return root


def _open(root: Path, **settings: Any) -> SoundData:
    return SoundData(SoundDataConfig(root=str(root), **{"rate": RATE, "seconds": 0.04, **settings}), seed=5)


def _same(one: Batch, two: Batch) -> None:
    assert (one.ids, one.classes) == (two.ids, two.classes)
    for a, b in ((one.context, two.context), (one.query, two.query), (one.truth, two.truth)):
        assert torch.equal(a, b)


def test_training_crops_are_exact_pieces_from_every_place(folder: Path) -> None:
    data = _open(folder)
    starts: dict[str, set[int]] = {}
    for step in range(60):
        batch = data.train_batch(step, 10)
        assert batch.context.shape == (10, 40)
        assert batch.query_size is None
        for name, crop in zip(batch.ids, batch.context, strict=True):
            whole, _ = soundfile.read(folder / name, dtype="int16")
            places = [i for i in range(len(whole) - 39) if np.array_equal(whole[i : i + 40] / 32768, crop.numpy())]
            assert len(places) == 1
            starts.setdefault(name, set()).add(places[0])
    # the shortest file has 11 places, and 60 draws miss one of them with a chance of 4 %
    assert starts["train/bells/00.flac"] == set(range(11))
    assert min(starts["train/horns/04.flac"]) == 0
    assert max(starts["train/horns/04.flac"]) == 19


def test_evaluation_takes_the_first_samples_and_asks_for_all(folder: Path) -> None:
    items = _open(folder).pairs("test", batch_size=3)
    seen: list[str] = []
    for batch in items:
        for name, crop, query, truth in zip(batch.ids, batch.context, batch.query, batch.truth, strict=True):
            whole, _ = soundfile.read(folder / name, dtype="int16")
            np.testing.assert_array_equal(crop.numpy(), whole[:40] / 32768)
            assert torch.equal(truth[:, 0], crop)
            # sample i of 40 lies at (2 i + 1) / 40 - 1; float32 rounding
            assert np.abs(query[:, 0].numpy() - ((2 * np.arange(40) + 1) / 40 - 1)).max() < 1e-7
            seen.append(name)
    assert seen == sorted(f"test/{c}/{i:02d}.flac" for c in ("bells", "horns") for i in range(4))


def test_truth_is_linear_in_the_query_on_a_ramp(tmp_path: Path) -> None:
    for index in range(8):
        _save(tmp_path / f"{index}.wav", (100 * np.arange(90) + index).astype(np.int16))
    data = _open(tmp_path, seconds=0.06, samples_per_item=25)
    begun = set()
    for step in range(5):
        batch = data.train_batch(step, 6)
        assert batch.query.shape == batch.truth.shape == (6, 25, 1)
        for context, query, truth in zip(batch.context, batch.query, batch.truth, strict=True):
            start = float(context[0]) * 32768
            begun.add(round(start) // 100)
            expected = start + 100 * (30 * (query.double() + 1) - 0.5)
            # measured worst case 8.4e-5 of 32768: float32 rounding of the times
            assert (truth.double() * 32768 - expected).abs().max() < 4e-4
            assert len(set(query[:, 0].tolist())) == 25
    assert len(begun) > 10


def test_a_gain_changes_sign_and_loudness_of_context_and_truth_alike(folder: Path) -> None:
    plain, louder = _open(folder), _open(folder, augment="gain")
    gains = []
    for step in range(40):
        one, two = plain.train_batch(step, 10), louder.train_batch(step, 10)
        assert torch.equal(two.truth[..., 0], two.context)
        for a, b in zip(one.context.double(), two.context.double(), strict=True):
            gain = float((a @ b) / (a @ a))
            assert (b - gain * a).abs().max() < 1e-6
            gains.append(gain)
    sizes = np.abs(gains)
    assert sizes.min() >= 0.5
    assert sizes.max() <= 1.0
    assert abs(sizes.mean() - 0.75) < 0.036  # five deviations of the mean of 400 draws from U[0.5, 1]
    assert abs(np.mean(np.sign(gains))) < 0.25


def test_a_batch_is_a_pure_function_of_seed_and_step(folder: Path) -> None:
    settings = {"augment": "gain", "samples_per_item": 10}
    one, two = _open(folder, **settings), _open(folder, **settings)
    for step in (7, 0, 3):
        two.train_batch(step, 4)
    for step in (0, 3, 7, 10**6):
        _same(one.train_batch(step, 4), two.train_batch(step, 4))
    other = SoundData(one.config, seed=6).train_batch(3, 4)
    assert not torch.equal(other.query, one.train_batch(3, 4).query)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_interleave_to_the_joined_batch(folder: Path, world: int) -> None:
    data = _open(folder, augment="gain", samples_per_item=10)
    joined = data.train_batch(4, 7)
    for rank in range(world):
        part, own = data.train_batch(4, 7, rank, world), list(range(rank, 7, world))
        assert part.ids == tuple(joined.ids[i] for i in own)
        for a, b in ((part.context, joined.context), (part.query, joined.query), (part.truth, joined.truth)):
            assert torch.equal(a, b[own])


def test_epochs_and_nested_fractions(folder: Path) -> None:
    data = _open(folder)
    stream = [name for step in range(20) for name in data.train_batch(step, 4).ids]
    assert data.steps_per_epoch(4) == 3
    assert all(sorted(stream[start : start + 10]) == list(data.train_ids) for start in range(0, 80, 10))
    kept = [set(_open(folder, train_fraction=part).train_ids) for part in (0.01, 0.3, 1.0)]
    assert [len(part) for part in kept] == [2, 4, 10]
    assert all(small < large for small, large in pairwise(kept))


def test_shuffled_contexts_keep_the_truth(folder: Path) -> None:
    data = _open(folder)
    plain = data.pairs("test").batch(range(8))
    batch = data.pairs("test", shuffle_context="class").batch(range(8))
    assert torch.equal(batch.truth, plain.truth)
    owner = [next(i for i in range(8) if torch.equal(plain.context[i], c)) for c in batch.context]
    assert sorted(owner) == list(range(8))
    assert all(i != j and i // 4 == j // 4 for i, j in enumerate(owner))
    with pytest.raises(HyperkitError, match="3 views were asked for, but sounds have one"):
        data.pairs("test", views=3)


def test_silence_scores_the_mean_square_of_what_is_evaluated(folder: Path) -> None:
    _save(folder / "test" / "horns" / "silent.wav", np.zeros(60, np.int16))
    data = _open(folder)
    assert "1 sounds are silent (they stay below 0.0001) and are kept" in data.notes
    scores: dict[str, list[float]] = {}
    for path in sorted((folder / "test").rglob("*.*")):
        crop = soundfile.read(path)[0][:40]
        psnr = min(100.0, -10 * math.log10(max(np.mean(crop**2), 1e-20)))
        for label in (path.parent.name, "all"):
            scores.setdefault(label, []).append(psnr)
    found = data.constants()["silence"]
    assert max(scores["all"]) == 100.0
    assert set(found) == set(scores)
    # measured worst case 1.5e-8 dB
    assert all(abs(found[label] - np.mean(values)) < 1e-6 for label, values in scores.items())


def test_samples_are_first_crops_in_turns_over_the_classes(folder: Path) -> None:
    samples = _open(folder).samples(3)
    assert [sample["class"] for sample in samples] == ["bells", "horns", "bells"]
    for sample in samples:
        assert set(sample) == {"id", "class", "waveform", "rate"}
        assert sample["rate"] == RATE
        assert torch.equal(sample["waveform"], prepare_sound(folder / sample["id"], RATE)[:40])


@pytest.mark.parametrize(
    ("name", "subtype", "step"),
    [
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "PCM_32", 2**-23),
        ("a.wav", "FLOAT", 2**-24),
        ("a.wav", "DOUBLE", 2**-24),
        ("a.flac", "PCM_S8", 2**-7),
        ("a.flac", "PCM_16", 2**-15),
        ("a.flac", "PCM_24", 2**-23),
        ("a.aiff", "PCM_16", 2**-15),
        ("a.au", "PCM_16", 2**-15),
    ],
)
def test_every_sample_format_is_read_to_its_own_precision(tmp_path: Path, name: str, subtype: str, step: float) -> None:
    expected = _sine(37, RATE, 0.3, 0.9)
    _save(tmp_path / name, expected, subtype=subtype)
    found = prepare_sound(tmp_path / name, RATE)
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - expected).max() < 1.01 * step
    for index in range(4):
        _save(tmp_path / f"{index}{name[1:]}", np.roll(expected, index), subtype=subtype)
    (tmp_path / name).unlink()
    batch = _open(tmp_path, seconds=0.1).pairs("test").batch([0])
    np.testing.assert_array_equal(batch.context[0].numpy(), prepare_sound(tmp_path / batch.ids[0], RATE)[:100].numpy())


@pytest.mark.parametrize(("name", "subtype"), [("a.ogg", "VORBIS"), ("a.mp3", "MPEG_LAYER_III"), ("a.opus", "OPUS")])
def test_lossy_formats_are_read(tmp_path: Path, name: str, subtype: str) -> None:
    expected = _sine(440, 16000, 1.0, 0.4)
    soundfile.write(tmp_path / name, expected, 16000, format="OGG" if name != "a.mp3" else "MP3", subtype=subtype)
    found = prepare_sound(tmp_path / name, 16000).numpy().astype(np.float64)
    assert len(found) == 16000
    inside = slice(2000, 14000)
    cosine = found[inside] @ expected[inside] / np.linalg.norm(found[inside]) / np.linalg.norm(expected[inside])
    # measured worst case 0.99992, of MP3
    assert cosine > 0.999


@pytest.mark.parametrize("found", [1000, 2000, 4410, 16000, 44100, 48000, 7919])
def test_resampling_keeps_a_sines_frequency_phase_and_level(tmp_path: Path, found: int) -> None:
    _save(tmp_path / "a.wav", _sine(110, found, 1.0), found, "FLOAT")
    heard = prepare_sound(tmp_path / "a.wav", RATE).numpy()
    assert len(heard) == RATE
    inside = slice(50, -50)
    # The filter's ripple; measured worst case 1.3e-4. A shift by one sample would be 0.3.
    assert np.abs(heard - _sine(110, RATE, 1.0))[inside].max() < 4e-4


def test_resampling_removes_what_the_rate_cannot_hold(tmp_path: Path) -> None:
    _save(tmp_path / "a.wav", _sine(700, 8000, 1.0), 8000)
    # 700 Hz would fold to 300 Hz; measured 7e-4 of 0.5
    assert prepare_sound(tmp_path / "a.wav", RATE)[50:-50].abs().max() < 2e-3


def test_rates_without_a_small_ratio_are_resampled_without_gigabytes(tmp_path: Path) -> None:
    _save(tmp_path / "a.wav", _sine(440, 44101, 0.5), 44101, "FLOAT")
    heard = prepare_sound(tmp_path / "a.wav", 16000).numpy()
    assert abs(len(heard) - 8000) <= 4
    # the ratio is rounded, and after half a second 5e-4 would be a tenth of a turn; measured 2.5e-3
    assert np.abs(heard[50:7950] - _sine(440, 16000, 0.5)[50:7950]).max() < 8e-3


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = _sine(60, RATE), _sine(90, RATE, 1.0, 0.3)
    _save(tmp_path / "a.wav", np.stack([left, right], 1), subtype="FLOAT")
    # measured worst case 1.9e-8
    assert np.abs(prepare_sound(tmp_path / "a.wav", RATE).numpy() - (left + right) / 2).max() < 2e-7
    _save(tmp_path / "b.wav", np.stack([left, -left, right], 1))
    assert np.abs(prepare_sound(tmp_path / "b.wav", RATE).numpy() - right / 3).max() < 2**-15


def test_what_goes_beyond_one_is_scaled_as_a_whole_and_told(tmp_path: Path) -> None:
    wave = _sine(60, RATE, 0.1, 1.0)
    for index in range(6):
        _save(tmp_path / f"{index}.wav", wave, subtype="FLOAT")
    _save(tmp_path / "loud.wav", 20000 * wave, subtype="FLOAT")
    found = prepare_sound(tmp_path / "loud.wav", RATE).numpy()
    assert np.abs(found).max() == 1.0
    assert np.abs(found - wave / np.abs(wave).max()).max() < 1e-6
    assert "1 sounds went beyond [-1, 1] and are scaled to peak 1, such as loud.wav" in _open(tmp_path).notes
    full = _noise(60)
    full[3] = -32768
    _save(tmp_path / "full.wav", full)
    np.testing.assert_array_equal(prepare_sound(tmp_path / "full.wav", RATE).numpy(), full / 32768)


def _bytes(samples: np.ndarray, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    stream = BytesIO()
    soundfile.write(stream, samples, RATE, format=kind, subtype=subtype)
    return stream.getvalue()


def _with(value: float) -> np.ndarray:
    samples = _sine(50, RATE)
    samples[250] = value
    return samples


LONG = _noise(RATE)
BAD: dict[str, tuple[bytes, str]] = {
    "text.wav": (b"This is not a sound.\n" * 9, "is not a sound of a known format"),
    "zero.flac": (b"", r"is empty \(0 bytes\)"),
    "no-samples.wav": (_bytes(LONG[:0]), "holds no samples"),
    "nan.wav": (_bytes(_with(math.nan), subtype="FLOAT"), r"has 1 NaN or infinite samples, the first at 0\.250 s"),
    "inf.wav": (_bytes(_with(-math.inf), subtype="DOUBLE"), r"has 1 NaN or infinite samples, the first at 0\.250 s"),
    "cut.wav": (_bytes(LONG)[:1044], r"is truncated: it ends after 0\.50 s"),
    "cut.aiff": (_bytes(LONG, "AIFF")[:1044], r"is truncated: it ends after 0\.4[0-9] s"),
    "cut.flac": (_bytes(LONG, "FLAC")[:1200], "cannot be decoded: flac decoder lost sync"),
    "cut.ogg": (_bytes(LONG, "OGG", "VORBIS")[:1200], "cannot be decoded: "),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HyperkitError, match=f"{name} {reason}"):
        prepare_sound(tmp_path / name, RATE)


def test_long_files_are_read_in_blocks_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path / "a.flac", LONG)
    for block in (100, 999, 1000, 1001):
        monkeypatch.setattr(sound_files, "BLOCK", block)
        np.testing.assert_array_equal(prepare_sound(tmp_path / "a.flac", RATE).numpy(), LONG / 32768)


def test_headers_of_unknown_length_are_not_taken_for_truncated_files(tmp_path: Path) -> None:
    content = bytearray(_bytes(LONG))
    place = content.index(b"data") + 4
    for length in (0xFFFFFFFF, 0x7FFFFFFF, len(LONG) * 2 + 8):
        content[place : place + 4] = length.to_bytes(4, "little")
        (tmp_path / "a.wav").write_bytes(content)
        np.testing.assert_array_equal(prepare_sound(tmp_path / "a.wav", RATE).numpy(), LONG / 32768)
    with pytest.raises(HyperkitError, match="does not exist"):
        prepare_sound(tmp_path / "b.wav", RATE)
    with pytest.raises(HyperkitError, match="is a folder"):
        prepare_sound(tmp_path, RATE)


def test_bad_and_short_files_are_named_all_at_once_or_left_out(folder: Path) -> None:
    for name, (content, _) in BAD.items():
        (folder / "train" / "bells" / name).write_bytes(content)
    _save(folder / "train" / "bells" / "short.wav", LONG[:39])
    for _ in range(2):  # decoded, then from the pack
        with pytest.raises(HyperkitError, match=r"10 of 34 files .* cannot be used") as caught:
            _open(folder)
        lines = caught.value.what.splitlines()[1:]
        assert [line.split(":")[0].strip() for line in lines] == sorted(f"train/bells/{n}" for n in [*BAD, "short.wav"])
        assert "short.wav: lasts 0.039 s, shorter than the crop of 0.04 s" in caught.value.what
        assert "--set data.seconds=0.039 or less" in str(caught.value.hint)
        assert "data.skip_bad=true" in str(caught.value.hint)
    data = _open(folder, skip_bad=True)
    assert data.counts()["train"] == {"bells": 5, "horns": 5}
    report = prepare_signals("audio", folder, data.config).as_dict()
    assert {Path(one["path"]).name for one in report["left_out"]} == {*BAD, "short.wav"}
    assert report["hashes"]["test"] == data.hash("test")
    # a shorter crop needs no new pack, and takes the short file in
    shorter = _open(folder, skip_bad=True, seconds=0.03)
    assert shorter.counts()["train"] == {"bells": 6, "horns": 5}
    assert shorter.hash("test") != data.hash("test")  # figures of other crops do not compare
    with pytest.raises(HyperkitError, match=r"34 of 34 files"):
        _open(folder, skip_bad=True, seconds=2.0)


def test_speakers_of_librispeech_stay_together(tmp_path: Path) -> None:
    for speaker in range(100, 140):
        for chapter in (1, 2):
            name = f"{speaker}-{chapter}-0000.flac"
            place = tmp_path / "LibriSpeech" / "train-clean-100" / str(speaker) / str(chapter)
            _save(place / name, _noise(50, speaker, chapter))
    data = _open(tmp_path, test_fraction=0.3, val_fraction=0.2)
    assert data.all_classes == ("sounds",)
    speakers = [{Path(name).name.split("-")[0] for name in data.splits[s]} for s in ("train", "val", "test")]
    assert all(speakers)
    assert not (speakers[0] & speakers[1] | speakers[0] & speakers[2] | speakers[1] & speakers[2])
    assert sum(map(len, speakers)) == 40


def test_one_speaker_is_too_few_to_train_validate_and_test(tmp_path: Path) -> None:
    for part in range(5):
        _save(tmp_path / "train-clean-100" / "100" / "1" / f"100-1-{part:04d}.flac", _noise(50, part))
    with pytest.raises(HyperkitError, match=r"(?s)of 5 files there are 5 in train.*not of the same speaker"):
        _open(tmp_path).train_batch(0, 2)


def test_a_folder_of_test_sounds_alone_is_evaluated(folder: Path) -> None:
    whole = _open(folder)
    expected = whole.constants()
    for split in ("train", "val"):
        shutil.rmtree(folder / split)
    alone = _open(folder, classes=("bells", "drums"))
    assert alone.pairs("test").counts == {"bells": 4}
    assert alone.constants()["silence"]["bells"] == expected["silence"]["bells"]
    with pytest.raises(HyperkitError, match="There is no class 'drums'"):
        alone.train_batch(0, 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rate": 1000, "seconds": 0.01}, r"rate \* seconds must be at least 16 samples, found 10"),
        ({"rate": 1000, "seconds": 0.02, "samples_per_item": 21}, r"samples_per_item must be at most rate \* seconds"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SoundDataConfig(**settings)


def test_the_builtin_set_is_made_once_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: Any, **options: Any) -> None:
        calls.append(arguments[1:])
        make(*arguments, **options)

    make = sounds.make_sounds
    monkeypatch.setattr(sounds, "make_sounds", counted)
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path))
    config = SoundDataConfig(builtin="debug", rate=2000, seconds=0.5)
    for _ in range(2):
        report = prepare_signals("audio", config=config)
        assert [sum(report.counts[split].values()) for split in ("train", "val", "test")] == [16, 4, 6]
        assert Path(report.root).parent == tmp_path
        assert report.notes == ()
    assert calls == [((16, 4, 6), 2000, 0.5)]
    assert SoundData(config, 0).pack.types.tolist() == [1] * 26  # 16 bits at the set's own rate are kept as they are
    with pytest.raises(HyperkitError, match="There is no task with files of signals 'nvs'"):
        prepare_signals("nvs")


@pytest.mark.shared_data
def test_real_speech_is_divided_by_speakers(shared_data: Path, tmp_path: Path) -> None:
    for split in ("train-clean-100", "test-other"):
        (tmp_path / split).mkdir()
        for path in sorted((shared_data / "librispeech" / split).glob("*.flac"))[:12]:
            (tmp_path / split / path.name).symlink_to(path)
    data = _open(tmp_path, rate=16000, seconds=1.0)
    assert {name.split("/")[0] for name in data.splits["test"]} == {"test-other"}
    assert {name.split("/")[0] for name in data.splits["val"]} == {"train-clean-100"}
    for name, crop in zip(data.pairs("test").ids, data.pairs("test").batch(range(4)).context, strict=False):
        np.testing.assert_array_equal(crop.numpy(), soundfile.read(tmp_path / name)[0][:16000])
    # the first second of speech is often a pause; the whole set's silence is at 25.5 dB
    assert 18 < data.constants()["silence"]["all"] < 35
