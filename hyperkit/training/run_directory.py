"""The folder of a run: its configuration, log, metrics, checkpoints, and the lock that one process holds on it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from hyperkit.errors import HyperkitError
from hyperkit.files import disk_error, write_text
from hyperkit.training.config import PROGRESS_FIELDS
from hyperkit.training.environment import command_line, describe_environment

try:
    import fcntl
except ImportError:  # Windows has no flock; runs there are not locked
    fcntl = None  # type: ignore[assignment]

_LOG = logging.getLogger("hyperkit")


class RunDirectory:
    """One run's folder, locked while this object is open. Use ``create`` or ``open``, as a context manager.

    In a process other than the first of a training over several processes, it is a follower: it has no lock and writes
    nothing, and ``fit`` tells it the path.

    Attributes:
        path: the folder.
        fresh: True where the folder was made by this process, False where a run that was there goes on.
        follower: True in the further processes of a training over several.
    """

    def __init__(self, path: Path, fresh: bool, follower: bool = False) -> None:
        self.path = path
        self.fresh = fresh
        self.follower = follower
        self._lock: int | None = None
        self._handler: logging.Handler | None = None

    @classmethod
    def create(cls, out: str | os.PathLike[str] | None, task: str, config: Mapping[str, Any]) -> RunDirectory:
        """Make the folder of a new run, or go on with the one at ``out``.

        Args:
            out: the folder; None makes ``runs/<task>-<time>``, always a new one.
            task: name of the task.
            config: the resolved configuration of the run, as plain values.

        Raises:
            HyperkitError: ``out`` holds something else than a run, a run with another configuration (the keys that
                differ are shown), or one that another process works on (its holder is named).
        """
        if process_rank() != 0:
            return cls(Path(out) if out is not None else Path(), fresh=False, follower=True)
        path = _new_path(task) if out is None else Path(out)
        if (path / "config.yaml").is_file():
            return cls.open(path, config)
        if path.exists() and (not path.is_dir() or any(p.name != ".lock" for p in path.iterdir())):
            raise HyperkitError(
                f"{path} exists and is not the folder of a run (there is no config.yaml in it).",
                "Choose a new or an empty folder with --out.",
            )
        run = cls(path, fresh=True)
        run._open(config)
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str], config: Mapping[str, Any] | None = None) -> RunDirectory:
        """Go on with the run at ``path``: its folder, or one of its checkpoints.

        Args:
            path: where it is.
            config: its configuration, which may differ in how far, where and how often (``PROGRESS_FIELDS``); None
                takes the stored one as it is.

        Raises:
            HyperkitError: there is no run, its configuration differs, or another process works on it.
        """
        folder = run_folder(path)
        if process_rank() != 0:
            return cls(folder, fresh=False, follower=True)
        stored = read_config(folder)
        if config is not None and (lines := differences(stored, config)):
            listed = "\n".join(f"  {line}" for line in lines)
            raise HyperkitError(
                f"The run in {folder} was started with another configuration:\n{listed}",
                "Only how far, where and how often may change in a resumed run "
                f"(training: {', '.join(sorted(PROGRESS_FIELDS))}). Choose another folder with --out.",
            )
        run = cls(folder, fresh=False)
        run._open(stored if config is None else config)
        return run

    def _open(self, config: Mapping[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._acquire()
        for folder in (self.checkpoints, self.media):
            folder.mkdir(exist_ok=True)
        write_text(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        self._write_environment()
        self._handler = logging.FileHandler(self.path / "log.txt", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        if _LOG.level == logging.NOTSET:
            _LOG.setLevel(logging.INFO)
        _LOG.addHandler(self._handler)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def media(self) -> Path:
        """The folder of pictures and videos."""
        return self.path / "media"

    @property
    def last(self) -> Path:
        """The newest checkpoint, which a resumed run goes on from."""
        return self.checkpoints / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation."""
        return self.checkpoints / "best.pt"

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A run that was refused for bad input has done nothing: it leaves no folder behind.
        discard = isinstance(error, HyperkitError) and error.exit_code == 2 and self.fresh and not self._has_results()
        self.close()
        if discard and not self.follower:
            shutil.rmtree(self.path, ignore_errors=True)

    def _has_results(self) -> bool:
        return self._metrics.exists() or any(self.checkpoints.glob("*.pt"))

    def close(self) -> None:
        """Give the lock back and end the log file."""
        if self._handler is not None:
            _LOG.removeHandler(self._handler)
            self._handler.close()
            self._handler = None
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def _acquire(self) -> None:
        if fcntl is None:
            return
        lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(lock, 4096, 0).decode(errors="replace")
            os.close(lock)
            raise HyperkitError(
                f"Another process works on the run in {self.path}: {_describe_holder(holder)}",
                "Wait for it to end or stop it, or choose another folder with --out.",
            ) from error
        holder = json.dumps(
            {"host": socket.gethostname(), "pid": os.getpid(), "command": command_line(), "since": _now()}
        )
        os.ftruncate(lock, 0)
        os.pwrite(lock, holder.encode(), 0)
        self._lock = lock

    def _write_environment(self) -> None:
        path = self.path / "env.json"
        environment = {**describe_environment(), "time": _now(), "resumed": []}
        if path.is_file():
            first = json.loads(path.read_text())
            environment = {**first, "resumed": [*first["resumed"], environment | {"resumed": None}]}
        write_text(path, json.dumps(environment, indent=2) + "\n")

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``; it has at least "step" and "split"."""
        if self.follower:
            return
        try:
            with open(self._metrics, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(dict(values)) + "\n")
        except OSError as error:
            raise (disk_error(self._metrics, error) or error) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``; one that a crash left unfinished is left out."""
        if not self._metrics.is_file():
            return []
        lines = []
        for text in self._metrics.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return lines

    def keep_metrics(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the lines of ``metrics.jsonl`` that ``keep`` refuses: those that a resumed run will write again."""
        if self._metrics.is_file() and not self.follower:
            kept = [line for line in self.read_metrics() if keep(line)]
            write_text(self._metrics, "".join(json.dumps(line) + "\n" for line in kept))


def process_rank() -> int:
    """Return 0 in the first or only process of a training, by the environment, and another number in others."""
    if rank := os.environ.get("RANK"):  # torchrun
        return int(rank)
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        return int(os.environ.get("SLURM_PROCID", 0))
    return int(os.environ.get("LOCAL_RANK", 0)) + int(os.environ.get("NODE_RANK", 0))


def run_folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder of the run that ``path`` (the folder, or a checkpoint in it) belongs to.

    Raises:
        HyperkitError: there is none; the runs beside it are listed.
    """
    path = Path(path)
    folder = path.parent.parent if path.suffix == ".pt" else path
    if (folder / "config.yaml").is_file():
        return folder
    runs = sorted(str(p.parent) for p in folder.parent.glob("*/config.yaml"))[-8:] if folder.parent.is_dir() else []
    found = f"Runs beside it: {', '.join(runs)}." if runs else "No run was found beside it."
    raise HyperkitError(f"{folder} is not the folder of a run: there is no config.yaml in it.", found)


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the stored configuration of the run in ``folder``, as plain values.

    Raises:
        HyperkitError: it is missing or is not a YAML mapping.
    """
    path = run_folder(folder) / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HyperkitError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise HyperkitError(f"{path} must be a mapping of sections.")
    return content


def differences(
    stored: Mapping[str, Any], new: Mapping[str, Any], ignored: Collection[str] = PROGRESS_FIELDS
) -> list[str]:
    """Return a line "key: stored -> new" for each value that differs, the ignored fields of ``training`` aside."""
    old_flat, new_flat = dict(_flatten(stored)), dict(_flatten(new))
    progress = {f"training.{name}" for name in ignored}
    return [
        f"{name}: {old_flat.get(name, '(unset)')!r} -> {new_flat.get(name, '(unset)')!r}"
        for name in sorted(old_flat.keys() | new_flat.keys())
        if name not in progress and old_flat.get(name) != new_flat.get(name)
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:  # through JSON, so that a tuple equals the list that YAML gives back
            yield f"{prefix}{name}", json.loads(json.dumps(value, default=str))


def _new_path(task: str) -> Path:
    base = Path("runs") / f"{task}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def _describe_holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']} ({holder['command']})."
    except (json.JSONDecodeError, KeyError, TypeError):
        return "it left no name."


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
