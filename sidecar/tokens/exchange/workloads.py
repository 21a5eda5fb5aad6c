"""Trust rules for workloads: which tokens of other platforms are credentials at the token endpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.config.reading.subject_pattern import compile_subject_pattern
from sidecar.config.settings import WorkloadSettings
from sidecar.errors import Cause, Refused, quoted
from sidecar.identity.claim_path import ClaimPath
from sidecar.store.replica.revocation_list import Source
from sidecar.tokens.exchange.assertions import AssertionSource, parse_assertion, sole_audience, source_of
from sidecar.tokens.exchange.refusal import GrantRefused, bad_grant
from sidecar.tokens.jwt.compact import Unverified
from sidecar.tokens.jwt.verify import VerifiedClaims


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A condition of a rule that a token does not meet. ``claim`` is its name; ``expected`` what the rule accepts."""

    cause: Cause
    claim: str
    expected: str


class WorkloadRule:
    """One rule. ``audience`` is the ``aud`` of the platform's token; ``reuse``: it may be presented repeatedly."""

    def __init__(self, settings: WorkloadSettings, source: AssertionSource, *, audience: str, reuse: bool) -> None:
        self.settings = settings
        self.source = source
        self.audience = audience
        self.reuse = reuse
        pattern = settings.subject_pattern
        self._pattern = compile_subject_pattern(pattern) if pattern else None
        self._claims = tuple((ClaimPath(path), frozenset(values)) for path, values in settings.claims.items())

    @property
    def name(self) -> str:
        """The name of the rule."""
        return self.settings.name

    def mismatches(self, claims: Mapping[str, Any]) -> list[Mismatch]:
        """The conditions on subject and claims that ``claims`` does not meet."""
        found = []
        subject, settings = claims.get("sub"), self.settings
        if settings.subject and subject != settings.subject:
            found.append(Mismatch(Cause.WORKLOAD_SUBJECT, "sub", quoted(settings.subject)))
        if self._pattern is not None and not (isinstance(subject, str) and self._pattern.fullmatch(subject)):
            found.append(Mismatch(Cause.WORKLOAD_SUBJECT, "sub", f"pattern {quoted(settings.subject_pattern)}"))
        for path, accepted in self._claims:
            if _compared_text(path.find_exact(claims)) not in accepted:
                found.append(Mismatch(Cause.WORKLOAD_CLAIM, path.text, f"one of {quoted(*sorted(accepted))}"))
        return found


def _compared_text(value: object) -> str | None:
    """Text, or the decimal digits of a whole number; None for everything else, which never matches."""
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int else None


@dataclass(frozen=True, slots=True)
class Workload:
    """An identified workload: its rule, its verified token, and that token as a source."""

    rule: WorkloadRule
    verified: VerifiedClaims
    source: Source


class Workloads:
    """The rules in order. ``max_bytes`` limits the size of a token."""

    def __init__(self, rules: Sequence[WorkloadRule], max_bytes: int) -> None:
        self.rules = tuple(rules)
        self._max_bytes = max_bytes

    def owns(self, token: Unverified) -> bool:
        """Whether a rule is about the issuer of ``token``."""
        return any(rule.source.owns(token) for rule in self.rules)

    async def identify(self, text: str) -> Workload:
        """The workload whose token is ``text``. Raises GrantRefused(invalid_grant), and Unavailable."""
        try:
            return await self._identify(parse_assertion(text, self._max_bytes))
        except Refused as refusal:
            if isinstance(refusal, GrantRefused):
                raise
            raise bad_grant(refusal.cause, refusal.detail) from refusal

    async def _identify(self, token: Unverified) -> Workload:
        rules = [rule for rule in self.rules if rule.source.owns(token)]
        if not rules:
            raise bad_grant(Cause.WORKLOAD_UNKNOWN, f"iss is {quoted(token.issuer)}; no rule is about it")
        audience = sole_audience(token)
        fitting = [rule for rule in rules if rule.audience == audience]
        if not fitting:
            expected = quoted(*dict.fromkeys(rule.audience for rule in rules))
            detail = f"aud is {quoted(token.claims.get('aud'))}; expected exactly one: {expected}"
            raise bad_grant(Cause.ASSERTION_AUDIENCE, detail)
        verified = await fitting[0].source.verify_assertion(token, fitting[0].audience)
        nearest: list[Mismatch] | None = None
        nearest_rule = fitting[0]
        for rule in fitting:
            if rule.source is not fitting[0].source:
                continue
            mismatches = rule.mismatches(verified.claims)
            if not mismatches:
                return Workload(rule, verified, source_of(token, verified, rule.source.issuer_of(token)))
            if nearest is None or len(mismatches) < len(nearest):
                nearest, nearest_rule = mismatches, rule
        assert nearest  # noqa: S101 - fitting is not empty
        first = nearest[0]
        detail = f"rule {nearest_rule.name}: claim {quoted(first.claim)} does not match"
        raise bad_grant(first.cause, detail, client=nearest_rule.name)
