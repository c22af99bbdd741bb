"""Downloading the weights of LPIPS and FID ahead of time."""

from __future__ import annotations

import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from hyperkit.errors import HyperkitError, RunFailed
from hyperkit.files import sha256_of
from hyperkit.metrics.weights import FILES, MetricUnavailableError, WeightFile, folders, record, require

PROBE_SECONDS = 4.0


def prepare_metrics(progress: bool = True) -> dict[str, dict[str, Any]]:
    """Make sure that the weights for LPIPS (AlexNet, 244 MB) and FID (Inception v3, 96 MB) are here and are right.

    A file that is found in hyperkit's or torch hub's cache, with the published SHA-256, is left where it is; others are
    downloaded to hyperkit's cache.

    Args:
        progress: show torch hub's progress bar on stderr.

    Returns:
        "lpips" and "fid" -> ``path``, ``downloaded``, ``file``, ``sha256``, ``licence``, ``network``.

    Raises:
        HyperkitError: there is no way to the server; comes within seconds and says which file to put where.
        RunFailed: the download broke off, or what came has another hash.
    """
    result: dict[str, dict[str, Any]] = {}
    for metric, file in FILES.items():
        downloaded = False
        try:
            path = require(metric)
        except MetricUnavailableError:
            path = _download(file, progress)
            downloaded = True
        result[metric] = {"path": str(path), "downloaded": downloaded, **record(metric)}
    return result


def _download(file: WeightFile, progress: bool) -> Path:
    folder = folders()[0]
    path = folder / file.name
    by_hand = f"Or put {file.name} into {folder} by hand. It is published at {file.url}"
    if not reachable(file.url, PROBE_SECONDS):
        raise HyperkitError(
            f"{file.name} ({file.size / 1e6:.0f} MB) could not be downloaded: {urlsplit(file.url).hostname} cannot be "
            "reached.",
            f"Run `hyperkit prepare metrics` where there is a network. {by_hand}",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # written beside, verified, then renamed by torch hub
        torch.hub.download_url_to_file(file.url, str(path), hash_prefix=file.sha256, progress=progress)
    except (OSError, RuntimeError) as error:
        raise RunFailed(
            f"{file.name} could not be downloaded: {error}.", f"Run the command again. {by_hand}"
        ) from error
    if sha256_of(path) != file.sha256:
        path.unlink(missing_ok=True)
        raise RunFailed(f"{file.name} came with another SHA-256 than {file.sha256}.", by_hand)
    return path


def reachable(url: str, seconds: float) -> bool:
    """Return whether a connection to the server of ``url``, or to the proxy in use, opens within ``seconds``."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and parts.hostname and not urllib.request.proxy_bypass(parts.hostname):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    opened = threading.Event()

    def knock() -> None:
        try:
            with socket.create_connection((parts.hostname or "", port), timeout=seconds):
                opened.set()
        except OSError:
            pass

    # looking a name up has no timeout of its own, so it gets a thread that is left behind if it hangs
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(seconds)
    return opened.is_set()
