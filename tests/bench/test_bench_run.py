"""The benchmark as a whole, at sizes whose figures say nothing: what it writes, and that its parts do what they say."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hyperkit.bench import trained_field as fitting
from hyperkit.bench.__main__ import app
from hyperkit.bench.memory import peak_memory, resident_peak
from hyperkit.bench.quickstart import PlainNVSTask, Watch, _Reached
from hyperkit.bench.report import Row, line, save, slug
from hyperkit.bench.run import ROWS, run
from hyperkit.bench.settings import Bench, sizes_for
from hyperkit.bench.trained_field import FitSettings, TrainedField, checkpoint_field, fit_field, psnr, trained_field
from hyperkit.bench.worker import Worker
from hyperkit.contracts import Rays, TargetParams
from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.models.field import Field
from hyperkit.targets.radiance_field import RadianceField, RadianceFieldConfig
from hyperkit.tasks.nvs import NVSTask
from hyperkit.training.loop import fit
from hyperkit.training.run_directory import RunDirectory
from hyperkit.workflows.configure import from_recipe

CPU = torch.device("cpu")
KEYS = {"name", "value", "unit", "baseline", "speedup", "share_of_matmul"}
SMALL = sizes_for(CPU, debug=True)
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def result(bench_cache: Path) -> dict[str, Any]:
    names = [name for name in ROWS if name not in ("render_memory_1024", "quickstart_to_psnr")]
    return run(names, repeats=1, device="cpu", debug=True)


def test_every_row_is_measured(result: dict[str, Any]) -> None:
    assert set(result) == {"device", "versions", "rows"}
    assert {"python", "torch", "hyperkit"} <= set(result["versions"])
    assert json.loads(json.dumps(result)) == result
    for row in result["rows"]:
        assert set(row) >= KEYS | {"p20", "p50", "p80", "note"}
        assert row["value"] > 0
        # one round: the ratio of the medians is the median of the ratios
        faster = row["baseline"] / row["value"] if row["unit"] in ("s", "ms") else row["value"] / row["baseline"]
        assert row["speedup"] == pytest.approx(faster, rel=1e-4)
        assert 0 < row["share_of_matmul"] < 10


def test_the_rows_shares_follow_from_their_figures(result: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in result["rows"]}
    view = rows["render_128"]
    # 16 x 16 rays of 8 samples through (24, 16), (16, 16), (16, 4)
    work = 16 * 16 * 8 * 2 * (24 * 16 + 16 * 16 + 16 * 4)
    rate = work / (view["value"] / 1e3) / 1e12
    assert view["dense_share_of_matmul"] == pytest.approx(rate / view["matmul_tflops"], rel=1e-4)
    assert view["share_of_matmul"] == pytest.approx(view["dense_share_of_matmul"] * (1 - view["culled"]), rel=1e-4)
    assert view["points_per_s"] == pytest.approx(16 * 16 * 8 / (view["value"] / 1e3), rel=1e-4)
    assert view["psnr"] > 30
    assert view["exact_error"] < 1e-4
    layers = rows["field_mlp_256"]
    assert layers["share_of_matmul"] == pytest.approx(layers["value"] / layers["matmul_tflops"], rel=1e-4)
    # two steps of two items are scaled to a hundred
    assert "2 steps measured, times 50" in rows["tto_100"]["note"]
    assert rows["tto_100"]["items_per_s"] == pytest.approx(2 / rows["tto_100"]["value"], rel=1e-4)


def test_results_are_kept_per_device(result: dict[str, Any], tmp_path: Path) -> None:
    path = save(tmp_path, result)
    assert path.name == f"{slug(result['device'])}.json"
    again = {**result, "rows": [{**result["rows"][0], "value": 1.5}]}
    assert save(tmp_path, again) == path
    kept = json.loads(path.read_text())
    assert [row["name"] for row in kept["rows"]] == [row["name"] for row in result["rows"]]
    assert kept["rows"][0]["value"] == 1.5
    assert all(row["date"] and row["versions"]["torch"] for row in kept["rows"])


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_stored_results_are_complete(path: Path) -> None:
    stored = json.loads(path.read_text())
    assert slug(stored["device"]) == path.stem
    assert all(KEYS | {"date", "versions"} <= set(row) and row["name"] in ROWS for row in stored["rows"])


def test_slugs_are_file_names() -> None:
    device = {"name": "Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz", "kind": "cpu", "threads": 2}
    assert slug(device) == "intel-xeon-platinum-8480-cpu-2-00ghz-2-threads"
    assert slug({"name": "NVIDIA H100 80GB HBM3", "kind": "cuda", "threads": 16}) == "nvidia-h100-80gb-hbm3"


def test_a_row_as_a_line_and_as_json() -> None:
    row = Row("render_128", 12.34567891, "ms", 400.0, 32.4, 0.5, {"psnr": math.inf, "note": "x"})
    assert row.to_json()["value"] == 12.3457
    assert row.to_json()["psnr"] is None
    assert line(row).split() == [
        "render_128",
        "12.35",
        "ms",
        "400",
        "ms",
        "32.40x",
        "50.0%",
        "psnr",
        "inf;",
        "note",
        "x",
    ]
    assert line(Row("a", None, "", more={"note": "x"})).split() == ["a", "-", "-", "-", "-", "note", "x"]


def test_the_command_prints_one_object() -> None:
    found = CliRunner().invoke(app, ["--rows", "field_mlp_64", "field_mlp_256", "--debug", "--repeats", "1", "--json"])
    assert found.exit_code == 0
    assert [row["name"] for row in json.loads(found.stdout)["rows"]] == ["field_mlp_64", "field_mlp_256"]
    assert "baseline" in found.stderr.splitlines()[1]


def test_help_is_quick_and_errors_say_what_is_allowed() -> None:
    code = (
        "import sys; sys.argv = ['bench', '--help']\n"
        "from hyperkit.bench.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as e: assert e.code == 0\n"
        "assert 'torch' not in sys.modules and 'rich.console' not in sys.modules"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert not subprocess.run([sys.executable, "-c", code], env=environment, timeout=60).returncode
    with pytest.raises(HyperkitError, match="There is no row 'render_12'. Did you mean 'render_128'?"):
        run(["render_12"])
    for arguments, message in ((["--device", "tpu"], "There is no device 'tpu'"), (["--repeats", "0"], "--repeats")):
        done = subprocess.run(
            [sys.executable, "-m", "hyperkit.bench", *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert message in done.stderr
        assert not done.stdout


def test_a_field_is_fitted_until_it_shows_its_object() -> None:
    settings = FitSettings(
        24,
        9,
        3,
        48,
        4,
        steps=300,
        rays=64,
        samples=16,
        learning_rate=5e-3,
        check_every=60,
        target=13,
    )
    field, steps, reached = fit_field(settings, CPU, torch.float32)
    pictures, poses = fitting.object_views(settings)
    truth = pictures[-1, ..., :3] * pictures[-1, ..., 3:] + 1 - pictures[-1, ..., 3:]
    assert steps in (60, 120, 180)
    assert reached >= 13 > psnr(torch.ones_like(truth), truth) + 4
    views = field.render(poses=poses[-1:], size=24, quality="exact")
    assert psnr(views.rgb[0], truth) == pytest.approx(reached, abs=0.3)
    inside, outside = (
        views.opacity[0][mask].mean() for mask in (pictures[-1, ..., 3] > 0.5, pictures[-1, ..., 3] < 0.5)
    )
    assert inside > 0.6 > 0.3 > outside


def test_the_loss_of_fitting_is_what_it_says() -> None:
    settings = FitSettings(rays=512, samples=4)
    target = RadianceField(RadianceFieldConfig(depth=2, width=8, density_shift=0.0))
    zeros = TargetParams({n: torch.zeros(1, *t.shape) for n, t in target.spec.tensors.items()}, target.spec)
    rays = Rays(torch.tensor([4.0, 0.0, 0.0]).expand(1, 512, 3), torch.tensor([-1.0, 0.0, 0.0]).expand(1, 512, 3))
    seen = torch.tensor([0.2, 0.2, 0.2, 0.75]).expand(1, 512, 4)

    def loss(density: float) -> float:
        tensors = {**zeros.tensors, "layer1.bias": torch.tensor([[[0.0, 0.0, 0.0, density]]])}
        params, generator = TargetParams(tensors, target.spec), torch.Generator().manual_seed(0)
        return float(fitting._fit_loss(target, params, rays, seen, settings, generator))

    # nothing there: the error is 0.75 (colour - background), for backgrounds uniform in [0, 1], and 0.75 of opacity
    expected = 0.75**2 * (0.2**2 - 0.2 + 1 / 3) + 0.5 * 0.75**2
    assert loss(0.0) == pytest.approx(expected, rel=0.03)
    # all opaque and grey: the error is 0.35 - 0.25 background, and 0.25 of opacity
    expected = 0.35**2 - 0.35 * 0.25 + 0.25**2 / 3 + 0.5 * 0.25**2
    assert loss(1e4) == pytest.approx(expected, rel=0.03)


def test_the_field_is_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = trained_field(SMALL.fit, CPU, torch.float32)

    def refuse(*_: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(fitting, "fit_field", refuse)
    again = trained_field(SMALL.fit, CPU, torch.float32)
    assert torch.equal(first.field.params.pack(), again.field.params.pack())
    with pytest.raises(AssertionError, match="fitted again"):
        trained_field(replace(SMALL.fit, steps=4), CPU, torch.float32)


def test_psnr_at_the_truths_own_size() -> None:
    truth = torch.zeros(4, 4, 3)
    known = TrainedField(Field(None, None), torch.eye(4), truth, "")  # type: ignore[arg-type]
    picture = torch.zeros(8, 8, 3)
    picture[::2, ::2] = 0.4  # each four pixels have a mean of 0.1
    assert known.psnr(picture) == pytest.approx(20.0, abs=1e-4)


def test_a_checkpoints_field_is_compared_with_the_view_it_read(tmp_path: Path) -> None:
    task_cls, config = from_recipe("nvs", "debug", {"training": {"steps": 1, "tensorboard": False}}, "train")
    task, plain = task_cls(config, 0), config.model_dump(mode="json")
    with RunDirectory.create(tmp_path / "run", "nvs", plain) as directory:
        fit(task, config.training, directory, stored_config=plain)
    known = checkpoint_field(tmp_path / "run", "cpu", "32")
    sample = task.data().samples(1)[0]
    assert torch.equal(known.truth, sample["picture"].movedim(0, -1).float() / 255)
    assert torch.equal(known.pose, sample["pose"])
    found = run(["render_128"], repeats=1, device="cpu", debug=True, checkpoint=tmp_path / "run")["rows"][0]
    assert sample["id"] in found["note"]
    assert found["exact_error"] < 1e-4


def test_memory_is_that_of_the_process_alone() -> None:
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    block = np.ones(25_000_000)
    assert resident_peak() >= before + 0.8 * block.nbytes / 1e6
    field = trained_field(SMALL.fit, CPU, torch.float32).field
    child = peak_memory(field, torch.eye(4), 16, 8, CPU, plain=True)
    assert 50 < child < resident_peak()  # this process holds 200 MB more


def test_the_quickstart_is_stopped_at_its_psnr() -> None:
    class Silent:
        def start(self, *_: Any) -> None: ...

        def update(self, *_: Any) -> None: ...

        def close(self) -> None: ...

    watch = Watch(15.0, Silent())
    watch.start(10, 0, {}, 1.0)
    watch.update(1, {})
    watch.update(2, {"best": 14.9})
    assert watch.seconds is None
    with pytest.raises(_Reached):
        watch.update(4, {"best": 15.2})
    assert (watch.step, watch.psnr) == (4, 15.2)
    assert watch.seconds is not None


def test_the_quickstart_runs_with_both_operations() -> None:
    row = run(["quickstart_to_psnr"], repeats=1, device="cpu", precision="32", debug=True)["rows"][0]
    assert row["speedup"] == pytest.approx(row["baseline"] / row["value"], rel=1e-4)
    assert row["steps"] == row["steps_baseline"] == 2
    assert row["psnr"] == pytest.approx(row["psnr_baseline"], abs=0.02)  # alike but for rounding
    assert issubclass(PlainNVSTask, NVSTask)


def test_a_worker_makes_a_step_at_every_call_until_it_ends(result: dict[str, Any]) -> None:
    with Worker(Bench(CPU, torch.float32, 1, SMALL), "plain") as step:
        step()
        step()
        step._process.kill()
        with pytest.raises(RunFailed, match="The process that trains has ended"):
            step()
    assert step._process.returncode
