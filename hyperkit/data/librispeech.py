"""LibriSpeech: its download through torchaudio, and its names: ``<speaker>-<chapter>-<utterance>.flac``."""

from __future__ import annotations

import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from hyperkit.data.places import folder_lock
from hyperkit.errors import RunFailed, unknown_name
from hyperkit.files import disk_error

SUBSETS = {
    "dev-clean": 0.3,
    "dev-other": 0.3,
    "test-clean": 0.3,
    "test-other": 0.3,
    "train-clean-100": 6.3,
    "train-clean-360": 23.0,
    "train-other-500": 30.0,
}
"""The subsets, and the sizes of their archives in gigabytes."""

UTTERANCE = re.compile(r"(\d+)-(\d+)-\d+")


def speaker(parts: tuple[str, ...]) -> tuple[str, tuple[str, ...]] | None:
    """Return who speaks in a LibriSpeech file, and its path without the folders of speaker and chapter.

    Args:
        parts: of the path below the split.

    Returns:
        None for a file that is not named as LibriSpeech's are.
    """
    named = UTTERANCE.fullmatch(parts[-1].rsplit(".", 1)[0])
    if named is None:
        return None
    folders = parts[:-1]
    if folders[-2:] == named.groups():
        folders = folders[:-2]
    return named[1], (*folders, parts[-1])


def download_librispeech(
    subsets: str | Sequence[str], out: str | Path, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Download subsets of LibriSpeech (CC BY 4.0) into ``<out>/LibriSpeech/<subset>``; those that are there are kept.

    A subset appears when it is complete. What a killed download had finished is used again: the archive, once it was
    verified. torchaudio draws the bar of a download itself.

    Args:
        subsets: "train-clean-100", or several.
        out: folder to put ``LibriSpeech`` into; give it to ``train audio --data``.
        progress: called with (subsets done, subsets in all).

    Returns:
        The folder ``<out>/LibriSpeech``.

    Raises:
        HyperkitError: there is no such subset.
        RunFailed: openslr.org cannot be reached, what came is damaged, or the disk is full.
    """
    wanted = (subsets,) if isinstance(subsets, str) else tuple(subsets)
    for subset in wanted:
        if subset not in SUBSETS:
            raise unknown_name("subset of LibriSpeech", subset, SUBSETS)
    root = Path(out).expanduser() / "LibriSpeech"
    for done, subset in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted))
        if not (root / subset).is_dir():
            _download(subset, root)
    if progress is not None:
        progress(len(wanted), len(wanted))
    return root


def _download(subset: str, root: Path) -> None:
    import torchaudio  # type: ignore[import-untyped]

    part = root / ".download"
    with folder_lock(part):
        if (root / subset).is_dir():  # another process was faster
            return
        try:
            # torchaudio takes a folder that is there for a complete one; this may be half of a killed extraction.
            shutil.rmtree(part / "LibriSpeech", ignore_errors=True)
            torchaudio.datasets.LIBRISPEECH(part, url=subset, download=True)
            (part / "LibriSpeech" / subset).rename(root / subset)
            (part / f"{subset}.tar.gz").unlink(missing_ok=True)
        except Exception as error:  # urllib, ssl, tarfile and torchaudio raise many kinds
            if isinstance(error, tarfile.TarError | EOFError | zlib.error):
                (part / f"{subset}.tar.gz").unlink(missing_ok=True)  # damaged: the next try is to fetch it again
            if isinstance(error, OSError) and (known := disk_error(root, error)):
                raise known from error
            raise RunFailed(
                f"LibriSpeech's {subset} ({SUBSETS[subset]} GB) could not be fetched from www.openslr.org: {error}.",
                f"Fetch https://www.openslr.org/resources/12/{subset}.tar.gz on a machine with network access, unpack "
                "it, and give the folder with --data; any folder of FLAC or WAV files will do as well.",
            ) from error
