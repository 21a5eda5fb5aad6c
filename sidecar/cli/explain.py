"""Explains the validation of a token: runs every step and prints which one rejects it, and why.

The steps call the functions of the server; the last step is the decision of the server.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

from sidecar.app.authentication import build_authenticators, build_decider
from sidecar.app.issuers import IssuerRegistry, open_issuers
from sidecar.app.process_context import ProcessContext
from sidecar.authn.authenticators.jwt import Issuer
from sidecar.authn.lifecycle import AuthenticatorSet
from sidecar.clock import SystemClock
from sidecar.concurrency import settled
from sidecar.config.load import Loaded
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor
from sidecar.keys.keyset import VerificationKey
from sidecar.metrics import Metrics
from sidecar.tokens.datahub import is_datahub
from sidecar.tokens.jwt.compact import Unverified, parse
from sidecar.tokens.jwt.policy import OWN_PROVIDER
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.tokens.jwt.verify import ValidationPolicy, VerifiedClaims, find_signing_key, verify
from sidecar.tokens.jwt.well_known import reject_well_known

_LOAD_TIMEOUT = 15.0


async def explain(text: str, loaded: Loaded) -> int:
    """Print every step that ``text`` passes and the one that fails. Returns 0 if the server would accept it, else 1."""
    async with AsyncExitStack() as stack:
        metrics, clock = Metrics(), SystemClock()
        registry = await open_issuers(loaded, ProcessContext(metrics, clock), stack)
        await registry.mirror.wait_first_load(_LOAD_TIMEOUT)
        explanation = _Explanation(loaded, registry, clock.now())
        try:
            await explanation.run(text)
        except Failed as failure:
            _print_step("verdict", f"{_cause_name(failure)}: {failure.reason}")
            return 1
        authenticators = AuthenticatorSet(
            tuple(build_authenticators(loaded, registry, VerifiedCache(0, metrics), clock).values())
        )
        validation = await build_decider(loaded.settings, registry, authenticators, metrics, clock).apply_rules(text)
    if validation.failure is not None:
        _print_step(
            "verdict", f"{_cause_name(validation.failure)}: {validation.failure.reason} ({validation.failure.cause})"
        )
        return 1
    bound = "" if validation.accepted is None else validation.accepted.certificate
    _print_step("verdict", f"accepted, only with the client certificate {_quoted(bound)}" if bound else "accepted")
    return 0


class _Explanation:
    """Runs the steps for one token. Each step prints its result; a failed one prints the reason and raises Failed."""

    def __init__(self, loaded: Loaded, registry: IssuerRegistry, now: float) -> None:
        self._settings = loaded.settings
        self._registry = registry
        self._now = now

    async def run(self, text: str) -> None:
        """Run all steps in the order of the server."""
        token = self._form(text)
        if self._is_datahub(token):
            _print_step("issuer", "a DataHub token; the DataHub authenticator decides")
            return
        issuer = self._issuer(token)
        keys = await self._keys(token, issuer)
        with _step("signature"):
            key = find_signing_key(token, keys)
        _print_step("signature", f"valid, with key {_quoted(key.kid)}")
        verified = self._claims(token, keys, issuer.expectations)
        with _step("record" if issuer.name == OWN_PROVIDER else "principal"):
            accepted = await settled(issuer.mapper.accept(token, verified))
        _print_step("principal", _actor_text(accepted.actor))
        if accepted.record_id is not None:
            _print_step("record", f"{accepted.record_id} is active")

    def _form(self, text: str) -> Unverified:
        with _step("form"):
            token = parse(text, self._settings.server.limits.max_token_bytes)
        _print_step("form", f"a JWT, {_quoted(token.algorithm)}, key id {_quoted(token.kid)}")
        if not self._settings.allow_published_secrets:
            with _step("published"):
                reject_well_known(token)
        return token

    def _is_datahub(self, token: Unverified) -> bool:
        issuer = self._settings.authentication.token_service.issuer
        own_issuer = self._settings.jwt_token_configuration.jwtissuer
        return self._registry.datahub.accepts_tokens and is_datahub(token, issuer, own_issuer)

    def _issuer(self, token: Unverified) -> Issuer:
        issuer = self._registry.issuers.get(token.issuer or "", self._registry.unbound)
        known = sorted(self._registry.issuers)
        with _step("issuer", lambda: f"{_quoted(token.issuer)}; configured are {_quoted(known)}"):
            if issuer is None:
                raise Refused(Reason.TOKEN_INVALID, Cause.ISSUER)
        _print_step("issuer", f"{_quoted(token.issuer)} is {issuer.name}")
        allowed = issuer.expectations.algorithms
        with _step("algorithm", lambda: f"{_quoted(token.algorithm)}; allowed are {_quoted(sorted(allowed))}"):
            if token.algorithm not in allowed:
                raise Refused(Reason.TOKEN_INVALID, Cause.ALGORITHM)
        return issuer

    async def _keys(self, token: Unverified, issuer: Issuer) -> tuple[VerificationKey, ...]:
        with _step("keys", lambda: f"{issuer.name} has no key {_quoted(token.kid)} for {_quoted(token.algorithm)}"):
            keys = issuer.keys.candidates(token.kid, token.algorithm)
            if not keys:
                keys = await issuer.keys.refetch(token.kid, token.algorithm)
            if not keys:
                raise Refused(Reason.TOKEN_INVALID, Cause.UNKNOWN_KID)
        _print_step("keys", f"{len(keys)} candidate{'' if len(keys) == 1 else 's'}")
        return keys

    def _claims(
        self, token: Unverified, keys: tuple[VerificationKey, ...], expectations: ValidationPolicy
    ) -> VerifiedClaims:
        with _step("claims", lambda: _expected_text(token, expectations, self._now)):
            verified = verify(token, keys, expectations, self._now)
        expires = verified.expires_at
        ends = "never expires" if expires is None else f"expires in {expires - self._now:.0f} s"
        _print_step("claims", f"valid for this issuer; {ends}")
        return verified


@contextmanager
def _step(name: str, why: Callable[[], str] = str) -> Iterator[None]:
    """Print the failure of the step ``name``; ``why`` adds the compared values."""
    try:
        yield
    except Failed as failure:
        texts = [f"{failure.cause}", failure.detail, why()]
        _print_step(name, f"{_cause_name(failure)}: " + "; ".join(dict.fromkeys(filter(None, texts))))
        raise


def _cause_name(failure: Failed) -> str:
    return "no decision possible" if isinstance(failure, Unavailable) else "rejected"


def _print_step(step: str, result: str) -> None:
    print(f"{step:<10} {result}")


def _quoted(value: object) -> str:
    """As ASCII JSON: a token must not write escape sequences to a terminal."""
    return json.dumps(value)


def _expected_text(token: Unverified, expectations: ValidationPolicy, now: float) -> str:
    """The times and the audience of the token beside the expected values."""
    claims = token.claims
    shown = {name: claims[name] for name in ("aud", "iat", "nbf", "exp") if name in claims}
    expected = f"now {now:.0f}, tolerance {expectations.leeway:g} s"
    if expectations.early not in (None, expectations.leeway):
        expected += f" for exp, {expectations.early:g} s for nbf and iat"
    if expectations.audiences:
        expected += f", audiences {_quoted(sorted(expectations.audiences))}"
    if expectations.max_lifetime is not None:
        expected += f", maximum lifetime {expectations.max_lifetime:g} s"
    for path, values in expectations.required_claims:
        expected += f", {path.text} one of {_quoted(sorted(values))}"
    return f"{_quoted(shown)}; {expected}"


def _actor_text(actor: Actor) -> str:
    marks = [word for word, holds in (("bot", actor.is_bot), ("admin", actor.is_admin)) if holds]
    return f"{actor.type} {_quoted(actor.id)}" + (f" ({', '.join(marks)})" if marks else "")
