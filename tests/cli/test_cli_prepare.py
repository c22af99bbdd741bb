"""``hyperkit prepare``: what it refuses, and what of a recipe it reads."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import typer.main
from PIL import Image

from hyperkit.cli import app, main
from hyperkit.data.images import ImageData
from hyperkit.data.sounds import SoundData
from hyperkit.tasks import TASKS
from hyperkit.training.failures import interrupted
from hyperkit.workflows.configure import from_recipe
from hyperkit.workflows.evaluate import RunResult


def prepare(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["hyperkit", "prepare", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("image --size 32", "prepare image does not take --size.\nAllowed: --data, "),
        ("audio --views 3 --resolution 8", "prepare audio does not take --views, --resolution."),
        ("image --up z --seed 1", "prepare image does not take --up, --seed."),
        ("audio --meshes a --groups b --objects 1,2,3 --classes c", "take --meshes, --groups, --objects, --classes."),
        ("image clip --learnit a", "prepare image does not take a name, --learnit."),
        ("image --size 32", "--set data.size=PIXELS"),
        ("image --seed 1", "Splits of files follow their names"),
        ("nvs --recipe debug --set data.size=8", "prepare nvs does not take --recipe, --set."),
        ("nvs --librispeech dev-clean", "LibriSpeech is for hyperkit prepare audio."),
        ("nvs cars", "prepare nvs does not take a name."),
        ("metrics --data a", "prepare metrics does not take --data.\nIt takes no options but --json."),
        ("backbone clip --skip-bad", "prepare backbone does not take --skip-bad.\nAllowed: a name, --pretrain."),
        ("backbone nano", "Pretrain it: hyperkit prepare backbone nano --pretrain dino."),
        ("backbone clip --steps 3", "prepare backbone does not take --steps."),
        (
            "backbone nano --pretrain dino --views 3",
            "prepare backbone --pretrain does not take --views.\nAllowed: a name, ",
        ),
        ("backbone clip --pretrain dino", "--pretrain is for the small backbone nano, found clip."),
        ("backbone nano --pretrain byol", "There is no way to pretrain 'byol'."),
        (
            "backbone nano --pretrain dino --recipe mae",
            "The recipe mae pretrains by mae, and --pretrain dino was given.",
        ),
        ("backbone nano --pretrain dino --set nano.depth=14", "takes 12.6 MB as float16, more than the 12 MB"),
        ("backbone nano --pretrain dino --set nano.heads=5", "nano.width=192 cannot be shared by nano.heads=5."),
        ("backbone nano --pretrain dino --out a --resume b", "Both --out and --resume were given."),
        ("nvs --steps 3 --max-time 3m --device cpu --resume a", "take --resume, --steps, --max-time, --device."),
        ("--list --data a", "prepare --list does not take --data."),
        ("image --set training.steps=3 --set data.size=8", "reads the data section alone; found training."),
        ("image --set data=3", "reads the data section alone; found data."),
        ("image --set data.siez=3", "did you mean 'size'"),
        ("image --recipe quickstrt", "Did you mean 'quickstart'"),
        ("image --recipe paper/nvs-dino", "paper/nvs-dino belongs to the task nvs."),
        ("image --librispeech dev-clean --out a", "it goes with audio"),
        ("image --test-fraction 0.9 --val-fraction 0.5", "must leave something to train on"),
        ("nvs --objects 1,2", "--objects takes three numbers, found '1,2'."),
    ],
)
def test_what_means_nothing_is_refused_by_name(
    line: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(monkeypatch, *shlex.split(line)) == 2
    shown = capsys.readouterr()
    assert says in shown.err
    assert shown.out == ""


def test_options_of_views_reach_the_work_and_defaults_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Done(Exception):
        pass

    calls: list[dict[str, Any]] = []

    def work(**arguments: Any) -> None:
        calls.append({name: value for name, value in arguments.items() if name != "progress"})
        raise Done

    monkeypatch.setattr("hyperkit.workflows.prepare.prepare_nvs", work)
    line = (
        "nvs --out o --data d --meshes m --learnit l --groups g --objects 3,2,1 --classes cars,lamps --size 16 "
        "--views 4 --resolution 8 --test-fraction 0.3 --val-fraction 0 --up z --seed 0 --skip-bad"
    )
    for given in (line, "nvs"):
        monkeypatch.setattr(sys, "argv", ["hyperkit", "prepare", *given.split()])
        with pytest.raises(Done):
            main()
    paths = {"out": "o", "data": "d", "meshes": "m", "learnit": "l", "groups": "g"}
    numbers = {"size": 16, "views": 4, "resolution": 8, "test_fraction": 0.3, "val_fraction": 0.0, "seed": 0}
    rest = {"objects": (3, 2, 1), "classes": ["cars", "lamps"], "up": "z", "skip_bad": True}
    assert calls == [{name: Path(path) for name, path in paths.items()} | numbers | rest, {}]


def test_options_of_pretraining_reach_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calls: list[tuple[Any, ...]] = []

    def work(method: str | None, **arguments: Any) -> RunResult:
        calls.append((method, {k: v for k, v in arguments.items() if k not in ("progress", "data_progress")}))
        return RunResult(tmp_path, {"chance": 0.2}, {"weights": tmp_path / "n.safetensors"})

    monkeypatch.setattr("hyperkit.workflows.prepare_nano.pretrain_nano", work)
    line = (
        "backbone nano --pretrain mae --out o --recipe debug --steps 7 --max-time 1m --device cpu --seed 3 "
        "--set data.blur=0 --json"
    )
    for given in (line, "backbone nano --resume r"):
        monkeypatch.setattr(sys, "argv", ["hyperkit", "prepare", *given.split()])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 0
    training = {"steps": 7, "epochs": None, "max_time": "1m", "device": "cpu", "seed": 3}
    overrides = {"data": {"blur": 0}, "training": training}
    assert calls == [
        ("mae", {"recipe": "debug", "overrides": overrides, "out": Path("o"), "resume": None}),
        (None, {"recipe": None, "overrides": {}, "out": None, "resume": Path("r")}),
    ]
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first)["files"] == {"weights": str(tmp_path / "n.safetensors")}
    assert second == str(tmp_path / "n.safetensors")


@pytest.mark.parametrize("task", list(TASKS))
def test_a_run_that_was_stopped_names_the_command_that_goes_on(task: str) -> None:
    hint = interrupted(3, task, Path("run"), Path("run/checkpoints/last.pt"), 2).hint
    assert hint is not None
    words = shlex.split(hint.removeprefix("Go on with: "))
    command = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    given = command.make_context(words[1], words[2:]).params
    assert given["resume"] == Path("run")
    assert words[1] in TASKS.load(task).verbs
    assert given.get("task", task) == task


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for index in range(12):
        if request.param == "image":
            picture = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "data" / f"{index}.png")
        else:  # too short for the second at 16 kHz that the configuration reads by default
            soundfile.write(tmp_path / "data" / f"{index}.wav", rng.uniform(-0.5, 0.5, 3200), 4000)
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("folder", "options", "recipe", "overrides", "read_as"),
    [
        ("image", "", "quickstart", {}, "squares of 64 pixels, from a shorter side of 64"),
        ("image", "--recipe debug", "debug", {}, "squares of 16 pixels, from a shorter side of 16"),
        (
            "image",
            "--set data.size=20 --set data.resize=24 --test-fraction 0.4 --val-fraction 0.3",
            "quickstart",
            {"size": 20, "resize": 24, "pixels_per_item": 9, "test_fraction": 0.4, "val_fraction": 0.3},
            "squares of 20 pixels, from a shorter side of 24",
        ),
        ("audio", "", "quickstart", {}, "4000 Hz, 0.125 s at a time"),
        ("audio", "--recipe debug", "debug", {}, "2000 Hz, 0.25 s at a time"),
        ("audio", "--set data.rate=1000", "quickstart", {"rate": 1000}, "1000 Hz, 0.125 s at a time"),
    ],
    indirect=["folder"],
)
def test_what_is_prepared_is_what_training_reads(
    folder: Path,
    options: str,
    recipe: str,
    overrides: dict[str, Any],
    read_as: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = "image" if list(folder.glob("*.png")) else "audio"
    points = "pixels" if task == "image" else "samples"
    extra = ["--set", f"data.{points}_per_item=9"]
    assert prepare(monkeypatch, task, "--data", folder, "--json", *shlex.split(options), *extra) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert (report["read_as"], report["recipe"]) == (read_as, recipe)
    told = " ".join(shown.err.split())
    assert f"as the recipe {recipe} reads them: {read_as}" in told
    assert f"hyperkit train {task} is to be given the same:" in told
    assert ("--set data.test_fraction=0.4" in told) == ("--test-fraction" in options)
    packed = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if ".hyperkit" in path.parts}

    changes = {"data": {"root": str(folder), f"{points}_per_item": 9, **overrides}}
    config = from_recipe(task, recipe, changes, "train")[1].data

    def again(*arguments: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr("hyperkit.data.flat_pack._pack", again)
        data = (ImageData if task == "image" else SoundData)(config, 0)
        data.train_batch(0, 2)
    assert str(data.pack.folder) == report["packed"]
    assert data.counts() == report["counts"]
    assert {split: data.hash(split) for split in ("train", "val", "test")} == report["hashes"]
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if ".hyperkit" in path.parts}
    assert after == packed
