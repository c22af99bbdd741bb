"""Fields that a sentence describes, from all sides: what ``ViewsPresenter`` writes, with the sentence as the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperkit.errors import HyperkitError
from hyperkit.models import Field
from hyperkit.reports.captions import sentence_picture
from hyperkit.tasks.distill import slug
from hyperkit.workflows.load import Loaded
from hyperkit.workflows.present_views import ViewsPresenter, write_mesh, write_views
from hyperkit.workflows.presenters import Given, RenderOptions


class PromptPresenter(ViewsPresenter):
    """Presents fields of sentences."""

    file_option = "--prompt"
    takes_tto = False

    def given(
        self, loaded: Loaded, file: Path | None, object_id: str | None, sample: int, context_views: int | None
    ) -> Given:
        """Return a scene's caption, or one that the checkpoint carries."""
        if context_views is not None:
            raise HyperkitError("--context-views is for models that read pictures.", "Leave it out.")
        return super().given(loaded, file, object_id, sample, None)

    def from_sentence(self, predictor: Any, sentence: str) -> Given:
        """Encode a sentence."""
        tokens, _ = predictor.encode([sentence])
        return Given(tokens, slug(sentence), sentence=sentence)

    def from_data(self, task: Any, object_id: str, context_views: int | None) -> Given:
        """Take the caption of a scene of the data set."""
        captions = task.scenes.captions
        if object_id not in captions:
            raise HyperkitError(f"There is no scene {object_id!r}.", f"There are: {', '.join(captions)}.")
        (tokens,) = task.tokens([captions[object_id]])
        return Given(tokens[None], slug(captions[object_id]), sentence=captions[object_id])

    def from_samples(self, predictor: Any, index: int, name: str) -> Given:
        """Take a caption that the checkpoint carries."""
        return self.from_sentence(predictor, predictor.samples["captions"][name])

    def write(self, generated: Field, given: Given, folder: Path, options: RenderOptions) -> dict[str, Path]:
        """Write PNG frames, depth, GIF, MP4, a contact sheet with the sentence, and the mesh."""
        files = write_views(generated, folder, _written(given.sentence), options)
        if options.mesh is not None:
            files["mesh"] = write_mesh(generated, options.mesh, options.mesh_resolution or 128, options.mesh_threshold)
        return files

    def write_attention(self, loaded: Loaded, given: Given, path: Path) -> Path:
        """Refuse: the weights come from one conditioning token, not from weight tokens."""
        raise HyperkitError(
            "--attention is for models that read pictures or sounds: this one writes all weights from one token.",
            "Leave it out.",
        )


def _written(sentence: str) -> Tensor:
    return torch.from_numpy(sentence_picture(sentence).copy()).movedim(-1, 0).float() / 255
