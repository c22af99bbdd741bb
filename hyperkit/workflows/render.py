"""Rendering one input: what its task presents, the generated weights, and where the weight tokens look."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hyperkit.config import merge
from hyperkit.contracts import TargetParams
from hyperkit.errors import HyperkitError
from hyperkit.models.predictor import autocast
from hyperkit.workflows.load import Loaded, home_of, open_checkpoint
from hyperkit.workflows.presenters import Given, Presenter, RenderOptions, presenter_of

__all__ = ["RenderOptions", "RenderResult", "render"]


@dataclass(frozen=True)
class RenderResult:
    """What was rendered.

    Attributes:
        folder: where it is.
        files: what was written, by name.
        source: what it was made from.
        seconds: spent on generating and rendering.
    """

    folder: Path
    files: dict[str, Path] = field(default_factory=dict)
    source: str = ""
    seconds: float = 0.0

    def show(self) -> None:
        """Print the files, for people, on stderr."""
        from rich.console import Console

        console = Console(stderr=True)
        console.print(f"Rendered {self.source} in {self.seconds:.1f} s.", highlight=False, soft_wrap=True)
        for name, path in self.files.items():
            console.print(f"{name}: {path}", highlight=False, soft_wrap=True)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        files = {name: str(path) for name, path in self.files.items()}
        return {"folder": str(self.folder), "source": self.source, "seconds": self.seconds, "files": files}


def render(
    checkpoint: str | os.PathLike[str],
    options: RenderOptions | None = None,
    *,
    image: str | os.PathLike[str] | None = None,
    audio: str | os.PathLike[str] | None = None,
    prompt: str | None = None,
    object_id: str | None = None,
    sample: int = 0,
    overrides: dict[str, Any] | None = None,
    context_views: int | None = None,
    tto: int = 0,
    attention: bool = False,
    weights_out: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> RenderResult:
    """Render one input: an object from all sides, a picture at any resolution, a sound at any rate.

    Args:
        checkpoint: a file, or the folder of a run (its best checkpoint).
        options: views, sizes, rates and the like, as the checkpoint's task knows them.
        image, audio: a file of the user's own.
        prompt: a sentence, for models that were made by ``distill``.
        object_id: an item of the data set ("cars/car_0001") instead.
        sample: number of the checkpoint's own input, where none of these is given.
        overrides: nested values laid over the checkpoint's configuration: ``{"data": {"root": DIR}}`` for a data set
            that is not the one that was trained on, ``{"evaluation": {"tto": {"learning_rate": 1e-3}}}``.
        context_views: views of the object that the model sees; with ``object_id``.
        tto: steps of test-time optimisation on the input; not where its camera is needed and not known.
        attention: also draw where the weight tokens of each layer look.
        weights_out: write the generated network here (.safetensors).
        out: folder of the results; by default ``render-<input>`` in the run's folder, or beside the checkpoint.

    Raises:
        HyperkitError: bad checkpoint, input or arguments.
    """
    options = options or RenderOptions()
    if weights_out is not None and Path(weights_out).suffix != ".safetensors":
        raise HyperkitError(f"--weights-out {weights_out} must end in .safetensors.")
    _at_most_one({"--image": image, "--audio": audio, "--prompt": prompt, "--object": object_id})
    loaded = open_checkpoint(checkpoint, merge({"training": {"device": "auto"}}, overrides or {}))
    presenter = presenter_of(loaded.task)
    presenter.check(loaded.task.name, options)
    if prompt is not None:
        given = presenter.from_sentence(loaded.predictor, prompt)
    else:
        file = _file(presenter, loaded.task.name, image, audio)
        given = presenter.given(loaded, file, object_id, sample, context_views)
    folder = Path(out) if out is not None else home_of(loaded.path) / f"render-{given.name.replace('/', '-')}"
    started = time.monotonic()
    made = loaded.predictor.wrap(_generate(presenter, loaded, given, tto))
    files = presenter.write(made, given, folder, options)
    if attention:
        files["attention"] = presenter.write_attention(loaded, given, folder / "attention.png")
    if weights_out is not None:
        made.save(Path(weights_out))
        files["weights"] = Path(weights_out)
    return RenderResult(folder, files, given.name, time.monotonic() - started)


def _at_most_one(sources: dict[str, Any]) -> None:
    given = [name for name, value in sources.items() if value is not None]
    if len(given) > 1:
        raise HyperkitError(f"{' and '.join(given)} were given together.", "Give one of them.")


def _file(presenter: Presenter, task: str, image: Any, audio: Any) -> Path | None:
    given = {name: value for name, value in (("--image", image), ("--audio", audio)) if value is not None}
    for name in given:
        if name != presenter.file_option:
            raise HyperkitError(
                f"{name} was given, and a model of the task {task!r} does not read that.",
                f"Give {presenter.file_option}.",
            )
    return Path(given[presenter.file_option]) if given else None


@torch.no_grad()
def _generate(presenter: Presenter, loaded: Loaded, given: Given, tto: int) -> TargetParams:
    predictor = loaded.predictor
    if not tto:
        return predictor.generate(given.context, given.cameras)
    if not presenter.takes_tto:
        raise HyperkitError("--tto fits a network to its input, and a sentence shows nothing.", "Leave it out.")
    if presenter.tto_needs_cameras and given.cameras is None:
        raise HyperkitError(
            "--tto needs the camera of the input, and that of a picture of your own is not known.",
            "Leave --tto out, or use --object or the checkpoint's own samples.",
        )
    settings = loaded.config.evaluation.tto.model_copy(update={"steps": tto})
    device = predictor.model.device
    cameras = None if given.cameras is None else given.cameras.to(device)
    with autocast(device, predictor.precision):
        params = loaded.task.adapted(predictor.model, given.context.to(device), cameras, settings)
    return params.map(lambda t: t.float())
