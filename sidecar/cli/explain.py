"""Explains the validation of a token: prints every step that it passes, and the one that rejects it.

The server's own chain validates the token; an observer of the validation prints the steps.
"""

import json
import re
from contextlib import AsyncExitStack

from multidict import CIMultiDict

from sidecar.access.decide import Decider, Deny, Verdict
from sidecar.access.rules import Access
from sidecar.app.authentication import build_authenticators, build_decider
from sidecar.app.issuers import IssuerRegistry, open_issuers
from sidecar.app.process_context import ProcessContext
from sidecar.authn.authenticators.jwt import Issuer
from sidecar.authn.base import Accepted
from sidecar.authn.chain import TokenValidation
from sidecar.authn.lifecycle import AuthenticatorSet
from sidecar.clock import SystemClock
from sidecar.concurrency import settled
from sidecar.config.load import Loaded
from sidecar.errors import Cause, Failed, Refused, Unavailable
from sidecar.identity.actor import Actor
from sidecar.identity.request import RequestContext, read_credential
from sidecar.metrics import Metrics
from sidecar.store.timestamps import format_rfc3339
from sidecar.tokens.jwt.compact import Unverified
from sidecar.tokens.jwt.policy import DATAHUB_PROVIDER, OWN_PROVIDER
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.tokens.jwt.verify import ValidationPolicy, VerifiedClaims

_LOAD_TIMEOUT = 15.0
# The step after each one that passed, and the steps of causes that belong to no other.
_NEXT = {"": "form", "form": "issuer", "issuer": "keys", "keys": "signature", "claims": "principal"}
_STEPS = {Cause.ISSUER: "issuer", Cause.PUBLISHED_SECRET: "published", Cause.ALGORITHM: "algorithm"}


async def explain(text: str, loaded: Loaded, *, method: str = "GET", path: str | None = None) -> int:
    """Print every step that ``text`` passes and the one that fails. Returns 0 if the server would accept it, else 1.

    With ``path`` the verdict is that on a request with ``method`` for this target, after the rules.
    """
    text = re.sub(r"\A\s*bearer\s+", "", text, flags=re.IGNORECASE)
    async with AsyncExitStack() as stack:
        metrics, clock = Metrics(), SystemClock()
        registry = await open_issuers(loaded, ProcessContext(metrics, clock), stack)
        await registry.mirror.wait_first_load(_LOAD_TIMEOUT)
        authenticators = AuthenticatorSet(
            tuple(build_authenticators(loaded, registry, VerifiedCache(0, metrics), clock).values())
        )
        decider = build_decider(loaded.settings, registry, authenticators, metrics, clock)
        explanation = _Explanation(registry, clock.now())
        validation = await decider.apply_rules(text, explanation)
        is_explained = explanation.conclude(validation)
        if validation.accepted is not None and validation.failure is None:
            _print_actor(validation.accepted.actor)
            if path is not None:
                return await _explain_rules(decider, text, method, path)
    failure = validation.failure
    if failure is not None:
        cause = "" if is_explained else f" ({failure.cause})"
        print_step("verdict", f"{_outcome(failure)}: {failure.reason}{cause}")
        return 1
    bound = "" if validation.accepted is None else validation.accepted.certificate
    print_step("verdict", f"accepted, only with the client certificate {_quoted(bound)}" if bound else "accepted")
    return 0


async def _explain_rules(decider: Decider, text: str, method: str, path: str) -> int:
    """Print the rules for a request of this caller, and the verdict on it. Returns 0 if it is allowed, else 1."""
    headers = CIMultiDict({"Authorization": f"Bearer {text}"})
    context = RequestContext(method, path, headers, read_credential(headers), trusted=True)
    try:
        deciding = decider.deciding_rules(method, path)
        verdict: Verdict = await settled(decider.decide(context))
    except Refused as failure:
        print_step("verdict", f"rejected: {failure.reason} ({failure.cause}) {failure.detail}".rstrip())
        return 1
    _print_deciding(deciding)
    if isinstance(verdict, Deny):
        refused = verdict.failure
        print_step("verdict", f"rejected: {refused.reason} ({refused.cause}) {refused.detail}".rstrip())
        return 1
    print_step("verdict", "allowed" if verdict.accepted is not None else "allowed, without an identity")
    return 0


def print_rules(decider: Decider, method: str, path: str) -> None:
    """Print the rules for a request. Raises Refused(400) for a target that must not be read."""
    _print_deciding(decider.deciding_rules(method, path))


def _print_deciding(deciding: list[tuple[str, Access]]) -> None:
    for source, access in deciding:
        print_step("rule", f"{source}: {access.name.lower()}")
    if not deciding:
        print_step("rule", "no rule matches: authenticated")


def _print_actor(actor: Actor) -> None:
    """What rules and identity headers have of the caller."""
    print_step("groups", _quoted(list(actor.groups)))
    print_step("roles", _quoted(list(actor.roles)))
    print_step("e-mail", _quoted(actor.email) if actor.email else "none")
    print_step("admin", "yes" if actor.is_admin else "no")
    print_step("client", _quoted(actor.client) if actor.client else "none")
    print_step("scopes", _quoted(list(actor.scopes)))
    print_step("acting", _quoted(actor.acting) if actor.acting else _untrusted_act(actor))


def _untrusted_act(actor: Actor) -> str:
    return "none; the token has act, which its issuer may not set (trustAct)" if actor.is_delegated else "none"


class _Explanation:
    """Prints the steps of the validation of one token as they pass: an :class:`sidecar.identity.request.Observer`."""

    def __init__(self, registry: IssuerRegistry, now: float) -> None:
        self._registry = registry
        self._now = now
        self._passed = ""
        self._token: Unverified | None = None
        self._issuer: Issuer | None = None

    def observe(self, step: str, value: object) -> None:
        """Print the result of a step."""
        self._passed = step
        if isinstance(value, Unverified):
            self._token = value
            print_step("form", f"a JWT, {_quoted(value.algorithm)}, key id {_quoted(value.kid)}")
        elif isinstance(value, Issuer):
            self._issuer = value
            named = None if self._token is None else self._token.issuer
            print_step("issuer", f"{_quoted(named)} is {value.name}")
        elif isinstance(value, tuple):
            print_step("keys", f"{len(value)} candidate{'' if len(value) == 1 else 's'}")
        elif isinstance(value, VerifiedClaims):
            print_step("signature", f"valid, with key {_quoted(value.key.kid)}")
            ends = "never expires"
            if value.expires_at is not None:
                at, seconds = format_rfc3339(value.expires_at, "seconds"), value.expires_at - self._now
                ends = f"expires in {seconds:.0f} s, at {at}"
            print_step("claims", f"valid for this issuer; {ends}")
        elif isinstance(value, Accepted):
            print_step("principal", actor_text(value.actor))
            if value.record_id is not None:
                print_step("record", f"{value.record_id} is active")

    def conclude(self, validation: TokenValidation) -> bool:
        """Print the step that failed, or the authenticator that decided without these steps. False: none is known."""
        failure = validation.failure
        if failure is not None and self._is_own_step(failure):
            step = self._failed_step(failure)
            if step == "claims":
                print_step("signature", "valid")
            texts = dict.fromkeys([f"{failure.cause}", failure.detail, self._compared(step)])
            print_step(step, f"{_outcome(failure)}: " + "; ".join(filter(None, texts)))
            return True
        if validation.accepted is not None and validation.accepted.actor.provider == DATAHUB_PROVIDER:
            print_step("issuer", "a DataHub token; the DataHub authenticator decides")
        return False

    def _is_own_step(self, failure: Failed) -> bool:
        """Whether a step of the JWT authenticator failed, not another authenticator or a gate."""
        return self._passed != "principal" and (self._passed != "form" or failure.cause in _STEPS)

    def _failed_step(self, failure: Failed) -> str:
        if failure.cause in _STEPS and self._passed in ("form", "issuer"):
            return _STEPS[failure.cause]
        if self._passed == "keys" and failure.is_signed:
            return "claims"
        if self._passed == "claims" and self._issuer is not None and self._issuer.name == OWN_PROVIDER:
            return "record"
        return _NEXT[self._passed]

    def _compared(self, step: str) -> str:
        """The compared values."""
        token = self._token
        if token is None:
            return ""
        issuer = self._issuer or self._registry.issuers.get(token.issuer or "", self._registry.unbound)
        if issuer is None or step != "claims":
            return ""  # the failure has both values
        return _expected_text(token, issuer.expectations, self._now)


def print_step(name: str, text: str) -> None:
    """Print one line of an explanation."""
    print(f"{name:<10} {text}")


def _outcome(failure: Failed) -> str:
    return "no decision possible" if isinstance(failure, Unavailable) else "rejected"


def _quoted(value: object) -> str:
    """As ASCII JSON: a token must not write escape sequences to a terminal."""
    return json.dumps(value)


def _expected_text(token: Unverified, expectations: ValidationPolicy, now: float) -> str:
    """The times and the audience of the token beside the expected values."""
    claims = token.claims
    shown = {name: _shown_claim(name, claims[name]) for name in ("aud", "iat", "nbf", "exp") if name in claims}
    expected = f"now {format_rfc3339(now, 'seconds')}, tolerance {expectations.leeway:g} s"
    if expectations.early not in (None, expectations.leeway):
        expected += f" for exp, {expectations.early:g} s for nbf and iat"
    if expectations.audiences:
        expected += f", audiences {_quoted(sorted(expectations.audiences))}"
    if expectations.max_lifetime is not None:
        expected += f", maximum lifetime {expectations.max_lifetime:g} s"
    for path, values in expectations.required_claims:
        expected += f", {path.text} one of {_quoted(sorted(values))}"
    return f"{_quoted(shown)}; {expected}"


def _shown_claim(name: str, value: object) -> object:
    """A time as RFC 3339; everything else, also a time outside of the calendar, as it is."""
    if name == "aud" or isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return format_rfc3339(value, "seconds") or value


def actor_text(actor: Actor) -> str:
    """The Actor in one line."""
    marks = [word for word, holds in (("bot", actor.is_bot), ("admin", actor.is_admin)) if holds]
    return f"{actor.type} {_quoted(actor.id)}" + (f" ({', '.join(marks)})" if marks else "")
