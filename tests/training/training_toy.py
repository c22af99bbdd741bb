"""A regression task that is quick to train in a test; also a script: ``python training_toy.py OUT key=value``."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hyperkit.config import PartConfig, merge, parse_sets, validate
from hyperkit.contracts import Batch, Scores
from hyperkit.errors import HyperkitError
from hyperkit.randomness import StepRandom, numpy_rng
from hyperkit.tasks.base import Task
from hyperkit.training.config import fill_defaults, run_config_model
from hyperkit.training.loop import FitResult, fit
from hyperkit.training.progress import ProgressSink
from hyperkit.training.run_directory import RunDirectory


class ToyConfig(PartConfig):
    dropout: float = 0.0
    noise: float = 0.0
    nan_at: int | None = None
    seconds_per_batch: float = 0.0
    frozen: bool = False


class ToyData:
    """Item i of the stream is a function of (seed, i); batch k of n items holds items kn .. kn + n - 1."""

    def __init__(self, seed: int, config: ToyConfig) -> None:
        self.seed, self.config = seed, config

    def steps_per_epoch(self, batch_size: int) -> int:
        return math.ceil(40 / batch_size)

    def train_batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        time.sleep(self.config.seconds_per_batch)
        items = [step * batch_size + j for j in range(batch_size)][rank::world]
        x = np.stack([numpy_rng(self.seed, "toy", i).standard_normal(4) for i in items]).astype(np.float32)
        if self.config.nan_at is not None and step == self.config.nan_at:
            x[0, 0] = np.nan
        context = torch.from_numpy(x)
        return Batch(context, None, (context**2).sum(1, keepdim=True), tuple(map(str, items)))


class ToyModel(nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 16)
        self.norm = nn.BatchNorm1d(16, affine=True) if config.dropout else nn.LayerNorm(16)
        self.tokens = nn.Parameter(0.1 * torch.randn(3, 16))
        self.drop = nn.Dropout(config.dropout)
        self.head = nn.Linear(16, 1)
        self.embed.requires_grad_(not config.frozen)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.embed(x)) + self.tokens.sum(0))))

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        return {
            "backbone": list(self.embed.parameters()),
            "tokens": [self.tokens],
            "heads": [*self.norm.parameters(), *self.head.parameters()],
        }


class ToyTask(Task):
    name = "toy"
    config_model = ToyConfig
    verbs = frozenset({"train"})

    def data(self) -> ToyData:
        return ToyData(self.seed, self.config)

    def build_model(self, load_weights: bool = True) -> ToyModel:
        return ToyModel(self.config)

    def loss(self, model: nn.Module, batch: Batch, rng: StepRandom) -> tuple[Tensor, Mapping[str, Tensor]]:
        jitter = self.config.noise * rng.uniform((batch.context.shape[0], 4), "jitter")
        mse = (model(batch.context + jitter) - batch.truth).square().mean()
        return mse, {"psnr": -10 * mse.detach().log10()}

    def validation(self) -> Iterable[Batch]:
        yield from (ToyData(self.seed + 1, ToyConfig()).train_batch(i, 8) for i in range(3))

    def evaluate(self, model: nn.Module, batch: Batch) -> Scores:
        mse = (model(batch.context) - batch.truth).float().square().flatten(1).mean(1)
        return Scores({"psnr": (-10 * mse.log10()).tolist()}, batch.ids, ("toy",) * len(batch.ids))

    def media(self, model: nn.Module, batch: Batch) -> Mapping[str, Any]:
        return {"prediction": np.zeros((4, 6, 3), dtype=np.uint8)}

    def samples(self) -> dict[str, Any]:
        return {"context": torch.zeros(1, 4)}


QUIET = {"training": {"tensorboard": False, "device": "cpu", "precision": "32", "threads": 1, "learning_rate": 1e-2}}


def resolve(values: Mapping[str, Any]) -> Any:
    """Return the resolved configuration of a toy run."""
    config = validate(run_config_model(ToyTask, {}), merge(QUIET, values))
    filled = fill_defaults(config.training, learning_rate=1e-2, batch_size=8, schedule="constant")
    return config.model_copy(update={"training": filled})


def train(
    out: Path | None,
    progress: ProgressSink | None = None,
    initial: Mapping[str, Tensor] | None = None,
    slim_name: str | None = None,
    **values: Any,
) -> FitResult:
    """Train the toy task in ``out``; keywords are sections of the configuration or fields of ``training``."""
    task_values = {k: v for k, v in values.items() if k in ToyConfig.model_fields}
    training = {k: v for k, v in values.items() if k not in task_values}
    config = resolve({**task_values, "training": training})
    stored = config.model_dump(mode="json")
    task = ToyTask(config, config.training.seed)
    with RunDirectory.create(out, "toy", stored) as run:
        return fit(
            task, config.training, run, stored_config=stored, progress=progress, initial=initial, slim_name=slim_name
        )


def main(arguments: list[str]) -> int:
    """Train as a command would: errors on stderr, their exit code returned."""
    out = None if arguments[0] == "-" else Path(arguments[0])
    try:
        train(out, **parse_sets(arguments[1:]))
    except HyperkitError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
