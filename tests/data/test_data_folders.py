"""Folders of files: which class and split each belongs to, what is kept of their contents, LibriSpeech's download."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchaudio

from hyperkit import randomness
from hyperkit.data import flat_pack, places
from hyperkit.data.flat_pack import BadFile, Decoded, open_flat_pack, refuse
from hyperkit.data.folders import Kind, SourceFile, divide, find_files, split_hash, split_named
from hyperkit.data.layout import Problem
from hyperkit.data.librispeech import download_librispeech, speaker
from hyperkit.errors import HyperkitError, RunFailed

KIND = Kind("notes", frozenset((".txt",)), frozenset((".doc",)))
SPEECH = Kind("sounds", frozenset((".flac",)), frozenset(), speaker)


def _make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def _files(names: list[str]) -> list[SourceFile]:
    return [SourceFile(name, Path(name), "", "a", name) for name in names]


def _contents(files: list[SourceFile]) -> dict[str, str]:
    return {file.id: hashlib.sha256(file.id.encode()).hexdigest() for file in files}


def test_files_are_found_at_any_depth_in_order_and_named_from_the_root(tmp_path: Path) -> None:
    _make(tmp_path, "b/x/2.txt", "b/1.TXT", "a/3.txt", "z.txt", "b/y.doc", "b/other.md", ".hidden.txt", ".h/1.txt")
    found = find_files(tmp_path, KIND)
    assert [(file.id, file.class_name, file.split) for file in found.files] == [
        ("a/3.txt", "a", ""),
        ("b/1.TXT", "b", ""),
        ("b/x/2.txt", "b", ""),
        ("z.txt", "notes", ""),
    ]
    assert all(file.path.read_text() == file.id for file in found.files)
    assert found.notes == ("1 files of kinds that are not read are left aside (.doc)",)


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("train-clean-100", "train"),
        ("train-other-500", "train"),
        ("val", "val"),
        ("valid", "val"),
        ("validation", "val"),
        ("dev-clean", "val"),
        ("test", "test"),
        ("TEST", "test"),
        ("test-other", "test"),
        ("test_2", "test"),
        ("testimony", None),
        ("trains", None),
        ("devices", None),
        ("my-train", None),
    ],
)
def test_names_of_split_folders(folder: str, split: str | None) -> None:
    assert split_named(folder) == split


def test_split_folders_hold_classes_and_what_lies_outside_is_told(tmp_path: Path) -> None:
    root = _make(tmp_path, "train/a/1.txt", "train/b/deep/2.txt", "valid/3.txt", "test-x/a/4.txt", "more/5.txt")
    found = find_files(root, KIND)
    assert [(file.id, file.split, file.class_name) for file in found.files] == [
        ("test-x/a/4.txt", "test", "a"),
        ("train/a/1.txt", "train", "a"),
        ("train/b/deep/2.txt", "train", "b"),
        ("valid/3.txt", "val", "notes"),
    ]
    assert "1 notes lie outside the split folders and are not used, such as more/5.txt" in found.notes


def test_a_class_called_train_beside_others_is_a_class(tmp_path: Path) -> None:
    found = find_files(_make(tmp_path, "train/1.txt", "plane/2.txt"), KIND)
    assert {(file.class_name, file.split) for file in found.files} == {("train", ""), ("plane", "")}
    alone = find_files(_make(tmp_path / "alone", "train/a/1.txt"), KIND)
    assert [(file.class_name, file.split) for file in alone.files] == [("a", "train")]


def test_the_only_folder_is_entered_if_it_holds_the_splits(tmp_path: Path) -> None:
    found = find_files(_make(tmp_path, "set/v2/train/1.txt", "set/v2/test/2.txt"), KIND)
    assert found.root == tmp_path / "set" / "v2"
    assert [file.id for file in found.files] == ["test/2.txt", "train/1.txt"]
    lone = find_files(_make(tmp_path / "lone", "cats/1.txt", "cats/2.txt"), KIND)
    assert lone.root == tmp_path / "lone"
    assert {file.class_name for file in lone.files} == {"cats"}


def test_librispeech_has_one_class_and_its_speakers_are_groups(tmp_path: Path) -> None:
    root = _make(
        tmp_path,
        "LibriSpeech/train-clean-100/103/1240/103-1240-0000.flac",
        "LibriSpeech/train-clean-100/103/1241/103-1241-0000.flac",
        "LibriSpeech/train-clean-100/40/222/40-222-0000.flac",
        "LibriSpeech/dev-clean/84/121123/84-121123-0000.flac",
        "LibriSpeech/test-other/1688-142285-0000.flac",
        "LibriSpeech/SPEAKERS.TXT",
    )
    found = find_files(root, SPEECH)
    assert found.root == root / "LibriSpeech"
    assert {file.class_name for file in found.files} == {"sounds"}
    assert [(file.split, file.group) for file in found.files] == [
        ("val", "speaker 84"),
        ("test", "speaker 1688"),
        ("train", "speaker 103"),
        ("train", "speaker 103"),
        ("train", "speaker 40"),
    ]
    one = find_files(root / "LibriSpeech" / "train-clean-100", SPEECH)
    assert {(file.class_name, file.split) for file in one.files} == {("sounds", "")}
    own = find_files(_make(tmp_path / "own", "dogs/1.flac", "7-8-9.flac", "x/7/8/7-8-9.flac"), SPEECH)
    assert [(file.class_name, file.group) for file in own.files] == [
        ("sounds", "speaker 7"),
        ("dogs", "dogs/1.flac"),
        ("x", "speaker 7"),
    ]


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HyperkitError, match=r"missing does not exist"):
        find_files(tmp_path / "missing", KIND)
    with pytest.raises(HyperkitError, match=r"is a file, not a folder"):
        find_files(_make(tmp_path, "a.txt") / "a.txt", KIND)
    with pytest.raises(HyperkitError, match=r"(?s)no notes in .*: 2 \.md, 1 \(no ending\)\..*\.txt"):
        find_files(_make(tmp_path / "other", "a.md", "b/c.md", "LICENSE"), KIND)
    for name in ("all", "class_mean"):
        with pytest.raises(HyperkitError, match=rf"A class is called '{name}'"):
            find_files(_make(tmp_path / name, f"{name}/1.txt", "b/2.txt"), KIND)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    root = _make(tmp_path, "root/a/1.txt", "elsewhere/2.txt") / "root"
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    names = [file.id for file in find_files(root, KIND).files]
    assert names == ["a/1.txt", "b/2.txt"]


def test_names_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    _make(tmp_path, "1.txt")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    found = find_files(tmp_path, KIND)
    assert [file.id for file in found.files] == ["1.txt"]
    assert [problem.reason for problem in found.problems] == ["its name is not valid UTF-8"]
    json.dumps([problem.path for problem in found.problems]).encode()


def test_files_go_by_thresholds_on_the_hash_of_their_names() -> None:
    files = _files([f"{index:04d}.txt" for index in range(3000)])
    hashes = _contents(files)
    whole = divide(files, hashes, 0.1, 0.05).ids
    for name in (file.id for file in files):
        place = randomness.key("folder split", f"group {name}") / 2**63
        split = "test" if place < 0.1 else "val" if place < 0.15 else "train"
        assert name in whole[split]
    # five binomial deviations: 82 and 60
    assert abs(len(whole["test"]) - 300) < 82
    assert abs(len(whole["val"]) - 150) < 60
    # nothing depends on the other files, nor on the fraction of another split
    some = divide(files[::7], hashes, 0.1, 0.05).ids
    assert all(set(some[split]) <= set(whole[split]) for split in whole)
    assert set(divide(files, hashes, 0.1, 0.2).ids["test"]) == set(whole["test"])
    assert set(divide(files, hashes, 0.2, 0.0).ids["test"]) > set(whole["test"])


def test_copies_and_speakers_are_never_divided() -> None:
    files = [
        SourceFile(f"{index}.txt", Path(), "", "a", f"speaker {index // 3}" if index < 300 else f"{index}.txt")
        for index in range(600)
    ]
    # from 300 on, every fourth file has the content of the one 150 later; two speakers share one content as well
    hashes = _contents(files)
    for index in range(300, 450, 4):
        hashes[f"{index + 150}.txt"] = hashes[f"{index}.txt"]
    hashes["0.txt"] = hashes["299.txt"]
    division = divide(files, hashes, 0.3, 0.2)
    where = {name: split for split, names in division.ids.items() for name in names}
    assert len(where) == sum(map(len, division.ids.values())) == 600
    for key in ("group", "hash"):
        seen: dict[str, set[str]] = {}
        for file in files:
            seen.setdefault(file.group if key == "group" else hashes[file.id], set()).add(where[file.id])
        assert all(len(splits) == 1 for splits in seen.values())
    assert len({where[f"{index}.txt"] for index in (0, 1, 2, 297, 298, 299)}) == 1
    assert set(Counter(where.values())) == {"train", "val", "test"}
    assert "39 files are copies of others; copies are all in the same split" in division.notes


def test_given_splits_are_kept_and_lose_only_copies_of_what_is_tested() -> None:
    files = [replace(file, split="train") for file in _files([f"{i}.txt" for i in range(200)])]
    files += [replace(file, split="test") for file in _files([f"t{i}.txt" for i in range(4)])]
    hashes = _contents(files)
    hashes["17.txt"] = hashes["t1.txt"]
    division = divide(files, hashes, 0.4, 0.1)
    assert division.ids["test"] == ("t0.txt", "t1.txt", "t2.txt", "t3.txt")
    held = set(division.ids["train"]) | set(division.ids["val"])
    assert held == {f"{i}.txt" for i in range(200)} - {"17.txt"}
    assert 3 < len(division.ids["val"]) < 50
    assert any("1 files of train are copies of files of test or val and are not used" in n for n in division.notes)
    files += [replace(file, split="val") for file in _files(["v.txt", "w.txt"])]
    hashes |= {"v.txt": hashes["t2.txt"], "w.txt": hashes["18.txt"]}
    ids = divide(files, hashes, 0.4, 0.1).ids
    assert ids["val"] == ("w.txt",)
    assert set(ids["train"]) == {f"{i}.txt" for i in range(200)} - {"17.txt", "18.txt"}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_small_sets_fill_the_splits_that_are_wanted(count: int) -> None:
    for start in range(40):
        files = _files([f"{index}.txt" for index in range(start, start + count)])
        ids = divide(files, _contents(files), 0.1, 0.05).ids
        assert ids["train"]
        assert sum(len(ids[split]) > 0 for split in ids) == min(count, 3)
        assert sorted(ids["train"] + ids["test"] + ids["val"]) == sorted(file.id for file in files)
        none = divide(files, _contents(files), 0.0, 0.0).ids
        assert (len(none["train"]), none["test"], none["val"]) == (count, (), ())
        most = divide(files, _contents(files), 0.98, 0.01).ids
        assert most["train"]
        assert sum(len(most[split]) > 0 for split in ids) == min(count, 3)


def test_the_hash_of_a_split_is_of_names_contents_and_framing() -> None:
    hashes = {"a": "1", "b": "2"}
    first = split_hash("64", ["a", "b"], hashes)
    assert first == split_hash("64", ["b", "a"], hashes)
    others = [
        split_hash("32", "ab", hashes),
        split_hash("64", "a", hashes),
        split_hash("64", "ab", {**hashes, "b": "3"}),
    ]
    assert len({first, *others}) == 4


def _decode_text(content: bytes) -> Decoded:
    if content == b"bad":
        raise BadFile("is bad")
    return Decoded(np.frombuffer(content, np.uint8).astype(np.int16), ("long",) if len(content) > 9 else ())


def _must_not_decode(content: bytes) -> Decoded:
    raise AssertionError("decoded again")


def _times(factor: int, content: bytes) -> Decoded:
    return Decoded(np.full((len(content), 2), factor, np.float32))


def test_a_pack_keeps_values_hashes_marks_and_problems(tmp_path: Path) -> None:
    root = _make(tmp_path, "b.txt", "a/long name.txt", "c.txt", "d.txt", "e.txt")
    (root / "c.txt").write_text("bad")
    (root / "d.txt").write_bytes(b"")
    (root / "e.txt").unlink()
    (root / "e.txt").symlink_to(root / "nowhere")
    done: list[tuple[int, int]] = []
    files = find_files(root, KIND).files
    pack = open_flat_pack(root, "text", files, _decode_text, lambda *at: done.append(at))
    assert done == [(5, 5)]
    assert pack.ids == ("a/long name.txt", "b.txt")
    assert pack.hashes == tuple(hashlib.sha256(name.encode()).hexdigest() for name in pack.ids)
    assert bytes(pack.values(0).astype(np.uint8)) == b"a/long name.txt"
    assert bytes(pack.values(1).astype(np.uint8)) == b"b.txt"
    assert pack.values(1).dtype == np.int16
    with pytest.raises(ValueError, match="read-only"):
        pack.values(1)[0] = 0
    assert pack.marks == {"long": ("a/long name.txt",)}
    assert [(Path(one.path).name, one.reason) for one in pack.left_out] == [
        ("c.txt", "is bad"),
        ("d.txt", "is empty (0 bytes)"),
        ("e.txt", "cannot be read: No such file or directory"),
    ]
    again = open_flat_pack(root, "text", files, _must_not_decode)
    assert (again.ids, again.hashes, again.left_out, again.marks) == (pack.ids, pack.hashes, pack.left_out, pack.marks)
    np.testing.assert_array_equal(again.values(0), pack.values(0))


def test_a_pack_is_made_again_when_files_or_their_reading_change(tmp_path: Path) -> None:
    root = _make(tmp_path, "a.txt", "b.txt")

    def opened(name: str, factor: int) -> flat_pack.FlatPack:
        return open_flat_pack(root, name, find_files(root, KIND).files, partial(_times, factor))

    one = opened("x", 3)
    assert one.values(1).tolist() == [[3.0, 3.0]] * 5
    assert opened("y", 4).values(1)[0, 0] == 4
    (root / "a.txt").write_text("now longer")
    two = opened("x", 5)
    assert [len(two.values(row)) for row in (0, 1)] == [10, 5]
    assert two.values(0)[0, 0] == 5
    assert len(list(two.folder.glob("values-*.bin"))) == 1
    index = two.folder / "index.npz"
    index.write_bytes(index.read_bytes()[:100])  # a damaged index
    assert opened("x", 6).values(0)[0, 0] == 6
    values = next(two.folder.glob("values-*.bin"))
    values.write_bytes(values.read_bytes()[:-4])  # and values that were cut off
    assert opened("x", 7).values(0)[0, 0] == 7


def test_many_files_are_decoded_by_processes_to_the_same_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _make(tmp_path, *(f"{index:03d}.txt" for index in range(100)))
    (root / "050.txt").write_text("bad")
    files = find_files(root, KIND).files
    alone = open_flat_pack(root, "alone", files, _decode_text)
    monkeypatch.setattr(flat_pack, "MANY", 1)
    monkeypatch.setattr(flat_pack, "CHUNK", 3)
    seen: list[int] = []
    several = open_flat_pack(root, "several", files, _decode_text, lambda done, _: seen.append(done))
    assert seen[-1] == 100
    assert seen == sorted(seen)
    assert several.ids == alone.ids
    assert several.hashes == alone.hashes
    assert several.left_out == alone.left_out
    for row in range(99):
        np.testing.assert_array_equal(several.values(row), alone.values(row))


def test_where_the_data_cannot_be_written_to_the_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _make(tmp_path / "data", "a.txt")
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "cache"))

    def elsewhere(folder: Path) -> bool:
        return root not in (folder, *folder.parents)

    def opened(decode: Callable[[bytes], Decoded]) -> Path:
        return open_flat_pack(root, "text", find_files(root, KIND).files, decode).folder

    with monkeypatch.context() as read_only:
        read_only.setattr(flat_pack, "writable", elsewhere)
        read_only.setattr(places, "writable", elsewhere)
        assert tmp_path / "cache" in opened(_decode_text).parents
        opened(_must_not_decode)
    assert opened(_decode_text) == root / ".hyperkit" / "text"
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(flat_pack, "writable", elsewhere)
    assert opened(_must_not_decode) == root / ".hyperkit" / "text"  # packed earlier by its owner


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _make(tmp_path, "a.txt")
    files = find_files(root, KIND).files

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(flat_pack, "_write_values", full)
        with pytest.raises(RunFailed, match="disk is full"):
            open_flat_pack(root, "text", files, _decode_text)
    folder = root / ".hyperkit" / "text"
    assert {path.name for path in folder.iterdir()} == {".lock"}
    (folder / ".values-of-a-killed-process.bin").write_bytes(b"1234")
    open_flat_pack(root, "text", files, _decode_text)
    assert not (folder / ".values-of-a-killed-process.bin").exists()


def test_broken_files_are_refused_all_at_once(tmp_path: Path) -> None:
    problems = [Problem(str(tmp_path / f"{index:02d}.txt"), "is odd") for index in range(25)]
    error = refuse(tmp_path, problems[:2], 2, {"is odd": "Make it even."})
    assert error.what.splitlines() == [
        f"2 of 2 files in {tmp_path} cannot be used:",
        "  00.txt: is odd",
        "  01.txt: is odd",
    ]
    assert error.hint == "Mend or remove them. Make it even."
    error = refuse(tmp_path, problems, 30, {"is even": "Make it odd."})
    assert "  19.txt: is odd\n  ... and 5 more, listed in " in error.what
    assert "data.skip_bad=true" in str(error.hint)
    listed = json.loads((tmp_path / ".hyperkit" / "left-out.json").read_text())
    assert [one["path"] for one in listed] == [problem.path for problem in problems]


def _archive(subset: str, target: Path) -> None:
    with tarfile.open(target, "w:gz") as tar:
        for name in ("7/8/7-8-0000.flac", "7/8/7-8.trans.txt"):
            info = tarfile.TarInfo(f"LibriSpeech/{subset}/{name}")
            info.size = len(name)
            tar.addfile(info, BytesIO(name.encode()))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for the network: torchaudio's own class fetches and unpacks archives that are made here."""
    urls: list[str] = []

    def fetch(url: str, target: str, hash_prefix: str | None = None) -> None:
        urls.append(url)
        _archive(Path(url).name.removesuffix(".tar.gz"), Path(target))

    monkeypatch.setattr(torchaudio.datasets.librispeech, "download_url_to_file", fetch)
    return urls


def test_librispeech_is_downloaded_once_and_appears_whole(tmp_path: Path, fetched: list[str]) -> None:
    half = tmp_path / "LibriSpeech" / ".download" / "LibriSpeech" / "dev-clean"
    half.mkdir(parents=True)  # what a killed extraction leaves
    done: list[tuple[int, int]] = []
    root = download_librispeech(("dev-clean", "test-clean"), tmp_path, lambda *at: done.append(at))
    assert root == tmp_path / "LibriSpeech"
    assert done == [(0, 2), (1, 2), (2, 2)]
    assert [Path(url).name for url in fetched] == ["dev-clean.tar.gz", "test-clean.tar.gz"]
    assert (root / "dev-clean/7/8/7-8-0000.flac").read_text() == "7/8/7-8-0000.flac"
    assert not list(root.rglob("*.tar.gz"))
    assert {file.split for file in find_files(root, SPEECH).files} == {"val", "test"}
    download_librispeech("dev-clean", tmp_path)
    assert len(fetched) == 2


def _unreachable(*_: object, **__: object) -> None:
    raise URLError("Name or service not known")


def _damaged(url: str, target: str, hash_prefix: str | None = None) -> None:
    Path(target).write_bytes(b"no archive")


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (_unreachable, r"(?s)could not be fetched from www.openslr.org.*not known.*--data"),
        (_damaged, r"(?s)could not be fetched.*--data"),
        (_full, "disk is full"),
    ],
)
def test_a_download_that_fails_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None], words: str
) -> None:
    monkeypatch.setattr(torchaudio.datasets.librispeech, "download_url_to_file", fault)
    with pytest.raises(RunFailed, match=words):
        download_librispeech("train-clean-100", tmp_path)
    assert not (tmp_path / "LibriSpeech" / "train-clean-100").exists()
    assert not list(tmp_path.rglob("*.tar.gz"))  # a damaged archive is not kept
    with pytest.raises(HyperkitError, match="Did you mean 'train-clean-100'"):
        download_librispeech("train-clean-10", tmp_path)
