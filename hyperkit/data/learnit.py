"""The LearnIt ShapeNet archive: unpacked safely, checked, and recorded with its hash."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from hyperkit.data.layout import find_objects
from hyperkit.data.places import new_folder, side_folder
from hyperkit.data.splits import SPLITS, read_splits
from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.files import sha256_of, write_text

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LearnItReport:
    """What was found in an archive or a folder.

    Attributes:
        root: the data set's folder.
        source: the archive or folder that was given.
        sha256: of the archive's bytes; of a folder, over the hashes and names of its files.
        counts: split -> class -> objects that are there with their ``transforms.json``.
        missing: objects that splits files list and that are not there.
        without_transforms: objects that have no ``transforms.json``.
        unlisted: objects that are in no split.
        notes: sentences for the user.
    """

    root: str
    source: str
    sha256: str
    counts: dict[str, dict[str, int]]
    missing: tuple[str, ...]
    without_transforms: tuple[str, ...]
    unlisted: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    problem: str | None
    open: Callable[[], IO[bytes]]


def prepare_learnit(source: Path, out: Path | None = None, progress: Progress | None = None) -> LearnItReport:
    """Check the LearnIt ShapeNet data as its users hold it; an archive is unpacked into ``out`` first.

    Args:
        source: a folder, which is checked where it is (or copied, if ``out`` is given), or a ZIP or tar archive; its
            data may lie one or two folders deep, or in one archive per class.
        out: folder to make; it appears only when everything has been unpacked.
        progress: called with (files done, files in all).

    Raises:
        HyperkitError: nothing there, not such an archive, or one that would write outside its folder.
        RunFailed: the disk is full or too small.
    """
    source = Path(source)
    if not source.exists():
        raise HyperkitError(f"{source} does not exist.", "Give the folder or the archive of the LearnIt ShapeNet data.")
    if source.is_dir():
        root = _locate(source)
        digest = _tree_hash(root)
        if out is not None and Path(out).resolve() != root.resolve():
            with new_folder(Path(out)) as part:
                _check_space(part, sum(path.stat().st_size for path in root.rglob("*") if path.is_file()))
                shutil.copytree(root, part / "data", ignore=shutil.ignore_patterns(".*"))
                (part / "data").rename(Path(out))
            root = Path(out)
    else:
        if out is None:
            raise HyperkitError(
                "An archive needs a folder to be unpacked into.", f"Add --out DIR to --learnit {source}"
            )
        digest = sha256_of(source)
        with new_folder(Path(out)) as part:
            _unpack(source, part / "data", progress)
            _unpack_inner(part / "data", progress)
            _locate(part / "data").rename(Path(out))
        root = Path(out)
    report = _check(root, source, digest)
    write_text(side_folder(root) / "source.json", json.dumps(asdict(report), indent=1))
    return report


def _check(root: Path, source: Path, digest: str) -> LearnItReport:
    objects = find_objects(root)
    complete = [name for name, folder in objects.items() if (folder / "transforms.json").is_file()]
    without = tuple(name for name in objects if not (objects[name] / "transforms.json").is_file())
    splits = read_splits(root, complete)
    missing = tuple(name for name in splits.missing if name not in objects)
    counts: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    for split in SPLITS:
        for name in splits.ids[split]:
            part = name.split("/", 1)[0]
            counts[split][part] = counts[split].get(part, 0) + 1
    notes = list(splits.notes)
    if without:
        notes.append(f"{len(without)} objects have no transforms.json and are skipped")
    return LearnItReport(str(root), str(source), digest, counts, missing, without, splits.unlisted, tuple(notes))


def _locate(folder: Path) -> Path:
    """Return the folder that holds the class folders: this one, or up to two levels below."""
    places = [folder]
    for _ in range(3):
        for place in places:
            try:
                find_objects(place)
            except HyperkitError:
                continue
            return place
        places = [
            child
            for place in places
            for child in sorted(place.iterdir())
            if child.is_dir() and not child.name.startswith((".", "__"))
        ]
        if len(places) > 100:  # an object's folders are not searched
            break
    find_objects(folder)  # raises, and says what is there
    raise AssertionError("unreachable")


def _tree_hash(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{sha256_of(path)}  {name.as_posix()}\n".encode())
    return digest.hexdigest()


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + (16 << 20) > free:
        raise RunFailed(
            f"{needed} bytes ({needed / 2**30:.2f} GiB) would be unpacked into {folder.parent}, "
            f"but {free} bytes ({free / 2**30:.2f} GiB) are free.",
            "Free some space, or choose another place with --out.",
        )


def _unpack(archive: Path, folder: Path, progress: Progress | None) -> None:
    kind = "ZIP or tar archive"
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as handle:
                _write_members(archive, list(_zip_members(handle)), folder, progress)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                _write_members(archive, list(_tar_members(tar)), folder, progress)
        else:
            raise HyperkitError(f"{archive} is not a {kind}.", "Download it again, or give a folder.")
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        RuntimeError,
    ) as error:
        raise HyperkitError(f"{archive} is damaged: {error}", "Download it again.") from error


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        if info.is_dir():
            continue
        mode = info.external_attr >> 16
        kind = stat.S_IFMT(mode)
        problem = None if kind in (0, stat.S_IFREG) else "is a link or a device"
        if info.flag_bits & 1:
            problem = "is encrypted"
        yield _Member(info.filename, info.file_size, problem, lambda info=info: archive.open(info))  # type: ignore[misc]


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    def reader(info: tarfile.TarInfo) -> IO[bytes]:
        handle = archive.extractfile(info)
        if handle is None:
            raise tarfile.TarError(f"{info.name} cannot be read")
        return handle

    for info in archive.getmembers():
        if info.isdir():
            continue
        problem = None if info.isreg() else "is a link or a device"
        yield _Member(info.name, info.size, problem, lambda info=info: reader(info))  # type: ignore[misc]


def _unsafe(name: str) -> str | None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or (path.parts and ":" in path.parts[0]):
        return "has an absolute path"
    if ".." in path.parts:
        return "leads out of the folder"
    return None if path.parts and "\0" not in name else "has no usable name"


def _write_members(archive: Path, members: list[_Member], folder: Path, progress: Progress | None) -> None:
    bad = [(member.name, problem) for member in members if (problem := member.problem or _unsafe(member.name))]
    if bad:
        lines = "\n".join(f"  {name}: {problem}" for name, problem in bad[:20])
        raise HyperkitError(
            f"{archive} is refused: {len(bad)} of its {len(members)} entries are not plain files within it:\n{lines}",
            "Nothing was unpacked. Get the archive from its publisher again.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    _check_space(folder, sum(member.size for member in members))
    for index, member in enumerate(members):
        parts = PurePosixPath(member.name.replace("\\", "/")).parts
        if "__MACOSX" not in parts and not parts[-1].startswith("."):
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, open(target, "wb") as handle:
                shutil.copyfileobj(source, handle)
        if progress is not None:
            progress(index + 1, len(members))


def _unpack_inner(folder: Path, progress: Progress | None) -> None:
    """Unpack archives that lie in the archive, one for each class, up to two folders deep."""
    for pattern in ("*", "*/*", "*/*/*"):
        for inner in sorted(folder.glob(pattern)):
            name = inner.name.lower()
            if not inner.is_file() or not name.endswith((".zip", ".tar", ".tar.gz", ".tgz")):
                continue
            class_name = name.split(".", 1)[0]
            part = inner.parent / f".{class_name}-inner"
            _unpack(inner, part, progress)
            inner.unlink()
            entries = list(part.iterdir())
            alone = entries[0] if len(entries) == 1 and entries[0].is_dir() else None
            # "cars.zip" holds either "cars/..." or the objects themselves
            keep = alone if alone is not None and alone.name.lower() == class_name else part
            keep.rename(inner.parent / class_name)
            shutil.rmtree(part, ignore_errors=True)
