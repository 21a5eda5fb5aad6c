"""Route rules: compiled once, matched by walking a path's segments, so that their number costs nothing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from sidecar.access.paths import Readings, plain_escapes
from sidecar.config.presets import expanded
from sidecar.config.settings import RequireSettings, RuleSettings
from sidecar.identity.actor import Actor

_TAIL = "**"
_ONE = "*"


class Access(IntEnum):
    """What a path asks for; a larger value is stricter."""

    PUBLIC = 0
    GUEST = 1
    AUTHENTICATED = 2


@dataclass(frozen=True, slots=True)
class Requirement:
    """What an authenticated caller must have besides; each non-empty part must be met."""

    groups: frozenset[str]
    roles: frozenset[str]
    actor_types: frozenset[str]
    providers: frozenset[str]
    admin: bool

    def missing(self, actor: Actor) -> str:
        """Name of the part that ``actor`` does not meet, or the empty string."""
        if self.admin and not actor.is_admin:
            return "admin"
        if self.groups and self.groups.isdisjoint(actor.groups):
            return "groups"
        if self.roles and self.roles.isdisjoint(actor.roles):
            return "roles"
        if self.actor_types and actor.type not in self.actor_types:
            return "actor type"
        if self.providers and actor.provider not in self.providers:
            return "provider"
        return ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What holds for one request: how strict, and every requirement that applies."""

    access: Access
    requirements: tuple[Requirement, ...] = ()


AUTHENTICATED = Ruling(Access.AUTHENTICATED)


@dataclass(frozen=True, slots=True)
class _Rule:
    order: int
    methods: frozenset[str]
    ruling: Ruling


@dataclass(slots=True)
class _Node:
    children: dict[str, "_Node"] = field(default_factory=dict)
    here: list[_Rule] = field(default_factory=list)
    below: list[_Rule] = field(default_factory=list)


class Rules:
    """The configured rules. The first whose pattern and method match decides; none means authenticated."""

    def __init__(self, settings: Iterable[RuleSettings]) -> None:
        self._root = _Node()
        self._empty = True
        self.can_require = False
        for order, rule in enumerate(expanded(settings)):
            self._add(order, rule, rule.path or "/")

    def ruling(self, method: str, readings: Readings) -> Ruling:
        """What holds for ``method`` on a path. An ambiguous path gets the strictest verdict and every requirement."""
        if self._empty:
            return AUTHENTICATED
        strict = self._first(method, readings.strict)
        if not readings.others:
            return strict
        rulings = (strict, *(self._first(method, path) for path in readings.others))
        requirements = dict.fromkeys(needed for ruling in rulings for needed in ruling.requirements)
        return Ruling(Access.AUTHENTICATED, tuple(requirements))

    def _add(self, order: int, settings: RuleSettings, path: str) -> None:
        requirement = _requirement(settings.require)
        requirements = (requirement,) if requirement else ()
        rule = _Rule(order, _methods(settings), Ruling(Access[settings.access.upper()], requirements))
        self._empty = False
        self.can_require = self.can_require or bool(requirements)
        segments = plain_escapes(path).split("/")[1:]
        tail = segments[-1] == _TAIL
        node = self._root
        for segment in segments[:-1] if tail else segments:
            node = node.children.setdefault(segment, _Node())
        (node.below if tail else node.here).append(rule)

    def _first(self, method: str, path: str) -> Ruling:
        matches = [rule for rule in self._matching(path) if not rule.methods or method in rule.methods]
        return min(matches, key=lambda rule: rule.order).ruling if matches else AUTHENTICATED

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


def _methods(settings: RuleSettings) -> frozenset[str]:
    """Services answer HEAD as GET without its body (RFC 9110 9.3.2), so a rule for GET is one for HEAD."""
    methods = frozenset(settings.methods)
    return methods | {"HEAD"} if "GET" in methods else methods


def _requirement(settings: RequireSettings) -> Requirement | None:
    if settings == RequireSettings():
        return None
    return Requirement(
        frozenset(settings.groups),
        frozenset(settings.roles),
        frozenset(settings.actor_types),
        frozenset(settings.providers),
        settings.admin,
    )
