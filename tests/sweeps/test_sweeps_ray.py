"""The engine on a Ray cluster: the local engine's table, nodes and drivers that die mid-cell, clear errors."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweeps_driver import fake_sweep

from hyperkit.errors import HyperkitError, RunInterrupted
from hyperkit.sweeps import ray_cell, ray_driver, ray_engine
from hyperkit.sweeps.local import LocalEngine
from hyperkit.sweeps.ray_driver import Driver
from hyperkit.sweeps.ray_engine import RayEngine
from hyperkit.sweeps.state import CellFolder
from hyperkit.sweeps.store import SweepDirectory
from hyperkit.sweeps.table import tidy_rows

HERE = Path(__file__).parent
needs_ray = pytest.mark.skipif(sys.platform == "win32", reason="a Ray cluster of several nodes is for POSIX")


class TwoNodes:
    """A cluster of two nodes of one CPU each, on this machine."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.address: str = cluster.address
        self.second = cluster.add_node(num_cpus=1)

    def kill_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)

    def raylet(self) -> int:
        return int(self.second.all_processes["raylet"][0].process.pid)


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    pytest.importorskip("ray", reason='needs the extra: pip install "hyperkit[ray]"')
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield TwoNodes(cluster)
    cluster.shutdown()


def events(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def how_often(tmp_path: Path, event: str) -> Counter[int]:
    return Counter(line["seed"] for line in events(tmp_path) if line["event"] == event)


def parents(pid: int) -> list[int]:
    found = []
    while pid > 1:
        found.append(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def numbers(sweep: SweepDirectory) -> list[dict[str, Any]]:
    cost = ("seconds", "cpu_seconds", "peak_memory_bytes")
    return [row for row in tidy_rows(sweep) if row["metric"] not in cost]


def chain(folder: CellFolder) -> tuple[int, int, int]:
    """Return the cell's worker, its guard and Ray's process."""
    worker, guard, task, *_ = parents(int(folder.state()["pid"]))
    return worker, guard, task


def once(action: Callable[[], None], ready: Callable[[], bool]) -> Callable[[SweepDirectory], None]:
    """Return a watcher that acts the first time that something is the case."""
    acted: list[bool] = []

    def watch(_: SweepDirectory) -> None:
        if not acted and ready():
            acted.append(True)
            action()

    return watch


@needs_ray
def test_a_node_killed_mid_cell_costs_nothing_but_time_and_the_table_is_the_local_engines(
    tmp_path: Path, nodes: TwoNodes
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "ray").mkdir()
    fates = ["ends well", "ends well", "fails"]
    here = fake_sweep(tmp_path / "here" / "sweep", 3, work=0.1, fates=fates)
    LocalEngine(here, jobs=2).run()
    sweep = fake_sweep(tmp_path / "ray" / "sweep", 3, work=4.0, fates=fates)
    lost: list[CellFolder] = []

    def on_second() -> bool:
        for folder in sweep.folders():
            if folder.status() == "running" and nodes.raylet() in parents(int(folder.state()["pid"])):
                time.sleep(0.5)
                lost.append(folder)
                return True
        return False

    RayEngine(sweep, address=nodes.address, watch=once(nodes.kill_second, on_second), poll=0.1).run()
    nodes.second = nodes.cluster.add_node(num_cpus=1)
    assert sweep.counts() == here.counts() == {"done": 2, "failed": 1}
    assert numbers(sweep) == numbers(here)
    (folder,) = lost
    assert folder.state()["attempt"] == 2
    assert [line["event"] for line in folder.history()] == ["started", "put back", "started", "done"]
    finished = how_often(tmp_path / "ray", "finished")
    assert finished == {0: 1, 1: 1}
    assert sum(how_often(tmp_path / "ray", "saved").values()) == 1  # the training was told, and went on from there
    assert {f.result()["threads"] for f in sweep.folders() if f.status() == "done"} == {"1"}  # type: ignore[index]


@needs_ray
def test_cells_whose_guard_or_task_is_killed_save_their_state_and_go_on(tmp_path: Path, nodes: TwoNodes) -> None:
    sweep = fake_sweep(tmp_path / "sweep", 2, work=4)
    first, second = sweep.folders()

    def kill() -> None:
        time.sleep(0.3)
        os.kill(chain(first)[1], signal.SIGKILL)  # as a Ray worker does with its children
        os.kill(chain(second)[2], signal.SIGKILL)

    def both_run() -> bool:
        return len(events(tmp_path)) == 2 and sweep.counts() == {"running": 2}

    RayEngine(sweep, address=nodes.address, watch=once(kill, both_run), poll=0.1).run()
    for folder in (first, second):
        assert [line["event"] for line in folder.history()] == ["started", "put back", "started", "done"]
    assert how_often(tmp_path, "saved") == how_often(tmp_path, "finished") == {0: 1, 1: 1}


@needs_ray
def test_a_cell_that_nobody_holds_is_lost_even_if_ray_has_not_noticed(
    tmp_path: Path, nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_LOST_SECONDS", 0.5)
    monkeypatch.setattr(ray_engine, "_LOOK_SECONDS", 0.2)
    sweep = fake_sweep(tmp_path / "sweep", 1, work=20)
    (folder,) = sweep.folders()
    stopped: list[int] = []

    def cut_off() -> None:
        worker, guard, task = chain(folder)
        training = int(events(tmp_path)[0]["pid"])
        os.kill(task, signal.SIGSTOP)  # to Ray it looks like one that is busy
        stopped.append(task)
        for pid in (guard, worker, training):
            os.kill(pid, signal.SIGKILL)

    def runs() -> bool:
        return bool(how_often(tmp_path, "started"))

    try:
        RayEngine(sweep, address=nodes.address, retries=0, watch=once(cut_off, runs), poll=0.1).run()
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
    assert sweep.counts() == {"failed": 1}
    assert folder.state()["reason"].startswith("Its machine was lost 1 times, the last time: nothing was heard of ")


def driver(place: Path, address: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, str(HERE / "sweeps_driver.py"), str(place), "4", "1.0", "ray"]
    return subprocess.Popen(words, env={**os.environ, "RAY_ADDRESS": address}, stderr=subprocess.DEVNULL)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@needs_ray
def test_a_killed_engine_or_link_to_ray_goes_on_and_runs_no_finished_cell_twice(
    tmp_path: Path, nodes: TwoNodes
) -> None:
    place = tmp_path / "sweep"
    process = driver(place, nodes.address)
    wait_for(lambda: sum(how_often(tmp_path, "finished").values()) >= 1)
    process.kill()
    process.wait()
    time.sleep(0.5)  # the cells that ran save their state
    begun = sum(how_often(tmp_path, "started").values())
    process = driver(place, nodes.address)
    wait_for(lambda: sum(how_often(tmp_path, "started").values()) > begun)
    (link,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    os.kill(link, signal.SIGKILL)
    assert process.wait(timeout=30) == 1
    LocalEngine(SweepDirectory.open(place), jobs=2).run()  # the engines may change
    assert SweepDirectory.open(place).counts() == {"done": 4}
    assert how_often(tmp_path, "finished") == dict.fromkeys(range(4), 1)
    for seed, folder in enumerate(SweepDirectory.open(place).folders()):
        assert Counter(line["event"] for line in folder.history())["done"] == 1
        kinds = [line["event"] for line in events(tmp_path) if line["seed"] == seed]
        assert "started" not in [a for a, b in pairwise(kinds) if b == "started"]  # no two at a time


@needs_ray
def test_an_interrupt_ends_a_cluster_of_ones_own_without_a_word_or_a_trace(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason='needs the extra: pip install "hyperkit[ray]"')
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    sweep = fake_sweep(tmp_path / "sweep", 1, work=30)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    links: list[int] = []

    def interrupt() -> None:
        assert engine._driver is not None
        links.append(engine._driver.pid)
        assert processes_of(links[0])
        os.kill(os.getpid(), signal.SIGTERM)

    def runs() -> bool:
        return bool(how_often(tmp_path, "started"))

    engine = RayEngine(sweep, watch=once(interrupt, runs), poll=0.1)
    with pytest.raises(RunInterrupted) as caught:
        engine.run()
    assert caught.value.exit_code == 143
    assert how_often(tmp_path, "saved") == {0: 1}
    assert sweep.counts() == {"pending": 1}
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert capfd.readouterr() == ("", "")
    wait_for(lambda: not processes_of(links[0]))
    assert "usage stats" not in (tmp_path / "sweep" / "ray.log").read_text().lower()


def processes_of(session: int) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            content = place.read_text()
        except OSError:
            continue
        state, _, _, owner = content.rpartition(")")[2].split()[:4]
        if int(owner) == session and state != "Z":
            found.append(content)
    return found


def test_what_cannot_work_is_said_at_once(tmp_path: Path, nodes: TwoNodes) -> None:
    sweep = fake_sweep(tmp_path / "large" / "sweep", 1, threads=2)
    with pytest.raises(HyperkitError, match="cell of 2 CPUs and 0 GPUs; it has 1 CPUs and 0 GPUs, 1 CPUs and 0 GPUs"):
        RayEngine(sweep, address=nodes.address, poll=0.1).run()
    assert sweep.counts() == {"pending": 1}
    with pytest.raises(HyperkitError, match="cell of 2 CPUs and 3 GPUs"):
        RayEngine(sweep, address=nodes.address, devices_per_cell=3, poll=0.1).run()
    with pytest.raises(HyperkitError, match=r"no Ray cluster at 127\.0\.0\.1:1: .*refused.*\n.*ray start --head"):
        RayEngine(sweep, address="127.0.0.1:1", poll=0.1).run()


class StubRay:
    """Stands for Ray where a real cluster would need minutes, or another machine."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    def __init__(self, ends: list[Any], fitting: int = 10**9) -> None:
        self.ends, self.fitting, self.given = ends, fitting, {}  # type: ignore[var-annotated]
        self.cancelled: list[object] = []

    def remote(self, function: Any) -> Any:
        submit = SimpleNamespace(remote=lambda *_: object())
        return SimpleNamespace(options=lambda **given: self.given.update(given) or submit)

    def wait(self, tasks: list[object], num_returns: int, timeout: float) -> tuple[list[object], list[object]]:
        return (tasks if self.ends else []), []

    def get(self, task: object) -> Any:
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    def cancel(self, task: object, force: bool = False) -> None:
        self.cancelled.append(task)

    def nodes(self) -> list[dict[str, Any]]:
        self.fitting -= 1
        return [{"Alive": self.fitting >= 0, "Resources": {"CPU": 8.0, "GPU": 2.0}}]


def test_a_cell_has_a_gpu_where_the_cluster_has_any() -> None:
    assert Driver(StubRay([]), None, print).devices == 1
    assert Driver(StubRay([], fitting=0), None, print).devices == 0  # the only node is gone
    assert Driver(StubRay([]), 0, print).devices == 0


def test_what_nodes_report_reaches_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    def serve(ray: StubRay, orders: int = 1) -> None:
        told.clear()
        waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for number in range(orders):
            waiting.put({"run": f"/sweep/{number}", "threads": 4})
        for _ in range(5):
            waiting.put({})
        waiting.put(None)
        Driver(ray, 2, told.append).serve(waiting)

    ray = StubRay([(0, ""), StubRay.exceptions.RayError("The node died.\nIt was old.")])
    serve(ray, 2)
    assert told == [{"ended": "/sweep/0", "code": 0}, {"lost": "/sweep/1", "why": "The node died."}]
    assert (ray.given["num_cpus"], ray.given["num_gpus"], ray.given["max_retries"]) == (4, 2, 0)
    with pytest.raises(HyperkitError, match="The node far has another"):
        serve(StubRay([(-1, "The node far has another hyperkit.")]))
    error = StubRay.exceptions.RayTaskError("Traceback\nModuleNotFoundError: No module named 'hyperkit'")
    with pytest.raises(HyperkitError, match=r"No module named 'hyperkit'\nEvery node needs"):
        serve(StubRay([error]))
    with pytest.raises(HyperkitError, match="can take a cell of 4 CPUs and 2 GPUs; it has no node"):
        serve(StubRay([], fitting=0))
    # a cluster that had a node may be without one for a while
    monkeypatch.setattr(ray_driver, "_LOOK_SECONDS", 0.0)
    serve(ray := StubRay([], fitting=1))
    assert len(ray.cancelled) == 1
    monkeypatch.setattr(ray_driver, "_NODES_PATIENCE", 0.0)
    with pytest.raises(HyperkitError, match="it has no node"):
        serve(StubRay([], fitting=1))


def test_bad_arguments_and_a_missing_ray_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = fake_sweep(tmp_path / "sweep", 1)
    monkeypatch.setattr(ray_engine.importlib.util, "find_spec", lambda name: name != "ray" or None)
    with pytest.raises(HyperkitError, match=r"pip install 'hyperkit\[ray\]'"):
        RayEngine(sweep)
    monkeypatch.setattr(ray_engine.importlib.util, "find_spec", lambda name: True)
    with pytest.raises(HyperkitError, match="--ray-address auto"):
        RayEngine(sweep, address="ray://head:10001")
    for wrong in ({"devices_per_cell": -1}, {"retries": -1}):
        with pytest.raises(ValueError, match="negative"):
            RayEngine(sweep, **wrong)  # type: ignore[arg-type]
    LocalEngine(sweep).run()
    RayEngine(sweep, address="127.0.0.1:1").run()  # nothing is left to do, so that no cluster is asked for


def test_a_node_that_cannot_run_cells_says_why(tmp_path: Path) -> None:
    (folder,) = fake_sweep(tmp_path / "sweep", 1).folders()
    code, why = ray_cell.run_on_node(str(tmp_path / "elsewhere"), ray_cell.__version__, ".", {})
    assert (code, "does not see" in why) == (-1, True)
    code, why = ray_cell.run_on_node(str(folder.path), "0.0.0", ".", {})
    assert (code, "not 0.0.0" in why) == (-1, True)
    assert ray_cell.run_on_node(str(folder.path), ray_cell.__version__, "/nowhere", {}) == (0, "")
    assert folder.status() == "done"
