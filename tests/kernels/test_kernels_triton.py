"""The GPU renderer: interpreted in a process of its own, compiled without a GPU, and on one where there is one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hyperkit.kernels.render_field import reference

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_interpreted() -> None:
    """Values and gradients against float64, kernel by kernel on the CPU; the tests themselves are in that file."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_kernels_interpreted.py"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("samples", [0, 1, 15, 16, 17, 64, 96, 100, 128, 129, 1000])
def test_tiles_cover_the_samples_with_little_waste(samples: int, precision: torch.dtype) -> None:
    from hyperkit.kernels.render_field.triton import plan_for

    plan = plan_for(200, 63, samples, precision)
    assert plan.width == 256
    assert plan.half == 64
    assert plan.rays * plan.samples == (128 if precision == torch.bfloat16 else 16)
    padded = -(-samples // plan.samples) * plan.samples
    assert samples <= padded <= max(16, 1.15 * (-(-samples // 16) * 16))


WHOLE = pytest.mark.skipif(
    not os.environ.get("HYPERKIT_COMPILE_KERNELS"), reason="takes a minute; set HYPERKIT_COMPILE_KERNELS=1"
)
KERNELS = ["render_forward", "render_recompute", "composite_backward", "sweep_backward"]


@pytest.mark.parametrize(
    ("width", "kernel"),
    [
        pytest.param(
            width, kernel, marks=() if (width, kernel) == (64, "sweep_backward") else (WHOLE, pytest.mark.slow)
        )
        for width in (32, 64, 128, 256)
        for kernel in KERNELS
    ],
)
def test_it_compiles_for_hopper(
    width: int, kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled = compile_kernel(kernel, width)
    usage = resources(compiled.asm["cubin"], tmp_path)
    with capsys.disabled():
        print(f"\n{kernel} {width}: {usage}, {compiled.metadata.shared} bytes of shared memory")
    assert compiled.metadata.shared <= 227 * 1024
    assert usage["STACK"] == 0  # nothing is spilt
    assert kernel == "composite_backward" or "wgmma" in compiled.asm["ptx"]


def compile_kernel(name: str, width: int):
    """Compile a kernel as it is launched for 128 samples per ray in bf16, on a machine without a GPU too."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hyperkit.kernels.render_field import triton as fused

    kernel = getattr(fused, name)
    plan = fused.plan_for(width, 63, 128, torch.bfloat16)
    flags = {"BINS": False, "JITTER": True, "SOFTPLUS": True}
    sizes = fused.sizes_of(kernel, plan, torch.bfloat16, True) | flags
    if name == "composite_backward":
        sizes |= {"RAYS": 4, "SAMPLES": 64}
    low = ("w_in", "w_hidden", "w_out", "encoded", "inputs", "grads", "grad_raw")
    whole = ("rays", "samples", "hidden", "blocks", "weight_items", "bias_items", "plane", "first_ray", "chunk",
             "padded", "total")  # fmt: skip
    types = {}
    for argument in kernel.arg_names:
        if argument in sizes:
            types[argument] = "constexpr"
        elif argument in whole:
            types[argument] = "i32"
        elif argument in ("scale", "shift"):
            types[argument] = "fp32"
        else:
            types[argument] = "*bf16" if argument in low else "*fp32"
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(types.values()) if kind.startswith("*")}
    constants = {argument: value for argument, value in sizes.items() if argument in kernel.arg_names}
    options = {"num_warps": 8}
    if name == "render_forward" and plan.registers:
        options["maxnreg"] = plan.registers
    return triton.compile(
        ASTSource(kernel, types, constants, aligned), target=GPUTarget("cuda", 90, 32), options=options
    )


def resources(cubin: bytes, folder: Path) -> dict[str, int]:
    """Return what a compiled kernel takes: registers of a thread, bytes of its stack."""
    import triton

    (folder / "kernel.cubin").write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [str(tool), "-res-usage", str(folder / "kernel.cubin")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(text.split(f"{name}:")[1].split()[0]) for name in ("REG", "STACK")}


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("width", [32, 64, 100, 128, 256])
@pytest.mark.parametrize("samples", [1, 13, 128])
def test_values_and_gradients_on_a_gpu(
    width: int, samples: int, precision: torch.dtype, make_case, worst_ratio
) -> None:
    from hyperkit.kernels.render_field import triton as fused

    case = make_case(width=width, layers=6 if width == 256 else 3, rays=41, samples=samples, device="cuda")
    found = case.run(fused.render_field, torch.float32, precision)
    again = case.run(fused.render_field, torch.float32, precision)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    plain = case.run(reference.render_field, torch.float32, precision)
    truth = case.run(reference.render_field, torch.float64, torch.float64)
    assert worst_ratio(found, plain, truth) <= 2


@pytest.mark.gpu
@on_a_gpu
def test_memory_does_not_grow_with_the_rays(make_case, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperkit.kernels.render_field import triton as fused

    monkeypatch.setattr(fused, "CHUNK_POINTS", 1 << 14)
    peaks = []
    for rays in (256, 256, 2048):  # the first one compiles
        case = make_case(width=64, rays=rays, samples=128, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        case.run(fused.render_field, torch.float32, torch.bfloat16)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[2] - peaks[1] < 64 * 2 * (2048 - 256) * 4  # some numbers for each ray, nothing for each sample
