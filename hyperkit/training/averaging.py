"""The running average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of trainable parameters and floating-point buffers, in float32, bias-corrected.

    After n updates with weights w_1 .. w_n it equals ``sum_k d^(n-k) w_k / sum_k d^(n-k)``: the start does not count.

    Args:
        model: the model that is averaged, on its device.
        decay: d in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._live = averaged_tensors(model)
        self.tensors = {name: tensor.detach().float().clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present weights into the average."""
        self.updates += 1
        weight = (1.0 - self.decay) / (1.0 - self.decay**self.updates)
        live = [tensor.detach().float() for tensor in self._live.values()]
        torch._foreach_lerp_(list(self.tensors.values()), live, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the model while the block runs, and the live weights back afterwards."""
        kept = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        try:
            self.copy_to_model()
            yield
        finally:
            with torch.no_grad():
                for name, tensor in self._live.items():
                    tensor.copy_(kept[name])

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Put the averages into the model for good; before the first update they are its own weights."""
        for name, tensor in self._live.items():
            tensor.copy_(self.tensors[name])

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from stored averages."""
        if set(tensors) != set(self.tensors):
            raise ValueError(f"averages do not fit the model: {sorted(set(tensors) ^ set(self.tensors))}")
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
        self.updates = updates


def averaged_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what is averaged: trainable parameters, and floating-point buffers that are part of the state."""
    state = model.state_dict(keep_vars=True)
    return {
        name: tensor
        for name, tensor in state.items()
        if (tensor.requires_grad if isinstance(tensor, nn.Parameter) else tensor.is_floating_point())
    }
