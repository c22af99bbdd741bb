"""What is measured, on which device and how large."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from hyperkit.bench.measure import Candidate, Product, Times, take_turns
from hyperkit.bench.trained_field import FitSettings, TrainedField, checkpoint_field, trained_field
from hyperkit.kernels.hardware import fast_precision
from hyperkit.training.progress import ProgressSink


@dataclass(frozen=True)
class Sizes:
    """How large the measured work is. The defaults are those of the papers, and what two CPU cores can do in minutes.

    Attributes:
        view, samples: pixels of a rendered view, and samples per ray.
        turntable: views of one turn, over which what is built once for a field is shared out.
        depth, width, narrow: layers and width of the field; width of the narrow one.
        product: N of the matrix product that rates are compared with.
        points: points of one pass through the baseline's layers.
        recipe, overrides: the training step's configuration.
        batch, rays: objects and rays per object of a training step.
        items, steps, tto_rays: fields, steps and rays of test-time optimisation that are run; scaled to 100 steps.
        batch_items: fields that are rendered at once.
        pictures: sizes of the pictures whose memory is compared.
        fit: the trained field.
        quickstart, quickstart_psnr, quickstart_every: a recipe, the PSNR (dB) that its validation is to reach, and
            the steps between validations. The quickstart ends at 16 dB; the mean pictures have 13.
    """

    view: int = 128
    samples: int = 128
    turntable: int = 10
    depth: int = 6
    width: int = 256
    narrow: int = 64
    product: int = 4096
    points: int = 1024 * 128
    recipe: str = "paper/nvs-random"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 4
    rays: int = 128
    items: int = 8
    steps: int = 5
    tto_rays: int = 128
    batch_items: int = 8
    pictures: tuple[int, int] = (128, 1024)
    fit: FitSettings = FitSettings()
    quickstart: str = "quickstart"
    quickstart_psnr: float = 15.0
    quickstart_every: int = 200


def sizes_for(device: torch.device, debug: bool = False) -> Sizes:
    """Return the sizes for a device; ``debug`` gives those of a trial in seconds, whose figures say nothing."""
    if debug:
        small = {
            "target": {"depth": 3, "width": 16, "encoding": {"frequencies": 4, "max_log2": 3}},
            "renderer": {"samples": 8},
            "backbone": {"name": "nano"},
            "hypernet": {"groups": 4},
        }
        fit = FitSettings(16, 3, 3, 16, 4, steps=3, rays=16, samples=8, check_every=3)
        return Sizes(
            *(16, 8, 2, 3, 16, 8, 128, 256),
            "paper/nvs-random",
            small,
            *(2, 16, 2, 2, 16, 2),
            (16, 32),
            fit,
            "debug",
            1,
            2,
        )
    if device.type == "cuda":
        return Sizes(batch=32, steps=100, tto_rays=1024)
    return Sizes()


@dataclass(frozen=True)
class Bench:
    """One run of the benchmark.

    Attributes:
        device: where everything runs.
        precision: of the package's matrix products; the baseline's are float32.
        repeats: rounds of every comparison.
        sizes: how large the work is.
        checkpoint: a model whose field is rendered in place of the fitted one.
        say: is told in words what is being done.
        progress: is told of every step while the field is fitted on first use.
        isolated: give each side of a training step a process of its own.
    """

    device: torch.device
    precision: torch.dtype
    repeats: int = 5
    sizes: Sizes = Sizes()
    checkpoint: Path | None = None
    say: Callable[[str], None] = lambda text: None
    progress: ProgressSink | None = None
    isolated: bool = False

    @cached_property
    def field(self) -> TrainedField:
        """The trained field."""
        if self.checkpoint is not None:
            precision = "32" if self.precision == torch.float32 else "bf16"
            return checkpoint_field(self.checkpoint, self.device.type, precision)
        return trained_field(self.sizes.fit, self.device, self.precision, self.progress)

    @cached_property
    def product(self) -> Product:
        """The matrix product of this machine: bf16 where it multiplies that itself, else float32."""
        return Product(self.sizes.product, fast_precision(self.device), self.device)

    def compare(self, fast: Candidate, plain: Candidate, **more: Candidate) -> Times:
        """Time the package ("fast"), the baseline ("plain"), the matrix product ("product"), and more, in turn."""
        together = {"fast": fast, "plain": plain, "product": self.product.candidate(), **more}
        return take_turns(together, self.repeats, self.device)
