"""Evaluation in pieces, so that memory does not grow with the number of points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TypeVar

import torch

from hyperkit.contracts import Rendered, Signal

T = TypeVar("T", Rendered, Signal)


def in_chunks(evaluate: Callable[[slice], T], count: int, size: int) -> T:
    """Evaluate ``count`` rays or points ``size`` at a time and join the results.

    With gradients enabled everything is evaluated at once: what the backward pass keeps would not get smaller.

    Args:
        evaluate: gives the part ``slice`` of axis 1. It must not depend on what else is in the part.
    """
    if torch.is_grad_enabled() or count <= size:
        return evaluate(slice(None))
    parts = [evaluate(slice(start, start + size)) for start in range(0, count, size)]
    first = parts[0]
    names = [f.name for f in fields(first) if getattr(first, f.name) is not None]
    return type(first)(**{name: torch.cat([getattr(part, name) for part in parts], dim=1) for name in names})
