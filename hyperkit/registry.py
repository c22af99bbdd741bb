"""Names for parts: each maps to ``"module:Attribute"`` and is imported only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from hyperkit.errors import HyperkitError, unknown_name


class Registry:
    """A table of lazily imported parts of one kind.

    Args:
        kind: what the names stand for, used in error messages ("task", "backbone", ...).
        entries: name -> ``"package.module:Attribute"``.

    A name that holds a colon and is not in the table is itself taken as ``"module:Attribute"``, so that a part from
    outside the package needs no registration.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def load(self, name: str) -> Any:
        """Import and return the part called ``name``.

        Raises:
            HyperkitError: no such name, or its module or attribute cannot be found.
        """
        if name in self._entries:
            return import_attribute(self._entries[name], self.kind)
        if ":" in name:
            return import_attribute(name, self.kind)
        raise unknown_name(
            self.kind, name, self._entries, f"Or an own {self.kind} as 'package.module:Name', importable from here."
        )


def import_attribute(target: str, kind: str) -> Any:
    """Import ``"module:Attribute"``; a missing module or attribute is named in the error."""
    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise HyperkitError(
                f"The {kind} {target!r} could not be imported: there is no module {error.name!r}.",
                "Install it, or put its folder on PYTHONPATH.",
            ) from error
        raise
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        public = ", ".join(n for n in dir(module) if not n.startswith("_"))
        raise HyperkitError(
            f"The {kind} {target!r} could not be imported: {module_name} has no {attribute!r}.", f"It has: {public}."
        ) from error
