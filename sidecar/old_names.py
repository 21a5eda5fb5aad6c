"""Old public names that still work. All of them go in the version :data:`REMOVED_IN`, and this module with them.

A name that users write (a command-line option, an import of a plugin) changes in three places: where it is declared,
here, and under "Changed" in the changelog. Settings, metrics, log fields, reasons and causes have kept their names.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from typing import Any, TypeVar

REMOVED_IN = "0.3"

CLI_OPTIONS: Mapping[str, str] = {"--ahead": "--publish-lead-time", "--keep": "--retain"}
"""Options of ``sidecar keys rotate`` and ``sidecar keys retire``: old name to new name."""

MODULE_NAMES: Mapping[str, Mapping[str, str]] = {
    "sidecar.authn.base": {
        "Member": "sidecar.authn.base.Authenticator",
        "Surroundings": "sidecar.authn.base.AuthenticatorContext",
        "CONFIGURED": "sidecar.authn.base.STATIC_CONFIGURATION",
    },
    "sidecar.authn.recovery": {"Recovery": "sidecar.authn.support.dependency_probe.DependencyProbe"},
    "sidecar.identity.request": {"RequestView": "sidecar.identity.request.RequestContext"},
}
"""Imports of plugins: by module, old name to full new name."""

OVERRIDES: Mapping[str, str] = {
    "recognises": "describe",
    "problem": "unavailable_reason",
    "outdated": "degraded_reason",
}
"""Methods of :class:`sidecar.authn.base.Authenticator` that plugins override: old name to new name."""

ACCEPTED_FIELDS: Mapping[str, str] = {
    "ask_again_at": "revalidate_at",
    "cleared": "revocation_list_version",
    "facts": "revocation_keys",
    "memo": "derived",
    "passed_on": "forwarded_authorization",
    "tally": "counter",
}
"""Fields of :class:`sidecar.authn.base.Accepted`: old name to new name."""

PROBE_METHODS: Mapping[str, str] = {"doubt": "report_failure"}
"""Methods of :class:`sidecar.authn.support.dependency_probe.DependencyProbe`: old name to new name."""

T = TypeVar("T")


def imported(module: str, name: str) -> Any:
    """The object with the old ``name`` in ``module``, for its ``__getattr__``. Else raises AttributeError."""
    new = MODULE_NAMES.get(module, {}).get(name)
    if new is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    _warn(f"{module}.{name}", new, stacklevel=4)
    target, _, attribute = new.rpartition(".")
    return getattr(import_module(target), attribute)


def attribute(owner: object, name: str, names: Mapping[str, str]) -> Any:
    """The attribute of ``owner`` whose old name is ``name``, for its ``__getattr__``. Raises AttributeError."""
    new = names.get(name)
    if new is None:
        raise AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}")
    _warn(f"{type(owner).__name__}.{name}", new, stacklevel=4)
    return getattr(owner, new)


def adopt_overrides(cls: type) -> None:
    """Apply the overrides of the plugin ``cls`` that use old names to the new names."""
    for old, new in OVERRIDES.items():
        own = vars(cls)
        if new not in own and isinstance(own.get(old), property | classmethod):
            _warn(f"{cls.__qualname__}.{old}", new, stacklevel=4)
            setattr(cls, new, own[old])


def accept_old_keywords(cls: type, names: Mapping[str, str]) -> None:
    """From now on ``__init__`` of ``cls`` takes the old keywords too.

    Called for the first plugin only: each call of ``__init__`` costs one more call afterwards.
    """
    original: Callable[..., None] = cls.__init__  # type: ignore[misc] # of the class itself
    if hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    def init(self: object, *values: Any, **keywords: Any) -> None:
        if not keywords.keys().isdisjoint(names):
            for old in names.keys() & keywords.keys():
                _warn(f"{cls.__name__}({old}=...)", names[old], stacklevel=4)
            keywords = {names.get(name, name): value for name, value in keywords.items()}
        original(self, *values, **keywords)

    cls.__init__ = init  # type: ignore[misc] # the same signature, and the old keywords


def add_option(parser: argparse.ArgumentParser, name: str, parse: Callable[[str], Any], **arguments: Any) -> None:
    """Add the option ``name`` to ``parser``, and its old name, which is not in the help and prints a warning."""
    dest = parser.add_argument(name, type=parse, **arguments).dest
    hidden: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    for old, new in CLI_OPTIONS.items():
        if new == name:
            parser.add_argument(old, action=_OldOption, dest=dest, type=parse, **hidden)


class _OldOption(argparse.Action):
    """Stores the value for the new option."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        old = option_string or ""
        sys.stderr.write(f"warning: {old} is now {CLI_OPTIONS[old]}; {old} goes in version {REMOVED_IN}\n")
        setattr(namespace, self.dest, values)


def _warn(old: str, new: str, *, stacklevel: int) -> None:
    text = f"{old} is now {new}; the old name goes in auth-sidecar {REMOVED_IN}"
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel)
