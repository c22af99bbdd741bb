"""What a task is: all that the training loop, checkpoints, run directories and sweeps know about a problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from hyperkit.config import PartConfig
from hyperkit.contracts import Batch, Scores
from hyperkit.errors import HyperkitError
from hyperkit.randomness import StepRandom


class TrainingData(Protocol):
    """Training batches as a pure function of the step, so that resuming needs no state."""

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return how many joined batches of ``batch_size`` items make one epoch (at least 1)."""
        ...

    def train_batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return the items ``rank, rank + world, ...`` of the joined batch of this step."""
        ...


class Task(ABC):
    """One problem: data, model, loss, evaluation and pictures of results.

    Args:
        config: the task's own sections, an instance of ``config_model``.
        seed: seed of everything that data and evaluation draw.
    """

    name: ClassVar[str]
    config_model: ClassVar[type[PartConfig]]
    verbs: ClassVar[frozenset[str]]
    selection: ClassVar[str] = "psnr"
    """The metric, higher is better, by which validation chooses the best checkpoint."""

    def __init__(self, config: Any, seed: int = 0) -> None:
        self.config = config
        self.seed = seed
        self.data_progress: Callable[[int, int], None] | None = None
        """Is told (done, in all) while data is made or packed on first use."""

    @classmethod
    def config_for(cls, values: Mapping[str, Any]) -> type[PartConfig]:
        """Return the configuration's model for plain values, which may choose parts with settings of their own."""
        return cls.config_model

    @classmethod
    def complete(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return plain values with what the task itself sets laid under the sections that are given in part."""
        return dict(values)

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse a valid configuration whose parts do not fit one another.

        Raises:
            HyperkitError: what does not fit, and what would.
        """
        return

    @classmethod
    def training_defaults(cls, config: Any, from_checkpoint: bool) -> dict[str, Any]:
        """Return the learning rate, batch size and schedule that hold where the configuration leaves them open.

        Args:
            config: the run's, valid.
            from_checkpoint: the weights come from a checkpoint, so that nothing needs pretrained ones of its own.
        """
        return {"learning_rate": 1e-4, "batch_size": 16, "schedule": "constant"}

    @classmethod
    def require(cls, config: Any) -> None:
        """Find (or fetch) the pretrained weights that training anew needs, before data is made.

        Raises:
            HyperkitError: they cannot be had; raised within seconds.
        """
        return

    @classmethod
    def finetuning_defaults(cls) -> dict[str, Any]:
        """Return nested values that finetuning lays over a checkpoint's configuration, under what a user sets."""
        return {}

    @abstractmethod
    def data(self) -> TrainingData:
        """Open the training data (made or packed on first use)."""

    @abstractmethod
    def build_model(self, load_weights: bool = True) -> nn.Module:
        """Build the model.

        Args:
            load_weights: False when a checkpoint's tensors are loaded right after, so no pretrained file is needed.

        Returns:
            A module with ``parameter_roles() -> dict[str, list[nn.Parameter]]`` (roles: backbone, adapters, tokens,
            heads, base, target); parameters that are not to be trained have ``requires_grad`` off.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, rng: StepRandom) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss (a scalar, the mean over items) and detached scalars to log, "psnr" among them."""

    @abstractmethod
    def validation(self) -> Iterable[Batch]:
        """Yield the fixed validation batches; never drawn from the test split."""

    @abstractmethod
    def evaluate(self, model: nn.Module, batch: Batch) -> Scores:
        """Return per-item metric values of one batch."""

    @abstractmethod
    def media(self, model: nn.Module, batch: Batch) -> Mapping[str, Any]:
        """Return pictures (H, W, 3) uint8 arrays by name, for the log."""

    @abstractmethod
    def samples(self) -> dict[str, Any]:
        """Return a few small inputs, as tensors and plain values, that make a checkpoint work alone."""

    def predictor(self, model: Any, precision: torch.dtype, samples: Mapping[str, Any]) -> Any:
        """Wrap a trained model for use, with what its checkpoint carries.

        Raises:
            HyperkitError: models of this task are used in no such way.
        """
        raise HyperkitError(f"A {self.name} model cannot be used here.", "Expected one that writes networks.")
