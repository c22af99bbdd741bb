"""The command line: what it offers, how it answers, and what its errors say."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer.main
import yaml

from hyperkit.cli import app, options
from hyperkit.config import RECIPES, load_recipe, recipe_names
from hyperkit.errors import HyperkitError
from hyperkit.hypernets import ALGORITHMS
from hyperkit.tasks import TASKS
from hyperkit.workflows.configure import find_task, from_recipe, resolve

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "cli_options.json"


def commands() -> dict[str, click.Command]:
    group = typer.main.get_command(app)
    return dict(group.commands)  # type: ignore[attr-defined]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "hyperkit", *arguments],
        capture_output=True,
        text=True,
        env=variables,
        cwd=ROOT,
        timeout=120,
    )


def test_options_are_frozen() -> None:
    offered = {
        name: sorted(o for p in command.params for o in (p.opts if isinstance(p, click.Option) else [f"<{p.name}>"]))
        for name, command in commands().items()
    }
    if os.environ.get("HYPERKIT_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(offered, indent=1) + "\n")
    # adding an option is a decision: run once with HYPERKIT_UPDATE_GOLDEN=1 and commit the file
    assert offered == json.loads(GOLDEN.read_text())


def test_help_answers_without_heavy_imports() -> None:
    code = (
        "import sys; sys.argv = ['hyperkit', '--help']\n"
        "from hyperkit.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'yaml', 'timm', 'PIL', 'rich.progress'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for verb in ("prepare", "train", "distill", "finetune", "evaluate", "render", "scale-sweep"):
        assert re.search(rf"^  {verb} ", done.stdout, re.M)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "nvss"], "There is no task 'nvss'. Did you mean 'nvs'?"),
        (["train", "nvs", "--recipe", "quickstrt"], "Did you mean 'quickstart'"),
        (["train", "nvs", "--data", "no-such-folder"], "no-such-folder does not exist"),
        (["train", "nvs", "--set", "training.lerning_rate=1"], "did you mean 'learning_rate'"),
        (["train", "nvs", "--strategy", "frosen"], "strategy"),
        (["train", "nvs", "--backbone", "clpi"], "Did you mean 'clip'"),
        (["train", "nvs", "--max-time", "soon"], "not a time"),
        (["scale-sweep"], "needs a study, or a task"),
        (["scale-sweep", "--study", "table6"], "There is no study 'table6'"),
        (["evaluate", "no.pt"], "no checkpoint no.pt"),
        (["render", "no.pt", "--image", "a.png", "--object", "b"], "Give one of them"),
        (["render", "no.pt", "--rate", "384001"], "less than or equal to 384000"),
        (["prepare", "nsv"], "Did you mean 'nvs'"),
        (["prepare"], "prepare what?"),
    ],
)
def test_bad_usage_is_one_clear_error(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    from hyperkit.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hyperkit", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
    shown = capsys.readouterr()
    assert caught.value.code == 2
    assert says in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_unknown_options_exit_with_2() -> None:
    done = run("train", "nvs", "--bakcbone", "clip")
    assert done.returncode == 2
    assert "--bakcbone" in done.stderr


def test_flags_win_over_sets_and_steps_replace_epochs() -> None:
    changes = options.overrides(["training.steps=5", "data.resolution=32"], "cars, lamps", steps=7, backbone="clip")
    assert changes == {
        "training": {"steps": 7, "epochs": None},
        "data": {"resolution": 32, "classes": ["cars", "lamps"]},
        "backbone": {"name": "clip"},
    }
    unseen = options.overrides(None, "cars", "lamps", data_fraction=0.1, views=2, pose_tokens=True)
    assert unseen == {
        "data": {"classes": ["cars"], "test_classes": ["lamps"], "train_fraction": 0.1, "views": 2},
        "context": {"pose_tokens": True},
    }


RECIPE_FILES = sorted(RECIPES.rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPE_FILES, ids=lambda p: str(p.relative_to(RECIPES)))
def test_every_recipe_is_valid_and_says_what_it_is(path: Path) -> None:
    task = path.parent.name if path.parent.name in TASKS else path.stem.strip("_").split("-")[0]
    verb = {"distill": "distill", "pretrain": "prepare"}.get(task, "train")
    task_cls = find_task(task, verb)
    recipe = load_recipe(str(path), task)
    variants = [{key: name} for key, table in recipe.get("variants", {}).items() for name in table]
    for overrides in [{}, *variants]:
        config = resolve(task_cls, recipe, overrides)
        training = config.training  # type: ignore[attr-defined]
        assert None not in (training.learning_rate, training.batch_size, training.schedule)
        assert all(getattr(config, key) == name for key, name in overrides.items())
    head = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    if not path.name.startswith("_"):
        commands = {"distill": "hyperkit distill", "pretrain": "hyperkit prepare backbone nano --pretrain"}
        assert commands.get(task, f"hyperkit train {task}") in head
    if path.parent.name == "paper" and not path.name.startswith("_"):
        assert re.search(r"Table|Figure 2", head)
        assert "PSNR" in head or "plot" in head


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_an_algorithm_takes_its_own_settings_from_the_recipe(algorithm: str) -> None:
    _, config = from_recipe("nvs", "paper/nvs-random", {"algorithm": algorithm}, "train")
    if algorithm == "ipc":
        assert (config.hypernet.rank, config.hypernet.layer) == (256, 1)
        with pytest.raises(HyperkitError, match=r"unknown key 'groups'; allowed: gain, layer, normalize, rank"):
            from_recipe("nvs", "quickstart", {"algorithm": "ipc", "hypernet": {"groups": 3}}, "train")
    else:
        assert (config.hypernet.groups, config.hypernet.grouping) == (32, "blocks")


def test_what_a_recipe_sets_itself_wins_over_its_variants() -> None:
    _, config = from_recipe("image", "paper/image-groups-4", None, "train")
    assert config.hypernet.groups == 4
    assert (config.target.coordinates, config.target.encoding.scale) == (2, "pi")


def test_the_rows_of_table_9_never_test_on_a_class_that_they_train_on() -> None:
    names = [name for name in recipe_names("nvs") if "table9" in name]
    assert len(names) == 12
    for name in names:
        data = from_recipe("nvs", name, None, "train")[1].data
        assert len(data.classes) == 2
        assert not set(data.classes) & set(data.test_classes)


@pytest.mark.parametrize(
    ("recipe", "rate", "batch", "schedule"),
    [
        ("random", 1e-4, 32, "step"),
        ("mae", 1e-4, 128, "step"),
        ("supervised", 1e-4, 32, "step"),
        ("deit", 1e-4, 128, "step"),
        ("dino", 1e-4, 128, "cos"),
        ("clip", 1e-4, 128, "cos"),
        ("dinov2", 1e-4, 128, "cos"),
        ("dino-frozen", 1e-3, 32, "step"),
        ("dino-random", 1e-4, 32, "step"),
    ],
)
def test_paper_recipes_train_as_the_papers_table_6(recipe: str, rate: float, batch: int, schedule: str) -> None:
    _, config = from_recipe("nvs", f"paper/nvs-{recipe}", None, "train")
    training = config.training
    assert (training.learning_rate, training.batch_size, training.schedule) == (rate, batch, schedule)
    assert training.epochs == 1000
    assert (config.target.depth, config.target.width, config.target.encoding.width(1)) == (6, 256, 40)
    assert config.renderer.samples == 128


def test_quickstart_keeps_its_rest_when_the_backbone_changes() -> None:
    _, config = from_recipe("nvs", "quickstart", {"backbone": {"name": "clip"}}, "train")
    _, plain = from_recipe("nvs", "quickstart", None, "train")
    assert config.training.batch_size == plain.training.batch_size
    assert config.target == plain.target
    assert config.training.learning_rate == 1e-4


def test_recipe_names_are_listed() -> None:
    names = recipe_names("nvs")
    assert {"debug", "quickstart", "paper/nvs-clip", "paper/nvs-dino-lora"} <= set(names)
    assert not [n for n in names if "/_" in n]


def test_a_task_without_the_verb_says_so() -> None:
    with pytest.raises(HyperkitError, match="has no distill"):
        find_task("nvs", "distill")


def readme_commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.strip().startswith("hyperkit ")]


@pytest.mark.parametrize("line", readme_commands())
def test_readme_commands_are_real(line: str) -> None:
    _, verb, *rest = shlex.split(line)
    command = commands()[verb]
    context = command.make_context(verb, rest, resilient_parsing=False)
    assert context.params
    given = context.params
    if verb == "train" and given["recipe"]:
        assert load_recipe(given["recipe"], given["task"])
    yaml.safe_dump({k: str(v) for k, v in given.items()})
