"""Small runs on pictures, sounds and several views, used in every way: train, evaluate, render, finetune, load."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import hyperkit
from hyperkit.errors import HyperkitError
from hyperkit.geometry import picture_coordinates
from hyperkit.models import PictureINR, SoundINR
from hyperkit.workflows.evaluate import RunResult, evaluate
from hyperkit.workflows.finetune import finetune
from hyperkit.workflows.prepare import prepare_task_signals
from hyperkit.workflows.render import RenderOptions, render
from hyperkit.workflows.train import train


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("module-cache")


@pytest.fixture(autouse=True)
def _same_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(cache))


def trained(task: str, cache: Path, folder: Path, **overrides: object) -> RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERKIT_CACHE", str(cache))
        return train(task, recipe="debug", overrides=overrides, out=folder)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> RunResult:
    return trained("image", cache, tmp_path_factory.mktemp("runs") / "image")


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> RunResult:
    return trained("audio", cache, tmp_path_factory.mktemp("runs") / "audio", algorithm="ponp")


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> RunResult:
    changes = {"data": {"views": 2, "fewest_views": 1}, "context": {"pose_tokens": True}}
    return trained("nvs", cache, tmp_path_factory.mktemp("runs") / "views", **changes)


def test_a_run_on_pictures_is_complete(image: RunResult) -> None:
    for name in ("results.md", "media/examples.png", "media/comparison.png", "media/curves.png"):
        assert (image.run / name).is_file(), name
    results = json.loads((image.run / "results.json").read_text())
    assert set(results["constants"]) == {"mean", "own mean"}
    assert results["test"]["all"]["n"] == 6
    assert results["test"]["all"]["ssim"] is not None


def test_a_run_on_sounds_reports_sounds_and_calibration(audio: RunResult) -> None:
    results = json.loads((audio.run / "results.json").read_text())
    found = results["test"]["all"]
    assert set(results["constants"]) == {"silence"}
    assert {"psnr", "si_sdr", "lsd", "nll", "within_1", "within_2"} <= set(found)
    assert 0 <= found["within_1"] <= found["within_2"] <= 1
    for name in ("calibration.png", "examples.png", "original.wav", "inr.wav", "figure.png"):
        assert (audio.run / "media" / name).is_file(), name


def test_rendered_pictures_are_the_network_at_their_pixels(image: RunResult, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "mine.png")
    result = render(
        image.run,
        RenderOptions(scale=3),
        image=tmp_path / "mine.png",
        attention=True,
        weights_out=tmp_path / "net.safetensors",
        out=tmp_path / "out",
    )
    assert {"input", "inr", "comparison", "attention", "weights"} <= set(result.files)
    written = np.asarray(Image.open(tmp_path / "out" / "inr.png")).astype(float)
    assert written.shape == (48, 48, 3)
    network = PictureINR.load(tmp_path / "net.safetensors").to_module()
    with torch.no_grad():
        values = network(picture_coordinates(48, 48)).clamp(0, 1).reshape(48, 48, 3) * 255
    # bf16 products in the rendering: one part in 256 of values up to 1
    assert np.abs(values.numpy() - written).mean() < 2.5
    with pytest.raises(HyperkitError, match="--elevation means nothing for the task 'image'"):
        render(image.run, RenderOptions(elevation=3.0))
    with pytest.raises(HyperkitError, match="does not read that"):
        render(image.run, audio=tmp_path / "a.wav")
    with pytest.raises(HyperkitError, match="holds a PictureINR, not a SoundINR"):
        SoundINR.load(tmp_path / "net.safetensors")


def test_rendered_sounds_keep_their_duration_at_any_rate(audio: RunResult, tmp_path: Path) -> None:
    time = np.arange(3000) / 3000
    soundfile.write(tmp_path / "tone.wav", 0.4 * np.sin(2 * math.pi * 100 * time), 3000)
    result = render(audio.run, RenderOptions(rate=8000), audio=tmp_path / "tone.wav", attention=True, out=tmp_path)
    sound, rate = soundfile.read(result.files["sound"])
    original, own = soundfile.read(result.files["original"])
    assert (len(sound) / rate, rate, own) == (pytest.approx(0.25), 8000, 2000)
    np.testing.assert_allclose(original[20:480], 0.4 * np.sin(2 * math.pi * 100 * np.arange(20, 480) / 2000), atol=0.02)
    with pytest.raises(HyperkitError, match="the model reads 0.25 s"):
        soundfile.write(tmp_path / "short.wav", np.zeros(100), 2000)
        render(audio.run, audio=tmp_path / "short.wav")


def test_an_item_of_the_data_set_can_be_rendered(image: RunResult, audio: RunResult, tmp_path: Path) -> None:
    for run in (image, audio):
        name = hyperkit.load(run.run).samples["ids"][1]
        assert render(run.run, object_id=name, out=tmp_path / "a").source == name.rsplit(".", 1)[0]
        with pytest.raises(HyperkitError, match="no/such.file"):
            render(run.run, object_id="no/such.file")


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_optimisation_at_test_time_brings_the_input_nearer(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: RunResult = request.getfixturevalue(kind)
    changes = {"evaluation": {"tto": {"learning_rate": 0.01, "rays": 256}}}
    before = evaluate(run.run, out=tmp_path / "a").results["test"]["all"]["psnr"]
    after = evaluate(run.run, tto=40, overrides=changes, out=tmp_path / "b").results["test"]["all"]["psnr"]
    assert after > before + 0.5


def test_rendering_takes_settings_of_the_optimisation(image: RunResult, tmp_path: Path) -> None:
    name = hyperkit.load(image.run).samples["ids"][0]
    errors = []
    for rate in (1e-9, 0.01):
        changes = {"evaluation": {"tto": {"learning_rate": rate, "rays": 256}}}
        folder = tmp_path / str(rate)
        render(image.run, RenderOptions(scale=1), object_id=name, tto=40, overrides=changes, out=folder)
        made, given = (np.asarray(Image.open(folder / f"{part}.png")).astype(float) for part in ("inr", "input"))
        errors.append(float(((made - given) ** 2).mean()))
    assert errors[1] < 0.7 * errors[0]


def test_users_get_objects_that_can_be_saved(image: RunResult, audio: RunResult, tmp_path: Path) -> None:
    picture = hyperkit.load(image.run, precision="32")(torch.rand(3, 16, 16))
    picture.save(tmp_path / "p.safetensors")
    again = PictureINR.load(tmp_path / "p.safetensors")
    torch.testing.assert_close(again.render(20, 24), picture.render(20, 24), atol=1e-6, rtol=1e-5)
    assert picture.deviation() is None
    sound = hyperkit.load(audio.run, precision="32")(torch.randn(500) * 0.1)
    assert sound.render(4000).shape == (1000,)
    assert float(sound.deviation().min()) >= 0.01 - 1e-6


def test_finetuning_goes_on_from_a_run_on_sounds(audio: RunResult, tmp_path: Path) -> None:
    changes = {"training": {"steps": 1, "learning_rate": 1e-12}, "data": {"classes": ["chirp"]}}
    tuned = finetune(audio.run, overrides=changes, out=tmp_path / "b")
    assert set(tuned.results["test"]) == {"all", "chirp", "class_mean"}
    assert tuned.results["test"]["chirp"]["psnr"] == pytest.approx(audio.results["test"]["chirp"]["psnr"], abs=1e-2)


def test_a_model_keeps_its_structure(audio: RunResult, views: RunResult, tmp_path: Path) -> None:
    with pytest.raises(HyperkitError, match="data.rate is 1000"):
        evaluate(audio.run, overrides={"data": {"rate": 1000}}, out=tmp_path / "a")
    with pytest.raises(HyperkitError, match="does not fit the model that its configuration with what was set"):
        evaluate(views.run, overrides={"data": {"views": 3}}, out=tmp_path / "b")
    with pytest.raises(HyperkitError, match="keeps the algorithm of its checkpoint: .* has 'ponp', not 'ipc'"):
        finetune(audio.run, overrides={"algorithm": "ipc"}, out=tmp_path / "c")


def test_more_views_keep_the_same_targets(views: RunResult, tmp_path: Path) -> None:
    one = evaluate(views.run, views=1, out=tmp_path / "1").results
    two = evaluate(views.run, views=2, out=tmp_path / "2").results
    assert one["pairs"] == two["pairs"]
    assert one["constants"] == two["constants"]
    assert one["test"]["all"]["psnr"] != two["test"]["all"]["psnr"]
    with pytest.raises(HyperkitError, match="at most 2 views"):
        evaluate(views.run, views=3, out=tmp_path / "3")
    name = hyperkit.load(views.run).samples["ids"][0]
    made = render(views.run, RenderOptions(views=1), object_id=name, attention=True, tto=2, out=tmp_path / "r")
    assert made.files["attention"].is_file()
    with pytest.raises(HyperkitError, match="pose tokens"):
        render(views.run, image=tmp_path / "mine.png")
    model = hyperkit.load(views.run)
    for source in ("mine.png", np.zeros((40, 40, 3), np.uint8), torch.rand(3, 32, 32)):
        with pytest.raises(HyperkitError, match="pose tokens"):
            model(source)
    with pytest.raises(HyperkitError, match="pose tokens"):
        model.prepare("mine.png")
    assert model.prepare(torch.rand(2, 3, 32, 32)).shape == (1, 2, 3, 32, 32)  # generate may be given its cameras


def test_classes_that_were_not_trained_on_are_tested(cache: Path, tmp_path: Path) -> None:
    changes = {"data": {"classes": ["cars", "chairs"], "test_classes": ["lamps"]}, "training": {"steps": 2}}
    result = trained("nvs", cache, tmp_path / "run", **changes).results
    assert set(result["test"]) == {"all", "lamps", "class_mean"}


@pytest.mark.parametrize("task", ["image", "audio"])
def test_prepare_says_what_is_there(task: str, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "one"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(24):
        if task == "image":
            Image.fromarray(rng.integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(folder / f"{index}.png")
        else:
            soundfile.write(folder / f"{index}.flac", rng.uniform(-0.5, 0.5, 20000), 16000)
    report = prepare_task_signals(task, tmp_path / "data").as_dict()
    assert sum(sum(classes.values()) for classes in report["counts"].values()) == 24
    bad = folder / ("bad.png" if task == "image" else "bad.flac")
    bad.write_bytes(b"nothing")
    with pytest.raises(HyperkitError, match=bad.name):
        prepare_task_signals(task, tmp_path / "data")
    assert [
        Path(p["path"]).name for p in prepare_task_signals(task, tmp_path / "data", skip_bad=True).as_dict()["left_out"]
    ] == [bad.name]
    with pytest.raises(HyperkitError, match="--librispeech"):
        prepare_task_signals("image", librispeech=["dev-clean"], out=tmp_path / "x")
