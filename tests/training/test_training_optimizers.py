"""Parameter groups, their counts, and the running average."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training_toy import ToyConfig, ToyModel

from hyperkit.training.averaging import WeightAverage
from hyperkit.training.config import TrainingConfig
from hyperkit.training.optimizers import (
    build_optimizer,
    count_parameters,
    describe_counts,
    parameter_groups,
    set_learning_rate,
)

CONFIG = TrainingConfig(learning_rate=1.0, weight_decay=0.5, backbone_lr_multiplier=0.1, optimizer="adamw")


def test_only_matrices_decay_and_only_the_backbone_is_scaled() -> None:
    model = ToyModel(ToyConfig())
    names = {id(p): n for n, p in model.named_parameters()}
    found = {
        names[id(p)]: (g["weight_decay"], g["lr_scale"]) for g in parameter_groups(model, CONFIG) for p in g["params"]
    }
    assert found == {
        "embed.weight": (0.5, 0.1),
        "embed.bias": (0.0, 0.1),
        "tokens": (0.0, 1.0),
        "norm.weight": (0.0, 1.0),
        "norm.bias": (0.0, 1.0),
        "head.weight": (0.0, 1.0),  # (1, 16): one row is a vector
        "head.bias": (0.0, 1.0),
    }


def test_positions_and_shared_biases_of_any_rank_do_not_decay() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pos_embed = nn.Parameter(torch.zeros(1, 4, 3))
            self.cls_token = nn.Parameter(torch.zeros(2, 4, 3))
            self.bias0 = nn.Parameter(torch.zeros(1, 1, 5))
            self.base = nn.Parameter(torch.zeros(1, 4, 5))

        def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
            return {"base": list(self.parameters())}

    model = Model()
    decayed = [p for g in parameter_groups(model, CONFIG) if g["weight_decay"] for p in g["params"]]
    assert [tuple(p.shape) for p in decayed] == [(1, 4, 5)]


def test_frozen_parameters_are_left_out_and_counted() -> None:
    model = ToyModel(ToyConfig(frozen=True))
    assert all(g["role"] != "backbone" for g in parameter_groups(model, CONFIG))
    counts = count_parameters(model)
    assert (counts["backbone"].trainable, counts["backbone"].total) == (0, 80)
    assert (counts["all"].trainable, counts["all"].total) == (97, 177)
    assert describe_counts(counts) == "backbone 0 of 80, tokens 48, heads 49, all 97 of 177"


def test_a_parameter_without_a_role_or_with_two_is_refused() -> None:
    class Missing(ToyModel):
        def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
            return {"tokens": [self.tokens]}

    class Double(ToyModel):
        def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
            return {"tokens": [self.tokens], "heads": list(self.parameters())}

    with pytest.raises(ValueError, match=r"embed\.weight"):
        parameter_groups(Missing(ToyConfig()), CONFIG)
    with pytest.raises(ValueError, match="tokens has two roles"):
        parameter_groups(Double(ToyConfig()), CONFIG)


def test_one_step_moves_each_group_by_its_rate() -> None:
    # Adam's first step is lr * sign(gradient), up to eps
    model = ToyModel(ToyConfig())
    optimizer = build_optimizer(model, CONFIG.model_copy(update={"optimizer": "adam", "weight_decay": 0.0}))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 0.01)
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = (before[name] - parameter).detach()
        torch.testing.assert_close(
            moved, torch.full_like(moved, 0.001 if name.startswith("embed") else 0.01), rtol=1e-4, atol=1e-7
        )


def test_average_is_the_bias_corrected_mean() -> None:
    model = ToyModel(ToyConfig())
    average, decay = WeightAverage(model, 0.9), 0.9
    history = []
    for step in range(7):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))
        average.update()
        history.append(model.head.weight.detach().double().clone())
    powers = [decay ** (len(history) - 1 - k) for k in range(len(history))]
    expected = sum(p * w for p, w in zip(powers, history, strict=True)) / sum(powers)
    torch.testing.assert_close(average.tensors["head.weight"].double(), expected, rtol=1e-6, atol=1e-6)


def test_applied_averages_are_taken_back_even_after_an_error() -> None:
    model = ToyModel(ToyConfig(dropout=0.1))
    average = WeightAverage(model, 0.9)
    average.update()
    with torch.no_grad():
        model.head.weight.add_(1.0)
    live = model.head.weight.detach().clone()
    with pytest.raises(KeyError), average.applied():
        torch.testing.assert_close(model.head.weight, live - 1.0)
        raise KeyError
    assert torch.equal(model.head.weight, live)
    assert "norm.running_mean" in average.tensors
    assert "norm.num_batches_tracked" not in average.tensors


def test_frozen_weights_are_not_averaged() -> None:
    assert not [n for n in WeightAverage(ToyModel(ToyConfig(frozen=True)), 0.9).tensors if n.startswith("embed")]
