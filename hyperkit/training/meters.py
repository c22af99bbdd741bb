"""What is summed up on the device between two lines of metrics, without waiting for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Meter:
    """Sums of the values that a loss gives, and the first step whose loss was not finite.

    Args:
        device: where the values are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._bad = torch.full((), -1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, values: Mapping[str, Tensor], step: int) -> None:
        """Take the loss and the logged values of one micro-step; nothing is copied to the host."""
        for name, value in {"loss": loss, **values}.items():
            number = torch.as_tensor(value, device=self._device).detach().double()
            self._sums[name] = self._sums[name] + number if name in self._sums else number
        self._count += 1
        self._bad = torch.where((self._bad < 0) & ~torch.isfinite(loss.detach()), step, self._bad)

    def bad_step(self) -> int:
        """Return the first step whose loss was not finite, or -1."""
        return int(self._bad)

    def take(self) -> dict[str, float]:
        """Return the means since the last call, on the host, and start again."""
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means

    def state(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint."""
        return {"sums": dict(self._sums), "count": self._count}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from stored sums."""
        self._sums = {name: total.to(self._device) for name, total in state.get("sums", {}).items()}
        self._count = state.get("count", 0)
