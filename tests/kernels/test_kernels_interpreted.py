"""The GPU renderer in Triton's interpreter; collected only where ``TRITON_INTERPRET`` is 1 before Triton is imported.

bfloat16 is left out: the interpreter computes it wrongly.
"""

from __future__ import annotations

import sys

import pytest
import torch

from hyperkit.kernels.render_field import FieldShape, reference

LOADED = "triton" in sys.modules

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from hyperkit.kernels.render_field import triton as fused  # noqa: E402
from hyperkit.kernels.render_field.triton_forward import cos_sin, log_one_plus, one_minus_exp  # noqa: E402


@pytest.fixture(autouse=True)
def _memory_starts_as_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does not write must not matter."""
    monkeypatch.setattr(fused, "empty", lambda *a, **k: torch.empty(*a, **k).fill_(float("nan")))


def test_the_package_does_without_triton() -> None:
    assert not LOADED  # it is not there on every platform


@triton.jit
def _functions(x, out, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)
    value = tl.load(x + at)
    cos, sin = cos_sin(value)
    tl.store(out + at, cos)
    tl.store(out + COUNT + at, sin)
    tl.store(out + 2 * COUNT + at, one_minus_exp(tl.abs(value)))
    tl.store(out + 3 * COUNT + at, log_one_plus(tl.abs(value)))


@pytest.mark.parametrize("reach", [1e-4, 0.3, 1.0, 40.0, 5000.0])
def test_functions_are_as_good_as_float32(reach: float) -> None:
    x = reach * (2 * torch.rand(1 << 12, generator=torch.Generator().manual_seed(0)) - 1)
    found = torch.empty(4, len(x))
    _functions[(1,)](x, found, COUNT=len(x))
    cos, sin, opacity, log = found.double()
    exact = x.double()
    # measured: 9e-8 and 9e-8; relative 2.9e-7 and 2.5e-7
    torch.testing.assert_close(cos, exact.cos(), rtol=0, atol=1.2e-7)
    torch.testing.assert_close(sin, exact.sin(), rtol=0, atol=1.2e-7)
    torch.testing.assert_close(opacity, -torch.expm1(-exact.abs()), rtol=3.5e-7, atol=0)
    if reach <= 1:
        torch.testing.assert_close(log, torch.log1p(exact.abs()), rtol=3e-7, atol=0)


CASES = {
    "plain": {},
    "relu": {"density": "relu", "sampling": "bins", "layers": 2, "jitter": False, "background": 0.0},
    "odd": {"width": 40, "layers": 4, "samples": 17, "rays": 3, "shared": (True, True), "include_input": False},
    "own": {"shared": (False, False), "sampling": "bins", "items": 3, "rays": 2, "samples": 33},
    "mixed": {"shared": (True, False), "jitter": False, "samples": 16},
    "one": {"items": 1, "rays": 1, "samples": 1},
}


@pytest.mark.parametrize("precision", [torch.float16, torch.float32], ids=["float16", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str, precision: torch.dtype, make_case, worst_ratio) -> None:
    case = make_case(**CASES[name])
    found = case.run(fused.render_field, torch.float32, precision)
    plain = case.run(reference.render_field, torch.float32, precision)
    truth = case.run(reference.render_field, torch.float64, torch.float64)
    ratio = worst_ratio(found, plain, truth)
    assert ratio <= 2  # measured: 1.80 in float32, 1.51 in float16


@pytest.mark.parametrize("width", [100, 200])
def test_wide_layers(width: int, make_case, worst_ratio) -> None:
    case = make_case(width=width, items=1, rays=2, samples=128, layers=3)
    found = case.run(fused.render_field, torch.float32, torch.float16)
    plain = case.run(reference.render_field, torch.float32, torch.float16)
    truth = case.run(reference.render_field, torch.float64, torch.float64)
    ratio = worst_ratio(found, plain, truth)
    assert ratio <= 2  # measured: 1.13


@pytest.mark.parametrize("empty", ["items", "rays", "samples"])
def test_nothing_to_render(empty: str, make_case) -> None:
    case = make_case(**{empty: 0})
    found = case.run(fused.render_field, torch.float32, torch.float16)
    truth = case.run(reference.render_field, torch.float64, torch.float64)
    for ours, true in zip(found, truth, strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=0, atol=0)


def test_the_backward_pass_goes_through_the_rays_in_parts(make_case, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(rays=12, samples=5)
    whole = case.run(fused.render_field, torch.float32, torch.float16)
    rows: list[int] = []
    monkeypatch.setattr(fused._Scratch, "gradients", _counting(fused._Scratch.gradients, rows))
    monkeypatch.setattr(fused, "CHUNK_POINTS", 2 * 16 * 8)
    parts = case.run(fused.render_field, torch.float32, torch.float16)
    assert rows == [2 * 16 * 8] * 2  # 12 rays by 8, the samples of each padded to 16
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def _counting(gradients, rows: list[int]):
    def count(self, *arguments):
        rows.append(len(self.raw))
        return gradients(self, *arguments)

    return count


def test_not_a_number_is_not_hidden(make_case) -> None:
    case = make_case()
    case.weights[1][1, 0, 0] = float("nan")
    rgb, _, opacity = (
        fused.render_field(case.weights, case.biases, *case.rays, case.shape, 9, "endpoints", None, precision=kind)[i]
        for i, kind in ((0, torch.float32), (1, torch.float32), (2, torch.float16))
    )
    assert torch.isfinite(rgb[0]).all()
    assert torch.isnan(rgb[1, 0]).all()
    assert torch.isnan(opacity[1, 0])


def test_rays_are_not_differentiated(make_case) -> None:
    case = make_case()
    rays = [x.requires_grad_() for x in case.rays]
    rgb, _, _ = fused.render_field(case.weights, case.biases, *rays, case.shape, 9, "endpoints", None)
    assert not rgb.requires_grad


def test_what_does_not_fit_is_refused(make_case) -> None:
    case = make_case(width=257, samples=1, rays=1, items=1)
    with pytest.raises(ValueError, match="at most 256"):
        case.run(fused.render_field, torch.float32, torch.float32)
    cpu = torch.device("cpu")
    fits = make_case()
    assert fused.supports(fits.weights, fits.shape, torch.bfloat16, cpu)
    assert not fused.supports(fits.weights, fits.shape, torch.float64, cpu)
    assert not fused.supports(fits.weights[:1], fits.shape, torch.float32, cpu)
    assert not fused.supports(fits.weights, FieldShape((1.0,) * 43), torch.float32, cpu)
