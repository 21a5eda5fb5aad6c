"""Explains whether the value of a session cookie would be accepted: prints every step, and the one that rejects it."""

from contextlib import AsyncExitStack

from multidict import CIMultiDict

from sidecar.access.decide import Deny, Verdict
from sidecar.app.authentication import build_decider, contexts_of, revocation_gate
from sidecar.app.issuers import open_issuers
from sidecar.app.login import open_login
from sidecar.app.process_context import ProcessContext
from sidecar.authn.lifecycle import AuthenticatorSet
from sidecar.cli.explain import actor_text, print_rules, print_step
from sidecar.clock import SystemClock
from sidecar.concurrency import settled
from sidecar.config.load import Loaded
from sidecar.errors import Failed, Misconfigured, Problem, Refused, Unavailable
from sidecar.identity.request import RequestContext, read_credential
from sidecar.metrics import Metrics
from sidecar.sessions.records import is_secret, session_id
from sidecar.sessions.service import Session
from sidecar.store.timestamps import format_rfc3339
from sidecar.tokens.jwt.verified_cache import VerifiedCache

_LOAD_TIMEOUT = 15.0


async def explain_session(secret: str, loaded: Loaded, *, method: str = "GET", path: str | None = None) -> int:
    """Print every step that the session of ``secret`` passes and the one that fails; nothing is changed, and no
    provider is asked. Returns 0 if the server would accept it, else 1.

    With ``path`` the verdict is that on a request with ``method`` for this target, after the rules.
    """
    if not is_secret(secret):
        print_step("form", "rejected: not the value of a session cookie, which has 43 characters of base64url")
        print_step("verdict", "rejected: session_ended (session_unknown)")
        return 1
    print_step("form", f"the value of a session cookie; the id of its record is {session_id(secret)}")
    async with AsyncExitStack() as stack:
        metrics, clock = Metrics(), SystemClock()
        context = ProcessContext(metrics, clock)
        registry = await open_issuers(loaded, context, stack)
        await registry.mirror.wait_first_load(_LOAD_TIMEOUT)
        context_for = contexts_of(loaded, registry, metrics, clock)
        login = await open_login(loaded, registry, VerifiedCache(0, metrics), context, stack, context_for)
        if login is None:
            raise Misconfigured(
                [Problem("login", "is not configured: no provider has a login, and passwords is empty")]
            )
        login.authenticator.confirmed = None
        try:
            session = await login.sessions.find(secret)
            _print_session(session, recheck=login.sessions.times.recheck)
            accepted = login.authenticator.accepted(session)
            print_step("principal", actor_text(accepted.actor))
            refused = revocation_gate(loaded.settings, registry, clock).check(accepted)
            if refused is not None:
                raise refused
        except Failed as failure:
            return _reject(failure)
        print_step("revoked", "no revocation entry names it")
        if path is None:
            print_step("verdict", "accepted")
            return 0
        decider = build_decider(
            loaded.settings,
            registry,
            AuthenticatorSet((login.authenticator,)),
            metrics,
            clock,
            cookies=login.cookies,
        )
        headers = CIMultiDict({"Cookie": f"{login.names.session_cookie}={secret}", "Sec-Fetch-Site": "same-origin"})
        view = RequestContext(method, path, headers, read_credential(headers), trusted=True, takes_cookie=True)
        try:
            print_rules(decider, method, path)
            verdict: Verdict = await settled(decider.decide(view))
        except Refused as failure:
            return _reject(failure)
        if isinstance(verdict, Deny):
            return _reject(verdict.failure)
        print_step("verdict", "allowed" if verdict.accepted is not None else "allowed, without an identity")
        return 0


def _print_session(session: Session, *, recheck: float) -> None:
    record, content = session.record, session.content
    began, ends = format_rfc3339(record.created_at, "seconds"), format_rfc3339(session.expires_at, "seconds")
    used = format_rfc3339(record.last_used_at, "seconds") if record.last_used_at is not None else "not recorded"
    print_step("session", f"in force since {began} until {ends}; last use: {used}")
    print_step("login", f"at {record.owner.provider}, {_authentication(content.authenticated_at, content.acr)}")
    if session.is_refreshable:
        due = format_rfc3339(content.confirmed_at + recheck, "seconds")
        print_step("refresh", f"the provider is asked again from {due} on")
    else:
        print_step("refresh", "no refresh token: the claims are those of the login")


def _authentication(authenticated_at: float | None, acr: str) -> str:
    text = "auth_time unknown"
    if authenticated_at is not None:
        text = f"authenticated at {format_rfc3339(authenticated_at, 'seconds')}"
    return f"{text}, acr {acr.encode('ascii', 'backslashreplace').decode()}" if acr else f"{text}, no acr"


def _reject(failure: Failed) -> int:
    outcome = "no decision possible" if isinstance(failure, Unavailable) else "rejected"
    print_step("verdict", f"{outcome}: {failure.reason} ({failure.cause}) {failure.detail}".rstrip())
    return 1
