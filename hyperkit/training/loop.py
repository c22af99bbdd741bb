"""The one training loop: it knows tasks, not pictures or renderers."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from hyperkit.errors import HyperkitError, RunInterrupted
from hyperkit.randomness import StepRandom
from hyperkit.tasks.base import Task, TrainingData
from hyperkit.training import checkpoints as ckpt
from hyperkit.training.averaging import WeightAverage
from hyperkit.training.config import TrainingConfig, total_steps
from hyperkit.training.devices import all_reduce, build_fabric, close_processes
from hyperkit.training.failures import interrupted, is_out_of_memory, not_finite, out_of_memory
from hyperkit.training.generators import generator_states, restore_generators, seed_step
from hyperkit.training.memory import keep_freed_memory
from hyperkit.training.meters import Meter
from hyperkit.training.optimizers import build_optimizer, count_parameters, describe_counts, set_learning_rate
from hyperkit.training.prefetch import Prefetcher
from hyperkit.training.progress import ProgressSink
from hyperkit.training.record import Record
from hyperkit.training.run_directory import RunDirectory, process_rank
from hyperkit.training.schedules import multiplier
from hyperkit.training.signals import StopSignals
from hyperkit.training.starting import build_model, keep_newest, load_initial, load_state
from hyperkit.training.validation import validate

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_LOG = logging.getLogger("hyperkit")


@dataclass(frozen=True)
class FitResult:
    """How a training ended.

    Attributes:
        steps: optimizer steps done, over all parts of the run.
        seconds: time trained, over all parts of the run.
        best: {"step", "metric", "value"} of the best validation; empty where there was none.
        stopped_by: what ended it.
        resumed_from: step that this part began at; None for a new run.
        model: the trained model in eval mode, with averaged weights where they are kept.
        is_main: False in the further processes of a training over several, which have nothing more to do.
    """

    steps: int
    seconds: float
    best: dict[str, Any]
    stopped_by: Literal["steps", "max_time"]
    resumed_from: int | None
    model: nn.Module
    is_main: bool


def fit(
    task: Task,
    config: TrainingConfig,
    run: RunDirectory,
    *,
    stored_config: Mapping[str, Any],
    initial: Mapping[str, Tensor] | None = None,
    progress: ProgressSink | None = None,
    slim_name: str | None = None,
) -> FitResult:
    """Train a task's model, going on from the run's ``last.pt`` where there is one.

    Args:
        task: what is trained.
        config: how, with learning rate, batch size and schedule filled in.
        run: the open folder of the run.
        stored_config: the resolved configuration of the whole run as plain values, for the checkpoints.
        initial: state dict to start from; parameters that it lacks keep their fresh values.
        progress: what a person sees.
        slim_name: name of the backbone; given, the checkpoints leave its frozen weights out.

    Raises:
        HyperkitError: the configuration does not fit the data, the devices or the checkpoint.
        RunFailed: the loss was not finite, memory ran out, or the disk is full.
        RunInterrupted: SIGINT or SIGTERM came; the state was saved.
    """
    fabric = build_fabric(config)
    first_here = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0) == 0
    # What is made or downloaded on first use is made by one process of each machine, before the others come to it.
    data = task.data() if first_here else None
    checkpoint = ckpt.load_checkpoint(run.last) if process_rank() == 0 and run.last.is_file() else None
    model = build_model(task, config.seed, checkpoint, initial) if first_here else None
    fabric.launch()
    run.path = fabric.broadcast(run.path)
    checkpoint = fabric.broadcast(checkpoint)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    data = task.data() if data is None else data
    model = build_model(task, config.seed, checkpoint, initial) if model is None else model
    broken = True
    try:
        with StopSignals() as signals:
            training = _Training(task, config, run, fabric, data, model, signals, stored_config, slim_name)
            training.begin(checkpoint, initial)
            result = training.run_to_end(progress)
        broken = False
        return result
    except RunInterrupted:
        broken = False
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(config, error) from error
        raise
    finally:
        close_processes(fabric, broken)


class _Training:
    """The state of one run in one process."""

    def __init__(
        self,
        task: Task,
        config: TrainingConfig,
        run: RunDirectory,
        fabric: Fabric,
        data: TrainingData,
        model: nn.Module,
        signals: StopSignals,
        stored_config: Mapping[str, Any],
        slim_name: str | None,
    ) -> None:
        if None in (config.learning_rate, config.batch_size, config.schedule):
            raise ValueError("learning_rate, batch_size and schedule are to be filled in (fill_defaults)")
        assert config.batch_size is not None
        if config.batch_size % fabric.world_size:
            raise HyperkitError(
                f"training.batch_size={config.batch_size} cannot be shared evenly by {fabric.world_size} processes.",
                f"Choose a multiple of {fabric.world_size}: it counts the items of all processes together.",
            )
        self.task, self.config, self.run, self.fabric, self.data = task, config, run, fabric, data
        self.signals, self.stored_config, self.slim_name = signals, stored_config, slim_name
        self.batch_size: int = config.batch_size
        self.total = total_steps(config, data.steps_per_epoch(self.batch_size))
        self.validate_every = config.validate_every or max(1, self.total // 10)
        self.log_every = config.log_every or max(1, min(50, self.total // 100))
        self.model = model
        self.step, self.validated, self.best = 0, -1, dict[str, Any]()
        self.seconds_before, self.seconds, self.stop = 0.0, 0.0, 0
        self.resumed_from: int | None = None
        self.saved: tuple[int, float] = (-1, 0.0)
        self.samples: dict[str, Any] | None = None

    def begin(self, checkpoint: ckpt.Checkpoint | None, initial: Mapping[str, Tensor] | None) -> None:
        """Put the model on its device and bring everything to where the checkpoint left it."""
        if checkpoint is not None:
            checkpoint = ckpt.restore_slim(checkpoint, self.model.state_dict())
            load_state(self.model, checkpoint.model, self.run.last)
        elif initial is not None:
            load_initial(self.model, initial)
        self.fabric.strategy.module_to_device(self.model)
        if self.config.compile:
            self.model.compile()
        self.wrapped = self.fabric.strategy.setup_module(self.model) if self.fabric.world_size > 1 else self.model
        self.optimizer = build_optimizer(self.model, self.config)
        self.trainable = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average = WeightAverage(self.model, self.config.ema) if self.config.ema is not None else None
        self.meter = Meter(self.fabric.device)
        if checkpoint is not None:
            self._restore(checkpoint)
        self.started = time.monotonic()

    def _restore(self, checkpoint: ckpt.Checkpoint) -> None:
        if checkpoint.optimizer is None:
            raise HyperkitError(
                f"{self.run.last} has no optimizer state: it cannot be resumed.",
                "Go on from its weights in a new run: hyperkit finetune CKPT.",
            )
        self.optimizer.load_state_dict(checkpoint.optimizer)
        if self.average is not None:
            self.average.load(checkpoint.averages, checkpoint.average_updates)
        self.meter.load(checkpoint.meter)
        self.step = self.resumed_from = checkpoint.step
        self.validated, self.best = checkpoint.validated, dict(checkpoint.best)
        self.seconds_before = self.seconds = checkpoint.seconds
        self.saved = (self.step, self.seconds)
        restore_generators(checkpoint.rng, self.fabric.device)
        step, validated = checkpoint.step, checkpoint.validated
        self.run.keep_metrics(
            lambda line: (
                line["step"] < step or (line["step"] == step and (line["split"] == "train" or validated == step))
            )
        )

    def run_to_end(self, progress: ProgressSink | None) -> FitResult:
        """Train, validate and save until the steps or the time are used up."""
        counts = count_parameters(self.model)
        if self._ended() and self.validated == self.step:
            if process_rank() == 0:
                _LOG.info("The run in %s is finished at step %d; nothing is left to do.", self.run.path, self.step)
            return self._result()
        if process_rank() == 0:
            _LOG.info("Trainable parameters: %s", describe_counts(counts))
        record = Record(self.run, self.config.tensorboard, self.step, progress)
        parts = self.config.accumulate
        share = (self.batch_size, self.fabric.global_rank, self.fabric.world_size)
        try:
            record.start(self.total, self.step, counts, self.config.max_seconds - self.seconds)
            with Prefetcher(self.data, self.step * parts, self.total * parts, *share, self.fabric.device) as feed:
                self._loop(feed, record)
        finally:
            record.close()
        return self._result()

    def _loop(self, feed: Prefetcher, record: Record) -> None:
        self.model.train()
        self._agree(at_once=True)
        while True:
            ended = self._ended()
            if self.step and self.validated != self.step and (ended or self.step % self.validate_every == 0):
                self._validate(record)
                self._agree(at_once=True)
            if self.stop:
                self._save()
                raise interrupted(self.step, self.task.name, self.run.path, self.run.last, self.stop)
            if ended:
                self._save()
                if not self.best and process_rank() == 0:  # nothing was validated: the last weights are the best known
                    ckpt.save_checkpoint(self.run.best, replace(self._checkpoint(), optimizer=None))
                return
            if self._save_is_due():
                self._save()
            self._train_step(feed)
            record.step(self.step)
            if self.step % self.log_every == 0 or self.step == self.total:
                self._log(feed, record)
            self._agree()

    def _ended(self) -> bool:
        return self.step >= self.total or self.seconds >= self.config.max_seconds

    def _agree(self, at_once: bool = False) -> None:
        """Bring clock and signals to the same values in all processes, so that they decide alike."""
        now = self.seconds_before + time.monotonic() - self.started
        if self.fabric.world_size == 1:
            self.seconds, self.stop = now, self.signals.received
        elif at_once or self.fabric.device.type == "cpu" or self.step % 10 == 0:  # on GPUs it would wait for the device
            seconds, stop = all_reduce(self.fabric, "max", now, self.signals.received)
            self.seconds, self.stop = seconds, int(stop)

    def _progress(self) -> float:
        by_steps = (self.step + 0.5) / self.total
        if self.config.schedule_by == "time":  # whichever of the two ends the run first takes the rate to its end
            return max(by_steps, min(1.0, self.seconds / self.config.max_seconds))
        return by_steps

    def _train_step(self, feed: Prefetcher) -> None:
        rate = self.config.learning_rate
        assert rate is not None
        set_learning_rate(self.optimizer, rate * multiplier(self.config, self._progress()))
        rank, world, parts = self.fabric.global_rank, self.fabric.world_size, self.config.accumulate
        seed_step(self.config.seed, self.step, rank, self.fabric.device)
        for part in range(parts):
            micro_step = self.step * parts + part
            batch = feed.next_batch()
            random = StepRandom(self.config.seed, micro_step, rank, world)
            with self._gradients_averaged(part == parts - 1):
                with self.fabric.autocast():
                    loss, values = self.task.loss(self.wrapped, batch, random)
                (loss / parts).backward()
            self.meter.add(loss, values, self.step + 1)
        if self.config.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.trainable, self.config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()
        self.step += 1

    def _gradients_averaged(self, last: bool) -> AbstractContextManager[Any]:
        if last or self.fabric.world_size == 1:
            return nullcontext()
        context: AbstractContextManager[Any] = self.wrapped.no_sync()  # type: ignore[operator]
        return context

    def _log(self, feed: Prefetcher, record: Record) -> None:
        self._check_finite(parameters=False)
        means = self.meter.take()
        means = dict(zip(means, all_reduce(self.fabric, "mean", *means.values()), strict=True))
        now = time.monotonic() - self.started
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        line = {**means, "lr": rate, "seconds": round(self.seconds_before + now, 3)}
        record.write(self.step, "train", line, {**means, "wait": feed.waited / max(now, 1e-9)})

    def _validate(self, record: Record) -> None:
        self._check_finite()
        averaged = self.average.applied() if self.average is not None else nullcontext()
        with averaged:
            means = validate(self.task, self.model, self.fabric, lambda: self.signals.received != 0)
            if means is not None and record.pictures:
                self._write_pictures(record)
        if means is None:
            return
        self.validated = self.step
        value = means.get(self.task.selection, math.nan)
        if math.isfinite(value) and value > self.best.get("value", -math.inf):
            self.best = {"step": self.step, "metric": self.task.selection, "value": value}
            if process_rank() == 0:
                ckpt.save_checkpoint(self.run.best, replace(self._checkpoint(), optimizer=None))
        show = {"best": self.best["value"]} if self.best else {}
        seconds = self.seconds_before + time.monotonic() - self.started
        record.write(self.step, "val", {**means, "seconds": round(seconds, 3)}, show)

    def _write_pictures(self, record: Record) -> None:
        batch = next(iter(self.task.validation()), None)
        if batch is None:
            return
        self.model.eval()
        with torch.no_grad(), self.fabric.autocast():
            record.write_pictures(self.step, self.task.media(self.model, batch.to(self.fabric.device)))
        self.model.train()

    def _check_finite(self, parameters: bool = True) -> None:
        """Stop the run where the loss or a weight is not finite, so that such a state is never saved."""
        bad = self.meter.bad_step()
        if parameters and bad < 0 and self.step:
            norms = torch.stack([norm.double() for norm in torch._foreach_norm([p.detach() for p in self.trainable])])
            bad = -1 if bool(torch.isfinite(norms).all()) else self.step
        bad = int(all_reduce(self.fabric, "max", bad)[0])
        if bad >= 0:
            raise not_finite(bad, self.task.name, self.run.path, self.run.last, self.saved[0])

    def _save_is_due(self) -> bool:
        step, seconds = self.saved
        if self.step in (0, step):
            return False
        by_steps = self.config.save_every is not None and self.step % self.config.save_every == 0
        minutes = self.config.save_minutes
        return by_steps or (minutes is not None and self.seconds - seconds >= 60 * minutes)

    def _save(self) -> None:
        self._check_finite()
        if process_rank() == 0:
            ckpt.save_checkpoint(self.run.last, self._checkpoint())
            keep_newest(self.run.last, self.step, self.config.keep_checkpoints)
        self.saved = (self.step, self.seconds)

    def _checkpoint(self) -> ckpt.Checkpoint:
        if self.samples is None:
            self.samples = self.task.samples()
        content = ckpt.Checkpoint(
            config=dict(self.stored_config),
            task=self.task.name,
            model=self.model.state_dict(),
            averages=self.average.tensors if self.average is not None else {},
            average_updates=self.average.updates if self.average is not None else 0,
            optimizer=self.optimizer.state_dict(),
            step=self.step,
            seconds=self.seconds_before + time.monotonic() - self.started,
            best=self.best,
            validated=self.validated,
            meter=self.meter.state(),
            rng=generator_states(self.fabric.device),
            samples=self.samples,
            versions=ckpt.versions(),
        )
        if self.slim_name is None:
            return content
        return ckpt.slim(content, ckpt.frozen_backbone_keys(self.model), self.slim_name)

    def _result(self) -> FitResult:
        if self.average is not None:
            self.average.copy_to_model()
        self.model.eval()
        return FitResult(
            steps=self.step,
            seconds=self.seconds,
            best=self.best,
            stopped_by="steps" if self.step >= self.total else "max_time",
            resumed_from=self.resumed_from,
            model=self.model,
            is_main=process_rank() == 0,
        )
