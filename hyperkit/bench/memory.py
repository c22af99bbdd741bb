"""Peak memory of rendering one picture, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperkit.bench.plain import RAYS_AT_ONCE, PlainField, PlainSettings, plain_view
from hyperkit.errors import RunFailed
from hyperkit.models.field import Field

PLAIN_PARTS = 4
"""Parts of 1,024 rays that the baseline renders: what all of them would take in time, four take in memory."""


def peak_memory(field: Field, pose: Tensor, size: int, samples: int, device: torch.device, plain: bool) -> float:
    """Return the peak memory, MB, of a new process that renders one picture.

    On a CPU it is the process's largest resident set, libraries included; on CUDA the most that torch held.

    Args:
        field: what is rendered.
        pose: (4, 4), from where.
        size, samples: pixels, and samples per ray.
        device: where.
        plain: by the baseline, its first parts alone.

    Raises:
        RunFailed: the process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "field.safetensors"
        field.save(path)
        job = {
            "field": str(path),
            "pose": pose.tolist(),
            "size": size,
            "samples": samples,
            "device": device.type,
            "plain": plain,
            "bf16": field.precision == torch.bfloat16,
            "threads": torch.get_num_threads(),
        }
        done = subprocess.run([sys.executable, "-m", __name__, json.dumps(job)], capture_output=True, text=True)
    if done.returncode:
        raise RunFailed(f"The process that measures memory failed: {done.stderr.strip()[-2000:]}")
    return float(done.stdout)


def render_once(job: dict[str, Any]) -> float:
    """Render one picture and return this process's peak memory, MB."""
    torch.set_num_threads(job["threads"])
    device = torch.device(job["device"])
    field = Field.load(job["field"])
    precision = torch.bfloat16 if job["bf16"] else torch.float32
    field = replace(field, params=field.params.map(lambda t: t.to(device)), precision=precision)
    pose, size = torch.tensor(job["pose"]), job["size"]
    if job["plain"]:
        framing, renderer = field.framing, field.renderer.model_copy(update={"samples": job["samples"]})
        settings = PlainSettings.of(field.target, renderer, framing.near, framing.far, device)
        focal = float(framing.cameras(pose[None], size).focal[0])
        plain_view(PlainField.of(field.params), pose.to(device), focal, size, settings, PLAIN_PARTS * RAYS_AT_ONCE)
    else:
        field.render(poses=pose[None], size=size, samples=job["samples"], quality="fast")
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else resident_peak()


def resident_peak() -> float:
    """Return the largest resident set that this process has had, MB.

    Linux's ``getrusage`` counts what the process was before it became this program, so its status file is read.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        found = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(found.split()[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes where there is no such file (macOS)


if __name__ == "__main__":
    print(render_once(json.loads(sys.argv[1])))
