import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperkit.kernels.render_field import FieldShape, chunked, cpu_layers, reference

BF16 = torch.bfloat16


def plain(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = reference.linear(torch.relu(x) if index else x, weight, bias)
    return x


def network(
    depth: int, shared: tuple[bool, bool], items: int = 3, width: int = 40
) -> tuple[list[Tensor], list[Tensor]]:
    """Hidden units are on or off by a wide margin: one that rounding switches is more error than all other rounding."""
    rng = torch.Generator().manual_seed(depth)
    weights, biases = [], []
    for layer, (i, o) in enumerate(itertools.pairwise([27, *[width] * (depth - 1), 4])):
        last = layer == depth - 1
        weights.append((1.5 if last else 0.25) * torch.randn(1 if shared[0] else items, i, o, generator=rng) / i**0.5)
        signs = torch.randn(1 if shared[1] else items, 1, o, generator=rng)
        biases.append(signs if last else 2 * signs.sign())
    return weights, biases


def outcome(form: Callable[..., Tensor], kind: torch.dtype, x: Tensor, *tensors: list[Tensor]) -> list[Tensor]:
    """Values and the gradients of x and every weight and bias, for a fixed gradient of the result."""
    x, *leaves = (tensor.detach().to(kind).requires_grad_() for tensor in (x, *tensors[0], *tensors[1]))
    x = x.to(BF16) if kind == torch.float32 else x
    result = form(x, leaves[: len(tensors[0])], leaves[len(tensors[0]) :])
    back = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(result, [x, *leaves], back.to(result.dtype))
    assert all(grad.dtype == leaf.dtype for grad, leaf in zip(grads, [x, *leaves], strict=True))
    return [result.detach(), *grads]


@contextmanager
def memory_of_nan() -> Iterator[None]:
    """Memory that nothing was written to holds NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("shared", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("count", [1, 33, 256])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6])
def test_errors_are_those_of_plain_bf16(depth: int, count: int, shared: tuple[bool, bool], worst_ratio: Any) -> None:
    tensors = network(depth, shared)
    x = torch.randn(3, count, 27, generator=torch.Generator().manual_seed(count)).to(BF16)
    with memory_of_nan():
        found = outcome(cpu_layers.layers, torch.float32, x, *tensors)
    usual, truth = (outcome(plain, kind, x, *tensors) for kind in (torch.float32, torch.float64))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found)
    assert worst_ratio(found, usual, truth) < 2  # measured: 1.15


@pytest.mark.parametrize("shared", [(False, False), (True, True)])
def test_no_points_have_no_gradient(shared: tuple[bool, bool]) -> None:
    found, x, *grads = outcome(cpu_layers.layers, torch.float32, torch.zeros(3, 0, 27), *network(3, shared))
    assert found.shape == (3, 0, 4)
    assert x.shape == (3, 0, 27)
    assert all(bool((grad == 0).all()) for grad in grads)


def test_items_may_share_their_points() -> None:
    weights, biases = network(3, (False, True))
    x = torch.randn(1, 50, 27, generator=torch.Generator().manual_seed(0)).to(BF16)
    alone = outcome(cpu_layers.layers, torch.float32, x.expand(3, -1, -1), weights, biases)
    together = outcome(cpu_layers.layers, torch.float32, x, weights, biases)
    alone[1] = alone[1].sum(0, keepdim=True)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_only_what_is_asked_for_is_differentiated() -> None:
    weights, biases = network(3, (False, True))
    weights[1].requires_grad_()
    biases[2].requires_grad_()
    x = torch.randn(3, 9, 27).to(BF16)
    cpu_layers.layers(x, weights, biases).float().square().sum().backward()
    full = [tensor.detach().clone().requires_grad_() for tensor in (*weights, *biases)]
    cpu_layers.layers(x, full[:3], full[3:]).float().square().sum().backward()
    for part, whole in zip((*weights, *biases), full, strict=True):
        assert (part.grad is not None) == part.requires_grad
        if part.grad is not None:
            torch.testing.assert_close(part.grad, whole.grad, rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1, 2, 3, 4, 5])
def test_what_is_not_finite_shows_in_its_item_alone(place: int, value: float) -> None:
    weights, biases = network(3, (False, False))
    tensor = (*weights, *biases)[place]
    tensor[1, 0, 0] = value
    found = cpu_layers.layers(torch.ones(3, 9, 27, dtype=BF16), weights, biases)
    assert not bool(torch.isfinite(found[1]).all())
    assert bool(torch.isfinite(found[[0, 2]]).all())


def test_there_is_no_second_derivative() -> None:
    weights, biases = network(2, (False, True))
    weights[0].requires_grad_()
    score = cpu_layers.layers(torch.ones(3, 5, 27, dtype=BF16), weights, biases).float().square().sum()
    (grad,) = torch.autograd.grad(score, weights[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("include_input", [False, True])
def test_the_encoding_is_the_reference_rounded(include_input: bool) -> None:
    shape = FieldShape((1.0, 3.0, 40.0), include_input)
    bands = torch.tensor(shape.bands)
    for count in (0, 1, 7, 300):
        points = 2 * torch.rand(2, count, 3, generator=torch.Generator().manual_seed(count)) - 1
        truth = reference.encode(points, bands, include_input)
        with memory_of_nan():
            found = cpu_layers.encode(points.mT.contiguous().mT, shape)
        torch.testing.assert_close(found, truth.to(BF16), rtol=0, atol=0)
        asked = cpu_layers.encode(points.requires_grad_(), shape)
        torch.testing.assert_close(asked, found, rtol=0, atol=0)
        assert asked.requires_grad


@pytest.fixture
def bf16_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layers, "cpu_has_bf16", lambda: True)


@pytest.mark.usefixtures("bf16_hardware")
@pytest.mark.parametrize("chunk", [60, 10**6])
@pytest.mark.parametrize("kept", [0, 1 << 29], ids=["computed again", "kept"])
@pytest.mark.parametrize("shared", [(False, True), (True, False)])
@pytest.mark.parametrize(("density", "rays", "samples"), [("softplus", 41, 16), ("relu", 6, 9), ("softplus", 1, 1)])
def test_rendering_errs_as_the_reference_in_bf16(
    make_case: Callable,
    worst_ratio: Any,
    shared: tuple[bool, bool],
    density: str,
    rays: int,
    samples: int,
    chunk: int,
    kept: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_POINTS", chunk)
    monkeypatch.setattr(chunked, "KEPT_VALUES", kept)
    case = make_case(items=3, rays=rays, samples=samples, layers=4, shared=shared, density=density)
    truth = case.run(reference.render_field, torch.float64, torch.float64)
    usual = case.run(reference.render_field, torch.float32, BF16)
    with memory_of_nan(), torch.autocast("cpu", BF16):
        found = case.run(chunked.render_field, torch.float32, BF16)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found)
    assert worst_ratio(found, usual, truth) < 2  # measured: 1.6 where 41 parts are added up, 1.004 in one


@pytest.mark.usefixtures("bf16_hardware")
def test_rays_may_have_gradients(make_case: Callable) -> None:
    case = make_case(rays=5, samples=7)
    grads = []
    for form in (chunked.render_field, reference.render_field):
        rays = [tensor.clone().requires_grad_() for tensor in case.rays]
        shown = form(case.weights, case.biases, *rays, case.shape, 7, case.sampling, case.jitter, precision=BF16)
        grads.append(torch.autograd.grad(shown, rays, case.grads))
    for one, other in zip(*grads, strict=True):
        assert (one - other).norm() < 0.01 * other.norm()  # measured: 0


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_other_precisions_are_computed_as_before(
    kind: torch.dtype, make_case: Callable, monkeypatch: pytest.MonkeyPatch, bf16_hardware: None
) -> None:
    monkeypatch.setattr(cpu_layers, "render_field", None)
    case = make_case()
    for one, other in zip(*(case.run(form.render_field, kind, kind) for form in (chunked, reference)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_processors_without_bf16_and_compiled_code_take_the_reference(
    make_case: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_layers, "render_field", None)
    case = make_case()
    truth = case.run(reference.render_field, torch.float32, BF16)
    for name, value in (("cpu_has_bf16", False), ("compiling", True)):
        with monkeypatch.context() as patch:
            patch.setattr(cpu_layers, "cpu_has_bf16", lambda: True)
            target = torch.compiler if name == "compiling" else cpu_layers
            patch.setattr(target, "is_compiling" if name == "compiling" else name, lambda value=value: value)
            for one, other in zip(case.run(chunked.render_field, torch.float32, BF16), truth, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0)
    half = [weight.half() for weight in case.weights]
    assert not cpu_layers.supports(half, BF16, torch.device("cpu"))
    assert not cpu_layers.supports(case.weights, BF16, torch.device("cuda"))
