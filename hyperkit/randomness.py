"""Everything that is drawn at random is a function of (seed, stage, epoch, index), never of workers or history."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def key(*parts: int | str) -> int:
    """Return a 63-bit key for a tuple of integers and words; the same on every machine and in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_rng(*parts: int | str) -> np.random.Generator:
    """Return a NumPy generator seeded by ``key(*parts)``."""
    return np.random.Generator(np.random.PCG64(key(*parts)))


def torch_rng(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator on ``device`` seeded by ``key(*parts)``."""
    return torch.Generator(device=device).manual_seed(key(*parts))


@dataclass(frozen=True)
class StepRandom:
    """Random numbers of one training step, the same for an item however many processes share the batch.

    The numbers of the whole (joined) batch are drawn on every process, and each takes its own rows: process ``rank``
    of ``world`` holds items ``rank, rank + world, ...`` of the joined batch.
    """

    seed: int
    step: int
    rank: int = 0
    world: int = 1

    def uniform(self, shape: tuple[int, ...], name: str, device: torch.device | str = "cpu") -> Tensor:
        """Draw from U[0, 1) with shape ``shape`` = (B, ...), B counting this process's items."""
        joined = (shape[0] * self.world, *shape[1:])
        generator = torch_rng(self.seed, "step", self.step, name, device=device)
        return torch.rand(joined, generator=generator, device=device)[self.rank :: self.world]
