"""The order in which training items come: one permutation per epoch, a function of the seed and the step."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from hyperkit import randomness


class EpochOrder:
    """Which training items the places of a joined batch hold.

    Positions run on over the epochs' permutations, so a batch may hold the end of one and the start of the next.

    Args:
        items: (N,) indices of the items that are trained on.
        seed: seed of the permutations.
    """

    def __init__(self, items: np.ndarray, seed: int) -> None:
        self._items, self._seed = items, seed
        self._order = lru_cache(maxsize=4)(self._permutation)

    def _permutation(self, epoch: int) -> np.ndarray:
        return randomness.numpy_rng(self._seed, "epoch", epoch).permutation(len(self._items))

    def steps(self, batch_size: int) -> int:
        """Return the number of steps after which every item has come."""
        return max(1, math.ceil(len(self._items) / batch_size))

    def at(self, step: int, batch_size: int, places: np.ndarray) -> np.ndarray:
        """Return the items (P,) at these places (P,) of the joined batch of a step."""
        epochs, positions = np.divmod(step * batch_size + places, len(self._items))
        order = [self._order(int(e))[p] for e, p in zip(epochs, positions, strict=True)]
        return self._items[np.array(order, dtype=np.int64)]
