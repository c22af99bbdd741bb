"""Where and with what a run was made: the content of ``env.json``."""

from __future__ import annotations

import os
import platform
import shlex
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

_PACKAGES = ("hyperkit", "torch", "timm", "open_clip_torch", "peft", "lightning-fabric", "torchmetrics", "numpy")


def describe_environment() -> dict[str, Any]:
    """Return versions, machine, device, threads, git revision of the working folder, and the command."""
    return {
        "command": command_line(),
        "working_folder": os.getcwd(),
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "device": _device_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def command_line() -> str:
    """Return the command that started this process, as one would type it."""
    return shlex.join([os.path.basename(sys.argv[0]) or "python", *sys.argv[1:]])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device_name() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"cpu ({torch.backends.cpu.get_cpu_capability()})"


def _git_revision() -> str | None:
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
