"""Fields and rays on which the forms of ``render_field`` are compared.

Triton decides when it is imported whether it compiles or interprets, so the interpreted tests get a process of their
own: ``test_kernels_triton.py`` starts it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from hyperkit.kernels.render_field import FieldShape

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_kernels_interpreted.py"]


@dataclass
class Case:
    """One call of ``render_field``, and the gradients that come back to its three results."""

    weights: list[Tensor]
    biases: list[Tensor]
    rays: list[Tensor]  # origins, directions, near, far
    shape: FieldShape
    samples: int
    sampling: str
    jitter: Tensor | None
    background: float
    grads: list[Tensor]

    def run(self, render: Callable, kind: torch.dtype, precision: torch.dtype) -> list[Tensor]:
        """Results and gradients of all weights and biases, everything in ``kind`` but the products."""
        leaves = [x.to(kind).clone().requires_grad_() for x in (*self.weights, *self.biases)]
        jitter = None if self.jitter is None else self.jitter.to(kind)
        results = render(
            leaves[: len(self.weights)],
            leaves[len(self.weights) :],
            *(x.to(kind) for x in self.rays),
            self.shape,
            self.samples,
            self.sampling,
            jitter,
            6.0,
            self.background,
            precision,
        )
        grads = torch.autograd.grad(results, leaves, [g.to(kind) for g in self.grads])
        assert all(grad.dtype == kind for grad in grads)
        return [*(result.detach() for result in results), *grads]


def _make(
    items: int = 2,
    rays: int = 6,
    samples: int = 9,
    width: int = 32,
    layers: int = 3,
    sampling: str = "endpoints",
    density: str = "softplus",
    include_input: bool = True,
    jitter: bool = True,
    shared: tuple[bool, bool] = (False, True),
    background: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
) -> Case:
    """Hidden units are on or off by a wide margin: one that rounding switches makes more error than all other rounding.

    ``shared``: whether the items share the weights, and the biases. The last ray misses the scene.
    """
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    shape = FieldShape((1.0, 2.5, 7.0, 31.0), include_input, density, 0.5, 1.0)
    sizes = list(itertools.pairwise([27 if include_input else 24, *[width] * (layers - 1), 4]))
    scales = [*[0.25] * (layers - 1), 1.5]
    weights = [s * normal(1 if shared[0] else items, i, o) / i**0.5 for s, (i, o) in zip(scales, sizes, strict=True)]
    margins = [*[2.0] * (layers - 1), 0.0]
    biases = [m * normal(1 if shared[1] else items, 1, o).sign() for m, (_, o) in zip(margins, sizes, strict=True)]
    origins = 0.1 * normal(3, rays, items).permute(2, 1, 0) + torch.tensor([0.0, 0.0, 4.0])  # not contiguous
    directions = 0.2 * normal(items, rays, 3) - torch.tensor([0.0, 0.0, 1.0])
    near = 2 + torch.rand(items, rays, generator=rng)
    far = 6 - torch.rand(items, rays, generator=rng)
    if rays > 1:
        near[:, -1] = far[:, -1]
    moved = torch.rand(items, rays, samples, generator=rng) if jitter else None
    case = Case(
        weights,
        biases,
        [origins, directions, near, far],
        shape,
        samples,
        sampling,
        moved,
        background,
        [normal(items, rays, 3), normal(items, rays), normal(items, rays)],
    )
    for name in ("weights", "biases", "rays", "grads"):
        setattr(case, name, [x.to(device) for x in getattr(case, name)])
    case.jitter = None if moved is None else moved.to(device)
    return case


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """Make a ``Case``."""
    return _make


@pytest.fixture
def worst_ratio() -> Callable[[list[Tensor], list[Tensor], list[Tensor]], float]:
    """Compare errors."""

    def ratio(found: list[Tensor], plain: list[Tensor], truth: list[Tensor]) -> float:
        """Largest error of a result or gradient over that of plain PyTorch, both against float64, by root mean square.

        Errors of 1e-7 of the truth count as none. With half a dozen points in float32 they are chance.
        """
        worst = 0.0
        for ours, theirs, true in zip(found, plain, truth, strict=True):
            assert ours.shape == true.shape
            assert torch.isfinite(ours).all()
            floor = 1e-7 * true.norm()
            worst = max(worst, ((ours.double() - true).norm() / ((theirs.double() - true).norm() + floor)).item())
        return worst

    return ratio
