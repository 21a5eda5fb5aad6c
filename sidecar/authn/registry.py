"""From the word in the configuration to the class: built-in names, DataHub's Java names, plugins.

Everything is found, imported and decoded before the start, so that a wrong name or option never waits for a request.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from sidecar.authn.authenticators.datahub_token import DATAHUB, DataHubTokenOptions
from sidecar.authn.base import Authenticator
from sidecar.config.authenticators import AuthenticatorConfig
from sidecar.config.reading.decode import decode_options, nearest, problem_at
from sidecar.config.reading.references import misplaced_references
from sidecar.config.reading.tree import Block, Leaf, dotted, merge
from sidecar.config.settings import Model
from sidecar.errors import Misconfigured, Problem

ENTRY_POINTS = "auth_sidecar.authenticators"
"""Group of the entry points by which installed packages offer authenticators."""
JWT = "jwt"

# Names of Actors' origins, and of what is no member in logs and metrics.
_RESERVED_NAMES = frozenset({JWT, DATAHUB, "guest", "system", "own", "none"})
# Members whose making needs more than their options; the composition root makes them.
_BUILT_BY_APP: Mapping[str, str] = {
    JWT: "Bearer JWTs of the configured issuers and own tokens",
    DATAHUB: "Bearer tokens of DataHub (HS256)",
}
_BUILT_BY_APP_OPTIONS: Mapping[str, type[Model]] = {DATAHUB: DataHubTokenOptions}
BUILT_IN: Mapping[str, str] = {
    "basic": "sidecar.authn.authenticators.basic:Basic",
    "guest": "sidecar.authn.authenticators.guest:Guest",
    "introspection": "sidecar.authn.authenticators.introspection:Introspection",
    "ldap": "sidecar.authn.authenticators.ldap:Ldap",
    "kubernetes": "sidecar.authn.authenticators.kubernetes:Kubernetes",
}
_DATAHUB = "com.datahub.authentication.authenticator."
# The word that a Java class name stands for, and what DataHub takes for granted where we do not.
_JAVA: Mapping[str, tuple[str, Mapping[str, str]]] = {
    f"{_DATAHUB}DataHubTokenAuthenticator": (DATAHUB, {}),
    f"{_DATAHUB}DataHubGuestAuthenticator": ("guest", {"enabled": "false"}),
}
# Known Java class names that are no members here, and what takes their place.
_REMOVED: Mapping[str, str] = {
    f"{_DATAHUB}HealthStatusAuthenticator": "is left out: the rule {preset: datahub} leaves the health paths open",
    f"{_DATAHUB}DataHubSystemAuthenticator": "is left out: systemClientId and systemClientSecret alone decide",
    f"{_DATAHUB}DataHubJwtTokenAuthenticator": "is left out: list its issuers in authenticationConfiguration.providers",
    f"{_DATAHUB}DataHubOAuthAuthenticator": "is left out: list its issuers in authenticationConfiguration.providers",
}


@dataclass(frozen=True, slots=True)
class AuthenticatorSpec:
    """One member of the chain to be. ``factory`` is None for those that the composition root makes.

    ``is_plugin``: not from this package. ``configured`` is None for a member that nobody wrote.
    """

    type_name: str
    name: str
    factory: type[Authenticator] | None = None
    options: Model | None = field(default=None, repr=False)
    is_plugin: bool = False
    configured: AuthenticatorConfig | None = None

    @property
    def describe(self) -> str:
        """Which credentials it decides on."""
        return _BUILT_BY_APP[self.type_name] if self.factory is None else self.factory.describe(self.options)


def build_specs(members: Sequence[AuthenticatorConfig]) -> tuple[AuthenticatorSpec, ...]:
    """The chain in order. Raises Misconfigured with everything that is wrong with ``members``."""
    planned, problems = _read(members)
    if any(problem.fatal for problem in problems):
        raise Misconfigured(problems)
    return planned


def validate(members: Sequence[AuthenticatorConfig]) -> list[Problem]:
    """Everything that is wrong with ``members`` or should be known about them."""
    return _read(members)[1]


def _read(members: Sequence[AuthenticatorConfig]) -> tuple[tuple[AuthenticatorSpec, ...], list[Problem]]:
    found: list[AuthenticatorSpec] = []
    problems: list[Problem] = []
    for member in members:
        try:
            planned = _spec(member, problems)
        except _UnknownError as error:
            problems.append(_problem(member, str(error)))
            continue
        if planned is None:
            continue
        if any(other.name == planned.name for other in found):
            problems.append(_problem(member, f"another member has the name {planned.name}; give it a name", "name"))
        problems += [
            _problem(member, f"has no effect on {planned.type_name}", key) for key in _ineffective_keys(planned, member)
        ]
        if planned.name.lower() in _RESERVED_NAMES and (planned.is_plugin or planned.name != planned.type_name):
            problems.append(_problem(member, f"cannot have the name {planned.name}, which stands for another", "name"))
        if planned.type_name in ("guest", *_BUILT_BY_APP) and any(
            other.type_name == planned.type_name for other in found
        ):
            problems.append(_problem(member, f"there can be one {planned.type_name} only"))
        if planned.type_name == "kubernetes":
            problems += [
                _problem(
                    member, f"has the issuer of {other.name}, which decides on all its tokens; write issuer for each"
                )
                for other in found
                if other.type_name == planned.type_name and _issuer(other) == _issuer(planned)
            ]
        found.append(planned)
    if not any(planned.type_name == JWT for planned in found):
        found.insert(0, AuthenticatorSpec(JWT, JWT))
    return tuple(found), problems + _unreachable(found)


def _issuer(planned: AuthenticatorSpec) -> str:
    return str(getattr(planned.options, "issuer", ""))


def _unreachable(found: Sequence[AuthenticatorSpec]) -> list[Problem]:
    """Introspection of JWTs behind ``jwt``, which has decided by then: what the server has revoked would pass."""
    words = [planned.type_name for planned in found]
    return [
        _problem(planned.configured, "jwts has no effect behind jwt; list jwt after it")
        for planned in found[words.index(JWT) :]
        if planned.configured is not None
        and planned.type_name == "introspection"
        and getattr(planned.options, "jwts", False)
    ]


def _ineffective_keys(planned: AuthenticatorSpec, member: AuthenticatorConfig) -> list[str]:
    """Keys of an entry that are written and of no use: jwt and datahub bear their own names and wait for no member."""
    if planned.type_name in _BUILT_BY_APP:
        idle = {"name", "timeout"}
    else:
        idle = {"timeout", "onError"} if planned.type_name == "guest" else set()
    fields = {"name": "name", "timeout": "timeout", "on_error": "onError"}
    return [key for name, key in fields.items() if key in idle and name in member.settings.model_fields_set]


class _UnknownError(Exception):
    """No class for a word; the text says what is wrong with it."""


def _spec(member: AuthenticatorConfig, problems: list[Problem]) -> AuthenticatorSpec | None:
    written = member.settings.type
    replaced = _REMOVED.get(written)
    if replaced is not None:
        problems.append(_problem(member, replaced, fatal=False))
        return None
    word, taken_for_granted = _JAVA.get(written, (written, {}))
    if word in _BUILT_BY_APP_OPTIONS:
        path = (*member.path, "configs")
        options, found = decode_options(_BUILT_BY_APP_OPTIONS[word], member.options, path, member.resolve_secret)
        problems += found
        return AuthenticatorSpec(word, word, options=options, configured=member)
    if word in _BUILT_BY_APP:
        problems += [
            Problem(
                dotted((*member.path, "configs", name)),
                f"is not a known name; {word} has no options",
                node.origin.file,
                node.origin.line,
            )
            for name, node in member.options.entries.items()
            if not taken_for_granted
        ]
        return AuthenticatorSpec(word, word, configured=member)
    place = BUILT_IN.get(word)
    factory = load_authenticator(place) if place is not None else _plugin(word)
    options = _options(member, factory, taken_for_granted, problems)
    return AuthenticatorSpec(
        word, member.settings.name or word.rpartition(":")[2], factory, options, place is None, member
    )


def _options(
    member: AuthenticatorConfig,
    factory: type[Authenticator],
    taken_for_granted: Mapping[str, str],
    problems: list[Problem],
) -> Model | None:
    origin = member.options.origin
    granted = Block({name: Leaf(value, origin) for name, value in taken_for_granted.items()}, origin)
    written = merge(granted, member.options)
    assert isinstance(written, Block)  # noqa: S101 - two blocks merge to a block
    path = (*member.path, "configs")
    options, found = decode_options(factory.Options, written, path, member.resolve_secret)
    problems += found
    if options is not None:
        problems += [
            problem_at(written, finding.path, finding.message, at=path) for finding in misplaced_references(options)
        ]
    return options


def _plugin(type_name: str) -> type[Authenticator]:
    offered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if type_name in offered:
        return load_authenticator(offered[type_name].value)
    module, colon, _ = type_name.partition(":")
    if colon and module:
        return load_authenticator(type_name)
    known = [*_BUILT_BY_APP, *BUILT_IN, *offered, *_JAVA, *_REMOVED]
    by_class = {name.rpartition(".")[2]: name for name in known}
    close = nearest(type_name.rpartition(".")[2], by_class)
    for simple, name in by_class.items():
        close = close.replace(f"did you mean {simple}?", f"did you mean {name}?")
    hint = close or f"known are {', '.join([*_BUILT_BY_APP, *BUILT_IN, *sorted(offered)])}, and package.module:Class"
    kind = "a Java class that has no counterpart here" if "." in type_name else "not a known authenticator"
    raise _UnknownError(f"is {kind}; {hint}")


def load_authenticator(place: str) -> type[Authenticator]:
    """The class at ``package.module:Class``; importing it runs the module, as the configuration asks for."""
    module, _, name = place.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever importing a stranger's module raises
        raise _UnknownError(f"cannot be imported: {type(error).__name__}") from error
    if not (isinstance(found, type) and issubclass(found, Authenticator)):
        raise _UnknownError("is not a subclass of sidecar.authn.base.Authenticator")
    if not (isinstance(found.Options, type) and issubclass(found.Options, Model)):
        raise _UnknownError("has Options that are no subclass of sidecar.config.settings.Model")
    return found


def _problem(member: AuthenticatorConfig, message: str, key: str = "type", *, fatal: bool = True) -> Problem:
    origin = member.origin
    return Problem(dotted((*member.path, key)), message, origin.file, origin.line, fatal)
