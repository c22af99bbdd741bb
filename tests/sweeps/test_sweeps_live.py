"""The live table: what it shows, what it reads, and its estimate of the time that is left."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweeps_driver import fake_sweep

from hyperkit.sweeps.live import LiveTable, window
from hyperkit.sweeps.local import LocalEngine
from hyperkit.sweeps.state import CellFolder, Claim
from hyperkit.sweeps.store import SweepDirectory


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def begin(folder: CellFolder, clock: Clock, monkeypatch: pytest.MonkeyPatch, steps: int = 100) -> Claim:
    """Take a cell as a worker does, at the clock's time."""
    definition = folder.definition()
    definition["overrides"]["training"]["steps"] = steps
    (folder.path / "cell.json").write_text(json.dumps(definition))
    monkeypatch.setattr("hyperkit.sweeps.state.time", SimpleNamespace(time=clock, sleep=time.sleep))
    claim = folder.claim()
    assert claim is not None
    claim.start()
    folder.run.mkdir()
    return claim


def note(folder: CellFolder, text: str, mode: str = "a") -> None:
    with open(folder.run / "metrics.jsonl", mode) as handle:
        handle.write(text)


def end(claim: Claim, seconds: float, psnr: float = 20.0) -> None:
    claim.finish({"test": {"all": {"psnr": psnr}}, "steps": 100}, {"seconds": seconds})
    claim.release()


def test_away_from_a_terminal_every_change_is_a_line(tmp_path: Path) -> None:
    stream = io.StringIO()
    sweep = fake_sweep(tmp_path / "sweep", 3, fates=["ends well", "fails"])
    with LiveTable(stream) as watch:
        LocalEngine(sweep, jobs=1, watch=watch).run()
    first, *lines = stream.getvalue().splitlines()
    assert first.startswith("3 runs: ")
    ends = [line for line in lines if ": done" in line or ": failed" in line]
    assert [line.split("; about")[0].split(" (")[0] for line in ends] == [
        f"[{k + 1}/3] fake_seed{k}: {how}" for k, how in enumerate(("done", "failed", "done"))
    ]
    assert "(PSNR 20.000 dB, " in ends[0]
    assert "(Error: The loss is not finite. Start again with a lower rate.)" in ends[1]
    again = io.StringIO()
    with LiveTable(again) as watch:
        LocalEngine(sweep, jobs=1, watch=watch).run()
    assert again.getvalue().splitlines()[0].startswith("3 runs: 2 done, 1 failed; ")
    assert len(again.getvalue().splitlines()) == 1


def test_a_terminal_shows_step_value_and_time_of_a_running_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, stream = Clock(), Terminal()
    sweep = fake_sweep(tmp_path / "sweep", 2)
    folder = sweep.folders()[0]
    claim = begin(folder, clock, monkeypatch)
    note(folder, '{"step": 10, "split": "val", "psnr": 15.25}\n{"step": 20, "split": "train", "psnr": 99.0}\n')
    clock.now += 65
    with LiveTable(stream, clock) as watch:
        watch(sweep)
        cell = watch._cells[str(folder.path)]
        assert (cell.status, cell.step, cell.steps, cell.value) == ("running", 20, 100, "PSNR 15.250 dB")
        shown = stream.getvalue()
        for text in ("fake_seed0", "▶ running", "20 of 100", "PSNR 15.250 dB", "65 s", "fake_seed1", "· pending"):
            assert text in shown
        # half a line is waited for
        note(folder, '{"step": 30, "split"')
        clock.now += 1
        watch(sweep)
        assert cell.step == 20
        note(folder, ': "val", "psnr": 16.0}\n')
        clock.now += 1
        watch(sweep)
        assert (cell.step, cell.value) == (30, "PSNR 16.000 dB")
        # a run that is gone on with writes its metrics anew
        note(folder, '{"step": 12, "split": "train"}\n', mode="w")
        clock.now += 1
        watch(sweep)
        assert cell.step == 12
        end(claim, 70.0, psnr=21.5)
    assert (cell.status, cell.step, cell.value) == ("done", 100, "PSNR 21.500 dB")


def test_the_time_that_is_left_counts_what_runs_and_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    sweep = fake_sweep(tmp_path / "sweep", 6)
    folders = sweep.folders()
    watch = LiveTable(io.StringIO(), clock)
    watch(sweep)
    assert watch.seconds_left() is None
    claims = [begin(folder, clock, monkeypatch) for folder in folders[:2]]
    for folder, step in zip(folders, (25, 50), strict=False):
        note(folder, json.dumps({"step": step, "split": "train"}) + "\n")
    clock.now += 30
    watch(sweep)
    # the two will take 120 s and 60 s, 90 s on average: 60 s each to go, four more to come, two at a time
    assert watch.seconds_left() == pytest.approx((2 * 60 + 4 * 90) / 2)
    end(claims[1], 40.0)
    clock.now += 5
    watch(sweep)
    # one took 40 s; the other has had 35
    assert watch.seconds_left() == pytest.approx((5 + 4 * 40) / 2)
    end(claims[0], 60.0)
    clock.now += 5
    watch(sweep)
    assert watch.seconds_left() == pytest.approx(4 * 50 / 2)
    assert watch.summary() == "6 runs: 2 done, 4 pending; 40 s; about 2 min left"


def test_a_killed_worker_s_cell_waits_again_and_a_failed_one_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, stream = Clock(), io.StringIO()
    sweep = fake_sweep(tmp_path / "sweep", 1)
    (folder,) = sweep.folders()
    watch = LiveTable(stream, clock)
    watch(sweep)
    claim = begin(folder, clock, monkeypatch)
    for act in (claim.release, lambda: None):  # the process dies and its lock with it
        clock.now += 1
        watch(sweep)
        act()
    second = folder.claim()
    assert second is not None
    second.start()
    clock.now += 1
    watch(sweep)
    second.fail("Error: NaN")
    clock.now += 1
    watch(sweep)
    second.put_back("to be tried again")
    clock.now += 1
    watch(sweep)
    second.release()
    states = [line.split(": ")[1].split(" ")[0] for line in stream.getvalue().splitlines()[1:]]
    assert states == ["running", "pending", "running", "failed", "pending"]


def test_two_hundred_cells_are_not_read_again_at_every_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, reads = Clock(), [0]
    sweep = fake_sweep(tmp_path / "sweep", 200)
    for folder in sweep.folders()[:100]:
        (folder.path / "result.json").write_text(json.dumps({"test": {"all": {"psnr": 1.0}}}))
    real = Path.read_text

    def counted(self: Path, *args: Any, **more: Any) -> str:
        reads[0] += 1
        return real(self, *args, **more)

    watch = LiveTable(Terminal(), clock)
    watch(sweep)
    monkeypatch.setattr(Path, "read_text", counted)
    for _ in range(50):
        clock.now += 0.1
        watch(sweep)
    assert reads == [0]
    looks: list[CellFolder] = []
    monkeypatch.setattr("hyperkit.sweeps.live._signature", looks.append)
    for _ in range(9):
        watch(sweep)  # at most once a second
    assert not looks
    clock.now += 1
    watch(sweep)
    assert len(looks) == 100  # those that wait; the finished ones are not looked at


def test_a_terminal_scrolls_to_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert window(["done"] * 3, 5) == (0, 3)
    assert window(["done"] * 50 + ["running"] * 2 + ["pending"] * 50, 10) == (45, 55)
    assert window(["running"] + ["pending"] * 20, 10) == (0, 10)
    assert window(["done"] * 20 + ["running"], 10) == (11, 21)
    assert window(["done"] * 30 + ["pending"] * 30, 10) == (25, 35)
    assert window(["done"] * 30, 10) == (20, 30)
    monkeypatch.setenv("LINES", "16")
    monkeypatch.setenv("COLUMNS", "100")
    clock, stream = Clock(), Terminal()
    sweep = fake_sweep(tmp_path / "sweep", 40)
    claim = begin(sweep.folders()[20], clock, monkeypatch)
    with LiveTable(stream, clock) as watch:
        watch(sweep)
    claim.release()
    shown = stream.getvalue()
    assert "fake_seed20 " in shown
    assert "fake_seed0 " not in shown
    assert "15 above, 15 below. 40 runs: 1 running, 39 pending" in shown


def test_nothing_is_shown_of_a_sweep_that_was_never_watched() -> None:
    stream = io.StringIO()
    with LiveTable(stream):
        pass
    assert stream.getvalue() == ""


def test_cells_that_are_not_applicable_are_counted_apart(tmp_path: Path) -> None:
    sweep = fake_sweep(tmp_path / "sweep", 1)
    content = dict(sweep.content)
    content["cells"] = [*content["cells"], {"labels": {}, "folder": "x-1", "not_applicable": "no such size"}]
    watch = LiveTable(io.StringIO(), Clock())
    watch(SweepDirectory(sweep.path, content))
    assert watch.summary() == "1 runs: 1 pending, 1 not applicable; 0 s"
