"""Explains a platform's token at the token endpoint: prints each rule, and both values of each condition."""

import json
import re
from contextlib import AsyncExitStack

from sidecar.app.authentication import contexts_of
from sidecar.app.issuers import open_issuers
from sidecar.app.process_context import ProcessContext
from sidecar.app.token_endpoint import build_workloads
from sidecar.authn.authenticators.kubernetes import KubernetesOptions
from sidecar.authn.lifecycle import start_authenticator
from sidecar.authn.registry import build_specs
from sidecar.clock import SystemClock
from sidecar.config.load import Loaded
from sidecar.errors import Failed, Misconfigured, Problem, Refused
from sidecar.identity.claim_path import ABSENT, ClaimPath
from sidecar.identity.names import folded
from sidecar.metrics import Metrics
from sidecar.tokens.exchange.assertions import AssertionSource, parse_assertion, sole_audience
from sidecar.tokens.exchange.workloads import WorkloadRule
from sidecar.tokens.jwt.compact import Unverified

_LOAD_TIMEOUT = 15.0
_NOTE = (
    "Newer GitHub repositories have ids in sub (repo:owner@1/name@2:...); write the subject as the token has it, and "
    "repository_id in claims"
)


async def explain_workload(text: str, loaded: Loaded) -> int:
    """Print for each rule about the issuer of ``text`` what matches. Returns 0 if the endpoint would accept it, else 1.

    Whether the token was used before is not part of it. Raises Misconfigured if there are no rules.
    """
    if not loaded.settings.token_endpoint.workloads:
        raise Misconfigured([Problem("tokenEndpoint.workloads", "is empty: no token of a platform is accepted")])
    try:
        token = parse_assertion(text, loaded.settings.server.limits.max_token_bytes)
    except Refused as refusal:
        _print("form", f"rejected: {refusal.cause}; {refusal.detail}")
        return 1
    _print("form", f"a JWT, {json.dumps(token.algorithm)}, key id {json.dumps(token.kid)}")
    async with AsyncExitStack() as stack:
        metrics, clock = Metrics(), SystemClock()
        registry = await open_issuers(loaded, ProcessContext(metrics, clock), stack)
        await registry.mirror.wait_first_load(_LOAD_TIMEOUT)
        context_for = contexts_of(loaded, registry, metrics, clock)
        members = [
            await start_authenticator(spec, context_for(spec.name), stack)
            for spec in build_specs(loaded.authenticators)
            if isinstance(spec.options, KubernetesOptions)
        ]
        rules = [rule for rule in build_workloads(loaded, registry, members, clock).rules if rule.source.owns(token)]
        if not rules:
            _print("issuer", f"{json.dumps(token.issuer)}: no rule is about it")
            return 1
        fitting = [rule for rule in rules if _print_rule(rule, token)]
        if not fitting:
            _print("verdict", "rejected: no rule matches")
            return 1
        if not await _is_verified(fitting[0].source, token, fitting[0].audience):
            return 1
        bot = fitting[0].settings.as_.bot
        if not registry.mirror.is_bot_name(folded(bot)):
            _print("verdict", f"rejected: no bot {bot} is registered; register it with sidecar bots register {bot}")
            return 1
        once = "may be presented repeatedly" if fitting[0].reuse else "is accepted once"
        _print("verdict", f"accepted by rule {fitting[0].name}, as bot {bot}; this token {once}")
        return 0


def _print_rule(rule: WorkloadRule, token: Unverified) -> bool:
    """Print the conditions of ``rule`` with the values of ``token``. Returns whether all are met."""
    _print("rule", f"{rule.name} (provider {rule.source.name})")
    audience = token.claims.get("aud")
    same = sole_audience(token) == rule.audience
    _print("  aud", _compared(audience, f"exactly {json.dumps(rule.audience)}", same=same))
    wrong = {mismatch.claim: mismatch.expected for mismatch in rule.mismatches(token.claims)}
    settings = rule.settings
    if settings.subject or settings.subject_pattern:
        expected = (
            json.dumps(settings.subject) if settings.subject else f"pattern {json.dumps(settings.subject_pattern)}"
        )
        _print("  sub", _compared(token.claims.get("sub"), expected, same="sub" not in wrong))
        if "sub" in wrong and re.match(r"repo:[^/:]+@\d+/", str(token.claims.get("sub"))):
            _print("", _NOTE)
    for path, values in settings.claims.items():
        value = ClaimPath(path).find_exact(token.claims)
        expected = f"one of {json.dumps(sorted(values))}"
        _print(f"  {path}", _compared(None if value is ABSENT else value, expected, same=path not in wrong))
    return same and not wrong


def _compared(value: object, expected: str, *, same: bool) -> str:
    return f"{json.dumps(value)[:200]}: {'matches' if same else 'differs from'} {expected}"


async def _is_verified(source: AssertionSource, token: Unverified, audience: str) -> bool:
    try:
        await source.verify_assertion(token, audience)
    except Failed as failure:
        _print("verdict", f"rejected: {failure.cause}; {failure.detail}")
        return False
    _print("signature", "valid, and so are the times")
    return True


def _print(name: str, text: str) -> None:
    print(f"{name:<16} {text}")
