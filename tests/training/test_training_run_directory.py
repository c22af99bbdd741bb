"""The run's folder: what may go on in it, who holds it, what it leaves behind."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hyperkit.errors import HyperkitError
from hyperkit.training.run_directory import RunDirectory, differences, read_config, run_folder

CONFIG = {"noise": 0.1, "training": {"steps": 10, "learning_rate": 1e-3, "betas": [0.9, 0.999]}}


def changed(**training: object) -> dict[str, object]:
    return {**CONFIG, "training": {**CONFIG["training"], **training}}  # type: ignore[dict-item]


def test_it_holds_what_the_design_says(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", "toy", CONFIG) as run:
        logging.getLogger("hyperkit").info("a notice")
        run.append_metrics({"step": 1, "split": "train", "loss": 0.5})
        assert run.fresh
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == CONFIG
    environment = json.loads((run.path / "env.json").read_text())
    assert environment["packages"]["torch"]
    assert {"python", "platform", "device", "threads", "git_revision", "command"} <= environment.keys()
    assert "a notice" in (run.path / "log.txt").read_text()
    assert (run.path / "media").is_dir()


def test_a_default_place_is_new_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with RunDirectory.create(None, "toy", CONFIG) as first, RunDirectory.create(None, "toy", CONFIG) as second:
        assert first.path != second.path
        assert first.path.parent.name == "runs"
        assert first.path.name.startswith("toy-")


def test_the_same_run_goes_on_and_another_is_refused_with_the_difference(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", "toy", CONFIG).close()
    more = changed(steps=20, max_time="1h", devices=2)
    with RunDirectory.create(tmp_path / "run", "toy", more) as run:
        assert not run.fresh
    assert read_config(tmp_path / "run") == more
    with pytest.raises(HyperkitError, match=r"training\.learning_rate: 0\.001 -> 0\.01") as caught:
        RunDirectory.create(tmp_path / "run", "toy", changed(learning_rate=1e-2))
    assert "noise" not in str(caught.value)
    assert read_config(tmp_path / "run") == more


def test_differences_see_through_tuples_and_name_missing_keys() -> None:
    assert differences(CONFIG, changed(betas=(0.9, 0.999))) == []
    assert differences({"a": {}}, {"a": {"b": 1}}) == ["a: {} -> '(unset)'", "a.b: '(unset)' -> 1"]


def test_a_run_is_found_by_its_folder_or_checkpoint(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", "toy", CONFIG).close()
    assert run_folder(tmp_path / "run" / "checkpoints" / "last.pt") == tmp_path / "run"
    with RunDirectory.open(tmp_path / "run") as run:
        assert not run.fresh
    with pytest.raises(HyperkitError, match=r"Runs beside it: .*run"):
        RunDirectory.open(tmp_path / "rum")


def test_a_folder_with_other_things_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(HyperkitError, match="not the folder of a run"):
        RunDirectory.create(tmp_path, "toy", CONFIG)
    with pytest.raises(HyperkitError, match="not the folder of a run"):
        RunDirectory.create(tmp_path / "thesis.tex", "toy", CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_holder_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    code = (
        "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.flock(f, fcntl.LOCK_EX);"
        'os.write(f, b\'{"host": "node7", "pid": 4242, "command": "hyperkit train toy", "since": "noon"}\');'
        "print('held', flush=True); sys.stdin.read()"
    )
    (tmp_path / "run").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run" / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        other.stdout.readline()
        with pytest.raises(HyperkitError, match=r"process 4242 on node7 since noon \(hyperkit train toy\)"):
            RunDirectory.create(tmp_path / "run", "toy", CONFIG)
        other.stdin.close()
    with RunDirectory.create(tmp_path / "run", "toy", CONFIG) as run:
        holder = json.loads((run.path / ".lock").read_text())
        assert holder["pid"] == os.getpid()
        with pytest.raises(HyperkitError, match=f"process {os.getpid()} on"):
            RunDirectory.create(tmp_path / "run", "toy", CONFIG)
    RunDirectory.create(tmp_path / "run", "toy", CONFIG).close()


def test_bad_input_leaves_no_folder_but_results_stay(tmp_path: Path) -> None:
    with pytest.raises(HyperkitError), RunDirectory.create(tmp_path / "run", "toy", CONFIG):
        raise HyperkitError("bad picture")
    assert not (tmp_path / "run").exists()
    with pytest.raises(HyperkitError), RunDirectory.create(tmp_path / "run", "toy", CONFIG) as run:
        run.append_metrics({"step": 1, "split": "train"})
        raise HyperkitError("bad picture")
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_metrics_drop_a_line_that_was_cut_off(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", "toy", CONFIG) as run:
        for step in range(4):
            run.append_metrics({"step": step, "split": "train"})
        with open(run.path / "metrics.jsonl", "a") as handle:
            handle.write('{"step": 4, "spl')
        run.keep_metrics(lambda line: line["step"] <= 2)
        assert [line["step"] for line in run.read_metrics()] == [0, 1, 2]


def test_a_follower_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with RunDirectory.create(tmp_path / "run", "toy", CONFIG) as run:
        run.append_metrics({"step": 1, "split": "train"})
        assert run.follower
    assert not (tmp_path / "run").exists()
