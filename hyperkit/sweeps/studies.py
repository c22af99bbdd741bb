"""The tables and figures of the papers as sweeps, at three scales; what each scale puts in the place of what is said.

``paper`` is the published setting, on the paper's data and for its hardware. ``quick`` asks the same question of
hyperkit's own small backbone and built-in data, in hours on a laptop. ``debug`` shows in minutes that all of it works.
A line is called what is run, never what it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hyperkit.config import merge
from hyperkit.errors import HyperkitError, unknown_name
from hyperkit.sweeps import published
from hyperkit.sweeps.cell import Cell, Label, flatten
from hyperkit.sweeps.grid import FAMILIES, SIZES, Resolver, resolved, sized, why_not_applicable
from hyperkit.sweeps.published import Published

Scale = Literal["debug", "quick", "paper"]

NANO, NANO_MAE, NANO_DINO = "nano", "nano-mae", "nano-dino"
"""The small backbone that stands for large ones at the scales debug and quick: with fresh weights, and pretrained.

Where one pretrained backbone is enough, it is ``NANO_MAE``, the better of the two.
"""

_STRATEGIES = ("random", "frozen", "lora", "finetune")
_FRACTIONS = (0.01, 0.1, 0.2, 0.5, 1.0)
_CLASSES = ("cars", "chairs", "lamps")
_ALGORITHMS = ("trans-inr", "ponp", "ipc")
_GROUPS = (1, 4, 16, 64)

_BUILT_IN = "Built-in "
_OWN_DATA = "Built-in cars, chairs and lamps in the place of LearnIt ShapeNet: no value compares with the paper's."
_DEBUG = "A handful of small items and twelve steps: this shows that everything runs, and its numbers mean nothing."
_NANO = "A ViT of at most 5 M parameters, pretrained on procedural pictures of other classes, in the place of ViT-B."


@dataclass(frozen=True)
class Line:
    """A line of a study's table: what is run for it.

    Attributes:
        labels: axis -> value, true names of what is run.
        recipe: that it starts from.
        overrides: laid over the recipe.
        beside: labels of the published row that asks the same; None where there is none.
        not_applicable: why it is not run; None where it is.
    """

    labels: Mapping[str, Label]
    recipe: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Label] | None = None
    not_applicable: str | None = None


@dataclass(frozen=True)
class Study:
    """A table or a figure.

    Attributes:
        name, title: for people.
        source: paper and number of the table.
        task: that all its cells train.
        rows: as published; none for figures, whose points are not given in numbers.
        lines: gives the lines at a scale.
        notes: scale -> sentences on what is put in the place of what.
        metrics: of the table, the first one is that of the plot.
    """

    name: str
    title: str
    source: str
    task: str
    rows: Sequence[Published]
    lines: Callable[[Scale], Iterable[Line]]
    notes: Mapping[Scale, tuple[str, ...]]
    metrics: tuple[str, ...] = ("psnr", "ssim", "lpips", "fid_64", "fid_2048")


def _small(scale: Scale) -> str:
    return "debug" if scale == "debug" else "quickstart"


def _nano(strategy: str) -> str:
    return NANO if strategy == "random" else NANO_MAE


def _table1(scale: Scale) -> Iterable[Line]:
    if scale == "paper":
        for row in published.TABLE1:
            yield Line(row.labels, f"paper/nvs-{row.labels['backbone']}", beside=row.labels)
        return
    for name, strategy, beside in (
        (NANO, "random", "random"),
        (NANO_MAE, "finetune", "mae"),
        (NANO_DINO, "finetune", "dino"),
    ):
        backbone = {"name": name, "strategy": strategy}
        labels: dict[str, Label] = {"backbone": name, "strategy": strategy}
        yield Line(labels, _small(scale), {"backbone": backbone}, {"backbone": beside})


def _table8(scale: Scale) -> Iterable[Line]:
    for strategy in _STRATEGIES:
        labels: dict[str, Label] = {"backbone": "dino" if scale == "paper" else _nano(strategy), "strategy": strategy}
        recipe = f"paper/nvs-dino-{strategy}" if scale == "paper" else _small(scale)
        changes = {} if scale == "paper" else {"backbone": _named(labels)}
        yield Line(labels, recipe, changes, {"strategy": strategy})


def _table9(scale: Scale, strategies: Sequence[str] = _STRATEGIES) -> Iterable[Line]:
    for unseen in reversed(_CLASSES):
        for strategy in strategies:
            beside: dict[str, Label] = {"unseen": unseen, "strategy": strategy}
            if scale == "paper":
                yield Line({"backbone": "dinov2", **beside}, f"paper/nvs-table9-{unseen}-{strategy}", beside=beside)
                continue
            labels: dict[str, Label] = {"backbone": _nano(strategy), **beside}
            data = {"classes": [name for name in _CLASSES if name != unseen], "test_classes": [unseen]}
            yield Line(labels, _small(scale), {"backbone": _named(labels), "data": data}, beside)


def _table2(scale: Scale) -> Iterable[Line]:
    return _table9(scale, ("random", "frozen", "finetune"))


def _table4(scale: Scale) -> Iterable[Line]:
    for algorithm in _ALGORITHMS:
        for strategy in ("random", "finetune"):
            beside: dict[str, Label] = {"algorithm": algorithm, "strategy": strategy}
            if scale == "paper":
                yield Line({"backbone": "dinov2", **beside}, f"paper/nvs-table4-{algorithm}-{strategy}", beside=beside)
                continue
            labels: dict[str, Label] = {"backbone": _nano(strategy), **beside}
            yield Line(labels, _small(scale), {"backbone": _named(labels), "algorithm": algorithm}, beside)


def _table5(scale: Scale) -> Iterable[Line]:
    if scale == "paper":
        for row, name in zip(published.TABLE5, ("random", "prompt", "tiny", "base"), strict=True):
            yield Line(row.labels, f"paper/audio-table5-{name}", beside=row.labels)
        return
    for strategy in ("random", "frozen", "finetune"):
        labels: dict[str, Label] = {"backbone": f"mel:{_nano(strategy)}", "strategy": strategy}
        beside: dict[str, Label] = {"backbone": "whisper-base", "strategy": strategy}
        yield Line(labels, _small(scale), {"backbone": _named(labels), "algorithm": "ipc"}, beside)


def _figure2(scale: Scale) -> Iterable[Line]:
    for strategy in ("random", "finetune"):
        for fraction in _FRACTIONS:
            backbone = "dinov2" if scale == "paper" else _nano(strategy)
            labels: dict[str, Label] = {"backbone": backbone, "strategy": strategy, "data_fraction": fraction}
            if scale == "paper":
                yield Line(labels, f"paper/nvs-figure2-{round(100 * fraction):03d}-{strategy}")
            else:
                data = {"train_fraction": fraction}
                yield Line(labels, _small(scale), {"backbone": _named(labels), "data": data})


def _figure3(scale: Scale) -> Iterable[Line]:
    if scale != "paper":
        plain = [("random", FAMILIES["random"][size]) for size in ("tiny", "small")]
        for family, name in (("random", NANO), *plain, (NANO_MAE, NANO_MAE)):
            strategy = "random" if family == "random" else "finetune"
            labels: dict[str, Label] = {"family": family, "backbone": name, "strategy": strategy}
            yield Line(labels, _small(scale), {"backbone": _named(labels)})
        return
    for family in ("random", "mae", "supervised", "deit", "dino", "dinov2", "clip"):
        for size in (s for s in SIZES if s != "nano"):
            backbone, reason = sized(family, size)
            labels = {"backbone": backbone, "strategy": "random" if family == "random" else "finetune"}
            about_it: dict[str, Label] = {"family": family, "size": size, **labels}
            yield Line(about_it, "paper/nvs-random", {"backbone": _named(labels)}, None, reason)


def _groups(scale: Scale) -> Iterable[Line]:
    for groups in _GROUPS:
        labels: dict[str, Label] = {"groups": groups}
        if scale == "paper":
            yield Line(labels, f"paper/image-groups-{groups}", beside=labels)
        else:
            yield Line(labels, _small(scale), {"hypernet": {"groups": groups}}, labels)


def _named(labels: Mapping[str, Label]) -> dict[str, Any]:
    return {"name": labels["backbone"], "strategy": labels["strategy"]}


def _notes(*quick: str, paper: tuple[str, ...] = ()) -> dict[Scale, tuple[str, ...]]:
    return {"debug": (_DEBUG, *quick), "quick": quick, "paper": paper}


_NOT_ALL = "MAE and DINO have a counterpart; supervised, DeiT, CLIP and DINOv2 have none at this scale and are not run."
_FIGURES = "The paper's points are not given in numbers."
_PICKED = f"{_FIGURES} It does not name the pretrained model of this figure: DINOv2, the best of its Table 1, is used."
_SPECTROGRAMS = (
    "A ViT of at most 5 M parameters, pretrained on procedural pictures, over mel spectrograms, in the place of "
    "Whisper; Whisper-tiny has no counterpart."
)
_PATCHES = (
    "Plain ViTs of three sizes without pretraining, and one pretrained one. The smallest has patches of 8 pixels, the "
    "others of 16, so that size is not all that differs."
)

_NVS = (_OWN_DATA, _NANO)
STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        Study(
            "table1", "Pretrained backbones", "P, Table 1", "nvs", published.TABLE1, _table1, _notes(*_NVS, _NOT_ALL)
        ),
        Study("table2", "An unseen class", "P, Table 2", "nvs", published.TABLE9, _table2, _notes(*_NVS), ("psnr",)),
        Study("table3", "What is trained", "P, Table 3", "nvs", published.TABLE8, _table8, _notes(*_NVS), ("psnr",)),
        Study("table4", "Algorithms", "P, Table 4", "nvs", published.TABLE4, _table4, _notes(*_NVS)),
        Study(
            "table5",
            "Sounds",
            "P, Table 5",
            "audio",
            published.TABLE5,
            _table5,
            _notes("Built-in tones and chirps in the place of LibriSpeech.", _SPECTROGRAMS),
            ("psnr",),
        ),
        Study("table8", "What is trained, all metrics", "P, Table 8", "nvs", published.TABLE8, _table8, _notes(*_NVS)),
        Study("table9", "An unseen class, all metrics", "P, Table 9", "nvs", published.TABLE9, _table9, _notes(*_NVS)),
        Study(
            "figure2",
            "Part of the training data",
            "P, Figure 2",
            "nvs",
            (),
            _figure2,
            _notes(*_NVS, _FIGURES, paper=(_PICKED,)),
        ),
        Study(
            "figure3",
            "Size of the encoder",
            "P, Figure 3",
            "nvs",
            (),
            _figure3,
            _notes(_OWN_DATA, _PATCHES, _FIGURES, paper=(_FIGURES,)),
        ),
        Study(
            "groups",
            "Groups of weights",
            "T, Table 2",
            "image",
            published.GROUPS,
            _groups,
            _notes(
                "Built-in pictures at 64x64 (debug: 16x16) in the place of CelebA at 178x178, and a smaller network."
            ),
            ("psnr",),
        ),
    )
}


def find_study(name: str) -> Study:
    """Return the study called ``name``.

    Raises:
        HyperkitError: there is none; the nearest is suggested.
    """
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    return STUDIES[name]


def study_cells(
    study: Study,
    scale: Scale,
    *,
    seeds: int = 1,
    data: str | None = None,
    threads: int = 1,
    overrides: Mapping[str, Any] | None = None,
    resolve: Resolver | None = None,
) -> list[Cell]:
    """Return the cells of a study at a scale, the seed fastest.

    Args:
        study: of ``find_study``.
        scale: "debug", "quick" or "paper".
        seeds: their number.
        data: folder of the data; the scale "paper" needs it, the others have built-in data.
        threads: CPU threads of each run.
        overrides: laid over all cells; what a line is about wins.
        resolve: gives the whole configuration of a cell.

    Raises:
        HyperkitError: there is no such scale, or data is needed.
    """
    if scale not in get_args(Scale):
        raise unknown_name("scale", scale, get_args(Scale))
    if scale == "paper" and data is None:
        raise HyperkitError(
            f"{study.source} at the scale paper needs the paper's data, which is not ours to ship.",
            "Give its folder with --data DIR, or choose --scale quick.",
        )
    common = merge({"training": {"threads": threads}}, overrides or {})
    if data is not None:
        common = merge(common, {"data": {"root": data}})
    cells = []
    for line in study.lines(scale):
        own = merge(common, line.overrides)
        backbone = own.get("backbone") or {}
        reason = line.not_applicable or why_not_applicable(study.task, backbone)
        cell = Cell(study.task, line.recipe, own, line.labels, not_applicable=reason)
        cells += [resolved(cell.with_seed(seed), resolve) for seed in range(seeds)]
    return cells


def about(
    study: Study, scale: Scale, data: str | None = None, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what a sweep's folder keeps about the study: name, source, scale, and what stands for what.

    Args:
        study, scale: which.
        data: folder of the data that takes the place of the built-in data.
        overrides: what is laid over all cells, which the report must not keep to itself.
    """
    notes = [note for note in study.notes[scale] if data is None or not note.startswith(_BUILT_IN)]
    if data is not None and scale != "paper":
        notes.append(f"The data is {data}.")
    if changed := [f"{name}={value}" for name, value in flatten(overrides or {}).items() if value is not None]:
        notes.append(f"Changed for all lines: {', '.join(changed)}.")
    return {"study": study.name, "title": study.title, "source": study.source, "scale": scale, "notes": notes}
