"""What the processor can do."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def cpu_has_bf16() -> bool:
    """Return whether this CPU multiplies bf16 matrices itself (AMX or AVX512-BF16) and oneDNN is there to do it."""
    if not torch.backends.mkldnn.is_available():
        return False
    checks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(check() for check in checks if check is not None)


def cuda_has_bf16() -> bool:
    """Return whether the current GPU multiplies bf16 matrices itself."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def fast_precision(device: torch.device) -> torch.dtype:
    """Return the dtype in which the device multiplies matrices fastest at bf16's precision: bf16, or float32."""
    has_bf16 = cuda_has_bf16() if device.type == "cuda" else device.type == "cpu" and cpu_has_bf16()
    return torch.bfloat16 if has_bf16 else torch.float32


def device_name(device: torch.device) -> str:
    """Return the name of the processor, as its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
