"""Route rules: compiled once, matched by walking a path's segments, so that their number costs nothing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Literal

from sidecar.access.authentication import AuthenticationRequirement
from sidecar.access.paths import Normalizations, plain_escapes
from sidecar.config.products.presets import RouteRule, expand_presets
from sidecar.config.settings import RequireSettings, RuleSettings
from sidecar.errors import Cause, Reason, quoted
from sidecar.identity.actor import Actor
from sidecar.identity.request import Condition, Missing

_TAIL = "**"
_ONE = "*"
_MAX_NAMED = 5


class Access(IntEnum):
    """What a path asks for; a larger value is stricter."""

    PUBLIC = 0
    GUEST = 1
    AUTHENTICATED = 2


def named(kind: str, names: Iterable[str]) -> str:
    """``the group a``, or ``one of the groups a, b``, for messages: sorted, and not all of very many."""
    known = sorted(names)
    if any("code" in name.lower() for name in known):
        # No message may contain these letters: see REASONS.
        return f"a {kind} that the caller does not have"
    if len(known) == 1:
        return f"the {kind} {known[0]}"
    rest = len(known) - _MAX_NAMED
    more = f" and {rest} more" if rest > 0 else ""
    return f"one of the {kind}s {', '.join(known[:_MAX_NAMED])}{more}"


def all_named(kind: str, names: Iterable[str]) -> str:
    """``the group a``, or ``the groups a and b``, for messages, with the limits of :func:`named`."""
    known = sorted(names)
    if len(known) < 2 or any("code" in name.lower() for name in known):
        return named(kind, known)
    rest = len(known) - _MAX_NAMED
    return f"the {kind}s {' and '.join(known[:_MAX_NAMED])}{f' and {rest} more' if rest > 0 else ''}"


@dataclass(frozen=True, slots=True)
class Requirement:
    """What an authenticated caller must have besides; each non-empty part must be met. ``rule`` has written it."""

    groups: frozenset[str]
    roles: frozenset[str]
    actor_types: frozenset[str]
    providers: frozenset[str]
    admin: bool
    rule: str = field(default="", compare=False)

    def missing(self, actor: Actor) -> Missing | None:
        """The first part that ``actor`` does not meet."""
        if self.admin and not actor.is_admin:
            return Missing(Cause.RULE_ADMIN, "an admin", "no admin", self.rule)
        if self.groups and self.groups.isdisjoint(actor.groups):
            has = f"the groups {quoted(*actor.groups)}"
            return Missing(Cause.RULE_GROUPS, named("group", self.groups), has, self.rule)
        if self.roles and self.roles.isdisjoint(actor.roles):
            has = f"the roles {quoted(*actor.roles)}"
            return Missing(Cause.RULE_ROLES, named("role", self.roles), has, self.rule)
        if self.actor_types and actor.type not in self.actor_types:
            return Missing(Cause.RULE_ACTOR_TYPE, named("Actor type", self.actor_types), actor.type, self.rule)
        if self.providers and actor.provider not in self.providers:
            has = f"the provider {quoted(actor.provider)}"
            return Missing(Cause.RULE_PROVIDER, named("provider", self.providers), has, self.rule)
        return None


@dataclass(frozen=True, slots=True)
class ClientRequirement:
    """One of these OAuth clients (empty: any), with or without an agent that acts. ``rule`` has written it."""

    clients: frozenset[str]
    agents: Literal["forbidden", "required"] | None
    rule: str = field(default="", compare=False)

    def missing(self, actor: Actor) -> Missing | None:
        """What ``actor`` lacks."""
        if self.clients and actor.client not in self.clients:
            has = f"the client {quoted(actor.client)}" if actor.client else "no client"
            return Missing(Cause.RULE_CLIENT, named("client", self.clients), has, self.rule)
        if self.agents == "forbidden" and actor.is_delegated:
            return Missing(Cause.RULE_AGENT, "a token without an agent that acts", "a token with act", self.rule)
        if self.agents == "required" and not actor.acting:
            has = "an act that its issuer may not set" if actor.is_delegated else "no act"
            return Missing(Cause.RULE_AGENT, "a token of an agent that acts", has, self.rule)
        return None


@dataclass(frozen=True, slots=True)
class ScopeRequirement:
    """The caller's token must have all of ``scopes``. ``rule`` has written it."""

    scopes: frozenset[str]
    rule: str = field(default="", compare=False)

    def missing(self, actor: Actor) -> Missing | None:
        """What ``actor`` lacks."""
        if self.scopes.issubset(actor.scopes):
            return None
        has = f"the scopes {quoted(*actor.scopes)}"
        return Missing(Cause.RULE_SCOPE, all_named("scope", self.scopes), has, self.rule, Reason.SCOPE_MISSING)


@dataclass(frozen=True, slots=True)
class Resource:
    """A protected resource (RFC 9728): the paths at and below ``path``.

    ``metadata_url``: where its metadata is. ``scopes`` are required, and ``origins`` are those whose pages may call it;
    None: all.
    """

    path: str
    metadata_url: str
    scopes: frozenset[str] = frozenset()
    origins: frozenset[str] | None = None

    def and_also(self, first: "Resource | None") -> "Resource":
        """``first`` with the origins that this resource allows too; this one if there is none."""
        if first is None or first.origins == self.origins:
            return first or self
        both = (first.origins, self.origins)
        origins = frozenset.intersection(*(one for one in both if one is not None))
        return replace(first, origins=origins)


@dataclass(frozen=True, slots=True)
class AccessRequirement:
    """What holds for one request: how strict, and every requirement that applies.

    ``excludes_guests``: a rule that is written asks for authenticated callers, or the path is ambiguous; where no rule
    matches, the guest of the chain may be. ``ignores_credentials``: on a public path, credentials are neither verified
    nor forwarded, and no identity is added. ``resource``: the protected resource at this path.
    ``keeps_basic``: where credentials are ignored, ``Basic`` is forwarded.
    """

    access: Access
    requirements: tuple[Condition, ...] = ()
    excludes_guests: bool = False
    ignores_credentials: bool = False
    resource: Resource | None = None
    keeps_basic: bool = False

    @property
    def scopes(self) -> frozenset[str]:
        """All scopes that the request needs."""
        needed = frozenset() if self.resource is None else self.resource.scopes
        return needed.union(*(part.scopes for part in self.requirements if isinstance(part, ScopeRequirement)))

    def and_also(self, other: "AccessRequirement") -> "AccessRequirement":
        """What is stricter of both, and the requirements of both; this very object where ``other`` adds nothing."""
        excludes_guests = self.excludes_guests or other.excludes_guests
        ignores_credentials = self.ignores_credentials or other.ignores_credentials
        if (
            other.access <= self.access
            and excludes_guests == self.excludes_guests
            and ignores_credentials == self.ignores_credentials
            and other.resource in (None, self.resource)
            and all(needed in self.requirements for needed in other.requirements)
        ):
            return self
        requirements = dict.fromkeys((*self.requirements, *other.requirements))
        access = max(self.access, other.access)
        resource = self.resource if other.resource is None else other.resource.and_also(self.resource)
        return AccessRequirement(access, tuple(requirements), excludes_guests, ignores_credentials, resource)


AUTHENTICATED = AccessRequirement(Access.AUTHENTICATED)


@dataclass(frozen=True, slots=True)
class _Rule:
    """``by_slash``: stands where its path leads with a final slash more or less than is written."""

    order: int
    methods: frozenset[str]
    access_requirement: AccessRequirement
    without: frozenset[str]
    by_slash: bool = False
    source: str = ""


@dataclass(slots=True)
class _Node:
    children: dict[str, "_Node"] = field(default_factory=dict)
    here: list[_Rule] = field(default_factory=list)
    below: list[_Rule] = field(default_factory=list)


class Rules:
    """The configured rules. The first whose pattern and method match decides; none means authenticated.

    Many servers serve ``/a/`` as ``/a``. So an exact rule that is stricter than the rule that follows it for the other
    of the two holds for that one as well; it never makes the other one less strict.

    ``can_require``: whether any rule could refuse an authenticated caller; ``written_can_require``: whether one could
    that is not a preset's.
    """

    def __init__(self, settings: Iterable[RuleSettings], first: Iterable[RouteRule] = ()) -> None:
        """``first``: rules before those of ``settings``."""
        self._root = _Node()
        self._empty = True
        self.can_require = False
        self.written_can_require = False
        self.compiled: list[tuple[str, AccessRequirement]] = []
        """The path pattern of each rule, and what it says."""
        for order, rule in enumerate((*first, *expand_presets(settings))):
            self._add(order, rule)

    def requirement_for(self, method: str, readings: Normalizations) -> AccessRequirement:
        """What holds for ``method`` on a path. An ambiguous path gets the strictest verdict and every requirement."""
        if self._empty:
            return AUTHENTICATED
        strict = self._first(method, readings.strict)
        if not readings.others:
            return strict
        rulings = (strict, *(self._first(method, path) for path in readings.others))
        requirements = dict.fromkeys(needed for ruling in rulings for needed in ruling.requirements)
        return AccessRequirement(Access.AUTHENTICATED, tuple(requirements), excludes_guests=True)

    def may_require(self, readings: Normalizations) -> bool:
        """Whether any rule for this path, whatever its method and place, could refuse an authenticated caller."""
        paths = (readings.strict, *readings.others)
        return any(rule.access_requirement.requirements for path in paths for rule in self._matching(path))

    def _add(self, order: int, settings: RouteRule) -> None:
        requirements = requirements_of(settings.require, settings.source)
        access = Access[settings.access.upper()]
        methods = _methods(settings)
        ruling = AccessRequirement(
            access,
            requirements,
            access is Access.AUTHENTICATED,
            settings.ignores_credentials,
            keeps_basic=settings.keeps_basic,
        )
        rule = _Rule(order, methods, ruling, settings.without, source=settings.source)
        self.compiled.append((settings.path, ruling))
        self._empty = False
        self.can_require = self.can_require or bool(requirements)
        self.written_can_require = self.written_can_require or (bool(requirements) and not settings.of_preset)
        segments = plain_escapes(settings.path).split("/")[1:]
        if segments[-1] == _TAIL:
            self._node(segments[:-1]).below.append(rule)
            return
        self._node(segments).here.append(rule)
        other = segments[:-1] if segments[-1] == "" else [*segments, ""]
        if other:
            self._node(other).here.append(replace(rule, by_slash=True))

    def _node(self, segments: Iterable[str]) -> _Node:
        node = self._root
        for segment in segments:
            node = node.children.setdefault(segment, _Node())
        return node

    def deciding(self, method: str, readings: Normalizations) -> Iterator[tuple[str, Access]]:
        """The rules that :meth:`requirement_for` applies, as log lines name them, with their access."""
        for path in (readings.strict, *readings.others):
            for rule in self._first_rules(method, path):
                if rule is not None:
                    yield rule.source, rule.access_requirement.access

    def _first(self, method: str, path: str) -> AccessRequirement:
        """The ruling of the first rule for ``path``, and of a stricter one before it for its other final slash."""
        first, by_slash = self._first_rules(method, path)
        ruling = AUTHENTICATED if first is None else first.access_requirement
        return ruling if by_slash is None else ruling.and_also(by_slash.access_requirement)

    def _first_rules(self, method: str, path: str) -> tuple[_Rule | None, _Rule | None]:
        """The first rule for ``path``, and a rule before it for its other final slash."""
        first: _Rule | None = None
        by_slash: _Rule | None = None
        for rule in self._matching(path):
            if rule.methods and method not in rule.methods:
                continue
            if rule.without and not rule.without.isdisjoint(path.lower().split("/")):
                continue
            if rule.by_slash:
                if by_slash is None or rule.order < by_slash.order:
                    by_slash = rule
            elif first is None or rule.order < first.order:
                first = rule
        if by_slash is not None and first is not None and by_slash.order > first.order:
            by_slash = None
        return first, by_slash

    def _matching(self, path: str) -> Iterator[_Rule]:
        nodes = [self._root]
        yield from self._root.below
        for segment in path.split("/")[1:]:
            nodes = [
                child
                for node in nodes
                for child in (node.children.get(segment), node.children.get(_ONE) if segment else None)
                if child is not None
            ]
            if not nodes:
                return
            for node in nodes:
                yield from node.below
        for node in nodes:
            yield from node.here


def _methods(settings: RouteRule) -> frozenset[str]:
    """Services answer HEAD as GET without its body (RFC 9110 9.3.2), so a rule for GET is one for HEAD."""
    methods = frozenset(settings.methods)
    return methods | {"HEAD"} if "GET" in methods else methods


def requirements_of(settings: RequireSettings, rule: str) -> tuple[Condition, ...]:
    """What ``settings``, written in ``rule``, require."""
    found: list[Condition] = []
    if settings.groups or settings.roles or settings.actor_types or settings.providers or settings.admin:
        requirement = Requirement(
            frozenset(settings.groups),
            frozenset(settings.roles),
            frozenset(settings.actor_types),
            frozenset(settings.providers),
            settings.admin,
            rule,
        )
        found.append(requirement)
    if settings.clients or settings.agents is not None:
        found.append(ClientRequirement(frozenset(settings.clients), settings.agents, rule))
    if settings.scopes:
        found.append(ScopeRequirement(frozenset(settings.scopes), rule))
    if settings.max_age is not None or settings.acr:
        # last: if anything else is missing, a new login does not help the caller
        found.append(AuthenticationRequirement(settings.max_age, settings.acr, rule))
    return tuple(found)
