"""The definition of ``render_field`` in closed form and by finite differences, and the choice among its forms."""

from __future__ import annotations

import importlib
import logging
import math

import pytest
import torch

from hyperkit.kernels import render_field as package
from hyperkit.kernels.render_field import FieldShape, chunked, reference, render_field


@pytest.mark.parametrize("sampling", ["endpoints", "bins"])
@pytest.mark.parametrize("density", ["relu", "softplus"])
def test_a_field_without_weights_is_a_uniform_slab(sampling: str, density: str) -> None:
    shape = FieldShape((1.0, 2.0), True, density, 3.0, 0.25)
    sizes = [(15, 8), (8, 4)]
    weights = [torch.zeros(2, i, o, dtype=torch.float64) for i, o in sizes]
    raw = torch.tensor([[[-1.0, 0.0, 2.0, 0.5]], [[0.3, 0.0, 0.0, -0.5]]], dtype=torch.float64)
    biases = [torch.zeros(1, 1, 8, dtype=torch.float64), raw]
    origins = torch.randn(2, 3, 3, dtype=torch.float64)
    near = torch.tensor([[2.0, 2.5, 4.0]] * 2, dtype=torch.float64)
    far = torch.tensor([[6.0, 3.0, 4.0]] * 2, dtype=torch.float64)  # the last ray has no length
    rgb, depth, opacity = render_field(
        weights, biases, origins, origins, near, far, shape, 4096, sampling, limit=6.0, background=0.5
    )
    shifted = raw[:, 0, 3:] + 0.25
    sigma = 3 * (shifted.clamp_min(0) if density == "relu" else shifted.exp().log1p())
    length = far - near + (1e-3 * (far > near).double() if sampling == "endpoints" else 0)
    left = torch.exp(-sigma * length)
    torch.testing.assert_close(opacity, 1 - left, rtol=0, atol=1e-12)
    torch.testing.assert_close(rgb, raw[..., :3].sigmoid() * (1 - left)[..., None] + 0.5 * left[..., None])
    # int sigma t exp(-sigma (t - near)) dt = near + 1 / sigma - left (far + 1 / sigma); here by 4096 samples
    ends = near + 1 / sigma.clamp_min(1e-9) - left * (far + 1 / sigma.clamp_min(1e-9))
    want = torch.where(sigma > 0, ends, 0.0) + left * 6
    torch.testing.assert_close(depth, want, rtol=0, atol=5e-3)  # measured: 3.0e-3, with endpoints


def test_gradients_by_finite_differences(make_case) -> None:
    case = make_case(items=2, rays=3, samples=4, width=5, layers=3)
    leaves = [x.double().requires_grad_() for x in (*case.weights, *case.biases)]

    def call(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rays = [x.double() for x in case.rays]
        jitter = case.jitter.double()
        return reference.render_field(leaves[:3], leaves[3:], *rays, case.shape, 4, "endpoints", jitter)

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)


def test_an_encoded_point_by_hand() -> None:
    x = torch.tensor([[0.5, -2.0, 3.0]], dtype=torch.float64)
    found = reference.encode(x, torch.tensor([1.0, 4.0]), True)
    angles = [0.5, 2.0, -2.0, -8.0, 3.0, 12.0]
    want = [0.5, -2.0, 3.0, *map(math.cos, angles), *map(math.sin, angles)]
    torch.testing.assert_close(found, torch.tensor([want], dtype=torch.float64))


def test_without_triton_a_gpu_gets_plain_pytorch_and_a_line_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, make_case
) -> None:
    case = make_case()

    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'triton'", name="triton")

    monkeypatch.setattr(importlib, "import_module", missing)
    monkeypatch.setattr(package, "_FUSED", [])
    with caplog.at_level(logging.INFO, logger="hyperkit"):
        for _ in range(2):
            form = package.form_for(case.weights, case.shape, torch.bfloat16, torch.device("cuda"))
            assert form is chunked
    assert len(caplog.messages) == 1
    assert "No module named 'triton'" in caplog.messages[0]


def test_a_gpu_gets_the_kernels_for_what_they_support(monkeypatch: pytest.MonkeyPatch, make_case) -> None:
    fused = pytest.importorskip("hyperkit.kernels.render_field.triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    case, wide, gpu = make_case(), make_case(width=257), torch.device("cuda")
    assert package.form_for(case.weights, case.shape, torch.bfloat16, gpu) is fused
    assert package.form_for(case.weights, case.shape, torch.float64, gpu) is chunked
    assert package.form_for(wide.weights, wide.shape, torch.bfloat16, gpu) is chunked
    assert package.form_for(case.weights, case.shape, torch.bfloat16, torch.device("cpu")) is chunked
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert package.form_for(case.weights, case.shape, torch.float16, gpu) is chunked


def test_a_machine_without_a_gpu_is_told_once_what_renders(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "_SAID", [])
    shape = FieldShape((1.0,), False, "relu", 1.0, 0.0)
    with caplog.at_level("INFO", logger="hyperkit"):
        for _ in range(3):
            package.form_for([torch.rand(1, 6, 8)], shape, torch.float32, torch.device("cpu"))
    assert [record.message for record in caplog.records if "needs a GPU" in record.message] == [
        "Fields are rendered by plain PyTorch, part by part: the fused renderer needs a GPU."
    ]
