"""Finding pretrained weights: in the libraries' caches, else on the network; at once and clearly when there is none."""

from __future__ import annotations

import errno
import re
import threading
from dataclasses import dataclass
from pathlib import Path

from hyperkit.backbones.catalog import Entry, find_entry, is_outside
from hyperkit.backbones.weights import is_torchscript
from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.files import sha256_of

PROBE_SECONDS = 3.0
SHIPPED = Path(__file__).parent / "nano" / "weights"
"""Weights that come with the package."""


@dataclass(frozen=True)
class Remote:
    """Where a library keeps a file of weights.

    Attributes:
        repository: on the Hugging Face hub ("timm/vit_base_patch16_224.dino"), None if it is not there.
        revision: of the repository, None for the newest.
        files: names in the repository, best first.
        url: address of the file elsewhere.
        folder: where the library keeps what it gets from ``url``.
        sha256: of the file, or its start, where the library knows it and the file's name does not tell.
    """

    repository: str | None
    revision: str | None
    files: tuple[str, ...]
    url: str | None
    folder: Path | None
    sha256: str | None = None

    @property
    def host(self) -> str:
        """The address that must answer for a download to be tried."""
        from huggingface_hub import constants

        return str(constants.ENDPOINT) if self.repository else str(self.url)


def find_weights(entry: Entry) -> Path:
    """Return the file with a backbone's weights: the package's own, from a cache or, with a network, downloaded.

    Raises:
        HyperkitError: the file is not here and cannot be had; raised within seconds. Or it is here and damaged.
    """
    reader = _reader(entry)
    if reader.shipped is not None:
        if (path := SHIPPED / reader.shipped).is_file():
            return path
        raise HyperkitError(
            f"The weights of backbone {entry.name!r} come with hyperkit, but {path} is not there.",
            "Install hyperkit again; or give a file of them with --weights FILE.",
        )
    remote = _remote(reader)
    return find_cached(remote) or _download(remote, entry)


def _reader(entry: Entry) -> Entry:
    """Return the backbone whose weights are read: over mel spectrograms the one that reads the pictures."""
    return find_entry(entry.model) if entry.library == "mel" else entry


def _remote(entry: Entry) -> Remote:
    if entry.library == "timm":
        from hyperkit.backbones.timm_vit import timm_remote

        return timm_remote(entry.model)
    if entry.library == "whisper":
        from hyperkit.backbones.whisper_encoder import whisper_remote

        return whisper_remote(entry.model)
    from hyperkit.backbones.open_clip_vit import open_clip_remote

    return open_clip_remote(entry.model, entry.tag or "")


def cached_weights(entry: Entry, verify: bool = True) -> Path | None:
    """Return the file with a backbone's weights if it is on this machine; the network is not used."""
    if not entry.pretrained or is_outside(entry):
        return None
    reader = _reader(entry)
    if reader.shipped is not None:
        return path if (path := SHIPPED / reader.shipped).is_file() else None
    return find_cached(_remote(reader), verify)


def find_cached(remote: Remote, verify: bool = True) -> Path | None:
    """Look a file of weights up in the hub's cache, then in the library's own.

    Args:
        remote: what to look for.
        verify: compare its content with the hash in its name, where there is one.

    Raises:
        HyperkitError: the cached file is damaged: its content is not what its name promises.
    """
    from huggingface_hub import try_to_load_from_cache

    candidates = [
        Path(found)
        for name in remote.files
        if remote.repository
        and isinstance(found := try_to_load_from_cache(remote.repository, name, revision=remote.revision), str)
    ]
    if remote.url and remote.folder:
        path = remote.folder / Path(remote.url).name
        if path.is_file() and not is_torchscript(path):
            candidates.append(path)
    if not candidates:
        return None
    return _verified(candidates[0], remote.sha256) if verify else candidates[0]


def _verified(path: Path, known: str | None = None) -> Path:
    """Compare a file with its SHA-256: the hub's blobs are called by it, timm's files end in its start."""
    blob = path.resolve()
    named = re.fullmatch(r"[0-9a-f]{64}", blob.name) or re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", path.name)
    expected = known or (named.group(named.lastindex or 0) if named else None)
    if expected is None:
        return path
    found = sha256_of(path)
    if not found.startswith(expected):
        raise HyperkitError(
            f"The cached file {path} is damaged: its SHA-256 is {found}, expected {expected}.",
            f"Delete {blob} and get it again.",
        )
    return path


def _download(remote: Remote, entry: Entry) -> Path:
    reason = unreachable(remote.host)
    if reason is not None:
        raise _missing(entry, remote, f"{remote.host} cannot be reached ({reason})")
    try:
        return _verified(_fetch(remote), remote.sha256)
    except HyperkitError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunFailed(f"The disk is full: the weights of {entry.name!r} could not be stored.") from error
        raise _missing(entry, remote, f"the download failed ({_short(error)})") from error
    except Exception as error:  # the hub's client has its own families of network errors
        raise _missing(entry, remote, f"the download failed ({_short(error)})") from error


def _fetch(remote: Remote) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in remote.files:
        if not remote.repository:
            break
        try:
            return Path(hf_hub_download(remote.repository, name, revision=remote.revision))
        except LocalEntryNotFoundError:
            raise  # the network failed, not the name
        except EntryNotFoundError:
            continue
    if remote.url and remote.folder:
        from torch.hub import download_url_to_file

        remote.folder.mkdir(parents=True, exist_ok=True)
        target = remote.folder / Path(remote.url).name
        download_url_to_file(remote.url, str(target), progress=False)
        return target
    raise FileNotFoundError(f"none of {', '.join(remote.files)} is in {remote.repository}")


def unreachable(address: str, seconds: float = PROBE_SECONDS) -> str | None:
    """Ask ``address`` once, through the hub's own client (so with its proxies and certificates).

    Returns:
        None if it answered at all, else why not. It never takes longer than ``seconds`` by much: name servers can
        hang beyond any timeout, so the question is put in a thread of its own.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            get_session().head(address, timeout=seconds)
            outcome.append(None)
        except Exception as error:
            outcome.append(_short(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    return outcome[0] if outcome else f"no answer in {seconds:g} s"


def _short(error: BaseException) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:160]


def _missing(entry: Entry, remote: Remote, why: str) -> HyperkitError:
    from huggingface_hub import constants

    what = f"{remote.repository} on the Hugging Face hub" if remote.repository else str(remote.url)
    cache = constants.HF_HUB_CACHE if remote.repository else remote.folder
    return HyperkitError(
        f"The weights of backbone {entry.name!r} ({entry.source}; {what}) are not on this machine, and {why}.",
        f"Two ways to get them: run `hyperkit prepare backbone {entry.name}` on a machine with network access and copy "
        f"its cache folder to {cache}; or give a file of them with --weights FILE.",
    )
