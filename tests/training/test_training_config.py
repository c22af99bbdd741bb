"""The training section: times, lengths, defaults."""

from __future__ import annotations

import math

import pytest
import yaml
from training_toy import ToyTask

from hyperkit.config import to_yaml, validate
from hyperkit.errors import HyperkitError
from hyperkit.training.config import TrainingConfig, fill_defaults, parse_duration, run_config_model, total_steps


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("1h30m", 5400), ("600s", 600), ("90", 90), (90, 90), ("1d", 86400), ("1.5h", 5400), ("2m5s", 125)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "ten minutes", "5x", "0s", "-3m", "30m1h"])
def test_durations_that_cannot_be_read_are_named(text: str) -> None:
    with pytest.raises(HyperkitError, match="1h30m"):
        parse_duration(text)


def test_a_bad_time_is_named_among_the_problems_of_a_config() -> None:
    with pytest.raises(HyperkitError, match=r"training\.max_time.*'5x' is not a time"):
        validate(run_config_model(ToyTask, {}), {"training": {"max_time": "5x"}})


def test_steps_and_epochs_exclude_one_another_and_one_is_needed() -> None:
    with pytest.raises(HyperkitError, match="steps and epochs are both set"):
        validate(TrainingConfig, {"steps": 3, "epochs": 2})
    with pytest.raises(HyperkitError, match="no length"):
        total_steps(TrainingConfig(), 10)
    assert total_steps(TrainingConfig(epochs=3), 10) == 30
    assert total_steps(TrainingConfig(epochs=3, accumulate=4), 10) == math.ceil(30 / 4)
    assert total_steps(TrainingConfig(steps=7), 10) == 7


def test_defaults_fill_only_what_is_unset() -> None:
    filled = fill_defaults(TrainingConfig(learning_rate=3.0), learning_rate=1.0, batch_size=2, schedule="cos")
    assert (filled.learning_rate, filled.batch_size, filled.schedule) == (3.0, 2, "cos")


def test_a_run_config_survives_yaml() -> None:
    model = run_config_model(ToyTask, {})
    config = validate(model, {"noise": 0.5, "training": {"steps": 3, "precision": 32, "max_time": "1h"}})
    assert config.training.precision == "32"  # type: ignore[attr-defined]
    assert validate(model, yaml.safe_load(to_yaml(config))) == config


def test_a_misspelt_training_key_names_the_nearest() -> None:
    with pytest.raises(HyperkitError, match="did you mean 'learning_rate'"):
        validate(run_config_model(ToyTask, {}), {"training": {"learnig_rate": 3}})
