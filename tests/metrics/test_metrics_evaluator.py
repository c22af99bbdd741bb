"""Collecting metrics, what is said about those that are not available, and preparing their weights."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
import torch

from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.metrics import METRICS, ImageMetrics, aggregate, prepare, prepare_metrics, psnr, weights


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_scores_of_batches_are_those_of_the_whole(no_weights: Path) -> None:
    prediction, truth = pictures(5, 3, 12, 12), pictures(5, 3, 12, 12, seed=1)
    ids, classes = ("a", "b", "c", "d", "e"), ("x", "y", "x", "x", "y")
    metrics = ImageMetrics(names=("psnr", "ssim"))
    first = metrics.update(prediction[:2], truth[:2], ids[:2], classes[:2])
    metrics.update(prediction[2:], truth[2:], ids[2:], classes[2:])
    scores = metrics.scores()
    assert first.values["psnr"] == scores.values["psnr"][:2]
    assert scores.values["psnr"] == pytest.approx(psnr(prediction, truth).tolist(), abs=1e-4)
    assert (scores.ids, scores.classes) == (ids, classes)
    assert scores.unavailable == {}
    assert metrics.distribution() == {}


def test_missing_weights_are_said_at_once_with_the_command(no_weights: Path) -> None:
    start = time.perf_counter()
    metrics = ImageMetrics()
    scores = metrics.update(pictures(2, 3, 32, 32), pictures(2, 3, 32, 32, seed=1), ["a", "b"], ["x", "x"])
    assert time.perf_counter() - start < 5
    assert set(metrics.unavailable) == {"lpips", "fid_64", "fid_2048"}
    assert all("hyperkit prepare metrics" in reason for reason in metrics.unavailable.values())
    assert "alexnet-owt-7be5be79.pth" in scores.unavailable["lpips"]
    assert set(scores.values) == {"psnr", "ssim"}
    assert metrics.distribution()["fid_64"] == {"all": None, "x": None}
    group = aggregate([scores], metrics.distribution())["x"]
    assert group["lpips"] is None
    assert group["fid_2048"] is None
    assert metrics.weights == {}


def test_with_weights_everything_has_a_value_and_a_record(random_weights: Path) -> None:
    metrics = ImageMetrics()
    metrics.update(pictures(2, 3, 32, 32), pictures(2, 3, 32, 32, seed=1), ["a", "b"])
    assert metrics.unavailable == {}
    assert set(metrics.scores().values) == {"psnr", "ssim", "lpips"}
    assert all(value is not None for value in aggregate([metrics.scores()], metrics.distribution())["all"].values())
    assert metrics.weights["lpips"]["sha256"] == weights.FILES["lpips"].sha256
    assert metrics.weights["fid"]["file"] == "weights-inception-2015-12-05-6726825d.pth"


def test_small_pictures_have_no_ssim_or_lpips_but_a_psnr(random_weights: Path) -> None:
    metrics = ImageMetrics(names=("psnr", "ssim", "lpips"))
    scores = metrics.update(pictures(1, 3, 8, 8), pictures(1, 3, 8, 8, seed=1), ["a"])
    assert set(scores.values) == {"psnr"}
    assert "11x11" in scores.unavailable["ssim"]
    assert "31x31" in scores.unavailable["lpips"]


def test_predictions_that_are_not_finite_give_no_fid(random_weights: Path) -> None:
    metrics = ImageMetrics(names=("fid_64",))
    metrics.update(torch.full((2, 3, 16, 16), torch.nan), pictures(2, 3, 16, 16), ["a", "b"])
    assert metrics.distribution() == {"fid_64": {"all": None}}
    assert "not finite" in metrics.notes["fid_64, missing"]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(HyperkitError, match=r"no metric 'psrn'. Did you mean 'psnr'"):
        ImageMetrics(names=("psrn",))
    metrics = ImageMetrics(names=("psnr",))
    with pytest.raises(ValueError, match="2 ids"):
        metrics.update(pictures(1, 3, 4, 4), pictures(1, 3, 4, 4), ["a", "b"])


def test_a_file_with_another_hash_is_not_used(random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = replace(weights.FILES["lpips"], sha256="7be5be79" + "0" * 56)
    monkeypatch.setitem(weights.FILES, "lpips", published)
    metrics = ImageMetrics(names=("lpips",))
    assert "is not the published file" in metrics.unavailable["lpips"]
    assert "delete it, then run: hyperkit prepare metrics" in metrics.unavailable["lpips"]


def test_published_names_carry_the_hash() -> None:
    for file in weights.FILES.values():
        assert Path(file.name).stem.rsplit("-", 1)[1] == file.sha256[:8]
        assert file.url.endswith(file.name)
    assert set(METRICS) == {"psnr", "ssim", "lpips", "fid_64", "fid_2048"}


@pytest.fixture
def server(random_weights: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A local server of the weight files, and empty caches to fill from it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    monkeypatch.setenv("TORCH_HOME", str(no_weights / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    httpd = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(random_weights)))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    for metric, file in weights.FILES.items():
        url = f"http://127.0.0.1:{httpd.server_port}/{file.name}"
        monkeypatch.setitem(weights.FILES, metric, replace(file, url=url))
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_prepare_downloads_once_and_says_where(server: HTTPServer, no_weights: Path) -> None:
    result = prepare_metrics(progress=False)
    for metric, file in weights.FILES.items():
        assert Path(result[metric]["path"]) == no_weights / "cache" / "metrics" / file.name
        assert result[metric]["downloaded"] is True
        assert result[metric]["licence"] == file.licence
    again = prepare_metrics(progress=False)
    assert [entry["downloaded"] for entry in again.values()] == [False, False]
    assert "lpips" not in ImageMetrics(names=("lpips",)).unavailable


def test_prepare_refuses_a_wrong_file_and_leaves_none(
    server: HTTPServer, no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(weights.FILES, "lpips", replace(weights.FILES["lpips"], sha256="0" * 64))
    with pytest.raises(RunFailed, match="invalid hash"):
        prepare_metrics(progress=False)
    assert list((no_weights / "cache" / "metrics").iterdir()) == []


def test_prepare_offline_fails_in_seconds(no_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    file = weights.FILES["lpips"]
    # a port of this machine that nothing listens on
    monkeypatch.setitem(weights.FILES, "lpips", replace(file, url=f"http://127.0.0.1:9/{file.name}"))
    start = time.perf_counter()
    with pytest.raises(HyperkitError) as caught:
        prepare_metrics(progress=False)
    assert time.perf_counter() - start < 3
    assert caught.value.exit_code == 2
    assert file.name in str(caught.value)
    assert str(no_weights / "cache" / "metrics") in str(caught.value)
    assert not (no_weights / "cache").exists()


def test_a_probe_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that does not answer blocks without any timeout of its own."""
    let_go = threading.Event()

    def hang(*_: object, **__: object) -> None:
        let_go.wait()
        raise OSError("no answer")

    monkeypatch.setattr(prepare.socket, "create_connection", hang)
    monkeypatch.setenv("no_proxy", "*")
    start = time.perf_counter()
    assert not prepare.reachable("https://weights.invalid/file", 0.2)
    assert time.perf_counter() - start < 2
    let_go.set()
