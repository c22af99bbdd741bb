"""Weight files of the right shape with random values, so that LPIPS and FID run for real without a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hyperkit.files import sha256_of
from hyperkit.metrics import weights


@pytest.fixture(scope="session")
def weight_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torch home whose hub cache holds random weights under the published names."""
    home = tmp_path_factory.mktemp("torch_home")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _save_alexnet(folder / weights.FILES["lpips"].name)
        _save_inception(folder / weights.FILES["fid"].name)
    return home


def _save_alexnet(path: Path) -> None:
    torchvision = pytest.importorskip("torchvision", exc_type=RuntimeError)
    features = torchvision.models.alexnet(weights=None).features
    state = {f"features.{key}": value for key, value in features.state_dict().items()}
    torch.save({**state, "classifier.6.bias": torch.zeros(1000)}, path)


def _save_inception(path: Path) -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        net = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["64"])
    for name, value in net.state_dict().items():
        if name.endswith("conv.weight"):  # keep the signal's size through ReLUs, or deep features all but vanish
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
    torch.save(net.state_dict(), path)


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Empty caches, both hyperkit's and torch hub's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def random_weights(no_weights: Path, weight_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches that hold the random weights, whose hashes count as the published ones."""
    monkeypatch.setenv("TORCH_HOME", str(weight_folder))
    for metric, file in weights.FILES.items():
        path = weight_folder / "hub" / "checkpoints" / file.name
        monkeypatch.setitem(weights.FILES, metric, replace(file, sha256=sha256_of(path)))
    return weight_folder / "hub" / "checkpoints"
