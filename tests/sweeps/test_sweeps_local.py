"""The engine on this machine: every cell to its end once, whatever is killed; reasons, retries, threads, devices."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from sweeps_driver import fake_sweep

from hyperkit.data.workers import available_cores
from hyperkit.errors import HyperkitError, RunInterrupted
from hyperkit.sweeps import state as state_module
from hyperkit.sweeps import worker
from hyperkit.sweeps.cell import Cell
from hyperkit.sweeps.local import LocalEngine, places
from hyperkit.sweeps.state import CellFolder
from hyperkit.sweeps.store import SweepDirectory

HERE = Path(__file__).parent


def events(tmp_path: Path) -> list[dict[str, object]]:
    path = tmp_path / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def how_often(tmp_path: Path, event: str) -> Counter[object]:
    return Counter(line["seed"] for line in events(tmp_path) if line["event"] == event)


def driver(sweep: Path, count: int, work: float, jobs: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, str(HERE / "sweeps_driver.py"), str(sweep), str(count), str(work), str(jobs)]
    return subprocess.Popen(words)


def wait_for(condition: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_every_cell_runs_once_and_a_second_start_runs_none(tmp_path: Path) -> None:
    sweep = fake_sweep(tmp_path / "sweep", 3)
    LocalEngine(sweep, jobs=2).run()
    assert sweep.counts() == {"done": 3}
    assert [f.result()["test"]["all"]["psnr"] for f in sweep.folders()] == [20, 21, 22]  # type: ignore[index]
    again = fake_sweep(tmp_path / "sweep", 4)  # one cell more
    LocalEngine(again, jobs=2).run()
    assert how_often(tmp_path, "started") == how_often(tmp_path, "finished") == {0: 1, 1: 1, 2: 1, 3: 1}
    assert [[line["event"] for line in f.history()] for f in again.folders()] == [["started", "done"]] * 4
    for folder in again.folders():  # asked for by two engines at once; or killed before its state was written
        (folder.path / "state.json").unlink()
        assert (worker.run_cell(folder), folder.status()) == ("done", "done")
    assert set(how_often(tmp_path, "started").values()) == {1}
    cost = again.folders()[0].result()["cost"]  # type: ignore[index]
    assert cost["peak_memory_bytes"] > 2**20
    assert 0 < cost["cpu_seconds"] < 5 * cost["seconds"]


def test_no_more_cells_run_at_a_time_than_jobs(tmp_path: Path) -> None:
    LocalEngine(fake_sweep(tmp_path / "sweep", 4, work=0.3), jobs=2).run()
    level, most = 0, 0
    for line in sorted(events(tmp_path), key=lambda line: line["time"]):  # type: ignore[arg-type, return-value]
        level += {"started": 1, "finished": -1}[str(line["event"])]
        most = max(most, level)
    assert most == 2


def test_failures_have_their_reason_stop_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    sweep = fake_sweep(tmp_path / "sweep", 4, fates=["fails", "killed", "silent"])
    LocalEngine(sweep, jobs=2).run()
    assert sweep.counts() == {"failed": 3, "done": 1}
    reasons = [f.state().get("reason", "") for f in sweep.folders()]
    assert reasons[0] == "Error: The loss is not finite.\nStart again with a lower rate."
    assert reasons[1].startswith("The run was ended by SIGKILL. Memory may have run out.")
    assert "not a JSON object" in reasons[2]
    before = len(events(tmp_path))
    LocalEngine(sweep, jobs=2).run()
    assert len(events(tmp_path)) == before  # a failed cell is left alone
    (tmp_path / "mended").touch()
    LocalEngine(sweep, jobs=2).run(retry_failed=True)
    assert sweep.counts() == {"failed": 2, "done": 2}
    assert sweep.folders()[0].state()["attempt"] == 2
    assert "reason" not in sweep.folders()[0].state()
    assert how_often(tmp_path, "started")[3] == 1


def test_a_driver_killed_ten_times_at_random_finishes_every_cell_once(tmp_path: Path) -> None:
    draw = random.Random(0)
    place = tmp_path / "sweep"
    for _ in range(10):
        process = driver(place, 8, 0.4, 2)
        time.sleep(draw.uniform(0.1, 0.9))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert driver(place, 8, 0.4, 2).wait(timeout=60) == 0
    assert SweepDirectory.open(place).counts() == {"done": 8}
    assert how_often(tmp_path, "finished") == dict.fromkeys(range(8), 1)
    for folder in SweepDirectory.open(place).folders():
        assert Counter(line["event"] for line in folder.history())["done"] == 1
    # no two processes worked on one cell at a time: a cell is left before it is taken again
    for seed in range(8):
        kinds = [line["event"] for line in events(tmp_path) if line["seed"] == seed]
        assert "started" not in [a for a, b in pairwise(kinds) if b == "started"]


def test_an_interrupt_saves_the_cells_that_run_and_they_go_on(tmp_path: Path) -> None:
    place = tmp_path / "sweep"
    process = driver(place, 2, 1.0, 2)
    wait_for(lambda: sum(how_often(tmp_path, "started").values()) == 2)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) != 0
    assert how_often(tmp_path, "saved") == {0: 1, 1: 1}
    sweep = SweepDirectory.open(place)
    assert sweep.counts() == {"pending": 2}
    assert [f.history()[-1]["reason"] for f in sweep.folders()] == ["the engine ended"] * 2
    kept = [float((f.run / "progress").read_text()) for f in sweep.folders()]
    assert min(kept) > 0.1
    LocalEngine(sweep, jobs=2).run()
    assert sweep.counts() == {"done": 2}


def test_the_error_of_an_interrupt_carries_the_signal(tmp_path: Path) -> None:
    sweep = fake_sweep(tmp_path / "sweep", 1, work=30)
    began: list[int] = []

    def watch(_: SweepDirectory) -> None:
        if not began and how_often(tmp_path, "started"):
            began.append(1)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunInterrupted) as caught:
        LocalEngine(sweep, jobs=1, watch=watch).run()
    assert caught.value.exit_code == 143


def test_a_training_that_outlives_its_killed_worker_keeps_its_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "_LOCK_TRIES", 2)
    sweep = fake_sweep(tmp_path / "sweep", 1, work=0.8)
    (folder,) = sweep.folders()
    process = subprocess.Popen([sys.executable, "-m", "hyperkit.sweeps.worker", str(folder.path)])
    wait_for(lambda: how_often(tmp_path, "started"))
    process.kill()
    process.wait()
    assert folder.status() == "running"
    assert folder.claim() is None
    assert worker.run_cell(folder) == "busy"
    LocalEngine(sweep, jobs=1).run()  # waits for it, then takes the cell and finds the training at its end
    first, second = (i for i, line in enumerate(events(tmp_path)) if line["event"] == "started")
    assert "finished" in [line["event"] for line in events(tmp_path)[first:second]]
    assert folder.status() == "done"


def test_a_training_that_does_not_stop_is_killed_after_its_grace(tmp_path: Path) -> None:
    sweep = fake_sweep(tmp_path / "sweep", 1, work=60, fates=["stubborn"])
    (folder,) = sweep.folders()
    reading, writing = os.pipe()

    def end_engine() -> None:
        wait_for(lambda: how_often(tmp_path, "started"))
        os.close(writing)

    engine = threading.Thread(target=end_engine)
    engine.start()
    begun = time.monotonic()
    try:
        assert worker.run_cell(folder, parent=reading, grace=0.5) == "put back"
    finally:
        engine.join()
        os.close(reading)
    assert 0.5 < time.monotonic() - begun < 10
    assert folder.status() == "pending"
    assert not how_often(tmp_path, "saved")


def test_a_crash_without_a_word_counts_and_ends_in_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = fake_sweep(tmp_path / "sweep", 1)
    (folder,) = sweep.folders()
    (folder.path / "cell.json").write_text("{broken")
    monkeypatch.setattr("hyperkit.sweeps.engine._ASK_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(CellFolder, "definition", lambda self: {"threads": 1})
    LocalEngine(sweep, jobs=1).run()
    assert folder.status() == "failed"
    assert "3 times" in folder.state()["reason"]


def test_a_cell_of_another_machine_is_left_alone_until_its_heart_has_stopped(tmp_path: Path) -> None:
    (folder,) = fake_sweep(tmp_path / "sweep", 1).folders()
    here = {"state": "running", "host": "elsewhere", "pid": 1, "attempt": 1}
    (folder.path / "state.json").write_text(json.dumps({**here, "heartbeat": time.time()}))
    assert folder.status() == "running"
    assert folder.claim() is None
    old = time.time() - state_module.STALE_SECONDS - 1
    (folder.path / "state.json").write_text(json.dumps({**here, "heartbeat": old}))
    assert folder.status() == "pending"
    assert worker.run_cell(folder) == "done"
    assert folder.state()["attempt"] == 2


def test_a_run_folder_without_a_configuration_is_made_anew(tmp_path: Path) -> None:
    (folder,) = fake_sweep(tmp_path / "sweep", 1).folders()
    (folder.run / "checkpoints").mkdir(parents=True)
    assert worker.run_cell(folder) == "done"
    assert not (folder.run / "checkpoints").exists()


def test_threads_and_devices_belong_to_the_cell(tmp_path: Path) -> None:
    sweep = fake_sweep(tmp_path / "sweep", 2, work=0.5, threads=3)
    LocalEngine(sweep, jobs=4, devices=["0", "1", "2", "3", "4"], devices_per_cell=2).run()
    results = [f.result() or {} for f in sweep.folders()]
    assert {r["threads"] for r in results} == {"3"}
    assert sorted(r["devices"] for r in results) == ["0,1", "2,3"]
    cores = available_cores()
    assert places(1) == cores
    assert places(cores) == places(2 * cores) == 1
    assert places(1, ["0"]) == 1
    with pytest.raises(ValueError, match="devices per cell"):
        LocalEngine(sweep, devices=["0"], devices_per_cell=2)


def test_cells_of_the_same_settings_share_a_run_and_those_without_sense_have_none(tmp_path: Path) -> None:
    same = {"training": {"seed": 0}}
    cells = [
        Cell("fake", "none", same, {"row": "table 1"}),
        Cell("fake", "none", same, {"row": "table 3"}),
        Cell("fake", "none", same, {"row": "table 4"}, not_applicable="there is none"),
    ]
    sweep = SweepDirectory.create(
        tmp_path / "sweep", cells, {"study": "x"}, command=lambda _: ["{python}", "--version"]
    )
    assert [e.labels["row"] for e in sweep.entries()] == ["table 1", "table 3", "table 4"]
    assert len(sweep.folders()) == 1
    assert sweep.counts() == {"pending": 1, "not applicable": 1}
    again = SweepDirectory.create(tmp_path / "sweep", cells, {"study": "x", "title": "X"})
    assert again.content["cells"] == sweep.content["cells"]
    assert again.content["about"] == {"study": "x", "title": "X"}


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(HyperkitError, match="not the folder of a sweep"):
        SweepDirectory.create(tmp_path, [])
    with pytest.raises(HyperkitError, match="not the folder of a sweep"):
        SweepDirectory.open(tmp_path)
    (tmp_path / "sweep.json").write_text('{"version": 99}')
    with pytest.raises(HyperkitError, match="format 99"):
        SweepDirectory.open(tmp_path)
