"""What ``render`` writes, one presenter per task: which inputs and options it takes, and which files come out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from hyperkit.contracts import Cameras
from hyperkit.errors import HyperkitError
from hyperkit.models import Predictor
from hyperkit.models.field import Quality
from hyperkit.registry import Registry
from hyperkit.tasks.inr import INRTask
from hyperkit.workflows.load import Loaded

PRESENTERS = Registry(
    "presenter",
    {
        "nvs": "hyperkit.workflows.present_views:ViewsPresenter",
        "segment": "hyperkit.workflows.present_parts:PartsPresenter",
        "image": "hyperkit.workflows.present_picture:PicturePresenter",
        "audio": "hyperkit.workflows.present_sound:SoundPresenter",
        "distill": "hyperkit.workflows.present_prompt:PromptPresenter",
    },
)


@dataclass(frozen=True)
class RenderOptions:
    """How results are rendered and written. None: the default; an option that a task does not know is refused.

    Attributes:
        views: radiance fields: views of one turn, 50.
        size: radiance fields: side of the pictures in pixels; as in training.
        elevation: radiance fields: of the cameras, degrees above the ground plane, 30.
        background: radiance fields: "white" or "black"; as in training.
        samples: radiance fields: samples per ray; as in training.
        quality: radiance fields: "fast" or "exact": every sample, in float32; see ``models.Field.render``.
        fps: radiance fields: frames per second of GIF and MP4, 20.
        frames: radiance fields: write single pictures and depth maps too, True.
        mesh: radiance fields: write the surface here (.glb, .obj, .ply, .stl).
        mesh_threshold: radiance fields: density of the surface.
        mesh_resolution: radiance fields: grid points per axis, 128.
        scale: pictures: pixels per pixel of the input, 4.
        rate: sounds: samples per second; as in training.
    """

    views: int | None = None
    size: int | None = None
    elevation: float | None = None
    background: str | None = None
    samples: int | None = None
    quality: Quality | None = None
    fps: int | None = None
    frames: bool | None = None
    mesh: Path | None = None
    mesh_threshold: float | None = None
    mesh_resolution: int | None = None
    scale: float | None = None
    rate: int | None = None


@dataclass(frozen=True)
class Given:
    """One input.

    Attributes:
        context: pictures (1, V, 3, H, W) in [0, 1], a waveform (1, T), or the tokens (1, T, D) of a sentence.
        name: what it is called, for people and for the folder.
        cameras: of the pictures, (1, V), where known.
        sentence: in words, where it is one.
    """

    context: Tensor
    name: str
    cameras: Cameras | None = None
    sentence: str = ""


class Presenter(ABC):
    """Inputs and outputs of ``render`` for one task."""

    options: ClassVar[frozenset[str]]
    """Fields of ``RenderOptions`` that it knows."""
    file_option: ClassVar[str]
    """The option that takes an input of the user's own: "--image", "--audio" or "--prompt"."""
    takes_tto: ClassVar[bool] = True
    """Whether there is test-time optimisation: not where the input shows nothing to compare with."""
    tto_needs_cameras: ClassVar[bool] = False
    """Whether test-time optimisation needs to know where the input was seen from."""

    def check(self, task: str, options: RenderOptions) -> None:
        """Refuse options that mean nothing for the task."""
        for field in fields(options):
            if getattr(options, field.name) is not None and field.name not in self.options:
                known = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(self.options - {"frames"}))
                raise HyperkitError(
                    f"--{field.name.replace('_', '-')} means nothing for the task {task!r}.", f"Its own are: {known}."
                )

    def given(
        self, loaded: Loaded, file: Path | None, object_id: str | None, sample: int, context_views: int | None
    ) -> Given:
        """Return the input that was asked for: a file, an item of the data set, or one that the checkpoint carries."""
        if context_views is not None and object_id is None:
            raise HyperkitError("--context-views needs an object of the data set.", "Give --object ID.")
        if file is not None:
            return self.from_file(loaded.predictor, file)
        if object_id is not None:
            return self.from_data(loaded.task, object_id, context_views)
        return self.carried(loaded.predictor, sample)

    def carried(self, predictor: Predictor, index: int) -> Given:
        """Return input ``index`` of those that the checkpoint carries."""
        ids = predictor.samples.get("ids", ())
        if not 0 <= index < len(ids):
            listed = ", ".join(f"{i} ({name})" for i, name in enumerate(ids))
            raise HyperkitError(
                f"The checkpoint carries {len(ids)} inputs, and --sample {index} is not one of them.",
                f"They are: {listed}." if ids else f"Give {self.file_option} or --object ID.",
            )
        return self.from_samples(predictor, index, str(ids[index]))

    @abstractmethod
    def from_file(self, predictor: Predictor, path: Path) -> Given:
        """Read a file of the user's own."""

    def from_sentence(self, predictor: Any, sentence: str) -> Given:
        """Take a sentence of the user's own."""
        raise HyperkitError(
            "--prompt is for models that were made by hyperkit distill.", f"Give {self.file_option} FILE."
        )

    @abstractmethod
    def from_data(self, task: INRTask, object_id: str, context_views: int | None) -> Given:
        """Take an item of the data set."""

    @abstractmethod
    def from_samples(self, predictor: Predictor, index: int, name: str) -> Given:
        """Take an input that the checkpoint carries."""

    @abstractmethod
    def write(self, generated: Any, given: Given, folder: Path, options: RenderOptions) -> dict[str, Path]:
        """Render what was generated and write it; returns name -> path."""

    @abstractmethod
    def write_attention(self, loaded: Loaded, given: Given, path: Path) -> Path:
        """Draw where the weight tokens of each layer look in the last block, over the input (T, figure 7)."""

    @abstractmethod
    def overview(self, loaded: Loaded, folder: Path) -> dict[str, Path]:
        """Write what a finished training run shows: the first input that its checkpoint carries."""


def presenter_of(task: INRTask) -> Presenter:
    """Return the presenter of a task.

    Raises:
        HyperkitError: there is none.
    """
    if task.name not in PRESENTERS:
        raise HyperkitError(
            f"The task {task.name!r} has no pictures to render.", f"Those that have: {list(PRESENTERS)}."
        )
    found: Presenter = PRESENTERS.load(task.name)()
    return found
