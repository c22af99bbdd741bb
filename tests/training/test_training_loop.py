"""The loop in one process: what it computes, when it stops, what it writes."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from training_toy import ToyConfig, ToyData, ToyModel, ToyTask, train

from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.randomness import StepRandom, key
from hyperkit.training import devices
from hyperkit.training.checkpoints import load_checkpoint
from hyperkit.training.config import TrainingConfig
from hyperkit.training.failures import is_out_of_memory
from hyperkit.training.loop import fit
from hyperkit.training.progress import PlainProgress, Rate, clock
from hyperkit.training.run_directory import RunDirectory


def read(out: Path) -> list[dict[str, Any]]:
    with RunDirectory.open(out) as run:
        return run.read_metrics()


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_states(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_it_computes_what_a_plain_loop_computes(tmp_path: Path) -> None:
    result = train(tmp_path / "run", steps=12, clip_grad=1.0, schedule="step", noise=0.1)
    torch.manual_seed(key(0, "model"))
    model, data, task = ToyModel(ToyConfig()), ToyData(0, ToyConfig()), ToyTask(ToyConfig(noise=0.1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(12):
        optimizer.param_groups[0]["lr"] = 1e-2 if step + 0.5 < 0.8 * 12 else 1e-3
        optimizer.zero_grad()
        task.loss(model, data.train_batch(step, 8), StepRandom(0, step))[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(result.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    assert (result.steps, result.stopped_by, result.is_main) == (12, "steps", True)


def test_two_accumulated_halves_equal_one_batch(tmp_path: Path) -> None:
    # Adam alone does not see the gradients' scale; with a decay that is added to them it does
    whole = train(tmp_path / "whole", steps=10, batch_size=8, weight_decay=3.0)
    halves = train(tmp_path / "halves", steps=10, batch_size=4, accumulate=2, weight_decay=3.0)
    for name, tensor in whole.model.state_dict().items():  # worst seen 6e-7
        torch.testing.assert_close(halves.model.state_dict()[name], tensor, rtol=0, atol=5e-6)


def test_averaged_weights_are_what_is_returned_and_stored(tmp_path: Path) -> None:
    plain = [state(train(tmp_path / str(n), steps=n).model) for n in (1, 2, 3)]
    averaged = train(tmp_path / "ema", steps=3, ema=0.5)
    weights = [0.25, 0.5, 1.0]
    for name, tensor in averaged.model.state_dict().items():
        expected = sum(w * s[name] for w, s in zip(weights, plain, strict=True)) / sum(weights)
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)
    stored = load_checkpoint(tmp_path / "ema" / "checkpoints" / "last.pt")
    assert_equal_states(stored.weights(), state(averaged.model))
    assert_equal_states(stored.model, plain[2])


def test_a_frozen_backbone_is_untouched_and_can_be_left_out(tmp_path: Path) -> None:
    result = train(tmp_path / "run", steps=3, frozen=True, weight_decay=0.1, slim_name="linear", ema=0.9)
    stored = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert stored.slim is not None
    assert stored.slim["keys"] == ["embed.bias", "embed.weight"]
    fresh = train(tmp_path / "fresh", steps=1, frozen=True)
    assert torch.equal(fresh.model.embed.weight, result.model.embed.weight)  # type: ignore[union-attr]
    resumed = train(tmp_path / "run", steps=5, frozen=True, weight_decay=0.1, slim_name="linear", ema=0.9)
    assert resumed.resumed_from == 3


def test_a_longer_run_goes_on_and_a_finished_one_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    straight = train(tmp_path / "straight", steps=20, validate_every=5, log_every=5, dropout=0.2, ema=0.9)
    train(out, steps=10, validate_every=5, log_every=5, dropout=0.2, ema=0.9)
    result = train(out, steps=20, validate_every=5, log_every=5, dropout=0.2, ema=0.9)
    assert result.resumed_from == 10
    assert_equal_states(state(result.model), state(straight.model))
    lines = [(line["step"], line["split"]) for line in read(out)]
    assert lines == [(step, split) for step in (5, 10, 15, 20) for split in ("train", "val")]
    before = (out / "checkpoints" / "last.pt").stat().st_mtime_ns
    again = train(out, steps=20, validate_every=5, log_every=5, dropout=0.2, ema=0.9)
    assert (again.resumed_from, again.steps) == (20, 20)
    assert_equal_states(state(again.model), state(straight.model))
    assert (out / "checkpoints" / "last.pt").stat().st_mtime_ns == before


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run", steps=2)
    with pytest.raises(HyperkitError, match=r"training\.seed: 0 -> 1"):
        train(tmp_path / "run", steps=4, seed=1)


def test_nan_stops_the_run_names_the_step_and_never_reaches_a_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(RunFailed, match=r"at step 14;(.|\n)*last\.pt \(step 10\)(.|\n)*--resume") as caught:
        train(out, steps=40, nan_at=13, save_every=5, log_every=20)
    assert caught.value.exit_code == 1
    stored = load_checkpoint(out / "checkpoints" / "last.pt")
    assert stored.step == 10
    assert all(torch.isfinite(t).all() for t in stored.model.values() if t.is_floating_point())
    with pytest.raises(RunFailed, match="at step 14"):  # the same run comes to the same place
        train(out, steps=40, nan_at=13, save_every=5, log_every=20)


def test_infinite_gradients_of_a_finite_loss_are_caught_before_saving(tmp_path: Path) -> None:
    class Steep(ToyTask):
        def loss(self, model: torch.nn.Module, batch: Any, rng: StepRandom) -> Any:
            loss, values = super().loss(model, batch, rng)
            return loss + (0 * model(batch.context).sum()).sqrt(), values  # sqrt has slope infinity at 0

    config = TrainingConfig(
        steps=1, batch_size=8, learning_rate=1e-2, schedule="constant", device="cpu", precision="32", tensorboard=False
    )
    stored = {"training": config.model_dump(mode="json")}
    with (
        RunDirectory.create(tmp_path / "run", "toy", stored) as run,
        pytest.raises(RunFailed, match="No checkpoint had been saved yet"),
    ):
        fit(Steep(ToyConfig()), config, run, stored_config=stored)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_max_time_ends_a_run_cleanly_and_counts_earlier_parts(tmp_path: Path) -> None:
    out = tmp_path / "run"
    values = {"steps": 10_000, "seconds_per_batch": 0.01, "schedule": "cos", "schedule_by": "time", "log_every": 1}
    start = time.monotonic()
    result = train(out, max_time="1s", **values)
    assert 0.9 < time.monotonic() - start < 3
    assert result.stopped_by == "max_time"
    assert 10 < result.steps < 200
    lines = [line for line in read(out) if line["split"] == "train"]
    assert max(line["lr"] for line in lines) > 0.95e-2
    assert lines[-1]["lr"] < 0.05e-2  # the schedule ran over the time
    assert read(out)[-1]["split"] == "val"
    assert train(out, max_time="1s", **values).resumed_from == result.steps
    assert train(out, max_time="1.5s", **values).seconds < 2.5


def test_best_is_the_best_validation_and_last_the_newest(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = train(out, steps=40, validate_every=4, learning_rate=0.3, save_every=8, keep_checkpoints=2)
    values = {line["step"]: line["psnr"] for line in read(out) if line["split"] == "val"}
    best = max(values, key=lambda step: values[step])
    stored = load_checkpoint(out / "checkpoints" / "best.pt")
    assert (stored.step, stored.optimizer) == (best, None)
    assert result.best == {"step": best, "metric": "psnr", "value": values[best]}
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == [
        "best.pt",
        "last.pt",
        "step-000032.pt",
        "step-000040.pt",
    ]
    assert load_checkpoint(out / "checkpoints" / "step-000032.pt").step == 32
    model = ToyModel(ToyConfig())
    model.load_state_dict(stored.weights())
    scores = [
        v for b in ToyTask(ToyConfig()).validation() for v in ToyTask(ToyConfig()).evaluate(model, b).values["psnr"]
    ]
    assert sum(scores) / len(scores) == pytest.approx(values[best], rel=1e-5)


def test_it_starts_from_given_weights(tmp_path: Path) -> None:
    first = train(tmp_path / "first", steps=5)
    tiny = train(tmp_path / "tiny", initial=first.model.state_dict(), steps=1, learning_rate=1e-12)
    for name, tensor in first.model.state_dict().items():
        torch.testing.assert_close(tiny.model.state_dict()[name], tensor, rtol=0, atol=1e-9)
    with pytest.raises(HyperkitError, match="no place for: other"):
        train(tmp_path / "other", initial={"other": torch.zeros(1)}, steps=1)
    assert not (tmp_path / "other").exists()


def test_an_error_in_the_data_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ToyData, step: int, *share: int) -> Any:
        raise HyperkitError("cars/0007 cannot be read")

    monkeypatch.setattr(ToyData, "train_batch", broken)
    with pytest.raises(HyperkitError, match="cars/0007"):
        train(tmp_path / "run", steps=3, validate_every=100)


def test_out_of_memory_names_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(self: ToyTask, *args: Any) -> Any:
        return torch.empty(1 << 50), {}

    monkeypatch.setattr(ToyTask, "loss", hungry)
    with pytest.raises(RunFailed, match=r"training\.batch_size \(now 8(.|\n)*gradient_checkpointing"):
        train(tmp_path / "run", steps=3)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_tensorboard_files_and_pictures_are_written(tmp_path: Path) -> None:
    train(tmp_path / "run", steps=3, tensorboard=True)
    files = list((tmp_path / "run" / "tensorboard").iterdir())
    assert len(files) == 1
    content = files[0].read_bytes()
    assert b"train/loss" in content
    assert b"prediction" in content


def test_bf16_autocast_reaches_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def spy(self: ToyModel, x: torch.Tensor) -> torch.Tensor:
        seen.add((x.dtype, self.embed(x).dtype, self.embed.weight.dtype))
        return self.head(torch.relu(self.embed(x))) + 0 * (
            self.tokens.sum() + self.norm.weight.sum() + self.norm.bias.sum()
        )

    monkeypatch.setattr(ToyModel, "forward", spy)
    result = train(tmp_path / "run", steps=2, precision="bf16")
    # inputs (coordinates) stay float32, matrix products are bf16, parameters float32
    assert seen == {(torch.float32, torch.bfloat16, torch.float32)}
    assert all(p.dtype == torch.float32 for p in result.model.parameters())


def test_auto_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: True)
    assert devices.resolve_precision("auto", "cpu") == "bf16-mixed"
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: False)
    assert devices.resolve_precision("auto", "cpu") == "32-true"
    assert devices.resolve_precision("bf16", "cpu") == "bf16-mixed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(HyperkitError, match="no usable GPU"):
        devices.build_fabric(TrainingConfig(steps=1, device="cuda"))


def test_progress_lines_tell_the_truth(tmp_path: Path) -> None:
    stream = io.StringIO()
    train(tmp_path / "run", PlainProgress(stream, seconds=0.0), steps=4, log_every=1)
    last = stream.getvalue().splitlines()[-1]
    assert last.startswith("step 4 of 4: loss ")
    assert "PSNR" in last
    assert "waiting for data" in last


def test_the_rest_of_the_time_is_the_smaller_of_steps_and_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rate = Rate(total=100, step=0, seconds_left=50.0)
    assert rate.remaining == 50.0
    for step in range(1, 11):
        now[0] += 2.0
        rate.mark(step)
    assert rate.per_second == pytest.approx(0.5)
    assert rate.remaining == pytest.approx(30.0)  # 180 s by steps, 30 s by the limit
    assert clock(3723) == "1:02:03"


def test_what_validation_draws_does_not_touch_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyTask, "media", lambda *_: {"noise": torch.rand(2, 2, 3).mul(255).byte()})
    often = train(tmp_path / "often", steps=6, validate_every=1, dropout=0.5, tensorboard=True)
    once = train(tmp_path / "once", steps=6, validate_every=6, dropout=0.5, tensorboard=True)
    assert_equal_states(state(often.model), state(once.model))
