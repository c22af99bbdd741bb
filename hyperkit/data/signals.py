"""What pictures and sounds in folders share: splits, order of training, evaluation items, constants to compare with."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from hyperkit import randomness
from hyperkit.config import PartConfig
from hyperkit.contracts import Batch
from hyperkit.data.builtin_signals import builtin_signals_root
from hyperkit.data.flat_pack import Decoded, open_flat_pack, refuse
from hyperkit.data.folders import Kind, divide, find_files, split_hash
from hyperkit.data.layout import Problem
from hyperkit.data.nvs import nested_fraction
from hyperkit.data.pairs import Pair, shuffle_contexts
from hyperkit.data.splits import SPLITS
from hyperkit.errors import HyperkitError, unknown_name

log = logging.getLogger("hyperkit")
Shuffle = Literal["none", "class", "all"]


class SignalDataConfig(PartConfig):
    """Which files are read, and which of them train.

    Attributes:
        root: a folder of files at any depth, in folders of classes if there are any, and these in train, val and test
            if there are such; None: the built-in set, made on first use.
        builtin: which built-in set, where ``root`` is None.
        classes: classes that are trained on; None: all.
        test_classes: classes that are evaluated on; None: those that are trained on.
        train_fraction: part of each class's training files that is used; 0.01 is contained in 0.1.
        test_fraction: part set aside for testing, where no folder is named test.
        val_fraction: part set aside for validation, where no folder is named val or dev.
        skip_bad: leave files that cannot be used out instead of refusing the data set.
    """

    root: str | None = None
    builtin: Literal["quickstart", "debug"] = "quickstart"
    classes: tuple[str, ...] | None = None
    test_classes: tuple[str, ...] | None = None
    train_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    test_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    val_fraction: float = Field(default=0.05, ge=0.0, lt=1.0)
    skip_bad: bool = False

    @model_validator(mode="after")
    def _some_train(self) -> SignalDataConfig:
        if self.test_fraction + self.val_fraction >= 1.0:
            raise ValueError("test_fraction and val_fraction must leave something to train on")
        return self


class SignalData(ABC):
    """A data set of files, one signal each.

    Args:
        config: what to read and how to draw from it.
        seed: seed of everything that training draws.
        progress: called with (files done, files in all) while files are decoded, or the built-in set is made.

    Attributes:
        root: the data set's folder.
        classes: classes that are trained on; ``all_classes``: those that are there.
        splits: split -> ids of the usable items of all classes; ``train_ids``: those that are trained on.
        left_out: files that cannot be used.
        notes: sentences for the user about splits and files.

    Raises:
        HyperkitError: files are broken, or nothing is left to train on.
        RunFailed: the disk is full.
    """

    kind: ClassVar[Kind]
    config: Any

    def __init__(self, config: SignalDataConfig, seed: int, progress: Callable[[int, int], None] | None = None) -> None:
        self.config, self.seed = config, seed
        builtin = config.root is None
        root = builtin_signals_root(self.kind.name, config.builtin, progress) if builtin else Path(config.root or "")
        found = find_files(root.expanduser(), self.kind)
        self.root = found.root
        self.pack = open_flat_pack(self.root, self._pack_name(), found.files, self._decoder(), progress)
        self._rows = {name: row for row, name in enumerate(self.pack.ids)}
        problems = found.problems + self.pack.left_out + self._unusable()
        count = len(found.files) + len(found.problems)
        if problems and (not config.skip_bad or len(problems) == count):
            raise refuse(self.root, problems, count, self._hints())
        self.left_out = problems
        bad = {problem.path for problem in problems}
        files = [file for file in found.files if str(file.path) not in bad]
        self._class = {file.id: file.class_name for file in files}
        self._hashes = {name: self.pack.hashes[self._rows[name]] for name in self._class}
        division = divide(files, self._hashes, config.test_fraction, config.val_fraction)
        self.splits = division.ids
        marked = {word: [n for n in names if n in self._class] for word, names in self.pack.marks.items()}
        left = (f"{len(problems)} files cannot be used and are left out",) if problems else ()
        told = tuple(self._mark_notes({word: names for word, names in marked.items() if names}))
        self.notes = found.notes + left + division.notes + told
        for note in self.notes:
            log.info("%s: %s", self.root, note)
        self.all_classes = tuple(sorted(set(self._class.values())))
        self.classes = self._check_classes(config.classes)
        self._check_classes(config.test_classes)
        self.train_ids = self._training()
        self._items = np.array([self._rows[name] for name in self.train_ids], dtype=np.int64)
        self._coordinates = self._grid()
        self._order = lru_cache(maxsize=4)(self._permutation)

    @abstractmethod
    def _pack_name(self) -> str:
        """Name the folder of decoded files, by all that changes what is in it."""

    @abstractmethod
    def _decoder(self) -> Callable[[bytes], Decoded]:
        """Return the function that decodes a file."""

    @abstractmethod
    def _framing(self) -> str:
        """Say, for the splits' hashes, what of an item is evaluated."""

    @abstractmethod
    def _mark_notes(self, marked: dict[str, list[str]]) -> list[str]:
        """Return sentences about the files that the decoder marked."""

    @abstractmethod
    def _grid(self) -> Tensor:
        """Return the coordinates (P, C) of all points of an item."""

    @abstractmethod
    def _random_crop(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """Draw a training crop of an item, augmented."""

    @abstractmethod
    def _fixed_crop(self, row: int) -> np.ndarray:
        """Return an item's crop for evaluation."""

    @abstractmethod
    def _signals(self, crops: list[np.ndarray]) -> Tensor:
        """Return crops as float32: pictures (B, 3, S, S) in [0, 1], sounds (B, T) in [-1, 1]."""

    @abstractmethod
    def _context(self, signals: Tensor) -> Tensor:
        """Return what the hypernetwork sees of signals."""

    @abstractmethod
    def _points(self, signals: Tensor) -> Tensor:
        """Return signals as values (B, P, F) at the coordinates."""

    @property
    @abstractmethod
    def _points_per_item(self) -> int | None:
        """How many points of an item a training batch holds; None: all."""

    @property
    @abstractmethod
    def _query_size(self) -> tuple[int, int] | None:
        """Height and width of a whole item, where it is a picture."""

    def _unusable(self) -> tuple[Problem, ...]:
        """Return what is decoded but does not fit the configuration."""
        return ()

    def _hints(self) -> dict[str, str]:
        """Map the beginning of a reason to what helps against it."""
        return {}

    def _check_classes(self, names: Sequence[str] | None) -> tuple[str, ...]:
        for name in names or ():
            if name not in self.all_classes:
                raise unknown_name("class", name, self.all_classes, f"The data set is {self.root}.")
        return tuple(names) if names else self.all_classes

    def _of(self, split: str, classes: Sequence[str]) -> list[str]:
        if split not in self.splits:
            raise unknown_name("split", split, SPLITS)
        chosen = set(classes)
        return [name for name in self.splits[split] if self._class[name] in chosen]

    def _training(self) -> tuple[str, ...]:
        by_class: dict[str, list[str]] = {}
        for name in self._of("train", self.classes):
            by_class.setdefault(self._class[name], []).append(f"item/{name}")
        # The first part of a name is what nested_fraction takes for a class.
        parts = [nested_fraction(names, self.config.train_fraction) for names in by_class.values()]
        kept = [name.removeprefix("item/") for part in parts for name in part]
        if not kept:
            raise HyperkitError(
                f"{self.root} has no training {self.kind.name} of the classes {', '.join(self.classes)}; "
                f"it has {self.counts()}.",
                "Choose other classes; or, if the folder holds nothing but a val or test folder, give that folder "
                "itself: it is then divided.",
            )
        return tuple(sorted(kept))

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of steps after which every training item has been seen."""
        return max(1, math.ceil(len(self.train_ids) / batch_size))

    def _permutation(self, epoch: int) -> np.ndarray:
        return randomness.numpy_rng(self.seed, "epoch", epoch).permutation(len(self._items))

    def train_batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return the training batch of a step; a pure function of the seed and the step.

        Args:
            step: counted from 0; batches follow one permutation of the training items per epoch.
            batch_size: items of the joined batch.
            rank, world: this process takes items ``rank, rank + world, ...`` of the joined batch.

        Returns:
            Batch whose query and truth are points of the crop that is the context.
        """
        positions = np.arange(rank, batch_size, world)
        # Positions run on over the epochs' permutations, so a batch may hold the end of one and the start of the next.
        epochs, places = np.divmod(step * batch_size + positions, len(self._items))
        rows = [int(self._items[self._order(int(e))[p]]) for e, p in zip(epochs, places, strict=True)]
        rngs = [randomness.numpy_rng(self.seed, "train", step, int(position)) for position in positions]
        crops = [self._random_crop(row, rng) for row, rng in zip(rows, rngs, strict=True)]
        count, points = self._points_per_item, len(self._coordinates)
        chosen = None
        if count is not None:
            chosen = np.empty((len(rows), count), dtype=np.int64)
            for index, rng in enumerate(rngs):
                chosen[index] = rng.choice(points, count, replace=False, shuffle=False)
        signals = self._signals(crops)
        return self._batch(signals, signals, rows, None if chosen is None else torch.from_numpy(chosen))

    def _batch(self, context: Tensor, target: Tensor, rows: Sequence[int], chosen: Tensor | None = None) -> Batch:
        truth = self._points(target)
        query = self._coordinates.expand(len(rows), -1, -1)
        if chosen is not None:
            truth = truth.gather(1, chosen[..., None].expand(-1, -1, truth.shape[-1]))
            query = self._coordinates[chosen]
        ids = tuple(self.pack.ids[row] for row in rows)
        return Batch(
            context=self._context(context),
            query=query.contiguous(),
            truth=truth.contiguous(),
            ids=ids,
            classes=tuple(self._class[name] for name in ids),
            query_size=self._query_size if chosen is None else None,
        )

    def pairs(
        self,
        split: str = "test",
        classes: Sequence[str] | None = None,
        shuffle_context: Shuffle = "none",
        limit: int | None = None,
        batch_size: int = 8,
        views: int | None = None,
    ) -> ItemSet:
        """Return the fixed evaluation items of a split: one fixed crop of every file, all points of it.

        Args:
            split: "test", "val" or "train".
            classes: classes to evaluate; None: ``test_classes`` of the test split, the classes trained on otherwise.
            shuffle_context: give every item another item's context, within its class or over all.
            limit: at most so many items, spread evenly over the split.
            batch_size: items of a batch while iterating.
            views: 1 or None; there are no more.

        Raises:
            HyperkitError: the split has no such items.
        """
        if views not in (None, 1):
            raise HyperkitError(
                f"{views} views were asked for, but {self.kind.name} have one.", "Views belong to the task nvs."
            )
        tested = self.config.test_classes if split == "test" else None
        chosen = self._check_classes(classes or tested) if classes or tested else self.classes
        names = self._of(split, chosen)
        if not names:
            raise HyperkitError(
                f"The split {split!r} of {self.root} has no {self.kind.name} of the classes {', '.join(chosen)}.",
                f"It has: {self.counts()}. Choose other classes, or larger fractions for val and test.",
            )
        sources = self._sources(names, shuffle_context)
        if limit is not None and limit < len(names):
            names = [names[int(i)] for i in np.linspace(0, len(names) - 1, max(limit, 0)).round()]
        rows = [self._rows[name] for name in names]
        return ItemSet(self, rows, [self._rows[sources[name]] for name in names], self.hash(split), batch_size)

    def _sources(self, names: Sequence[str], shuffle_context: Shuffle) -> dict[str, str]:
        if shuffle_context == "none":
            return {name: name for name in names}
        whole = [f"{self._class[name]}/{name}" for name in names]
        shuffled = shuffle_contexts([Pair(name, 0, 0, name) for name in whole], shuffle_context == "class")
        return {pair.object.split("/", 1)[1]: pair.source.split("/", 1)[1] for pair in shuffled}

    def hash(self, split: str) -> str:
        """Return the SHA-256 of a split: its ids, the contents of their files, and the crop that is evaluated."""
        return split_hash(self._framing(), self.splits[split], self._hashes)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return split -> class -> number of usable items."""
        return {s: dict(sorted(Counter(self._class[n] for n in self.splits[s]).items())) for s in SPLITS}

    def fixed(self, rows: Sequence[int]) -> Tensor:
        """Return the evaluation crops of items by their rows in the pack, as ``_signals`` does."""
        return self._signals([self._fixed_crop(row) for row in rows])

    def item(self, name: str) -> Tensor:
        """Return the evaluation crop of one file as a context, with B = 1.

        Raises:
            HyperkitError: the data set has no such file; the nearest ids are named.
        """
        if name not in self._class:
            near = get_close_matches(name, self._class, n=5, cutoff=0.3) or list(self._class)[:5]
            raise HyperkitError(
                f"There is no item {name!r} in {self.root}.", f"There are, among others: {', '.join(near)}."
            )
        return self._context(self.fixed([self._rows[name]]))

    def _spread(self, count: int) -> list[str]:
        """Return ids of held-out items, in turns over the classes that are evaluated."""
        tested = self._check_classes(self.config.test_classes or self.classes)
        options = [("test", tested), ("val", self.classes), ("train", self.classes)]
        names = next(found for split, classes in options if (found := self._of(split, classes)))
        by_class: dict[str, list[str]] = {}
        for name in names:
            by_class.setdefault(self._class[name], []).append(name)
        turns = max(map(len, by_class.values()))
        order = [part[turn] for turn in range(turns) for _, part in sorted(by_class.items()) if turn < len(part)]
        return order[:count]

    def scores(self, items: ItemSet, errors: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the PSNR of a constant answer over items: class -> mean in dB (peak 1, at most 100), and "all".

        Args:
            items: what is compared with.
            errors: signals -> the answer's mean squared error (B,) against each.
        """
        values: dict[str, list[float]] = {name: [] for name in items.counts}
        everything: list[float] = []
        for start in range(0, len(items), 64):
            part = range(start, min(start + 64, len(items)))
            for index, error in zip(part, errors(items.targets(part)).tolist(), strict=True):
                everything.append(-10.0 * math.log10(max(error, 1e-10)))
                values[items.classes[index]].append(everything[-1])
        means = {name: sum(part) / len(part) for name, part in values.items()}
        return means | {"all": sum(everything) / max(len(everything), 1)}


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
        self.classes = tuple(data._class[name] for name in self.ids)
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
        return self._data._batch(signals if targets == sources else self._data.fixed(sources), signals, targets)

    def targets(self, items: Sequence[int]) -> Tensor:
        """Return the signals of chosen items: pictures (B, 3, S, S), sounds (B, T)."""
        return self._data.fixed([self._targets[i] for i in items])
