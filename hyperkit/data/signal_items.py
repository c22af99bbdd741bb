"""The fixed evaluation items of a data set of pictures or sounds, and what constant answers score on them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from hyperkit.contracts import Batch
from hyperkit.data.pairs import Pair, shuffle_contexts

if TYPE_CHECKING:
    from hyperkit.data.signals import SignalData

Shuffle = Literal["none", "class", "all"]


def sources_of(names: Sequence[str], class_of: Mapping[str, str], shuffle_context: Shuffle) -> dict[str, str]:
    """Return the item whose context each item is given: itself, or another one of its class or of all."""
    if shuffle_context == "none":
        return {name: name for name in names}
    whole = [f"{class_of[name]}/{name}" for name in names]
    shuffled = shuffle_contexts([Pair(name, 0, 0, name) for name in whole], shuffle_context == "class")
    return {pair.object.split("/", 1)[1]: pair.source.split("/", 1)[1] for pair in shuffled}


class ItemSet:
    """Fixed items as batches: a crop of a file as the context, and every point of it as the query.

    Attributes:
        hash: SHA-256 of the split.
        ids, classes: one per item.
        counts: class -> number of items.
        batch_size: items of a batch while iterating.
    """

    def __init__(
        self, data: SignalData, rows: Sequence[int], sources: Sequence[int], digest: str, batch_size: int
    ) -> None:
        self._data, self._targets, self._sources = data, tuple(rows), tuple(sources)
        self.hash = digest
        self.batch_size = batch_size
        self.ids = tuple(data.pack.ids[row] for row in rows)
        self.classes = tuple(data.class_of[name] for name in self.ids)
        self.counts = dict(sorted(Counter(self.classes).items()))

    def __len__(self) -> int:
        """Return the number of items (not of batches)."""
        return len(self._targets)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(self.batch_size)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Iterate over all items, ``batch_size`` at a time."""
        for start in range(0, len(self), batch_size):
            yield self.batch(range(start, min(start + batch_size, len(self))))

    def batch(self, items: Sequence[int]) -> Batch:
        """Return the batch of chosen items."""
        targets, sources = [self._targets[i] for i in items], [self._sources[i] for i in items]
        signals = self._data.fixed(targets)
        return self._data.as_batch(signals if targets == sources else self._data.fixed(sources), signals, targets)

    def targets(self, items: Sequence[int]) -> Tensor:
        """Return the signals of chosen items: pictures (B, 3, S, S), sounds (B, T)."""
        return self._data.fixed([self._targets[i] for i in items])

    def scores(self, errors: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the PSNR of a constant answer: class -> mean over its items in dB (peak 1, at most 100), and "all".

        Args:
            errors: signals -> the answer's mean squared error (B,) against each.
        """
        values: dict[str, list[float]] = {name: [] for name in self.counts}
        everything: list[float] = []
        for start in range(0, len(self), 64):
            part = range(start, min(start + 64, len(self)))
            for index, error in zip(part, errors(self.targets(part)).tolist(), strict=True):
                everything.append(-10.0 * math.log10(max(error, 1e-10)))
                values[self.classes[index]].append(everything[-1])
        means = {name: sum(part) / len(part) for name, part in values.items()}
        return means | {"all": sum(everything) / max(len(everything), 1)}
