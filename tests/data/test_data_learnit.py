"""The LearnIt archive: forms that users hold, and archives that must not be unpacked."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from hyperkit.data.layout import find_objects
from hyperkit.data.learnit import prepare_learnit
from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.files import sha256_of

MakeData = Callable[..., Path]


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def _files(root: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(".hyperkit")}


@pytest.fixture
def published(make_data: MakeData) -> Path:
    """A small data set with all that the published one has: splits, missing objects, one without cameras."""
    root = make_data({"cars": 6, "lamps": 3}, "published", synset="02958343")
    lists = {"train": ["02958343/0000", "02958343/0001", "02958343/gone"], "val": ["0002"], "test": ["0003", "0004"]}
    (root / "car_splits.json").write_text(json.dumps(lists))
    (root / "lamp_splits.json").write_text(json.dumps({"train": ["0000"], "val": ["0001"], "test": ["0002"]}))
    (root / "cars" / "02958343" / "0001" / "transforms.json").unlink()
    return root


def _archive(root: Path, path: Path, prefix: str) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/._junk", "x")
            for name, data in _files(root).items():
                archive.writestr(prefix + name, data)
    else:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(root, prefix or ".")
    return path


@pytest.mark.parametrize("prefix", ["", "shapenet/", "data/shapenet/"])
@pytest.mark.parametrize("name", ["learnit.zip", "learnit.tar.gz"])
def test_an_archive_is_unpacked_and_checked(published: Path, tmp_path: Path, name: str, prefix: str) -> None:
    archive = _archive(published, tmp_path / name, prefix)
    out = tmp_path / "out"
    report = prepare_learnit(archive, out)
    assert _files(out) == _files(published)
    assert report.sha256 == sha256_of(archive)
    assert report.counts == {
        "train": {"cars": 1, "lamps": 1},
        "val": {"cars": 1, "lamps": 1},
        "test": {"cars": 2, "lamps": 1},
    }
    assert report.missing == ("cars/gone",)
    assert report.without_transforms == ("cars/0001",)
    assert report.unlisted == ("cars/0005",)
    assert json.loads((out / ".hyperkit" / "source.json").read_text())["sha256"] == report.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["out", "published", name])


def test_one_archive_per_class_is_unpacked_too(published: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as outer:
        for class_name, with_folder in (("cars", True), ("lamps", False)):
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w") as archive:
                base = published if with_folder else published / class_name
                for path in (published / class_name).rglob("*"):
                    if path.is_file():
                        archive.write(path, path.relative_to(base))
            outer.writestr(f"shapenet/{class_name}.zip", inner.getvalue())
        for path in published.glob("*_splits.json"):
            outer.write(path, f"shapenet/{path.name}")
    prepare_learnit(tmp_path / "all.zip", tmp_path / "out")
    assert _files(tmp_path / "out") == _files(published)


def test_a_folder_is_checked_where_it_is(published: Path, tmp_path: Path) -> None:
    before = _files(published)
    report = prepare_learnit(published.parent)  # one folder above is found too
    assert Path(report.root) == published
    assert _files(published) == before
    copied = prepare_learnit(published, tmp_path / "copy")
    assert _files(tmp_path / "copy") == before
    assert copied.sha256 == report.sha256
    some = next(published.rglob("*.png"))
    some.write_bytes(some.read_bytes() + b"x")
    assert prepare_learnit(published).sha256 != report.sha256


def _zip_with(path: Path, name: str, mode: int = 0, data: bytes = b"x") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cars/fine.txt", "fine")
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, data)


@pytest.mark.parametrize("name", ["/etc/evil", "../evil", "cars/../../evil", "..\\evil", "C:\\evil", "C:/evil"])
def test_a_zip_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    _zip_with(tmp_path / "in" / "bad.zip", name)
    with pytest.raises(HyperkitError, match="is refused: 1 of its 2 entries"):
        prepare_learnit(tmp_path / "in" / "bad.zip", tmp_path / "in" / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "bad.zip"]


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    _zip_with(tmp_path / "link.zip", "cars/link", stat.S_IFLNK | 0o777, b"/etc/passwd")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        info = tarfile.TarInfo("cars/thing")
        info.type, info.linkname = kind, "/etc/passwd"
        with tarfile.open(tmp_path / f"kind{ord(kind)}.tar", "w") as archive:
            archive.addfile(info)
    archives = sorted(tmp_path.iterdir())
    assert len(archives) == 5
    for path in archives:
        with pytest.raises(HyperkitError, match="is a link or a device"):
            prepare_learnit(path, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == archives


def test_an_unsafe_inner_archive_is_refused_and_nothing_stays(published: Path, tmp_path: Path) -> None:
    _zip_with(tmp_path / "inner.zip", "../../evil")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.write(tmp_path / "inner.zip", "data/cars.zip")
    with pytest.raises(HyperkitError, match="is refused"):
        prepare_learnit(tmp_path / "outer.zip", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inner.zip", "outer.zip", "published"]


def test_an_archive_larger_than_the_disk_is_refused(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = _archive(published, tmp_path / "learnit.zip", "")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(10, 9, 1000))
    with pytest.raises(RunFailed, match="1000 bytes"):
        prepare_learnit(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_or_foreign_file_is_refused(published: Path, tmp_path: Path) -> None:
    archive = _archive(published, tmp_path / "learnit.zip", "")
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(HyperkitError, match=r"is damaged|is not a"):
        prepare_learnit(archive, tmp_path / "out")
    tar = _archive(published, tmp_path / "learnit.tar.gz", "")
    tar.write_bytes(tar.read_bytes()[:-200])
    with pytest.raises(HyperkitError, match=r"is damaged|is not a"):
        prepare_learnit(tar, tmp_path / "out")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(HyperkitError, match="is not a ZIP or tar archive"):
        prepare_learnit(tmp_path / "text.zip", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("readme.txt", "hello")
    with pytest.raises(HyperkitError, match=r"No object with a transforms.json.*readme.txt"):
        prepare_learnit(tmp_path / "other.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_interrupted_unpacking_leaves_nothing(published: Path, tmp_path: Path) -> None:
    archive = _archive(published, tmp_path / "learnit.zip", "")

    def stop(done: int, total: int) -> None:
        if done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_learnit(archive, tmp_path / "out", stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learnit.zip", "published"]
    assert prepare_learnit(archive, tmp_path / "out").counts["test"] == {"cars": 2, "lamps": 1}
    assert len(find_objects(tmp_path / "out")) == 9
    with pytest.raises(HyperkitError, match="not empty"):
        prepare_learnit(archive, tmp_path / "out")


def test_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(HyperkitError, match="does not exist"):
        prepare_learnit(tmp_path / "nowhere.zip", tmp_path / "out")
    (tmp_path / "a.zip").write_text("x")
    with pytest.raises(HyperkitError, match="--out"):
        prepare_learnit(tmp_path / "a.zip")
    assert os.listdir(tmp_path) == ["a.zip"]
