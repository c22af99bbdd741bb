"""Figures of sounds, pictures at any resolution, deviations and attention show what they say."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from matplotlib import colormaps
from PIL import Image

from hyperkit.errors import RunFailed
from hyperkit.metrics import Calibration
from hyperkit.reports import attention as attention_module
from hyperkit.reports import signals, sound
from hyperkit.reports.attention import attention_sheet, attention_spectrogram, overlay
from hyperkit.reports.pictures import enlarge, to_uint8
from hyperkit.reports.signals import calibration_figure, colour_bar, picture_comparison, uncertainty_picture
from hyperkit.reports.sound import SoundExample, highest_of, levels_of, sound_examples, sound_figure, top_of, write_wav

RATE = 4000


def tone(frequency: float, amplitude: float = 1.0, count: int = RATE) -> np.ndarray:
    return amplitude * np.sin(2 * math.pi * frequency * (np.arange(count) + 0.5) / RATE)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def places(sheet: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Return every (row, column) at which ``picture`` occurs in ``sheet`` exactly."""
    corner = (sheet == picture[0, 0]).all(axis=-1)
    height, width = picture.shape[:2]
    found = np.argwhere(corner[: len(sheet) - height + 1, : sheet.shape[1] - width + 1])
    return [(int(i), int(j)) for i, j in found if (sheet[i : i + height, j : j + width] == picture).all()]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure that is saved, for a look at its parts."""
    kept: list[Any] = []
    for module in (sound, signals, attention_module):
        save = module.save_figure
        monkeypatch.setattr(module, "save_figure", lambda f, path, save=save: (kept.append(f), save(f, path)))
    return kept


def test_wav_files_read_back_to_half_a_step_and_say_what_was_changed(tmp_path: Path) -> None:
    wave = torch.linspace(-1, 1, 1001)
    assert write_wav(tmp_path / "a.wav", wave, 8000) == 0
    read, rate = soundfile.read(tmp_path / "a.wav", dtype="float64")
    info = soundfile.info(tmp_path / "a.wav")
    assert (rate, info.format, info.subtype, info.channels) == (8000, "WAV", "PCM_16", 1)
    assert np.abs(read - wave.double().numpy())[:-1].max() <= 0.5 / 32768
    assert read[-1] == 32767 / 32768  # 16 bit have no + 1
    beyond = np.array([0.25, 1.5, -7.0, math.nan, math.inf, -math.inf, -1.0])
    assert write_wav(tmp_path / "b.wav", beyond, 8000) == 5
    levels, _ = soundfile.read(tmp_path / "b.wav", dtype="int16")
    assert levels.tolist() == [8192, 32767, -32768, 0, 32767, -32768, -32768]
    with pytest.raises(ValueError, match="a waveform is"):
        write_wav(tmp_path / "c.wav", np.zeros((2, 5)), 8000)


def test_a_wav_file_is_written_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    write_wav(tmp_path / "a.wav", tone(100), RATE)
    before = (tmp_path / "a.wav").read_bytes()
    monkeypatch.setattr(soundfile, "write", full)
    with pytest.raises(RunFailed, match="disk is full"):
        write_wav(tmp_path / "a.wav", tone(200), RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before


def test_spectrograms_have_tones_and_clicks_at_their_places() -> None:
    frame, step = 256, 32  # 64 ms and 8 ms
    levels = levels_of(tone(500, 0.09), RATE)
    assert levels.shape[0] == frame // 2 + 1
    middle = levels[:, levels.shape[1] // 2]
    assert middle.argmax() == 500 * frame // RATE
    assert middle.max() == pytest.approx(20 * math.log10(0.09), abs=1e-3)
    click = np.zeros(RATE)
    click[1600] = 1.0
    assert levels_of(click, RATE).max(axis=0).argmax() == 1600 // step
    assert top_of([levels]) == -20
    assert top_of([levels_of(np.zeros(100), RATE)]) == -60
    fade = np.hanning(RATE)  # without it, beginning and end are wide-band
    loud, faint, fainter = (levels_of(fade * tone(f, a), RATE) for f, a in ((200, 1), (700, 0.025), (900, 0.01)))
    # within 35 dB: all but the last; a line reaches up to three bins of 15.6 Hz to either side
    assert 2 * 200 <= highest_of([loud, fainter], RATE) <= 2 * (200 + 3 * 15.7)
    assert 2 * 700 <= highest_of([loud, faint, fainter], RATE) <= 2 * (700 + 3 * 15.7)
    assert highest_of([levels_of(tone(1900), RATE)], RATE) == RATE / 2


def test_a_sound_figure_shows_both_and_their_difference(tmp_path: Path, figures: list[Any]) -> None:
    original = tone(200, 0.5) * (np.arange(RATE) > 2000)
    reconstruction = 0.8 * original
    before = "matplotlib.pyplot" in sys.modules
    sound_figure(tmp_path / "a.png", original, reconstruction, RATE, "one", np.full(RATE, 0.1))
    sound_figure(tmp_path / "b.png", torch.from_numpy(original), torch.from_numpy(original), RATE)
    assert ("matplotlib.pyplot" in sys.modules) == before
    whole, zoom, apart, *spectrograms, _ = figures[0].axes
    assert [line.get_ydata().tolist() for line in whole.lines] == [original.tolist(), reconstruction.tolist()]
    assert apart.lines[0].get_ydata() == pytest.approx(0.2 * original)
    assert zoom.get_xlim()[0] >= 500  # where it sounds, in milliseconds
    band = zoom.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(zoom.lines[1].get_ydata().max() + 0.1)
    images = [axes.images[0] for axes in spectrograms]
    assert len({image.get_clim() for image in images}) == 1  # one range of colours
    loudest = [float(np.max(image.get_array())) for image in images]
    assert loudest[1] - loudest[0] == pytest.approx(20 * math.log10(0.8), abs=1e-6)
    assert loudest[2] - loudest[0] == pytest.approx(20 * math.log10(0.2), abs=1e-6)
    psnr = -10 * math.log10(((original - reconstruction) ** 2).mean())
    assert figures[0].get_suptitle() == f"one   PSNR {psnr:.2f} dB"
    assert figures[1].get_suptitle() == "PSNR inf dB"
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 600


@pytest.mark.parametrize("count", [1, 50])
def test_short_silent_and_broken_sounds_can_be_drawn(tmp_path: Path, count: int) -> None:
    sound_figure(tmp_path / "a.png", np.zeros(count), np.full(count, math.nan), 100)
    with pytest.raises(ValueError, match="samples and the reconstruction"):
        sound_figure(tmp_path / "b.png", np.zeros(count), np.zeros(count + 1), 100)
    assert not (tmp_path / "b.png").exists()


def test_examples_share_their_colours_and_carry_their_names(tmp_path: Path, figures: list[Any]) -> None:
    rows = [
        SoundExample("worst", tone(150), tone(150, 0.3), 3.0, "chirp/1"),
        SoundExample("best", tone(90), tone(90), 9),
    ]
    sound_examples(tmp_path / "a.png", rows, RATE)
    axes = figures[0].axes
    assert axes[0].get_ylabel() == "worst\nchirp/1\n3.00 dB PSNR"
    assert axes[4].get_ylabel() == "best\n9.00 dB PSNR"
    images = [a.images[0] for a in axes[:8] if a.images]
    assert len(images) == 4
    assert len({image.get_clim() for image in images}) == 1
    with pytest.raises(ValueError, match="at least one example"):
        sound_examples(tmp_path / "b.png", [], RATE)


def test_a_comparison_holds_the_input_the_enlarged_picture_and_an_amplified_difference() -> None:
    original, enlarged = 0.1 + 0.8 * noise(3, 24, 16), noise(3, 96, 64, seed=1)
    reconstruction = original.clone()
    reconstruction[1, :4] += 0.11  # 1 / 0.11 = 9.1: eight times
    sheet = picture_comparison(original, reconstruction, enlarged)
    assert len(places(sheet, enlarge(to_uint8(original), 12))) == 1  # 16 pixels become 192
    assert len(places(sheet, enlarge(to_uint8(enlarged), 3))) == 1
    difference = torch.ones(3, 24, 16)
    difference[:, :4] -= 8 * 0.11
    assert len(places(sheet, enlarge(to_uint8(difference), 12))) == 1
    with pytest.raises(ValueError, match="differ"):
        picture_comparison(original, enlarged, enlarged)


def test_small_errors_are_amplified_at_most_sixteen_times_and_large_ones_not_at_all() -> None:
    original = torch.full((3, 200, 200), 0.25)
    for error, factor in ((0.001, 16), (0.05, 16), (0.3, 2), (0.7, 1)):
        sheet = picture_comparison(original, original + error, original)
        expected = to_uint8(torch.full((3, 200, 200), 1 - factor * error))
        assert len(places(sheet, expected)) == 1, error
    broken = original.clone()
    broken[:, :50] = math.nan
    assert (picture_comparison(original, broken, broken) == 0).any()


def test_uncertainty_is_the_root_mean_square_over_channels_on_one_scale() -> None:
    deviation = 0.01 + noise(6, 8, 3)
    level = deviation.double().square().mean(-1).sqrt().numpy()
    own = uncertainty_picture(deviation, legend=False)
    assert (own == to_uint8(colormaps["turbo"](level / level.max())[..., :3])).all()
    common = uncertainty_picture(deviation[..., 0], largest=2.0, legend=False)
    assert (common == to_uint8(colormaps["turbo"](deviation[..., 0].double().numpy() / 2)[..., :3])).all()
    with_legend = uncertainty_picture(deviation)
    assert (with_legend[:, : 8 * 24] == enlarge(own, 24)).all()
    assert with_legend.shape[1] > 8 * 24 + 20
    assert (uncertainty_picture(np.zeros((4, 4)), legend=False) == to_uint8(colormaps["turbo"](0.0)[:3])).all()


def test_a_colour_bar_runs_from_the_high_end_at_the_top_to_the_low_end() -> None:
    bar = colour_bar(101, ("1", "0"), "viridis")
    column = bar[:, 8]
    assert (column[[0, 50, 100]] == to_uint8(colormaps["viridis"](np.array([1.0, 0.5, 0.0]))[:, None, :3])[:, 0]).all()
    assert (bar[40:60, -8:] == 255).all()  # no text between the ticks
    assert (bar[:20, 20:] < 128).any()
    assert (bar[-20:, 20:] < 128).any()


def test_a_calibration_figure_holds_the_shares_beside_those_of_the_normal_distribution(
    tmp_path: Path, figures: list[Any]
) -> None:
    calibration = Calibration()
    truth = torch.tensor([[0.5, -0.875, 1.5, 3.5, 9.0]])
    calibration.update(torch.zeros(1, 5), torch.ones(1, 5), truth)
    assert calibration_figure(tmp_path / "a.png", calibration, "test") == tmp_path / "a.png"
    left, right = figures[0].axes
    ideal, observed = left.lines[1].get_data()
    k = np.arange(81) / 20
    assert np.asarray(ideal) == pytest.approx([math.erf(x / math.sqrt(2)) for x in k], abs=1e-12)
    assert np.asarray(observed) == pytest.approx([(truth.abs() <= x).double().mean().item() for x in k])
    assert [line.get_data()[1][0] for line in left.lines[2:]] == pytest.approx([0.4, 0.6])
    assert "within 1: 40.0 % (honest: 68.3 %)" in right.texts[0].get_text()
    assert "beyond 4: 20.00 % (honest: 0.01 %)" in right.texts[0].get_text()
    calibration_figure(tmp_path / "b.png", Calibration())
    assert (tmp_path / "b.png").is_file()


def test_attention_is_laid_over_the_picture_at_the_patches_it_belongs_to() -> None:
    picture = noise(3, 32, 48)
    grey = picture.mean(0).numpy()[..., None]
    low, high = (np.asarray(colormaps["inferno"](x))[:3] for x in (0.0, 1.0))
    nothing = overlay(picture, torch.zeros(4, 6).double(), 2)
    assert (nothing == enlarge(to_uint8(0.65 * grey + 0.35 * low), 2)).all()
    assert (overlay(picture, torch.ones(4, 6).double()) == to_uint8(0.2 * grey + 0.8 * high)).all()
    one = torch.zeros(4, 6).double()
    one[1, 4] = 1
    changed = (overlay(picture, one, 2) != nothing).any(axis=-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    # patches are 16 x 16 pixels of the result; bilinear weights reach one patch from the centre, exclusively
    assert 8 <= rows[0] < 16 + 8 < rows[-1] < 40
    assert 56 <= columns[0] < 64 + 8 < columns[-1] < 88
    assert rows[0] + rows[-1] == pytest.approx(2 * 23.5, abs=2)


def test_an_attention_sheet_states_the_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    build = attention_module.contact_sheet
    monkeypatch.setattr(
        attention_module,
        "contact_sheet",
        lambda rows, titles, **more: (seen.update(rows=rows, titles=titles, **more), build(rows, titles, **more))[1],
    )
    pictures = noise(2, 3, 64, 64)
    first = torch.zeros(2, 2, 2)
    first[0, 0, 1], first[1, 1, 0] = 0.375, 0.125
    second = np.full((2, 4, 4), 0.9 / 32)
    sheet = attention_sheet(pictures, {"hidden.0": first, "out": second}, tmp_path / "a.png")
    assert seen["titles"] == ["input", "hidden.0: 50 % on data", "out: 90 % on data"]
    assert seen["captions"] == [
        ["view 1", "75 % of it here", "50 % of it here"],
        ["view 2", "25 % of it here", "50 % of it here"],
    ]
    # the second view's maximum is a third of the layer's
    expected = overlay(pictures[1], first[1].double() / 0.375, 3)
    assert len(places(sheet, expected)) == 1
    assert len(places(sheet, enlarge(to_uint8(pictures[0]), 3))) == 1
    with Image.open(tmp_path / "a.png") as stored:
        assert (np.asarray(stored) == sheet).all()
    attention_sheet(pictures[:1], {"out": second[:1]}, tmp_path / "b.png")
    assert seen["captions"] is None
    with pytest.raises(ValueError, match=r"expected maps \(2, rows, columns\)"):
        attention_sheet(pictures, {"out": second[:1]}, tmp_path / "c.png")
    with pytest.raises(ValueError, match="at least one layer"):
        attention_sheet(pictures, {}, tmp_path / "c.png")


def test_attention_over_time_spans_the_sound(tmp_path: Path, figures: list[Any]) -> None:
    maps = {"hidden.0": torch.tensor([0.1, 0.3, 0.2, 0.0]), "out": np.full(7, 0.01)}
    attention_spectrogram(tone(300, 0.5, 6000), RATE, maps, tmp_path / "a.png", title="chirp/1")
    below = figures[0].axes[2]
    strips = below.images
    assert strips[0].get_array().tolist()[0] == pytest.approx([1 / 3, 1, 2 / 3, 0])
    assert strips[1].get_array().shape == (1, 7)
    assert all(list(strip.get_extent()[:2]) == [0, 1.5] for strip in strips)
    assert all(axes.get_xlim() == (0, 1.5) for axes in figures[0].axes[:3])
    assert [label.get_text() for label in below.get_yticklabels()] == ["hidden.0: 60 % on data", "out: 7 % on data"]
    assert (tmp_path / "a.png").is_file()
    with pytest.raises(ValueError, match="at least one layer"):
        attention_spectrogram(tone(300), RATE, {"out": np.zeros((2, 2))}, tmp_path / "b.png")
