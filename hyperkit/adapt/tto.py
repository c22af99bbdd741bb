"""Test-time optimisation: go on fitting the generated weights to the input itself (Chen & Wang 2022, section 4.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from hyperkit.config import PartConfig
from hyperkit.contracts import TargetParams
from hyperkit.objectives import mse

Observations = Callable[[int], tuple[Any, Tensor]]
"""Step -> (query, truth): ``Rays`` (B, N, 3) or coordinates (B, N, C), and the values (B, N, F) there."""


class TTOConfig(PartConfig):
    """Settings of test-time optimisation.

    Attributes:
        steps: Adam steps; 0 turns it off. 100 in Trans-INR.
        learning_rate: 1e-4 in Trans-INR.
        rays: points of the input per step and item: rays of the input views, pixels of the input picture, samples of
            the input sound; drawn anew in every step, with replacement. 1024 in Trans-INR.
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
        tensors = list(leaves.tensors.values())
        fused = tensors[0].device.type in ("cpu", "cuda")
        optimizer = torch.optim.Adam(tensors, lr=config.learning_rate, fused=fused)
        for step in range(config.steps):
            optimizer.zero_grad(set_to_none=True)
            loss(leaves, step).sum().backward()
            optimizer.step()
    return leaves.map(lambda t: t.detach())


def optimise_on(
    params: TargetParams,
    predict: Callable[[TargetParams, Any], Tensor],
    observations: Observations,
    config: TTOConfig,
    loss: Callable[[Tensor, Tensor], Tensor] = mse,
) -> TargetParams:
    """Run test-time optimisation on points of the input; nothing else is seen, so targets cannot be.

    Args:
        params: where to start, as the hypernetwork wrote them.
        predict: ``predict(params, query)`` -> values (B, N, F), rendered or evaluated.
        observations: the same points for every item; see ``hyperkit.adapt.observations``.
        config: see ``TTOConfig``.
        loss: values and truth -> (B,). The mean squared error also where a target predicts a deviation.

    Returns:
        As ``optimise``.
    """

    def error(current: TargetParams, step: int) -> Tensor:
        query, truth = observations(step)
        return loss(predict(current, query), truth)

    return optimise(params, error, config)
