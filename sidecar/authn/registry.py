"""Resolves authenticator types: built-in names, DataHub's Java class names, plugins.

All types are resolved, imported and their options decoded before start, so a wrong name or option never affects a
request.
"""

import importlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from typing import Any

from sidecar.authn.authenticators.datahub_system import SYSTEM
from sidecar.authn.authenticators.datahub_token import DATAHUB, DataHubTokenOptions
from sidecar.authn.authenticators.session import SESSION
from sidecar.authn.base import Authenticator, NoOptions
from sidecar.authn.guest import GUEST, GuestOptions
from sidecar.config.authenticators import AuthenticatorConfig
from sidecar.config.reading.decode import decode_options, nearest, problem_at
from sidecar.config.reading.references import misplaced_references
from sidecar.config.reading.tree import Block, Leaf, dotted, merge
from sidecar.config.settings import Model
from sidecar.errors import Misconfigured, Problem

ENTRY_POINTS = "auth_sidecar.authenticators"
"""Entry point group through which installed packages offer authenticators."""
JWT = "jwt"
# Provider names of Actors, and values of the authenticator label in logs and metrics.
_RESERVED_NAMES = frozenset({JWT, DATAHUB, GUEST, SYSTEM, "own", "none"})


@dataclass(frozen=True, slots=True)
class _Internal:
    """A type that the composition root builds, because it needs more than its options."""

    describe: Callable[[Any], str]
    options: type[Model] = NoOptions
    ineffective: frozenset[str] = frozenset({"name", "timeout"})


_INTERNAL: Mapping[str, _Internal] = {
    JWT: _Internal(lambda _: "Bearer JWTs of the configured issuers and own tokens"),
    DATAHUB: _Internal(lambda _: "Bearer tokens of DataHub (HS256)", DataHubTokenOptions),
    GUEST: _Internal(GuestOptions.describe, GuestOptions, frozenset({"timeout", "onError"})),
}
# Authenticators that other blocks of the configuration add, in this order before those of the list.
_IMPLICIT: Mapping[str, str] = {
    SESSION: "sessions of the browser login (cookie)",
    SYSTEM: "DataHub's system client, Basic id:secret",
}
BUILT_IN: Mapping[str, str] = {
    "basic": "sidecar.authn.authenticators.basic:Basic",
    "introspection": "sidecar.authn.authenticators.introspection:Introspection",
    "ldap": "sidecar.authn.authenticators.ldap:Ldap",
    "kubernetes": "sidecar.authn.authenticators.kubernetes:Kubernetes",
}
_DATAHUB = "com.datahub.authentication.authenticator."
# Type for a Java class name, and DataHub's defaults where they differ from ours.
_JAVA: Mapping[str, tuple[str, Mapping[str, str]]] = {
    f"{_DATAHUB}DataHubTokenAuthenticator": (DATAHUB, {}),
    f"{_DATAHUB}DataHubGuestAuthenticator": ("guest", {"enabled": "false"}),
}
# Known Java class names without a counterpart, and their replacement.
_REMOVED: Mapping[str, str] = {
    f"{_DATAHUB}HealthStatusAuthenticator": "is skipped: the rule {preset: datahub} leaves the health paths open",
    f"{_DATAHUB}DataHubSystemAuthenticator": "is skipped: systemClientId and systemClientSecret configure it",
    f"{_DATAHUB}DataHubJwtTokenAuthenticator": "is skipped: list its issuers in authenticationConfiguration.providers",
    f"{_DATAHUB}DataHubOAuthAuthenticator": "is skipped: list its issuers in authenticationConfiguration.providers",
}


@dataclass(frozen=True, slots=True)
class AuthenticatorSpec:
    """One resolved entry of the chain. ``factory`` is None for those that the composition root builds.

    ``is_plugin``: the class is not part of this package. ``configured`` is None for an authenticator added by default.
    """

    type_name: str
    name: str
    factory: type[Authenticator] | None = None
    options: Model | None = field(default=None, repr=False)
    is_plugin: bool = False
    configured: AuthenticatorConfig | None = None

    @property
    def describe(self) -> str:
        """The credentials that it decides on."""
        if self.factory is not None:
            return self.factory.describe(self.options)
        internal = _INTERNAL.get(self.type_name)
        return _IMPLICIT[self.type_name] if internal is None else internal.describe(self.options)


def chain_specs(configs: Sequence[AuthenticatorConfig], implicit: Container[str]) -> tuple[AuthenticatorSpec, ...]:
    """The whole chain: the types of ``implicit`` that other blocks add, then ``configs``. Raises Misconfigured."""
    added = (AuthenticatorSpec(name, name) for name in _IMPLICIT if name in implicit)
    return (*added, *build_specs(configs))


def build_specs(configs: Sequence[AuthenticatorConfig]) -> tuple[AuthenticatorSpec, ...]:
    """The authenticators in order. Raises Misconfigured with all problems of ``configs``."""
    specs, problems = _resolve(configs)
    if any(problem.fatal for problem in problems):
        raise Misconfigured(problems)
    return specs


def validate(configs: Sequence[AuthenticatorConfig]) -> list[Problem]:
    """All problems and warnings about ``configs``."""
    return _resolve(configs)[1]


def _resolve(configs: Sequence[AuthenticatorConfig]) -> tuple[tuple[AuthenticatorSpec, ...], list[Problem]]:
    found: list[AuthenticatorSpec] = []
    problems: list[Problem] = []
    for config in configs:
        try:
            spec = _spec(config, problems)
        except _UnknownTypeError as error:
            problems.append(_problem(config, str(error)))
            continue
        if spec is None:
            continue
        if any(other.name == spec.name for other in found):
            problems.append(
                _problem(config, f"another authenticator has the name {spec.name}; set a different name", "name")
            )
        problems += [
            _problem(config, f"has no effect on {spec.type_name}", key) for key in _ineffective_keys(spec, config)
        ]
        if spec.name.lower() in _RESERVED_NAMES and (spec.is_plugin or spec.name != spec.type_name):
            problems.append(_problem(config, f"cannot have the name {spec.name}, which is reserved", "name"))
        if spec.type_name in _INTERNAL and any(other.type_name == spec.type_name for other in found):
            problems.append(_problem(config, f"only one {spec.type_name} can be configured"))
        if spec.type_name == "kubernetes":
            problems += [
                _problem(
                    config,
                    f"has the same issuer as {other.name}, which decides on all its tokens; "
                    "set a different issuer for each",
                )
                for other in found
                if other.type_name == spec.type_name and _issuer(other) == _issuer(spec)
            ]
        found.append(spec)
    if not any(spec.type_name == JWT for spec in found):
        found.insert(0, AuthenticatorSpec(JWT, JWT))
    return tuple(found), problems + _unreachable(found)


def _issuer(spec: AuthenticatorSpec) -> str:
    return str(getattr(spec.options, "issuer", ""))


def _unreachable(found: Sequence[AuthenticatorSpec]) -> list[Problem]:
    """Introspection of JWTs listed after ``jwt``, which decides first: it would accept tokens revoked at the server."""
    types = [spec.type_name for spec in found]
    return [
        _problem(spec.configured, "jwts has no effect after jwt; list jwt after it")
        for spec in found[types.index(JWT) :]
        if spec.configured is not None and spec.type_name == "introspection" and getattr(spec.options, "jwts", False)
    ]


def _ineffective_keys(spec: AuthenticatorSpec, config: AuthenticatorConfig) -> list[str]:
    """Configured keys without effect: jwt and datahub have fixed names and no time limit, the guest cannot fail."""
    internal = _INTERNAL.get(spec.type_name)
    ineffective = frozenset() if internal is None else internal.ineffective
    fields = {"name": "name", "timeout": "timeout", "on_error": "onError"}
    return [key for name, key in fields.items() if key in ineffective and name in config.settings.model_fields_set]


class _UnknownTypeError(Exception):
    """No class for a type; the text says why."""


def _spec(config: AuthenticatorConfig, problems: list[Problem]) -> AuthenticatorSpec | None:
    configured_type = config.settings.type
    removed = _REMOVED.get(configured_type)
    if removed is not None:
        problems.append(_problem(config, removed, fatal=False))
        return None
    type_name, implied_options = _JAVA.get(configured_type, (configured_type, {}))
    name = config.settings.name or type_name.rpartition(":")[2]
    internal = _INTERNAL.get(type_name)
    if internal is not None:
        options = _options(config, internal.options, implied_options, problems)
        is_named = "name" not in internal.ineffective
        return AuthenticatorSpec(type_name, name if is_named else type_name, options=options, configured=config)
    import_path = BUILT_IN.get(type_name)
    factory = load_authenticator(import_path) if import_path is not None else _plugin(type_name)
    options = _options(config, factory.Options, implied_options, problems)
    return AuthenticatorSpec(type_name, name, factory, options, import_path is None, config)


def _options(
    config: AuthenticatorConfig,
    model: type[Model],
    implied_options: Mapping[str, str],
    problems: list[Problem],
) -> Model | None:
    origin = config.options.origin
    implied = Block({name: Leaf(value, origin) for name, value in implied_options.items()}, origin)
    merged = merge(implied, config.options)
    assert isinstance(merged, Block)  # noqa: S101 - two blocks merge to a block
    path = (*config.path, "configs")
    options, found = decode_options(model, merged, path, config.resolve_secret)
    if not model.model_fields:
        text = f"is not a known name; {config.settings.type} has no options"
        found = [replace(problem, message=text) for problem in found]
    problems += found
    if options is not None:
        problems += [
            problem_at(merged, finding.path, finding.message, at=path) for finding in misplaced_references(options)
        ]
    return options


def _plugin(type_name: str) -> type[Authenticator]:
    entry_points_by_name = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if type_name in entry_points_by_name:
        return load_authenticator(entry_points_by_name[type_name].value)
    module, colon, _ = type_name.partition(":")
    if colon and module:
        return load_authenticator(type_name)
    known = [*_INTERNAL, *BUILT_IN, *entry_points_by_name, *_JAVA, *_REMOVED]
    by_class = {name.rpartition(".")[2]: name for name in known}
    close = nearest(type_name.rpartition(".")[2], by_class)
    for simple, name in by_class.items():
        close = close.replace(f"did you mean {simple}?", f"did you mean {name}?")
    types = ", ".join([*_INTERNAL, *BUILT_IN, *sorted(entry_points_by_name)])
    hint = close or f"known types are {types}, and package.module:Class"
    kind = "a Java class that has no counterpart here" if "." in type_name else "not a known authenticator"
    raise _UnknownTypeError(f"is {kind}; {hint}")


def load_authenticator(import_path: str) -> type[Authenticator]:
    """The class at ``package.module:Class``. Importing it runs the module, as the configuration requests."""
    module, _, name = import_path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing a plugin can raise anything
        raise _UnknownTypeError(f"cannot be imported: {type(error).__name__}") from error
    if not (isinstance(found, type) and issubclass(found, Authenticator)):
        raise _UnknownTypeError("is not a subclass of sidecar.authn.base.Authenticator")
    if not (isinstance(found.Options, type) and issubclass(found.Options, Model)):
        raise _UnknownTypeError("has Options that are not a subclass of sidecar.config.settings.Model")
    return found


def _problem(config: AuthenticatorConfig, message: str, key: str = "type", *, fatal: bool = True) -> Problem:
    origin = config.origin
    return Problem(dotted((*config.path, key)), message, origin.file, origin.line, fatal)
