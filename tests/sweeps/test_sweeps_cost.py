"""What the GPUs of a cell draw and hold, as a made-up nvidia-smi tells it."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path

import pytest
from sweeps_driver import fake_sweep

from hyperkit.sweeps.gpu_meter import GpuMeter
from hyperkit.sweeps.layout import cost
from hyperkit.sweeps.local import LocalEngine
from hyperkit.sweeps.store import SweepDirectory
from hyperkit.sweeps.table import tidy_rows


def make_tool(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an nvidia-smi first on the path, which notes how it was called."""
    folder.mkdir()
    tool = folder / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{script}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "calls"


def test_energy_is_the_trapezoid_sum_and_memory_the_highest_of_all_devices_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = tmp_path / "answers"
    calls = make_tool(tmp_path / "bin", f"cat {answers}", monkeypatch)
    times = iter([10.0, 12.0, 17.0])
    meter = GpuMeter("0,3", clock=lambda: next(times))
    assert meter.totals() == {}
    for text in ("100.00, 1000\n50.00, 200\n", "300.00, 4000\n150.00, 100\n", "80.00, 10\n70.00, 10\n"):
        answers.write_text(text)
        meter.read()
    # 150 W -> 450 W in 2 s, then 450 W -> 150 W in 5 s
    assert meter.totals() == {"gpu_energy_joules": 2 * 300.0 + 5 * 300.0, "gpu_peak_memory_bytes": 4100 * 2**20}
    assert calls.read_text().splitlines()[0].endswith("--id=0,3")


def test_what_a_device_does_not_tell_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tool(tmp_path / "bin", "echo '[N/A], 512'", monkeypatch)
    meter = GpuMeter("0")
    meter.read()
    meter.read()
    assert meter.totals() == {"gpu_peak_memory_bytes": 512 * 2**20}


def test_a_reading_that_fails_is_passed_over_and_a_tool_that_never_works_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = make_tool(tmp_path / "bin", f"test -f {tmp_path}/works && echo '100, 1'", monkeypatch)
    broken = GpuMeter("0")
    broken.read()
    (tmp_path / "works").touch()
    broken.read()
    assert len(calls.read_text().splitlines()) == 1
    times = iter([0.0, 10.0])
    meter = GpuMeter("0", clock=lambda: next(times))
    meter.read()
    (tmp_path / "works").unlink()
    meter.read()
    (tmp_path / "works").touch()
    meter.read()
    assert meter.totals()["gpu_energy_joules"] == 1000.0


@pytest.mark.parametrize("devices", ["", None])
def test_without_devices_or_without_the_tool_nothing_is_told(
    devices: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if devices is None:
        monkeypatch.setenv("PATH", str(tmp_path))  # no tool there
    else:
        make_tool(tmp_path / "bin", "echo '100, 1'", monkeypatch)
    meter = GpuMeter(devices)
    meter.read()
    assert meter.totals() == {}
    assert not (tmp_path / "bin" / "calls").exists()


def test_a_cell_records_what_its_own_devices_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = make_tool(tmp_path / "bin", "echo '120, 2000'", monkeypatch)
    sweep = fake_sweep(tmp_path / "sweep", 2, work=0.3)
    LocalEngine(sweep, jobs=1, devices=["5", "6"], devices_per_cell=2).run()
    for folder in sweep.folders():
        found = (folder.result() or {})["cost"]
        # 120 W from before the training, which works for 0.3 s, to after it, within the seconds that are counted
        assert 120 * 0.3 < found["gpu_energy_joules"] <= 120 * found["seconds"]
        assert found["gpu_peak_memory_bytes"] == 2000 * 2**20
    assert {line.split("--id=")[1] for line in calls.read_text().splitlines()} == {"5,6"}
    section = cost(tidy_rows(sweep))
    assert section.table is not None
    (row,) = section.table.rows
    by_name = dict(zip(section.table.headings, row, strict=True))
    assert by_name["GPU memory (GB)"] == "2.10"
    assert by_name["GPU energy (Wh)"] == f"{_mean_energy(sweep) / 3600:.2f}"


def _mean_energy(sweep: SweepDirectory) -> float:
    return statistics.fmean((folder.result() or {})["cost"]["gpu_energy_joules"] for folder in sweep.folders())


def test_a_cell_that_is_told_to_use_the_cpu_asks_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = make_tool(tmp_path / "bin", "echo '120, 2000'", monkeypatch)
    sweep = fake_sweep(tmp_path / "sweep", 1)
    (folder,) = sweep.folders()
    definition = folder.definition()
    definition["overrides"]["training"]["device"] = "cpu"
    (folder.path / "cell.json").write_text(json.dumps(definition))
    LocalEngine(sweep, jobs=1).run()
    assert "gpu_energy_joules" not in (folder.result() or {})["cost"]
    assert not calls.exists()
    section = cost(tidy_rows(sweep))
    assert section.table is not None
    assert section.table.rows[0][-2:] == ["n/a", "n/a"]
