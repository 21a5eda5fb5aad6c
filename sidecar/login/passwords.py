"""Sign-in with user name and password, by the judgement of the authenticators that also decide on ``Basic``."""

import hmac
import ipaddress
import logging
import os
from base64 import b64encode
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from multidict import CIMultiDict

from sidecar.access.decide import Decider
from sidecar.authn.base import Accepted, Gate, Outcome, Rejected
from sidecar.authn.support.basic_credential import RateLimiter, wrong_password_error
from sidecar.clock import Clock
from sidecar.concurrency import settled
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor
from sidecar.identity.request import Credential, RequestContext, Scheme
from sidecar.logs import AUDIT
from sidecar.metrics import Metrics
from sidecar.sessions.records import content_of, is_secret, session_id
from sidecar.sessions.sealing import encode_base64url
from sidecar.sessions.service import Sessions
from sidecar.store.replica.revocation_list import revocation_keys

_audit = logging.getLogger(AUDIT)
MAX_USER, MAX_PASSWORD = 256, 1024
_FORM = b"sign_in"
_WRONG_PER_ADDRESS = 20
"""Wrong passwords a minute from one client address, and from one browser."""
_WRONG_IN_ALL = 5000


class PasswordMember(Protocol):
    """An authenticator that decides on ``Basic`` credentials."""

    @property
    def name(self) -> str:
        """Its configured name."""

    def authenticate(self, view: RequestContext) -> Outcome | Awaitable[Outcome]:
        """The owner of the credential; it abstains from users that it does not know. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class SignInForm:
    """What is posted to the sign-in page. ``address`` is that of the client."""

    user: str
    password: str = field(repr=False)
    token: str = field(repr=False)
    address: str


class PasswordLogin:
    """Begins sessions of the users of ``members``, which are asked in this order. ``gate`` is asked about each person.

    What a form waits for, it waits for within the limits of ``decider``.
    """

    def __init__(
        self,
        members: Sequence[PasswordMember],
        sessions: Sessions,
        gate: Gate,
        decider: Decider,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._members = tuple(members)
        self._sessions = sessions
        self._gate = gate
        self._decider = decider
        self._limiter = RateLimiter(clock, per_user=_WRONG_PER_ADDRESS, total=_WRONG_IN_ALL)
        self._logins = metrics.logins

    @staticmethod
    def form_token(cookie: str) -> str:
        """The token of the form for the browser with the login cookie ``cookie``."""
        return encode_base64url(hmac.digest(cookie.encode(), _FORM, "sha256"))

    async def begin_session(self, form: SignInForm, *, login_cookie: str, replaces: str) -> str:
        """The value of the session cookie; the session with the value ``replaces`` ends.

        Raises Refused: CROSS_SITE for a form of another browser, CREDENTIALS_INVALID, others for a person who may not
        enter; and Unavailable: THROTTLED after too many wrong passwords, or if member or store do not answer.
        """
        expected = self.form_token(login_cookie) if is_secret(login_cookie) else ""
        if not expected or not hmac.compare_digest(expected.encode(), form.token.encode("utf-8", "surrogatepass")):
            raise Refused(Reason.CROSS_SITE, Cause.FORM_TOKEN)
        counted = _network(form.address), f"browser {sha256(login_cookie.encode()).hexdigest()}"
        name = "none"
        try:
            self._limiter.attempt(counted[0])
            self._limiter.alias(counted[1])
            try:
                name, accepted = await self._decider.within_limits(self._judge(form))
            except Unavailable:
                self._limiter.success(*counted)  # nothing is known of the password
                raise
            self._limiter.success(*counted)
            return await self._decider.within_limits(self._create(name, accepted.actor, replaces))
        except Failed as failure:
            outcome = "unavailable" if isinstance(failure, Unavailable) else "refused"
            self._logins.child(name, outcome, failure.cause.value).inc()
            raise

    async def _judge(self, form: SignInForm) -> tuple[str, Accepted]:
        """The member that knows the user, and what it accepts. Raises Refused, Unavailable."""
        if not 0 < len(form.user) <= MAX_USER or ":" in form.user or not 0 < len(form.password) <= MAX_PASSWORD:
            raise wrong_password_error()
        pair = f"{form.user}:{form.password}".encode("utf-8", "surrogatepass")
        credential = Credential(Scheme.OTHER, b64encode(pair).decode("ascii"), "Basic")
        view = RequestContext("POST", None, CIMultiDict(), credential)
        for member in self._members:
            outcome = await settled(member.authenticate(view))
            if isinstance(outcome, Accepted):
                return member.name, outcome
            if isinstance(outcome, Rejected):
                raise outcome.failure
        raise wrong_password_error()

    async def _create(self, name: str, actor: Actor, replaces: str) -> str:
        now = self._sessions.now()
        claims: dict[str, object] = {
            "sub": actor.subject,
            "groups": list(actor.groups),
            "roles": list(actor.roles),
            "auth_time": now,
        }
        if actor.email_in_token:
            claims["email"] = actor.email
        content = content_of(name, actor.issuer, claims, issued_at=now, confirmed_at=now)
        keys = revocation_keys(actor, session="", session_began_at=now)
        failure = self._gate.check(Accepted(actor, is_session=True, revocation_keys=keys))
        if failure is not None:  # a person whom every request would refuse gets no session
            raise failure
        secret = encode_base64url(os.urandom(32))
        await self._sessions.create(secret, content, actor, replaces=replaces)
        self._logins.child(name, "succeeded", Cause.NONE.value).inc()
        _audit.info(
            "login",
            extra={
                "event": "login",
                "actor": f"{actor.type}:{actor.id}",
                "provider": name,
                "issuer": actor.issuer,
                "session_id": session_id(secret),
            },
        )
        return secret


def _network(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 address, which one client has whole."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)
