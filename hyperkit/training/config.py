"""The ``training`` section of a run's configuration, and the configuration of a whole run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model, field_validator, model_validator

from hyperkit.config import PartConfig
from hyperkit.errors import HyperkitError
from hyperkit.tasks.base import Task

PROGRESS_FIELDS = frozenset(
    {
        "steps",
        "epochs",
        "max_time",
        "device",
        "devices",
        "nodes",
        "threads",
        "save_every",
        "save_minutes",
        "log_every",
        "validate_every",
        "keep_checkpoints",
        "tensorboard",
    }
)
"""Fields of ``TrainingConfig`` that a resumed run may change: how far, where and how often, but not what is learned."""

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def parse_duration(text: str | float) -> float:
    """Return the seconds that "10m", "1h30m", "600s", "1d" or plain seconds stand for.

    Raises:
        HyperkitError: it cannot be read, or is not positive.
    """
    match = _DURATION.fullmatch(str(text).strip().lower().replace(" ", ""))
    parts = match.groups() if match else ()
    seconds = sum(float(part) * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=False) if part)
    if not seconds:
        raise HyperkitError(
            f"{text!r} is not a time that a run can take.", "Examples: 90s, 10m, 1h30m, 2d, or a number of seconds."
        )
    return seconds


class TrainingConfig(PartConfig):
    """How a run is trained.

    Attributes:
        steps, epochs: how far to train; exactly one of them. An epoch is what the data says it is.
        batch_size: items of the joined batch of all processes, per accumulated part.
        learning_rate, batch_size, schedule: None takes the paper's value for the backbone.
        schedule: "step" (times ``decay_factor`` after ``decay_at`` of the run), "cos" (linear warm-up over ``warmup``
            of the run, then a cosine to 0) or "constant".
        schedule_by: "time" lets the schedule run over ``max_time`` instead of the steps. Such a run depends on the
            machine's speed and does not repeat bit for bit.
        weight_decay: on matrices only; norms, biases, positions and tokens have none.
        backbone_lr_multiplier: for the parameters of role "backbone" alone.
        clip_grad: largest norm of all gradients together; None does not clip.
        accumulate: parts (each of ``batch_size``) whose gradients are averaged before one optimizer step.
        ema: decay of the running average of the weights, which is then what is validated; None keeps none.
        precision: "bf16" is autocast over float32 parameters; "auto" takes it where the hardware has it.
        devices, nodes: processes on this machine, and machines; under torchrun its own numbers hold instead.
        threads: of each process on a CPU; None leaves torch's choice.
        max_time: stop cleanly after this time, counted over all parts of a resumed run ("10m", "1h30m").
        validate_every: steps between validations; None for ten in a run.
        save_every, save_minutes: a checkpoint after so many steps, or so many minutes, whichever comes first.
        log_every: steps between lines of metrics; None for a hundred in a run, at most 50 apart.
        keep_checkpoints: 1 keeps ``last.pt``; n > 1 the newest n as ``step-000100.pt`` too. ``best.pt`` is extra.
        slim: leave a frozen backbone's weights out of the checkpoints; they are found again by their name and hash.
        compile: compile the model with torch.compile. On CPUs it does not pay: the blocks of nano became 0.97 to
            1.10 times as fast, and a whole model had not compiled after 500 s. On GPUs it has not been measured.
        tensorboard: write TensorBoard files, with pictures at each validation.
    """

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    schedule: Literal["step", "cos", "constant"] | None = None
    schedule_by: Literal["steps", "time"] = "steps"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    decay_at: float = Field(default=0.8, ge=0, le=1)
    decay_factor: float = Field(default=0.1, gt=0, le=1)
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    backbone_lr_multiplier: float = Field(default=1.0, ge=0)
    clip_grad: float | None = Field(default=None, gt=0)
    accumulate: int = Field(default=1, ge=1)
    ema: float | None = Field(default=None, gt=0, lt=1)
    precision: Annotated[Literal["auto", "32", "bf16"], BeforeValidator(lambda v: str(v) if v == 32 else v)] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1)
    seed: int = 0
    max_time: str | None = None
    validate_every: int | None = Field(default=None, ge=1)
    save_every: int | None = Field(default=None, ge=1)
    save_minutes: float | None = Field(default=5.0, gt=0)
    log_every: int | None = Field(default=None, ge=1)
    keep_checkpoints: int = Field(default=1, ge=1)
    slim: bool = False
    compile: bool = False
    tensorboard: bool = True

    @field_validator("max_time", mode="before")
    @classmethod
    def _readable_time(cls, value: Any) -> Any:
        if value is None:
            return None
        try:
            parse_duration(value)
        except HyperkitError as error:
            raise ValueError(f"{error.what} {error.hint}") from error
        return str(value)

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs are both set; set the other one to null")
        if self.schedule_by == "time" and self.max_time is None:
            raise ValueError("schedule_by=time needs max_time")
        return self

    @property
    def max_seconds(self) -> float:
        """The time limit in seconds, infinite where there is none."""
        return math.inf if self.max_time is None else parse_duration(self.max_time)


def run_config_model(task_cls: type[Task], values: Mapping[str, Any]) -> type[PartConfig]:
    """Return the configuration of a whole run of a task: its own sections, ``task`` and ``training``.

    Args:
        task_cls: the task.
        values: the plain values that are to be validated; what they choose decides which sections there are.
    """
    fields: dict[str, Any] = {"task": (str, task_cls.name), "training": (TrainingConfig, TrainingConfig())}
    model: type[PartConfig] = create_model(
        f"{task_cls.__name__}RunConfig", __base__=task_cls.config_for(values), __module__=__name__, **fields
    )
    return model


def fill_defaults(
    training: TrainingConfig, *, learning_rate: float, batch_size: int, schedule: Literal["step", "cos", "constant"]
) -> TrainingConfig:
    """Return ``training`` with these values where it has None."""
    defaults = {"learning_rate": learning_rate, "batch_size": batch_size, "schedule": schedule}
    return training.model_copy(update={k: v for k, v in defaults.items() if getattr(training, k) is None})


def total_steps(training: TrainingConfig, steps_per_epoch: int) -> int:
    """Return the number of optimizer steps of the whole run.

    Args:
        training: its configuration.
        steps_per_epoch: batches of ``batch_size`` in an epoch; ``accumulate`` of them make one optimizer step.

    Raises:
        HyperkitError: neither steps nor epochs are set.
    """
    if training.steps is not None:
        return training.steps
    if training.epochs is None:
        raise HyperkitError(
            "The run has no length: training.steps and training.epochs are both unset.",
            "Give --steps N, or --set training.epochs=N.",
        )
    return max(1, math.ceil(training.epochs * steps_per_epoch / training.accumulate))
