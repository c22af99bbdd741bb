"""The states of torch's own generators, which dropout and the like draw from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hyperkit.randomness import key


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed the generators for one step, so that what they give depends on the step, not on what came before."""
    number = key(seed, "torch", step, rank)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generators of the CPU and of ``device``."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Bring the generators back to stored states."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
