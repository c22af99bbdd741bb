"""Means of validation where a metric has no meaning for some items."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from training_toy import ToyConfig, ToyTask

from hyperkit.contracts import Batch, Scores
from hyperkit.training.validation import validate

VALUES: list[list[float | None]] = [[1.0, None], [None, None], [6.0, 5.0]]


class Partial(ToyTask):
    def validation(self) -> Iterable[Batch]:
        yield from (Batch(torch.tensor([[k]]), None, torch.zeros(1), ("a", "b")) for k in range(len(VALUES)))

    def evaluate(self, model: nn.Module, batch: Batch) -> Scores:
        values: Any = {"psnr": [1.0, 2.0], "error": VALUES[int(batch.context)], "never": [None, None]}
        return Scores(values, batch.ids, ("", ""))


class Process:
    """One of two processes; ``others`` is what the other one has to add, and ``given`` what this one gave."""

    device = torch.device("cpu")

    def __init__(self, rank: int = 0, world: int = 1, others: Tensor | None = None) -> None:
        self.global_rank, self.world_size, self.others = rank, world, others

    def autocast(self) -> Any:
        return nullcontext()

    def broadcast(self, names: list[str]) -> list[str]:
        return names

    def all_reduce(self, numbers: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "sum"
        self.given = numbers
        return numbers if self.others is None else numbers + self.others


def means(process: Any) -> dict[str, float] | None:
    return validate(Partial(ToyConfig(), 0), nn.Identity(), process, lambda: False)


def test_items_without_a_value_are_left_out_of_the_mean_in_one_process_and_in_two() -> None:
    expected = {"psnr": 1.5, "error": (1 + 6 + 5) / 3, "n": 6}
    assert means(Process()) == expected
    second = Process(1, 2)
    means(second)
    assert means(Process(0, 2, second.given)) == expected
