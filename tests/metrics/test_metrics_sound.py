"""Metrics of sounds against closed forms and an independent float64 computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hyperkit.errors import HyperkitError
from hyperkit.metrics import SoundMetrics, aggregate, format_value, metric_label
from hyperkit.metrics.sound import SILENCE, frame_samples, log_spectral_distance, power_spectrum, si_sdr, silent

RATE = 4000


def noise(items: int, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(items, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def across(signal: torch.Tensor, seed: int = 1) -> torch.Tensor:
    """Return noise of the signal's energy that is orthogonal to it."""
    other = noise(*signal.shape, seed=seed)
    other -= (other * signal).sum(-1, keepdim=True) / signal.square().sum(-1, keepdim=True) * signal
    return other * (signal.norm(dim=-1, keepdim=True) / other.norm(dim=-1, keepdim=True))


def test_si_sdr_of_noise_at_a_known_ratio_does_not_depend_on_the_scale() -> None:
    truth = 0.3 * noise(4, RATE)
    ratio = torch.tensor([-7.0, 0.0, 12.5, 40.0], dtype=torch.float64)
    prediction = truth + across(truth) * 10 ** (-ratio[:, None] / 20)
    for scale in (1.0, 0.01, -3.0):
        assert si_sdr(scale * prediction, truth).tolist() == pytest.approx(ratio.tolist(), abs=1e-9)
    assert (si_sdr(0.37 * truth, truth) > 140).all()  # infinite but for rounding; worst 151
    assert si_sdr(across(truth), truth).max() < -140  # nothing of the truth in it
    assert si_sdr(torch.zeros_like(truth), truth).abs().max() < 1e-9


def test_si_sdr_in_single_precision_is_computed_in_double() -> None:
    truth = 0.3 * noise(2, RATE).float()
    assert si_sdr(0.5 * truth, truth).min() > 130  # in single precision 69 is the most


def test_a_sine_of_amplitude_one_has_power_one() -> None:
    t = torch.arange(RATE, dtype=torch.float64) / RATE
    sine = torch.sin(2 * math.pi * 400 * t + 0.4)[None]  # 400 Hz is bin 10 of frames of 100 samples
    for amplitude in (1.0, 0.01):
        power = power_spectrum(amplitude * sine, RATE)[0]
        assert power.shape == (51, 99)
        assert power[10, :-1].numpy() == pytest.approx(np.full(98, amplitude**2), rel=1e-9)
        assert power[14:, :-1].max() < 1e-15  # a periodic Hann window reaches only the neighbouring bins


def test_every_sample_lies_in_a_frame_whatever_the_length() -> None:
    frame, step = frame_samples(RATE)
    assert (frame, step) == (100, 40)
    for count in (1, 99, 100, 101, 140, 141, 179):
        click = torch.zeros(1, count)
        frames = power_spectrum(click, RATE).shape[-1]
        assert (frames - 1) * step + frame >= count
        assert frames == 1 or (frames - 2) * step + frame < count  # no frame too many
    assert frame_samples(16000) == (400, 160)
    assert frame_samples(50) == (4, 1)


def test_lsd_equals_an_independent_computation() -> None:
    first, second = 0.1 * noise(3, 1000), 0.02 * noise(3, 1000, seed=1)
    second[1] = 0
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(100) / 100)
    expected = []
    for p, q in zip(first.numpy(), second.numpy(), strict=True):
        frames = []
        for start in range(0, 921, 40):
            levels = []
            for x in (p, q):
                piece = np.zeros(100)
                piece[: len(x[start : start + 100])] = x[start : start + 100]
                power = 4 * np.abs(np.fft.rfft(piece * window)) ** 2 / window.sum() ** 2
                levels.append(10 * np.log10(np.maximum(power, 1e-8)))
            frames.append(np.sqrt(np.mean((levels[0] - levels[1]) ** 2)))
        expected.append(np.mean(frames))
    assert log_spectral_distance(first, second, RATE).tolist() == pytest.approx(expected, abs=1e-9)


def test_lsd_of_scaled_and_of_silent_sounds() -> None:
    """Ten times the amplitude is 20 dB everywhere; a sound against silence is its level above the floor of -80 dB."""
    loud = noise(3, RATE)
    assert log_spectral_distance(10 * loud, loud, RATE).tolist() == pytest.approx([20.0] * 3, abs=1e-9)
    assert log_spectral_distance(-loud, loud, RATE).abs().max() < 1e-9
    assert log_spectral_distance(1e-6 * loud, 1e-5 * loud, RATE).abs().max() == 0  # both below the floor
    constant = torch.full((1, 3 * 40 + 100), 0.1, dtype=torch.float64)  # -14 dB at 0 Hz, -20 at 40
    levels = np.array([80 + 10 * math.log10(0.04), 80 + 10 * math.log10(0.01), *([0.0] * 49)])
    distance = log_spectral_distance(torch.zeros_like(constant), constant, RATE)
    assert distance.item() == pytest.approx(math.sqrt((levels**2).mean()), abs=1e-9)


def test_a_collector_leaves_silent_truths_out_of_si_sdr_and_says_so() -> None:
    truth = 0.2 * noise(4, RATE).float()
    truth[1] = 0
    truth[2] = 1e-7
    prediction = truth + 0.1 * across(truth.double()).nan_to_num().float() + 1e-3
    prediction[3] = 0
    metrics = SoundMetrics()
    first = metrics.update(prediction[:3], truth[:3], ["a", "b", "c"], ["x", "x", "y"], RATE)
    assert metrics.notes == {"si_sdr": "left out where the truth is silent: 2 items"}
    metrics.update(prediction[3:], truth[3:], ["d"], ["y"], RATE)
    assert metrics.notes["si_sdr"].endswith("2 items; 0 dB where the prediction is all zeros: 1 item")
    scores = metrics.scores()
    assert first.values["si_sdr"] == scores.values["si_sdr"][:3]
    assert scores.values["si_sdr"][1:3] == [None, None]
    assert scores.ids == ("a", "b", "c", "d")
    errors = (prediction - truth).double().square().mean(1)
    assert scores.values["psnr"] == pytest.approx((-10 * errors.log10()).tolist(), abs=1e-4)
    result = aggregate([scores])
    assert result["all"]["si_sdr"] == pytest.approx(scores.values["si_sdr"][0] / 2, abs=1e-6)
    assert [result[k].get("n_of") for k in result] == [{"si_sdr": 2}, {"si_sdr": 1}, {"si_sdr": 1}, {"si_sdr": 2}]
    assert result["all"]["n"] == 4
    assert metrics.distribution() == metrics.unavailable == metrics.weights == {}


def test_silence_ends_at_half_a_step_of_sixteen_bits() -> None:
    waves = torch.tensor([0.99 * SILENCE, 1.01 * SILENCE])[:, None] * torch.tensor([1.0, -1.0] * 50)
    assert silent(waves).tolist() == [True, False]


def test_a_prediction_that_is_not_finite_shows() -> None:
    truth = 0.2 * noise(2, RATE)
    prediction = truth.clone()
    prediction[0, 5] = math.nan
    scores = SoundMetrics().update(prediction + 0.1, truth, ["a", "b"], [], RATE)
    for values in scores.values.values():
        assert math.isnan(values[0])
        assert math.isfinite(values[1])


def test_names_units_and_bad_input() -> None:
    metrics = SoundMetrics(names=("psnr",))
    truth = 0.1 * noise(2, 100)
    assert list(metrics.update(truth + 0.1, truth, ["a", "b"], ["x", "y"], RATE).values) == ["psnr"]
    assert metrics.scores().values["psnr"] == pytest.approx([20.0, 20.0])
    with pytest.raises(ValueError, match="some batches have classes"):
        metrics.update(truth, truth, ["a", "b"], [], RATE)
    with pytest.raises(ValueError, match="expected sounds"):
        metrics.update(truth, truth[:, :50], ["a", "b"], [], RATE)
    with pytest.raises(ValueError, match="expected sounds"):
        metrics.update(truth[:, :0], truth[:, :0], ["a", "b"], [], RATE)
    with pytest.raises(HyperkitError, match="Did you mean 'si_sdr'"):
        SoundMetrics(names=("sisdr",))
    empty = SoundMetrics()
    empty.update(truth[:0], truth[:0], [], [], RATE)
    assert empty.scores().values == {"psnr": [], "si_sdr": [], "lsd": []}
    assert [metric_label(n) for n in ("si_sdr", "lsd", "nll")] == ["SI-SDR (dB) ↑", "LSD (dB) ↓", "NLL (nats) ↓"]
    assert metric_label("within_1") == "within 1 deviation (ideal 0.683)"
    assert metric_label("within_2") == "within 2 deviations (ideal 0.954)"
    assert format_value("lsd", 1.23456) == "1.235"
