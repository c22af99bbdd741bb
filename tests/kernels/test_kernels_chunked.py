import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperkit.kernels.render_field import FieldShape, chunked, reference, render_field

SHAPE = FieldShape((1.0, 2.5, 4.0), density="softplus", density_scale=3.0)


def inputs(items: int = 2, rays: int = 23, width: int = 6, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(rays)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=dtype)

    widths = [18, width, width, 4]
    return {
        "weights": [normal(items, i, o).mul_(0.5).requires_grad_() for i, o in itertools.pairwise(widths)],
        "biases": [normal(1, 1, o).requires_grad_() for o in widths[1:]],
        "origins": normal(items, rays, 3),
        "directions": normal(items, rays, 3),
        "near": torch.full((items, rays), 0.5, dtype=dtype),
        "far": 1 + torch.rand(items, rays, generator=rng, dtype=dtype),
        "jitter": torch.rand(items, rays, 5, generator=rng, dtype=dtype),
        "limit": 2 + torch.rand(items, rays, generator=rng, dtype=dtype),
        "background": torch.rand(items, rays, 3, generator=rng, dtype=dtype),
        "shape": SHAPE,
        "samples": 5,
        "sampling": "endpoints",
    }


def outcome(form: Callable[..., tuple[Tensor, ...]], given: dict[str, Any]) -> list[Tensor]:
    outputs = form(**given)
    score = sum((torch.sin(3 * output) * (number + 1)).sum() for number, output in enumerate(outputs))
    return [*outputs, *torch.autograd.grad(score, [*given["weights"], *given["biases"]])]  # type: ignore[list-item]


@pytest.mark.parametrize("kept", [0, 1 << 29], ids=["computed again", "kept"])
@pytest.mark.parametrize("chunk", [1, 30, 100, 10**6])
def test_chunks_change_nothing(chunk: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK_POINTS", chunk)
    monkeypatch.setattr(chunked, "KEPT_VALUES", kept)
    given = inputs()
    for found, truth in zip(outcome(chunked.render_field, given), outcome(reference.render_field, given), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-11, atol=1e-11)  # measured: 4e-14


def test_what_every_ray_shares_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK_POINTS", 10)
    given = inputs(rays=3) | {"jitter": None, "limit": 4.0, "background": torch.tensor([0.1, 0.2, 0.9]).double()}
    for found, truth in zip(chunked.render_field(**given), reference.render_field(**given), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)


def test_what_is_kept_for_the_backward_pass_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK_POINTS", 500)

    def saved(rays: int, kept: int) -> int:
        monkeypatch.setattr(chunked, "KEPT_VALUES", kept)
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        given = inputs(rays=rays, width=32)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            chunked.render_field(**given)
        return sum(sizes)

    assert saved(1000, 1 << 29) > 1000 * 2 * 5 * 32 * 2  # the hidden layers of all points
    assert saved(1000, 0) < 0.2 * saved(1000, 1 << 29)


def test_the_cpu_takes_this_form(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(chunked, "render_field", lambda *args, **kwargs: called.append(True))
    given = inputs(rays=1)
    render_field(**given)
    assert called


@pytest.mark.parametrize("rays", [0, 1])
def test_none_and_one_ray(rays: int) -> None:
    found = outcome(chunked.render_field, inputs(rays=rays))
    assert found[0].shape == (2, rays, 3)
    assert all(bool(torch.isfinite(x).all()) for x in found)
