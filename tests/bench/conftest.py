"""One cache for all tests of the benchmark, those of module scope included."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bench_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the tests' cache, in force while the fixtures that ask for it are made."""
    folder = Path(os.environ.setdefault("HYPERKIT_TEST_CACHE", str(tmp_path_factory.mktemp("cache"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERKIT_CACHE", str(folder))
        yield folder
