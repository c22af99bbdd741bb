"""What all tasks share whose answer is a generated coordinate network: one line from context to loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import torch
from pydantic import Field as ConfigField
from pydantic import SerializeAsAny, create_model
from torch import Tensor, nn

from hyperkit.adapt import Observations, TTOConfig, optimise_on
from hyperkit.backbones import BackboneConfig, build_backbone, paper_defaults, require_weights, resolve_strategy
from hyperkit.backbones.catalog import NAMED, modality_of
from hyperkit.config import PartConfig, merge
from hyperkit.contracts import Batch, Rendered, Scores, Signal, TargetParams
from hyperkit.errors import HyperkitError
from hyperkit.hypernets import ALGORITHMS, Hypernet, HypernetConfig
from hyperkit.models.context import ContextConfig, ContextTokens
from hyperkit.models.inr_hypernet import INRHypernet
from hyperkit.models.predictor import Predictor, autocast
from hyperkit.objectives import foggy, gaussian_nll, mse, opacity_error
from hyperkit.randomness import StepRandom
from hyperkit.targets import TARGETS, Target
from hyperkit.tasks.base import Task

Output = Rendered | Signal


class ObjectiveConfig(PartConfig):
    """What training minimises.

    Attributes:
        loss: ``auto``: ``nll`` where the target gives a deviation (PONP), else ``mse``. ``mse``: the mean squared
            error, as in the papers. ``psnr``: the mean over items of 10 log10 of each one's error, which is what is
            reported; items that are hard count no more than those that are easy. ``nll``: the Gaussian's negative
            log-likelihood.
        beta: with ``nll``: weighs each value by deviation^(2 beta), from 0 (the likelihood itself, as in PONP) to 1
            (the mean is trained as by the squared error); see ``objectives.gaussian_nll``.
        fog: weight of a penalty on half-transparent rays; for radiance fields.
        opacity: weight of the mean squared error of the rays' opacity, where the data has alpha; for radiance fields.
            With it, empty space becomes empty; without it, it may as well be fog of the background's colour.
    """

    loss: Literal["auto", "mse", "psnr", "nll"] = "auto"
    beta: float = ConfigField(default=0.0, ge=0, le=1)
    fog: float = ConfigField(default=0.0, ge=0)
    opacity: float = ConfigField(default=0.0, ge=0)


class EvaluationConfig(PartConfig):
    """How validation and evaluation run.

    Attributes:
        batch_size: items at once.
        validation_pairs: at most so many pairs are used in validation while training.
        tto: test-time optimisation; off while training.
    """

    batch_size: int = ConfigField(default=8, ge=1)
    validation_pairs: int = ConfigField(default=48, ge=1)
    tto: TTOConfig = TTOConfig()


class INRConfig(PartConfig):
    """The sections of a task with generated coordinate networks; a task adds ``data``, ``target`` and ``renderer``.

    Attributes:
        context: what joins the data tokens: marks of views, poses.
        algorithm: how tokens become weights; it decides what ``hypernet`` holds.
        target_kind: which network is generated; it decides what ``target`` holds.
    """

    data: SerializeAsAny[PartConfig]
    backbone: BackboneConfig = BackboneConfig()
    context: ContextConfig = ContextConfig()
    algorithm: str = "trans-inr"
    hypernet: SerializeAsAny[HypernetConfig]
    target_kind: str
    target: SerializeAsAny[PartConfig]
    renderer: SerializeAsAny[PartConfig]
    objective: ObjectiveConfig = ObjectiveConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


class EvaluationItems(Protocol):
    """The items of a split, in a fixed order."""

    @property
    def hash(self) -> str:
        """Hash of what was chosen to be evaluated."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """Class -> number of items."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Any: ...

    def batch(self, items: Sequence[int]) -> Batch:
        """Return the batch of chosen items."""
        ...


class Metrics(Protocol):
    """A collector of metrics from tensors, such as ``ImageMetrics``."""

    unavailable: dict[str, str]
    weights: dict[str, dict[str, str]]
    notes: dict[str, str]

    def scores(self) -> Scores:
        """Return the per-item values of all batches so far."""
        ...

    def distribution(self) -> Mapping[str, Mapping[str, float | None]]:
        """Return the metrics of the whole set."""
        ...


M = TypeVar("M", bound=Metrics)


class Meter(ABC, Generic[M]):
    """Collects the metrics of a task from its own batches.

    Args:
        metrics: what they are collected in.
    """

    def __init__(self, metrics: M) -> None:
        self.metrics = metrics

    @abstractmethod
    def update(self, output: Output, batch: Batch) -> Scores:
        """Take in one batch and return its scores."""

    def results(self) -> dict[str, Any]:
        """Return what else of the batches so far belongs into ``results.json``."""
        return {}


@dataclass(frozen=True)
class Example:
    """One evaluated item that is shown.

    Attributes:
        title: why ("worst", "median", "best").
        index: its place in ``batch``.
        psnr: its PSNR, dB.
    """

    title: str
    index: int
    psnr: float


class INRTask(Task):
    """A task whose model reads a context and writes a coordinate network (P, figure 1)."""

    reads: ClassVar[str]
    """What its backbones read: "picture" or "sound"."""
    target_kinds: ClassVar[tuple[str, ...]]
    has_cameras: ClassVar[bool] = False
    """Whether its contexts come with cameras."""
    signal: ClassVar[tuple[int, int] | None] = None
    """Coordinates and values of the network, where it is an MLP on coordinates."""

    config: Any

    @classmethod
    def config_for(cls, values: Mapping[str, Any]) -> type[PartConfig]:
        """Return the configuration's model with the sections of the algorithm and the target that are chosen."""
        known = cls.config_model.model_fields
        algorithm = values.get("algorithm", known["algorithm"].default)
        kind = values.get("target_kind", known["target_kind"].default)
        if kind in TARGETS and kind not in cls.target_kinds:
            raise HyperkitError(
                f"The task {cls.name!r} cannot generate a {kind!r}.", f"Allowed: {', '.join(cls.target_kinds)}."
            )
        fields: dict[str, Any] = {}
        for section, part in (("hypernet", ALGORITHMS.load(str(algorithm))), ("target", TARGETS.load(str(kind)))):
            model, default = part.config_model, known[section].default
            fields[section] = (model, default if type(default) is model else model())
        chosen: type[PartConfig] = create_model(
            cls.config_model.__name__, __base__=cls.config_model, __module__=__name__, **fields
        )
        return chosen

    @classmethod
    def complete(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Lay the task's own backbone and network under sections that change a part of them."""
        if not cls.has_cameras and "views" in values.get("data", {}):
            raise HyperkitError(
                f"An item of the task {cls.name!r} has one context, not several views.",
                "Leave --views (data.views) out.",
            )
        known = cls.config_model.model_fields
        if "features" in values and "features" not in known:
            raise HyperkitError(
                f"Features are distilled by the task 'segment', and this is {cls.name!r}.",
                "Leave --features (features.name) out.",
            )
        sections = ["backbone"]
        if values.get("target_kind", known["target_kind"].default) == known["target_kind"].default:
            sections.append("target")
        return merge({section: known[section].default.model_dump(mode="json") for section in sections}, values)

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuse a backbone that reads something else, and an objective that needs a deviation where there is none."""
        reads = modality_of(config.backbone.name)
        if reads != cls.reads:
            fitting = [name for name in NAMED if modality_of(name) == cls.reads]
            more = ", mel:NAME for any picture backbone" if cls.reads == "sound" else ""
            raise HyperkitError(
                f"The backbone {config.backbone.name!r} reads {reads}s, and the task {cls.name!r} gives {cls.reads}s.",
                f"Allowed: {', '.join(fitting)}{more}.",
            )
        if config.context.pose_tokens and not cls.has_cameras:
            raise HyperkitError(
                f"Pose tokens carry the rays of cameras, and the task {cls.name!r} has none.",
                "Leave --pose-tokens (context.pose_tokens) out.",
            )
        signal = (getattr(config.target, "coordinates", None), getattr(config.target, "outputs", None))
        if cls.signal is not None and signal != cls.signal:
            raise HyperkitError(
                f"The network of the task {cls.name!r} maps {cls.signal[0]} coordinates to {cls.signal[1]} values; "
                f"target says {signal[0]} to {signal[1]}.",
                "Leave target.coordinates and target.outputs alone.",
            )
        likelihood = config.objective.loss in ("auto", "nll") and cls.gives_deviation(config)
        if config.objective.beta and not likelihood:
            raise HyperkitError(
                "objective.beta weighs a likelihood, and this run maximises none.",
                "Set objective.beta=0, or choose --algorithm ponp with objective.loss=auto or nll.",
            )
        for name in ("fog", "opacity"):
            if getattr(config.objective, name) and not cls.has_cameras:
                raise HyperkitError(
                    f"objective.{name} is for radiance fields, and the task {cls.name!r} has none.",
                    f"Set objective.{name}=0.",
                )
        if config.objective.loss == "nll" and not cls.gives_deviation(config):
            raise HyperkitError(
                f"objective.loss=nll needs a deviation, and {config.algorithm!r} gives none.",
                "Choose --algorithm ponp, or --set target.deviation=true.",
            )

    @classmethod
    def require(cls, config: Any) -> None:
        """Find (or fetch) the weights of the backbone."""
        require_weights(config.backbone)

    @classmethod
    def training_defaults(cls, config: Any, from_checkpoint: bool) -> dict[str, Any]:
        """Return the paper's settings for the backbone and the strategy."""
        strategy = resolve_strategy(config.backbone, from_checkpoint=from_checkpoint)
        paper = paper_defaults(config.backbone, strategy)
        return {"learning_rate": paper.learning_rate, "batch_size": paper.batch_size, "schedule": paper.schedule}

    @staticmethod
    def gives_deviation(config: Any) -> bool:
        """Return whether the generated network predicts a deviation beside its mean."""
        return bool(ALGORITHMS.load(config.algorithm).predicts_deviation or getattr(config.target, "deviation", False))

    @cached_property
    def _data(self) -> Any:
        return self.open_data()

    @abstractmethod
    def open_data(self) -> Any:
        """Open the data; called once."""

    def data(self) -> Any:
        """Open the data: training batches, ``pairs`` of a split, ``constants`` to compare with."""
        return self._data

    def build_target(self) -> Target:
        """Build the network that is generated, with a deviation where the algorithm predicts one."""
        config = self.config.target
        if self.gives_deviation(self.config):
            config = config.model_copy(update={"deviation": True})
        target: Target = TARGETS.load(self.config.target_kind)(config)
        return target

    def build_model(self, load_weights: bool = True) -> INRHypernet:
        """Build backbone, hypernetwork and target."""
        backbone = build_backbone(self.config.backbone, load_weights=load_weights)
        target = self.build_target()
        hypernet: Hypernet = ALGORITHMS.load(self.config.algorithm)(self.config.hypernet, target.spec, backbone.width)
        views = getattr(self.config.data, "views", 1)  # pictures and sounds come one at a time
        context = ContextTokens(self.config.context, backbone.width, views)
        return INRHypernet(backbone, hypernet, target, self.config.renderer, context)

    def jitter(self, batch: Batch, rng: StepRandom) -> Tensor | None:
        """Return the random numbers that move the samples of a training step; none where nothing is integrated."""
        return None

    def loss(self, model: nn.Module, batch: Batch, rng: StepRandom) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the mean over items of the objective, with the PSNR that belongs to the prediction."""
        output: Output = model(batch.context, batch.query, self.jitter(batch, rng), batch.context_cameras)
        return self.objective(output, batch)

    def objective(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean over items of what training minimises, and what is logged, for one prediction."""
        error = mse(output.values, batch.truth)
        decibels = 10 * torch.log10(error + 1e-6)
        kind = self.config.objective.loss
        logs = {"mse": error.detach().mean(), "psnr": -decibels.detach().mean()}
        if kind == "nll" or (kind == "auto" and output.deviation is not None):
            assert output.deviation is not None
            found = (output.values, output.deviation, batch.truth)
            loss = gaussian_nll(*found, beta=self.config.objective.beta).mean()
            logs["nll"] = gaussian_nll(*found).detach().mean()
        else:
            loss = decibels.mean() if kind == "psnr" else error.mean()
        if self.config.objective.fog and isinstance(output, Rendered):
            fog = foggy(output.opacity).mean()
            loss = loss + self.config.objective.fog * fog
            logs["fog"] = fog.detach()
        if self.config.objective.opacity and isinstance(output, Rendered) and batch.opacity is not None:
            error = opacity_error(output.opacity, batch.opacity).mean()
            loss = loss + self.config.objective.opacity * error
            logs["opacity"] = error.detach()
        return loss, logs

    def validation(self) -> Iterable[Batch]:
        """Yield the fixed items of the validation split."""
        settings = self.config.evaluation
        items: Iterable[Batch] = self._data.pairs(
            "val", classes=self._data.classes, limit=settings.validation_pairs, batch_size=settings.batch_size
        )
        return items

    @torch.no_grad()
    def predict(
        self, model: INRHypernet, batch: Batch, tto: TTOConfig | None = None, precision: torch.dtype = torch.float32
    ) -> tuple[Output, TargetParams]:
        """Generate networks from the context and evaluate the query, with test-time optimisation if asked for."""
        batch = batch.to(model.device)
        with autocast(model.device, precision):
            params = self.adapted(model, batch.context, batch.context_cameras, tto)
            return model.render(params, batch.query), params

    def adapted(
        self, model: INRHypernet, context: Tensor, cameras: Any = None, tto: TTOConfig | None = None
    ) -> TargetParams:
        """Generate networks, and fit them further to the context itself where ``tto`` has steps."""
        params = model.generate(context, cameras)
        if tto is None or not tto.steps:
            return params
        observed = self.observations(context, cameras, tto)
        return optimise_on(params, lambda p, query: model.render(p, query).values, observed, tto)

    @abstractmethod
    def observations(self, context: Tensor, cameras: Any, config: TTOConfig) -> Observations:
        """Return what test-time optimisation sees: points of the context, never of the targets."""

    @abstractmethod
    def meter(self, device: torch.device | str) -> Meter[Any]:
        """Return a new collector of all metrics."""

    @abstractmethod
    def quick_meter(self, device: torch.device | str) -> Meter[Any]:
        """Return a collector of the metrics that validation during training takes."""

    def evaluate(self, model: nn.Module, batch: Batch) -> Scores:
        """Return the quick metrics of each item."""
        assert isinstance(model, INRHypernet)
        output, _ = self.predict(model, batch, precision=current_precision(model.device))
        return self.quick_meter(model.device).update(output, batch.to(model.device))

    @abstractmethod
    def write_examples(self, path: Path, batch: Batch, output: Output, examples: Sequence[Example]) -> Path:
        """Write the picture of a few evaluated items: what was given, the truth, and what came out."""

    @abstractmethod
    def predictor(self, model: INRHypernet, precision: torch.dtype, samples: Mapping[str, Any]) -> Predictor:
        """Wrap a trained model for use, with what its checkpoint carries."""


def current_precision(device: torch.device) -> torch.dtype:
    """Return the precision that surrounds the call: the training loop's autocast, or float32."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32
