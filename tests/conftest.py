"""Shared by all tests: one thread, no network, and a cache of their own."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache out of the tests, and the tests out of the user's cache."""
    if "HYPERKIT_TEST_CACHE" not in os.environ:
        os.environ["HYPERKIT_TEST_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    monkeypatch.setenv("HYPERKIT_CACHE", os.environ["HYPERKIT_TEST_CACHE"])


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data, or skip."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HYPERKIT_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set HYPERKIT_SHARED_DATA")
    return folder
