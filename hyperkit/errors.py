"""The errors that a user can mend, and the exit codes that go with them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class HyperkitError(Exception):
    """Bad usage or bad input: printed without a traceback, exit code 2.

    Args:
        what: what was wrong and what was found, in one or more lines.
        hint: what is allowed, and what to run next.
    """

    exit_code = 2

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what if hint is None else f"{what}\n{hint}")
        self.what = what
        self.hint = hint

    def __reduce__(self) -> tuple[type[HyperkitError], tuple[str, str | None]]:
        # Exceptions cross process boundaries (data workers, sweeps) by pickling; keep both parts.
        return type(self), (self.what, self.hint)


class RunFailed(HyperkitError):
    """The command was right but the work could not be finished (NaN loss, full disk): exit code 1."""

    exit_code = 1


class RunInterrupted(HyperkitError):
    """The run was asked to stop by a signal and has saved its state: exit code 128 + signal number."""

    def __init__(self, what: str, hint: str | None = None, signal_number: int = 2) -> None:
        super().__init__(what, hint)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number

    def __reduce__(self) -> tuple[type[RunInterrupted], tuple[str, str | None, int]]:  # type: ignore[override]
        return type(self), (self.what, self.hint, self.signal_number)


def unknown_name(kind: str, name: str, allowed: Iterable[str], hint: str | None = None) -> HyperkitError:
    """Build the error for a name that is not among those allowed; the nearest one is suggested."""
    names = sorted(allowed)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    allowed_text = f"Allowed: {', '.join(names)}." if names else "None is available."
    return HyperkitError(f"There is no {kind} {name!r}.{guess}", allowed_text + (f" {hint}" if hint else ""))
