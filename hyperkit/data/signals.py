"""What pictures and sounds in folders share: splits, order of training, evaluation items, constants to compare with."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import get_close_matches
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
from hyperkit.data.epochs import EpochOrder
from hyperkit.data.flat_pack import Decoded, open_flat_pack, refuse
from hyperkit.data.folders import Kind, divide, find_files, split_hash
from hyperkit.data.layout import Problem
from hyperkit.data.nvs import nested_fraction
from hyperkit.data.signal_items import ItemSet, Shuffle, sources_of
from hyperkit.data.splits import SPLITS
from hyperkit.errors import HyperkitError, unknown_name

log = logging.getLogger("hyperkit")


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
        test_classes: classes that the test split is evaluated on. Of the configured classes those that are there, or
            all that are there if none is.
        class_of: id -> class of each usable item.
        splits: split -> ids of the usable items of all classes; ``train_ids``: those that are trained on.
        left_out: files that cannot be used.
        notes: sentences for the user about splits and files.

    Raises:
        HyperkitError: files are broken. Whether they suffice for training is asked when training begins.
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
        self.class_of = {file.id: file.class_name for file in files}
        self._hashes = {name: self.pack.hashes[self._rows[name]] for name in self.class_of}
        division = divide(files, self._hashes, config.test_fraction, config.val_fraction)
        self.splits = division.ids
        marked = {word: [n for n in names if n in self.class_of] for word, names in self.pack.marks.items()}
        left = (f"{len(problems)} files cannot be used and are left out",) if problems else ()
        told = tuple(self._mark_notes({word: names for word, names in marked.items() if names}))
        self.all_classes = tuple(sorted(set(self.class_of.values())))
        self.classes = self._present(config.classes)
        self.test_classes = self._present(config.test_classes or config.classes)
        self.notes = found.notes + left + division.notes + told + self._class_notes()
        for note in self.notes:
            log.info("%s: %s", self.root, note)
        self.train_ids = self._training()
        self._trainable = False
        self._items = np.array([self._rows[name] for name in self.train_ids], dtype=np.int64)
        self._coordinates = self._grid()
        self._order = EpochOrder(self._items, seed)

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
    def read_as(self) -> str:
        """Say at which size or rate files are decoded."""

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

    def _present(self, names: Sequence[str] | None) -> tuple[str, ...]:
        # A model can be evaluated on data that lacks classes of its training; training itself asks check_training.
        return tuple(name for name in names or () if name in self.all_classes) or self.all_classes

    def _class_notes(self) -> tuple[str, ...]:
        configured = {*(self.config.classes or ()), *(self.config.test_classes or ())}
        missing = sorted(configured - set(self.all_classes))
        if not missing:
            return ()
        return (f"no {self.kind.name} of {', '.join(missing)} are here; tests take {', '.join(self.test_classes)}",)

    def _check_classes(self, names: Sequence[str]) -> tuple[str, ...]:
        for name in names:
            if name not in self.all_classes:
                raise unknown_name("class", name, self.all_classes, f"The data set is {self.root}.")
        return tuple(names)

    def _of(self, split: str, classes: Sequence[str]) -> list[str]:
        if split not in self.splits:
            raise unknown_name("split", split, SPLITS)
        chosen = set(classes)
        return [name for name in self.splits[split] if self.class_of[name] in chosen]

    def _training(self) -> tuple[str, ...]:
        by_class: dict[str, list[str]] = {}
        for name in self._of("train", self.classes):
            by_class.setdefault(self.class_of[name], []).append(f"item/{name}")
        # The first part of a name is what nested_fraction takes for a class.
        parts = [nested_fraction(names, self.config.train_fraction) for names in by_class.values()]
        kept = [name.removeprefix("item/") for part in parts for name in part]
        return tuple(sorted(kept))

    def check_training(self) -> None:
        """Refuse data that cannot train, validate and test a model: rather now than after hours.

        Raises:
            HyperkitError: a configured class is unknown, or a split has none of the items that it is asked for.
        """
        self._check_classes((*(self.config.classes or ()), *(self.config.test_classes or ())))
        if not self.train_ids:
            raise HyperkitError(
                f"{self.root} has no training {self.kind.name} of the classes {', '.join(self.classes)}; "
                f"it has {self.counts()}.",
                "Choose other classes; or, if the folder holds nothing but a val or test folder, give that folder "
                "itself: it is then divided.",
            )
        for split, classes in (("val", self.classes), ("test", self.test_classes)):
            if not self._of(split, classes):
                raise self._no_items(split, classes)
        self._trainable = True

    def _no_items(self, split: str, classes: Sequence[str]) -> HyperkitError:
        field = f"data.{split}_fraction"
        if self.splits[split]:
            hint = f"Choose other classes, set a larger {field}, or give folders named val and test with such files."
        elif getattr(self.config, f"{split}_fraction") == 0.0:
            hint = f"{field} is 0: set it above 0, or give a folder named {split}."
        else:  # one is set aside wherever there are enough
            hint = (
                "At least 3 files are needed to train, validate and test, of different content and not of the same "
                "speaker; or give folders named val and test."
            )
        parts = [f"{len(self.splits[name])} in {name}" for name in SPLITS]
        return HyperkitError(
            f"The split {split!r} of {self.root} has no {self.kind.name} of the classes {', '.join(classes)}; "
            f"of {len(self.class_of)} files there are {', '.join(parts)}.",
            hint,
        )

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of steps after which every training item has been seen.

        Raises:
            HyperkitError: see ``check_training``.
        """
        if not self._trainable:
            self.check_training()
        return self._order.steps(batch_size)

    def train_batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> Batch:
        """Return the training batch of a step; a pure function of the seed and the step.

        Args:
            step: counted from 0; batches follow one permutation of the training items per epoch.
            batch_size: items of the joined batch.
            rank, world: this process takes items ``rank, rank + world, ...`` of the joined batch.

        Returns:
            Batch whose query and truth are points of the crop that is the context.

        Raises:
            HyperkitError: see ``check_training``.
        """
        if not self._trainable:
            self.check_training()
        positions = np.arange(rank, batch_size, world)
        rows = self._order.at(step, batch_size, positions).tolist()
        rngs = [randomness.numpy_rng(self.seed, "train", step, int(position)) for position in positions]
        crops = [self._random_crop(row, rng) for row, rng in zip(rows, rngs, strict=True)]
        count, points = self._points_per_item, len(self._coordinates)
        chosen = None
        if count is not None:
            chosen = np.empty((len(rows), count), dtype=np.int64)
            for index, rng in enumerate(rngs):
                chosen[index] = rng.choice(points, count, replace=False, shuffle=False)
        signals = self._signals(crops)
        return self.as_batch(signals, signals, rows, None if chosen is None else torch.from_numpy(chosen))

    def as_batch(self, context: Tensor, target: Tensor, rows: Sequence[int], chosen: Tensor | None = None) -> Batch:
        """Return the batch of items: what is seen of them, and ``chosen`` (B, N) of their points, or all."""
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
            classes=tuple(self.class_of[name] for name in ids),
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
        tested = self.test_classes if split == "test" else self.classes
        chosen = self._check_classes(classes) if classes else tested
        names = self._of(split, chosen)
        if not names:
            raise HyperkitError(
                f"The split {split!r} of {self.root} has no {self.kind.name} of the classes {', '.join(chosen)}.",
                f"It has: {self.counts()}. Choose other classes, or larger fractions for val and test.",
            )
        sources = sources_of(names, self.class_of, shuffle_context)
        if limit is not None and limit < len(names):
            names = [names[int(i)] for i in np.linspace(0, len(names) - 1, max(limit, 0)).round()]
        rows = [self._rows[name] for name in names]
        return ItemSet(self, rows, [self._rows[sources[name]] for name in names], self.hash(split), batch_size)

    def hash(self, split: str) -> str:
        """Return the SHA-256 of a split: its ids, the contents of their files, and the crop that is evaluated."""
        return split_hash(self._framing(), self.splits[split], self._hashes)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return split -> class -> number of usable items."""
        return {s: dict(sorted(Counter(self.class_of[n] for n in self.splits[s]).items())) for s in SPLITS}

    def fixed(self, rows: Sequence[int]) -> Tensor:
        """Return the evaluation crops of items by their rows in the pack, as ``_signals`` does."""
        return self._signals([self._fixed_crop(row) for row in rows])

    def item(self, name: str) -> Tensor:
        """Return the evaluation crop of one file as a context, with B = 1.

        Raises:
            HyperkitError: the data set has no such file; the nearest ids are named.
        """
        if name not in self.class_of:
            near = get_close_matches(name, self.class_of, n=5, cutoff=0.3) or list(self.class_of)[:5]
            raise HyperkitError(
                f"There is no item {name!r} in {self.root}.", f"There are, among others: {', '.join(near)}."
            )
        return self._context(self.fixed([self._rows[name]]))

    def _spread(self, count: int) -> list[str]:
        """Return ids of held-out items, in turns over the classes that are evaluated."""
        options = [("test", self.test_classes), ("val", self.classes), ("train", self.classes)]
        names = next(found for split, classes in options if (found := self._of(split, classes)))
        by_class: dict[str, list[str]] = {}
        for name in names:
            by_class.setdefault(self.class_of[name], []).append(name)
        turns = max(map(len, by_class.values()))
        order = [part[turn] for turn in range(turns) for _, part in sorted(by_class.items()) if turn < len(part)]
        return order[:count]
