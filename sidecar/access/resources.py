"""Protected resources (RFC 9728): at and below their paths a token needs one of their audiences, and their scopes.

The resource with the longest path decides. A path with several readings must meet the requirements of each of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sidecar.access.paths import Normalizations
from sidecar.access.rules import AUTHENTICATED, Access, AccessRequirement, Resource, Rules, ScopeRequirement
from sidecar.errors import Cause, Reason, quoted
from sidecar.identity.actor import Actor
from sidecar.identity.request import Condition, Missing


@dataclass(frozen=True, slots=True)
class AudienceRequirement:
    """The caller's token must have one of ``audiences``. ``source`` has written it."""

    audiences: frozenset[str]
    source: str = field(default="", compare=False)

    def missing(self, actor: Actor) -> Missing | None:
        """What ``actor`` lacks."""
        if not self.audiences.isdisjoint(actor.audiences):
            return None
        has = f"aud {quoted(*actor.audiences)}"
        text = f"one of the audiences {quoted(*sorted(self.audiences))}"
        return Missing(Cause.RESOURCE_AUDIENCE, text, has, self.source, Reason.TOKEN_INVALID)


def requires_audience(ruling: AccessRequirement) -> bool:
    """Whether a token needs a certain audience."""
    return any(isinstance(requirement, AudienceRequirement) for requirement in ruling.requirements)


@dataclass(frozen=True, slots=True)
class _Compiled:
    path: str
    below: str
    requirement: AccessRequirement

    def covers(self, path: str) -> bool:
        """Whether ``path`` is that of the resource, or below it."""
        return path.startswith(self.below) or path == self.path


class ResourceRules:
    """``rules`` together with the requirements of protected resources.

    A resource is never public or open to guests, except at paths of rules that lie below it: such a rule was written
    for a part of the resource. ``audiences`` of a resource may be empty: then those of its tokens do not matter.
    """

    def __init__(self, rules: Rules, resources: Iterable[tuple[Resource, frozenset[str]]]) -> None:
        self._rules = rules
        self._resources = [_compiled(*item) for item in sorted(resources, key=lambda item: -len(item[0].path))]
        requires = any(one.requirement.requirements for one in self._resources)
        self.can_require = rules.can_require or requires
        self.written_can_require = rules.written_can_require or requires
        # Combined at start; the rulings are kept so that no other object can have their ids.
        self._combined: dict[tuple[int, int], tuple[AccessRequirement, AccessRequirement]] = {}
        for index, resource in enumerate(self._resources):
            for pattern, ruling in (("", AUTHENTICATED), *rules.compiled):
                combined = _combine(ruling, resource, is_part=_is_part(pattern, resource.path))
                self._combined[id(ruling), index] = (ruling, combined)

    def requirement_for(self, method: str, readings: Normalizations) -> AccessRequirement:
        """What holds for ``method`` on a path."""
        ruling = self._rules.requirement_for(method, readings)
        if readings.others:
            for path in (readings.strict, *readings.others):
                index = self._index(path)
                ruling = ruling if index is None else ruling.and_also(self._resources[index].requirement)
            return ruling
        index = self._index(readings.strict)
        if index is None:
            return ruling
        known = self._combined.get((id(ruling), index))
        return ruling.and_also(self._resources[index].requirement) if known is None else known[1]

    def may_require(self, readings: Normalizations) -> bool:
        """Whether any rule or resource for this path could refuse an authenticated caller."""
        found = map(self._index, (readings.strict, *readings.others))
        requires = any(index is not None and self._resources[index].requirement.requirements for index in found)
        return requires or self._rules.may_require(readings)

    def deciding(self, method: str, readings: Normalizations) -> Iterator[tuple[str, Access]]:
        """The rules that decide, and the resources, as log lines name them."""
        yield from self._rules.deciding(method, readings)
        for path in (readings.strict, *readings.others):
            index = self._index(path)
            if index is not None:
                yield f"resource {self._resources[index].path or '/'}", Access.AUTHENTICATED

    def _index(self, path: str) -> int | None:
        for index, resource in enumerate(self._resources):
            if resource.covers(path):
                return index
        return None


def _compiled(resource: Resource, audiences: frozenset[str]) -> _Compiled:
    source = f"resource {resource.path or '/'}"
    requirements: list[Condition] = []
    if audiences:
        requirements.append(AudienceRequirement(audiences, source))
    if resource.scopes:
        requirements.append(ScopeRequirement(resource.scopes, source))
    requirement = AccessRequirement(Access.AUTHENTICATED, tuple(requirements), True, False, resource)
    return _Compiled(resource.path, f"{resource.path}/", requirement)


def _combine(ruling: AccessRequirement, resource: _Compiled, *, is_part: bool) -> AccessRequirement:
    is_open = ruling.access is not Access.AUTHENTICATED
    return ruling if is_open and is_part else resource.requirement.and_also(ruling)


def _is_part(pattern: str, path: str) -> bool:
    """Whether a rule is about paths below the resource at ``path`` only, not about the resource itself.

    All rules are about parts of the whole service.
    """
    # many servers serve "/a/" as "/a"
    return not path or (pattern.startswith(f"{path}/") and pattern not in (f"{path}/", f"{path}/**"))
