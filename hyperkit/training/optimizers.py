"""Parameter groups by role, and the optimizer over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hyperkit.training.config import TrainingConfig

_POSITIONS = ("pos_embed", "position_embedding", "positional_embedding", "class_embedding")


@dataclass(frozen=True)
class ParameterCount:
    """Number of values in the parameters of one role."""

    trainable: int
    total: int


def _roles(model: nn.Module) -> Mapping[str, list[nn.Parameter]]:
    roles: Mapping[str, list[nn.Parameter]] = model.parameter_roles()  # type: ignore[operator]
    return roles


def count_parameters(model: nn.Module) -> dict[str, ParameterCount]:
    """Count trainable and total parameters by role, and over the whole model as "all"."""

    def count(parameters: list[nn.Parameter]) -> ParameterCount:
        return ParameterCount(sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters))

    counts = {role: count(parameters) for role, parameters in _roles(model).items() if parameters}
    return {**counts, "all": count(list(model.parameters()))}


def describe_counts(counts: Mapping[str, ParameterCount]) -> str:
    """Return the counts in one line: "backbone 0 of 5.5 M, tokens 31.5 k, all 33.0 k of 5.6 M"."""

    def short(n: int) -> str:
        for unit, size in (("M", 10**6), ("k", 10**3)):
            if n >= size:
                return f"{n / size:.1f} {unit}"
        return str(n)

    return ", ".join(
        f"{role} {short(c.trainable)}" + (f" of {short(c.total)}" if c.trainable != c.total else "")
        for role, c in counts.items()
    )


def _decays(name: str, parameter: nn.Parameter, role: str) -> bool:
    # Vectors in any shape ((O,), (1, 1, O)) are biases and norms; positions and tokens are inputs, not maps.
    vector = parameter.numel() == max(parameter.shape, default=1)
    last = name.rpartition(".")[2]
    return role != "tokens" and not vector and last not in _POSITIONS and not last.endswith("token")


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Return the optimizer's groups: trainable parameters by role, with and without weight decay.

    Each group carries ``role`` and ``lr_scale``, which the learning rate is multiplied by.

    Raises:
        ValueError: a trainable parameter has no role or two (the model's ``parameter_roles`` is wrong).
    """
    names = {id(p): name for name, p in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()
    for role, parameters in _roles(model).items():
        split: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for parameter in (p for p in parameters if p.requires_grad):
            if id(parameter) in seen:
                raise ValueError(f"{names.get(id(parameter))} has two roles, one of them {role!r}")
            seen.add(id(parameter))
            split[_decays(names.get(id(parameter), ""), parameter, role)].append(parameter)
        scale = config.backbone_lr_multiplier if role == "backbone" else 1.0
        for decays, members in split.items():
            if members:
                decay = config.weight_decay if decays else 0.0
                groups.append({"params": members, "weight_decay": decay, "role": role, "lr_scale": scale})
    if missing := [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in seen]:
        raise ValueError(f"parameter_roles() leaves out trainable parameters: {', '.join(missing)}")
    return groups


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return Adam or AdamW over the model's trainable parameters, in its fused form."""
    assert config.learning_rate is not None
    cls = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    groups = parameter_groups(model, config)
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for g in groups for p in g["params"])
    return cls(groups, lr=config.learning_rate, betas=config.betas, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group ``rate`` times its own ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
