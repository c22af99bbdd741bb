"""Test-time optimisation: go on fitting the generated weights to the input itself (Chen & Wang 2022, section 4.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from hyperkit.config import PartConfig
from hyperkit.contracts import TargetParams


class TTOConfig(PartConfig):
    """Settings of test-time optimisation.

    Attributes:
        steps: Adam steps; 0 turns it off. 100 in Trans-INR.
        learning_rate: 1e-4 in Trans-INR.
        rays: rays of the input views per step and item.
    """

    steps: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=1e-4, gt=0)
    rays: int = Field(default=1024, ge=1)


def optimise(params: TargetParams, loss: Callable[[TargetParams, int], Tensor], config: TTOConfig) -> TargetParams:
    """Minimise a loss over the parameters of B targets at once; the hypernetwork is not touched.

    Every item gets its own copy of all tensors, shared ones too, and its own Adam state, so that the result for an
    item does not depend on what else is in the batch.

    Args:
        params: where to start.
        loss: ``loss(params, step)`` -> (B,), item i depending on item i's parameters alone.
        config: see ``TTOConfig``.

    Returns:
        The optimised parameters, every tensor with leading axis B, without gradients.
    """
    count = params.items
    start = params.map(lambda t: t.detach().expand(count, *t.shape[1:]).clone())
    if config.steps == 0 or count == 0:
        return start
    with torch.enable_grad():
        leaves = start.map(lambda t: t.float().requires_grad_(True))
        optimizer = torch.optim.Adam(list(leaves.tensors.values()), lr=config.learning_rate)
        for step in range(config.steps):
            optimizer.zero_grad(set_to_none=True)
            loss(leaves, step).sum().backward()
            optimizer.step()
    return leaves.map(lambda t: t.detach())
