"""Memory of the CPU, kept between the steps of a training."""

from __future__ import annotations

import ctypes
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # names of glibc's malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the process keep memory that is freed for its next allocations, and return whether that could be said.

    glibc gives large blocks back to the system when they are freed, and a training step allocates the same ones again,
    which the system then has to clear page by page: a sixth of a step of ViT-B with 4 items. Other C libraries are
    left as they are.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(name, _LARGEST) for name in (_MMAP_THRESHOLD, _TRIM_THRESHOLD)])
