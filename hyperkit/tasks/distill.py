"""Distillation: one sentence in, the radiance field of what it describes out (HyperFields)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hyperkit.adapt.score_teacher import ScoreConfig
from hyperkit.adapt.scored import scored_teachers
from hyperkit.adapt.teachers import TeacherConfig, TeacherPictures, framing_of, teachers
from hyperkit.backbones.text import TextEncoderConfig, build_text_encoder, require_text_encoder
from hyperkit.backbones.text_encoders import TextEncoder
from hyperkit.config import PartConfig
from hyperkit.contracts import Batch, Rays, Rendered, Scores, TargetParams
from hyperkit.data.builtin_scenes import builtin_scene
from hyperkit.data.distilled import DistilledData, RaysConfig, ShownScene, join, whole_picture
from hyperkit.data.scenes import ScenesConfig, SceneSet, SceneViews, open_scene
from hyperkit.errors import HyperkitError
from hyperkit.hypernets.dynamic import Dynamic, DynamicConfig
from hyperkit.metrics.evaluator import ImageMetrics
from hyperkit.metrics.image import as_pictures
from hyperkit.models.field import Framing
from hyperkit.models.text_hypernet import TextHypernet
from hyperkit.models.text_predictor import TextPredictor
from hyperkit.objectives import mse, opacity_error
from hyperkit.randomness import StepRandom
from hyperkit.renderers import RendererConfig, render_rays
from hyperkit.targets.skip_field import SkipField, SkipFieldConfig
from hyperkit.tasks.base import Task
from hyperkit.tasks.pictures import QUICK
from hyperkit.tasks.taught import TaughtPrompts

BUILTIN = "builtin:"
"""Before the name of a scene that comes with the package."""


class DistillObjectiveConfig(PartConfig):
    """What training minimises beside the squared error of the colours (HyperFields, eq. 4.6).

    Attributes:
        opacity: weight of the mean squared error of the rays' opacity. With it, empty space becomes empty; without it,
            it may as well be fog of the background's colour.
    """

    opacity: float = Field(default=0.3, ge=0)


class DistillEvaluationConfig(PartConfig):
    """How validation runs while training.

    Attributes:
        batch_size: pictures at once.
        kept: of each teacher's pictures so many are kept from training, for validation.
        validation_pictures: at most so many of them are used.
    """

    batch_size: int = Field(default=4, ge=1)
    kept: int = Field(default=2, ge=1)
    validation_pictures: int = Field(default=18, ge=1)


class NovelConfig(PartConfig):
    """One more prompt, which a trained model is finetuned to.

    Attributes:
        prompt: the sentence; None: nothing is novel, and the captions are trained on.
        scene: folder of the scene that it describes, with ``transforms.json`` and its pictures, or "builtin:NAME", such
            as "builtin:blender/golden"; None: the teacher's source is "sds".
        scratch_steps: steps of the field from scratch that finetuning is compared with.
        scratch_rate: its learning rate, and half of that of its table.
    """

    prompt: str | None = None
    scene: str | None = None
    scratch_steps: int = Field(default=1000, ge=1)
    scratch_rate: float = Field(default=1e-2, gt=0)


class DistillConfig(PartConfig):
    """The sections of the task; training has its own.

    Attributes:
        data: captioned scenes.
        prompts: sentences in place of captioned scenes; their teachers come from ``source: sds``.
        source: what teachers are fitted to: "images" of their scenes, or "sds": what a diffusion model says of them.
        novel: one more prompt, which a trained model is finetuned to.
        text: the frozen encoder of the captions.
        teacher: the field that is fitted to each scene before the hypernetwork learns to write all of them.
        score: the diffusion model of ``source: sds``, and how it judges.
        rays: what a training step sees of each scene.
    """

    data: ScenesConfig = ScenesConfig()
    prompts: tuple[str, ...] = ()
    source: Literal["images", "sds"] = "images"
    novel: NovelConfig = NovelConfig()
    text: TextEncoderConfig = TextEncoderConfig()
    teacher: TeacherConfig = TeacherConfig()
    score: ScoreConfig = ScoreConfig()
    rays: RaysConfig = RaysConfig()
    hypernet: DynamicConfig = DynamicConfig()
    target: SkipFieldConfig = SkipFieldConfig()
    renderer: RendererConfig = RendererConfig(samples=32, sampling="bins", bounds="sphere")
    objective: DistillObjectiveConfig = DistillObjectiveConfig()
    evaluation: DistillEvaluationConfig = DistillEvaluationConfig()


class DistillTask(Task):
    """A hypernetwork from sentences to radiance fields, taught by one field per scene (HyperFields, section 4.3)."""

    name = "distill"
    config_model = DistillConfig
    verbs: ClassVar[frozenset[str]] = frozenset({"distill", "finetune", "evaluate", "render"})

    config: DistillConfig

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse what the field or its renderer cannot do, and a text encoder that is not to be had."""
        if config.renderer.fine_samples:
            raise HyperkitError("renderer.fine_samples is for the task nvs.", "Set renderer.fine_samples=0.")
        if config.target.deviation or config.target.extra:
            raise HyperkitError(
                "A text-to-field model gives colour and density alone.", "Leave target.deviation and target.extra out."
            )
        if any(not prompt.strip() for prompt in (*config.prompts, config.novel.prompt or "-")):
            raise HyperkitError("A prompt is empty.", 'A prompt is a few words, such as "a red chair".')
        if len(set(config.prompts)) < len(config.prompts):
            raise HyperkitError("A prompt is given twice.", "Give each prompt once.")
        if config.prompts and config.source != "sds":
            raise HyperkitError(
                "Prompts alone have no pictures that a teacher could be fitted to.",
                "Give --teacher sds --diffusion-model ID or DIR, or captioned scenes with --data DIR.",
            )
        novel = config.novel
        if novel.scene is not None and novel.prompt is None:
            raise HyperkitError("A scene was given without a prompt.", "Give --prompt TEXT with --scene DIR.")
        if novel.prompt is not None and (novel.scene is None) == (config.source == "images"):
            raise HyperkitError(
                f"The prompt {novel.prompt!r} needs one source of pictures.",
                "Give --scene DIR, a folder with transforms.json and pictures, or --teacher sds --diffusion-model ID.",
            )
        if config.evaluation.kept >= config.teacher.views:
            raise HyperkitError(
                f"evaluation.kept={config.evaluation.kept} keeps all of the teachers' {config.teacher.views} pictures.",
                "Keep fewer, or raise teacher.views.",
            )

    @classmethod
    def training_defaults(cls, config: Any, from_checkpoint: bool) -> dict[str, Any]:
        """Return the published rate (Adam, 1e-4) and scenes per step (3)."""
        return {"learning_rate": 1e-4, "batch_size": 3, "schedule": "constant"}

    @cached_property
    def scenes(self) -> SceneSet | TaughtPrompts:
        """The captioned scenes, made or packed on first use; or the prompts with their teachers."""
        config = self.config
        if not config.prompts:
            return SceneSet.open(config.data, self.data_progress)
        captions = {f"prompts/{slug(prompt)}": prompt for prompt in config.prompts}
        taught = scored_teachers(config.teacher, config.score, captions, progress=self.data_progress)
        return TaughtPrompts(captions, taught, config.evaluation.kept, config.data.background)

    @cached_property
    def encoder(self) -> TextEncoder:
        """The frozen text encoder."""
        return build_text_encoder(self.config.text)

    def tokens(self, sentences: Iterable[str]) -> list[Tensor]:
        """Return the tokens (T_i, D) of each sentence, without padding."""
        tokens, mask = self.encoder(list(sentences))
        return [row[kept] for row, kept in zip(tokens, mask, strict=True)]

    @cached_property
    def _data(self) -> DistilledData:
        require_text_encoder(self.config.text)  # what is missing is said before teachers are fitted
        config = self.config
        kept = config.evaluation.kept
        if config.novel.prompt is not None:
            captions, taught = {"novel/" + slug(config.novel.prompt): config.novel.prompt}, self._novel()
            kept = 0 if config.novel.scene is not None else kept
        else:
            captions = {name: self.scenes.captions[name] for name in self.scenes.split("train")}
            taught = self._taught(captions)
        tokens = self.tokens(captions.values())
        shown = {
            name: ShownScene(own, taught[name].rgba, taught[name].cameras)
            for name, own in zip(captions, tokens, strict=True)
        }
        return DistilledData(shown, config.rays, config.data.background, self.seed, kept)

    def _taught(self, captions: Mapping[str, str]) -> dict[str, TeacherPictures]:
        config = self.config
        if config.source == "sds":
            return scored_teachers(config.teacher, config.score, captions, progress=self.data_progress)
        assert isinstance(self.scenes, SceneSet)
        return teachers(config.teacher, self.scenes, list(captions), progress=self.data_progress)

    def _novel(self) -> dict[str, TeacherPictures]:
        """Return the pictures of the novel prompt: its scene's own, or those of a teacher that is fitted to it."""
        prompt = self.config.novel.prompt
        assert prompt is not None
        name = "novel/" + slug(prompt)
        if self._novel_scene is None:
            return self._taught({name: prompt})
        views = self._novel_scene[0]
        return {name: TeacherPictures((views.rgba * 255).round().to(torch.uint8), views.cameras)}

    @cached_property
    def _novel_scene(self) -> tuple[SceneViews, SceneViews] | None:
        novel, data = self.config.novel, self.config.data
        if novel.scene is None:
            return None
        builtin = novel.scene.removeprefix(BUILTIN)
        folder = builtin_scene(builtin) if novel.scene.startswith(BUILTIN) else Path(novel.scene)
        return open_scene(folder, data.resolution, data.test_fraction)

    def data(self) -> DistilledData:
        """Open the scenes and fit their teachers, or read them where they were fitted before."""
        return self._data

    def build_model(self, load_weights: bool = True) -> TextHypernet:
        """Build hypernetwork and field; the text encoder tells how wide its tokens are."""
        target = SkipField(self.config.target)
        return TextHypernet(Dynamic(self.config.hypernet, target, self.encoder.width), target, self.config.renderer)

    def loss(self, model: nn.Module, batch: Batch, rng: StepRandom) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the squared error to the teachers' pictures (HyperFields, eq. 4.6) and that of the opacities."""
        output: Rendered = model(batch.context, batch.mask, batch.query, self.jitter(batch, rng))
        return self.objective(output, batch)

    def jitter(self, batch: Batch, rng: StepRandom) -> Tensor | None:
        """Return U[0, 1) for every sample of every ray."""
        if not self.config.renderer.jitter:
            return None
        shape = (*batch.truth.shape[:2], self.config.renderer.draws)
        return rng.uniform(shape, "jitter", batch.truth.device)

    def objective(self, output: Rendered, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what is minimised of rendered rays, and detached scalars to log."""
        error = mse(output.rgb, batch.truth)
        loss = error.mean()
        logs = {"mse": loss.detach(), "psnr": -10 * torch.log10(error.detach() + 1e-6).mean()}
        if self.config.objective.opacity and batch.opacity is not None:
            opacity = opacity_error(output.opacity, batch.opacity).mean()
            loss = loss + self.config.objective.opacity * opacity
            logs["opacity"] = opacity.detach()
        return loss, logs

    def render(self, target: SkipField, params: TargetParams, rays: Rays, jitter: Tensor | None = None) -> Rendered:
        """Render fields that no hypernetwork wrote, as those are rendered that one did."""
        return render_rays(lambda points: target(params, points[..., :3]), rays, self.config.renderer, jitter)

    def validation(self) -> Iterable[Batch]:
        """Yield pictures of the teachers that are kept from training; unseen scenes have no part in it.

        Of a novel prompt with a scene they are the scene's held-out views.
        """
        kept, settings = self.data().validation(), self.config.evaluation
        if self._novel_scene is not None:
            kept = self._held_out(self._novel_scene[1])
        chosen = np.linspace(0, len(kept) - 1, min(len(kept), settings.validation_pictures)).astype(int)
        for start in range(0, len(chosen), settings.batch_size):
            yield join([kept[i] for i in chosen[start : start + settings.batch_size]])

    def _held_out(self, views: SceneViews) -> list[Batch]:
        data = self.data()
        (name,) = data.ids
        shown = ShownScene(data.scenes[name].tokens, (views.rgba * 255).round().to(torch.uint8), views.cameras)
        return [whole_picture(name, shown, index, data.background) for index in range(len(views))]

    @torch.no_grad()
    def evaluate(self, model: nn.Module, batch: Batch) -> Scores:
        """Return PSNR and SSIM of whole pictures."""
        device = next(model.parameters()).device
        found, truth = self.pictures(model, batch.to(device))
        return ImageMetrics(device, QUICK).update(found, truth, batch.ids, batch.classes)

    @torch.no_grad()
    def media(self, model: nn.Module, batch: Batch) -> Mapping[str, Any]:
        """Return one picture: the teacher's and the student's pictures of a few captions."""
        from hyperkit.reports.pictures import contact_sheet, to_uint8

        found, truth = self.pictures(model, batch)
        rows = [[to_uint8(t), to_uint8(f)] for t, f in zip(truth, found, strict=True)]
        return {"validation": contact_sheet(rows, column_titles=["teacher", "student"], row_titles=list(batch.ids))}

    def pictures(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the model's pictures and the truth, (B, 3, S, S) each, of whole-picture queries."""
        assert batch.query_size is not None
        output: Rendered = model(batch.context, batch.mask, batch.query)
        return as_pictures(output.rgb.float(), batch.query_size), as_pictures(batch.truth, batch.query_size)

    def samples(self) -> dict[str, Any]:
        """Return the captions, split by split, and the framing of the scenes, so that a checkpoint works alone."""
        if self.config.novel.prompt is not None:
            (name,) = self.data().ids
            captions, unseen, cameras = {name: self.config.novel.prompt}, [], self.data().scenes[name].cameras
        else:
            captions, unseen = dict(self.scenes.captions), list(self.scenes.split("unseen"))
            cameras = self.scenes.test_views(next(iter(captions))).cameras
        return {
            "ids": list(captions),
            "captions": captions,
            "unseen": unseen,
            "text_hash": self.encoder.hash,
            "framing": vars(framing_of(cameras)),
        }

    def predictor(self, model: TextHypernet, precision: torch.dtype, samples: Mapping[str, Any]) -> TextPredictor:
        """Wrap a trained model for use on sentences.

        Raises:
            HyperkitError: the text encoder has other weights than in training.
        """
        if samples.get("text_hash", self.encoder.hash) != self.encoder.hash:
            raise HyperkitError(
                f"The text encoder {self.encoder.name!r} has other weights than in the model's training.",
                "Give the same weights: --set text.weights=PATH.",
            )
        framing = Framing(**samples["framing"]) if "framing" in samples else Framing()
        return TextPredictor(model, self.encoder.to(model.device), precision, samples, framing)


def slug(sentence: str) -> str:
    """Return a sentence as a name of files: its words in small letters, joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", sentence.lower()).strip("-")[:60] or "prompt"
