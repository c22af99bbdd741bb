"""Evaluation over frozen pairs, and the scores of constant pictures that every result is compared with."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from hyperkit.contracts import Batch
from hyperkit.data.pairs import Pair
from hyperkit.data.pixels import PixelReader, opacity, unpack_words
from hyperkit.data.places import side_folder, writable
from hyperkit.files import atomic_path
from hyperkit.geometry import picture_rays

FeatureReader = Callable[[np.ndarray], "Tensor | None"]
"""Views (B,), as rows of the pack -> features of all their pixels (B, S * S, F), or None where they cannot be had."""


class EvalSet:
    """Frozen pairs as batches: V context pictures, and every ray and pixel of a target view.

    Iterating gives ``Batch`` with context (B, V, 3, S, S), its cameras (B, V), rays (B, S * S, 3), their truth
    (B, S * S, 3) with its opacity (B, S * S), ``query_size`` and, where there are label maps, its labels (B, S * S),
    and where features are distilled, these (B, S * S, F).

    Attributes:
        pairs: the items, in order, all with V context views.
        hash: SHA-256 of the frozen pairs' file. It stands for further context views, too: these follow from the pairs
            and from the objects' numbers of views (see ``pairs.add_contexts``).
        counts: class -> number of items.
        batch_size: items of a batch while iterating.
    """

    def __init__(
        self,
        reader: PixelReader,
        pairs: Sequence[Pair],
        pairs_hash: str,
        batch_size: int = 8,
        label_maps: np.ndarray | None = None,
        features: FeatureReader | None = None,
    ) -> None:
        self._reader, self._features = reader, features
        self._label_maps = label_maps
        self.pairs = tuple(pairs)
        self.hash = pairs_hash
        self.batch_size = batch_size
        self.classes = tuple(pair.object.split("/", 1)[0] for pair in self.pairs)
        self.counts = dict(sorted(Counter(self.classes).items()))

    def __len__(self) -> int:
        """Return the number of items (not of batches)."""
        return len(self.pairs)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(self.batch_size)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Iterate over all items, ``batch_size`` at a time."""
        for start in range(0, len(self.pairs), batch_size):
            yield self.batch(range(start, min(start + batch_size, len(self.pairs))))

    def contexts(self, batch_size: int) -> Iterator[Tensor]:
        """Iterate over the context pictures (B, V, 3, S, S) alone."""
        size = self._reader.pack.size
        for start in range(0, len(self.pairs), batch_size):
            context, _ = self._contexts(range(start, min(start + batch_size, len(self.pairs))))
            yield self._reader.pictures(context.reshape(-1)).reshape(*context.shape, 3, size, size)

    def _contexts(self, items: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        chosen = [self.pairs[i] for i in items]
        contexts = np.array([pair.contexts for pair in chosen], dtype=np.int64)
        source = np.array([self._reader.index[pair.source] for pair in chosen], dtype=np.int64)[:, None]
        return self._reader.pack.first[source] + contexts, source

    def batch(self, items: Sequence[int]) -> Batch:
        """Return the batch of chosen items."""
        context, source = self._contexts(items)
        target, owner = self._targets(items)
        pictures = self._reader.pictures(target)
        size = self._reader.pack.size
        labels = None
        if self._label_maps is not None:
            labels = torch.from_numpy(self._label_maps[target].reshape(len(target), -1)).long()
        return Batch(
            context=self._reader.pictures(context.reshape(-1)).reshape(*context.shape, 3, size, size),
            query=picture_rays(self._reader.cameras(target, owner)),
            truth=pictures.flatten(2).transpose(1, 2).contiguous(),
            ids=tuple(self.pairs[i].object for i in items),
            classes=tuple(self.classes[i] for i in items),
            context_cameras=self._reader.cameras(context, np.broadcast_to(source, context.shape)),
            query_size=(size, size),
            opacity=opacity(unpack_words(self._reader.words(target)), self._reader.pack.opaque[owner]),
            labels=labels,
            features=None if self._features is None else self._features(target),
        )

    def targets(self, items: Sequence[int]) -> Tensor:
        """Return the target pictures (B, 3, S, S) of chosen items."""
        return self._reader.pictures(self._targets(items)[0])

    def _targets(self, items: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        owner = np.array([self._reader.index[self.pairs[i].object] for i in items], dtype=np.int64)
        return self._reader.pack.first[owner] + [self.pairs[i].target for i in items], owner


def constant_scores(evalset: EvalSet, pictures: Mapping[str, Tensor]) -> dict[str, float]:
    """Score one constant picture per class against every target view.

    Args:
        evalset: the items.
        pictures: class -> (3, S, S), the picture that is given as the answer for that class.

    Returns:
        Class -> mean over its items of the PSNR in dB (peak 1, at most 100), and "all": the mean over all items.
    """
    values: dict[str, list[float]] = {name: [] for name in evalset.counts}
    for start in range(0, len(evalset), 64):
        items = range(start, min(start + 64, len(evalset)))
        given = torch.stack([pictures[evalset.classes[i]] for i in items])
        errors = (evalset.targets(items) - given).square().mean(dim=(1, 2, 3), dtype=torch.float64)
        for i, error in zip(items, errors.tolist(), strict=True):
            values[evalset.classes[i]].append(-10.0 * math.log10(max(error, 1e-10)))
    everything = [value for part in values.values() for value in part]
    scores = {name: sum(part) / len(part) for name, part in values.items()}
    return scores | {"all": sum(everything) / len(everything)}


def mean_picture(reader: PixelReader, objects: Sequence[str], views: tuple[int, int]) -> tuple[Tensor, int]:
    """Return the mean (3, S, S) of all views in a range of the given objects, and the number of views.

    The mean is kept beside the packed pictures; it is computed again when data, objects or range change.
    """
    pack = reader.pack
    key = "\n".join((pack.fingerprint, reader.background, f"{views}", *objects))
    folder = pack.folder if writable(pack.folder) else side_folder(pack.root) / pack.folder.name
    path = folder / f"mean-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    count = sum(len(range(*slice(*views).indices(int(pack.views[reader.index[name]])))) for name in objects)
    with suppress(OSError, ValueError):
        stored = np.load(path, allow_pickle=False)
        if stored.shape == (3, pack.size, pack.size):
            return torch.from_numpy(stored), count
    total = torch.zeros(3, pack.size, pack.size, dtype=torch.float64)
    for name in objects:
        index = reader.index[name]
        rows = pack.first[index] + np.arange(*slice(*views).indices(int(pack.views[index])))
        total += reader.pictures(rows).sum(dim=0)
    mean = (total / max(count, 1)).float()
    with atomic_path(path) as temporary:
        np.save(temporary, mean.numpy())
    return mean, count
