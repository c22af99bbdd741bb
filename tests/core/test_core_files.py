import errno
import os
import pickle
from pathlib import Path

import pytest

from hyperkit.errors import HyperkitError, RunFailed, RunInterrupted
from hyperkit.files import atomic_path, cache_dir, sha256_of, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="disk is full") as caught, atomic_path(tmp_path / "x.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.exit_code == 1
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "taken", "x")
    with pytest.raises(HyperkitError, match="a file is where a folder is needed") as caught:
        write_text(tmp_path / "taken" / "result.json", "y")
    assert caught.value.exit_code == 2


def test_a_suffix_is_kept_and_files_are_readable_by_others(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "clip.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        temporary.write_bytes(b"x")
    assert (tmp_path / "clip.mp4").stat().st_mode & 0o044
    assert sha256_of(tmp_path / "clip.mp4") == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


def test_cache_dir_follows_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("HYPERKIT_CACHE")
    assert cache_dir().name == "hyperkit"


def test_errors_survive_pickling() -> None:
    # Ray and worker processes send them over
    for error in (HyperkitError("what", "hint"), RunFailed("what"), RunInterrupted("what", None, 15)):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.exit_code) == (type(error), str(error), error.exit_code)
