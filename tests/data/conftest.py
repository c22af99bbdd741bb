"""Small data sets in the LearnIt layout, made by the tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from hyperkit import geometry, randomness
from hyperkit.data.layout import write_scene, write_splits

MakeData = Callable[..., Path]


def noise(views: int, size: int, *key: int | str, opaque: bool = False) -> np.ndarray:
    """Random pictures (V, S, S, 4) with transparent, translucent and solid pixels."""
    rng = randomness.numpy_rng("test pictures", *key)
    pictures = rng.integers(0, 256, (views, size, size, 4), dtype=np.uint8)
    alpha = pictures[..., 3]
    pictures[..., 3] = 255 if opaque else np.where(alpha > 170, 255, np.where(alpha > 85, alpha, 0))
    return pictures


@pytest.fixture
def make_data(tmp_path: Path) -> MakeData:
    """Make a data set: ``make_data({"cars": 3}, splits={"cars": {"test": ["0002"]}}, size=8, views=4)``."""

    def make(
        counts: Mapping[str, int],
        name: str = "data",
        splits: Mapping[str, Mapping[str, list[str]]] | None = None,
        size: int = 8,
        views: int = 6,
        synset: str | None = None,
        opaque: bool = False,
    ) -> Path:
        root = tmp_path / name
        for class_name, count in counts.items():
            for index in range(count):
                folder = root / class_name / (synset or "") / f"{index:04d}"
                pictures = noise(views, size, class_name, index, opaque=opaque)
                poses = geometry.turntable(views, start=0.1 * index).numpy()
                write_scene(folder, pictures, poses, 2 * math.atan(0.27))
        for class_name, lists in (splits or {}).items():
            write_splits(root, class_name, lists)
        return root

    return make
