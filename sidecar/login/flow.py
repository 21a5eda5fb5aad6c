"""The order of a login and of a logout. Every local check comes before the one call to the provider."""

import asyncio
import hmac
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlencode

from sidecar.access.decide import Decider
from sidecar.authn.base import Accepted, Gate
from sidecar.budget import Budget
from sidecar.concurrency import SingleFlight, retrieve
from sidecar.errors import Cause, Failed, RateLimited, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor
from sidecar.identity.claims import make_actor
from sidecar.login.client import Person, ProviderClient
from sidecar.login.passwords import PasswordLogin, SignInForm
from sidecar.login.return_address import HOME, ReturnAddresses, web_origin
from sidecar.login.steps import Link, PageStep, PasswordForm, Redirect, SetCookie, Step, unavailable
from sidecar.login.transaction import COOKIE_MAX_AGE, NO_DEMAND, Attempt, AttemptRefused, Demand, Transactions
from sidecar.logs import AUDIT
from sidecar.metrics import Metrics
from sidecar.sessions.records import content_of, is_secret, session_id
from sidecar.sessions.sealing import Sealer, encode_base64url
from sidecar.sessions.service import Session, Sessions
from sidecar.store.replica.revocation_list import revocation_keys

_audit = logging.getLogger(AUDIT)
_log = logging.getLogger("sidecar.login")
_FORM = "sign_out"
_MAX_REVOKING = 100
# Errors of RFC 6749 4.1.2.1 and OpenID Connect Core 3.1.2.6; of other texts nothing is shown.
_PROVIDER_ERRORS: Mapping[str, str] = {
    "access_denied": "The identity provider did not allow the login, or it was cancelled.",
    "login_required": "The identity provider requires a new login.",
    "interaction_required": "The identity provider requires an interaction.",
    "consent_required": "The identity provider requires your consent.",
    "account_selection_required": "The identity provider requires you to select an account.",
    "temporarily_unavailable": "The identity provider is temporarily unavailable. Try again later.",
    "server_error": "The identity provider has an internal error. Try again later.",
}
_SILENT_ERRORS = frozenset({"login_required", "interaction_required", "consent_required", "account_selection_required"})
_NOT_ALLOWED = frozenset({Reason.PRINCIPAL_INVALID, Reason.PRINCIPAL_RESERVED, Reason.DOMAIN_NOT_ALLOWED})


@dataclass(frozen=True, slots=True)
class CallbackParameters:
    """What the provider's redirect carries. None: not there."""

    provider: str
    state: str | None
    code: str | None
    error: str | None
    issuer: str | None


@dataclass(frozen=True, slots=True)
class BrowserCookies:
    """Values of our cookies in a request; empty: not there, or more than once."""

    login: str = field(default="", repr=False)
    session: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class LoginNames:
    """Paths and names: ``prefix`` of the endpoints, cookies, and ``signed_out`` as the provider knows it."""

    prefix: str
    session_cookie: str
    login_cookie: str
    signed_out: str
    after_logout: str = HOME
    session_cookie_age: int | None = None
    ends_provider_session: bool = True
    skips_chooser: bool = True


class LoginFlow:
    """Logs persons in and out at ``clients``, by the name of their provider. ``gate`` is asked about each person."""

    def __init__(
        self,
        clients: Mapping[str, ProviderClient],
        sessions: Sessions,
        transactions: Transactions,
        sealer: Sealer,
        addresses: ReturnAddresses,
        names: LoginNames,
        gate: Gate,
        accept: Callable[[Session], Accepted],
        decider: Decider,
        metrics: Metrics,
        passwords: PasswordLogin | None = None,
    ) -> None:
        """``accept`` makes a session the person that it stands for, as for every request.

        What a request waits for, it waits for within the limits of ``decider``; callbacks take half of its slots.
        ``passwords``: sign-in with user name and password.
        """
        self._clients = dict(clients)
        self._sessions = sessions
        self._transactions = transactions
        self._sealer = sealer
        self._addresses = addresses
        self.names = names
        self._gate = gate
        self._accept = accept
        self._decider = decider
        # a provider that hangs must not keep others from a verdict
        self._completing = Budget(decider.undecided.places / 2, decider.undecided)
        # nor may navigations, which cost their senders nothing, keep those from coming back who have logged in there
        self._beginning = Budget(max(1, decider.undecided.places / 4), decider.undecided)
        self._logins = metrics.logins
        self._passwords = passwords
        self._running: SingleFlight[str, Step] = SingleFlight()
        self._revoking: set[asyncio.Task[None]] = set()

    # --- the way to the provider

    async def begin(
        self,
        return_to: str | None,
        cookies: BrowserCookies,
        *,
        provider: str | None = None,
        demand: Demand = NO_DEMAND,
    ) -> Step:
        """Lead the browser to ``provider``; None: to the only one, or show which there are.

        ``demand``: what this login has to bring besides.
        """
        address = self._addresses.checked(return_to)
        name = provider
        if name is None and len(self._clients) == 1 and self.names.skips_chooser and self._passwords is None:
            name = next(iter(self._clients))
        if name is None:
            return self.chooser(address, cookies, status=401)
        client = self._clients.get(name)
        if client is None:
            raise Refused(Reason.NOT_FOUND)
        attempt, state = self._transactions.begin(name, address, cookies.login, demand)
        try:
            location = await self._decider.within_limits(client.authorization_url(attempt, state), self._beginning)
        except Failed as failure:
            return self._failed(failure, name, address)
        return Redirect(location, (SetCookie(self.names.login_cookie, attempt.cookie, COOKIE_MAX_AGE),))

    @property
    def takes_passwords(self) -> bool:
        """Whether the sign-in page has a form for user name and password."""
        return self._passwords is not None

    def knows(self, provider: str) -> bool:
        """Whether ``provider`` is one at which persons log in."""
        return provider in self._clients

    def provider_of_issuer(self, issuer: str) -> str | None:
        """The provider whose issuer is exactly ``issuer``, for logins that a third party initiates."""
        return next((name for name, client in self._clients.items() if client.issuer == issuer), None)

    def chooser(
        self,
        return_to: str | None,
        cookies: BrowserCookies,
        *,
        status: int = 200,
        message: str = "",
        user: str = "",
        failure: Failed | None = None,
    ) -> PageStep:
        """The sign-in page: a link for each provider, and a form for user name and password where they are accepted.

        ``message``, ``user`` and ``failure`` are those of a form that was posted before.
        """
        address = self._addresses.checked(return_to)
        links = tuple(
            Link(
                f"Sign in with {client.display_name}", self._start(address, name), badge=client.display_name[:1].upper()
            )
            for name, client in self._clients.items()
        )
        shown = message or ("Choose where to sign in." if links else "Sign in with user name and password.")
        if self._passwords is None:
            return PageStep(status, "Sign in", shown, links, failure=failure)
        cookie = cookies.login if is_secret(cookies.login) else encode_base64url(os.urandom(32))
        return PageStep(
            status,
            "Sign in",
            shown,
            links,
            cookies=(SetCookie(self.names.login_cookie, cookie, COOKIE_MAX_AGE),),
            failure=failure,
            password=PasswordForm(
                f"{self.names.prefix}/sign_in", self._passwords.form_token(cookie), address, user=user
            ),
            retry_after=failure.retry_after if isinstance(failure, RateLimited) else 0,
        )

    async def sign_in(self, form: SignInForm, return_to: str | None, cookies: BrowserCookies) -> Step:
        """A posted form with user name and password.

        Raises Refused: NOT_FOUND where passwords are not accepted, CROSS_SITE for the form of another browser.
        """
        if self._passwords is None:
            raise Refused(Reason.NOT_FOUND)
        address = self._addresses.checked(return_to)
        try:
            secret = await self._passwords.begin_session(form, login_cookie=cookies.login, replaces=cookies.session)
        except Unavailable as failure:
            if failure.cause is not Cause.THROTTLED:
                return unavailable(failure)
            limited = RateLimited(failure.cause, failure.detail, retry_after=failure.retry_after)
            text = "There were too many wrong passwords. Wait a minute, then try again."
            return self.chooser(address, cookies, status=429, message=text, user=form.user, failure=limited)
        except Refused as failure:
            if failure.reason is Reason.CROSS_SITE:
                raise
            if failure.reason is not Reason.CREDENTIALS_INVALID:
                return _not_allowed(failure, (Link("Try again", self._start(address)),))
            text = "The user name or the password is not right."
            return self.chooser(address, cookies, status=401, message=text, user=form.user, failure=failure)
        age = self.names.session_cookie_age
        return Redirect(address, (SetCookie(self.names.session_cookie, secret, age),))

    # --- the way back

    async def callback(self, parameters: CallbackParameters, cookies: BrowserCookies) -> Step:
        """The provider's answer."""
        try:
            attempt = self._attempt(parameters, cookies)
        except Refused as failure:
            address = failure.return_to if isinstance(failure, AttemptRefused) else HOME
            return await self._unusable(failure, parameters.provider, self._addresses.checked(address), cookies)
        client = self._clients[attempt.provider]
        try:
            await self._check_response(client, parameters)
        except Failed as failure:
            if attempt.demand.prompt == "none" and failure.detail in _SILENT_ERRORS:
                # without showing anything the provider could not: the person has to choose
                self._count(failure, attempt.provider)
                return self.chooser(attempt.return_to, cookies, status=401)
            return self._failed(failure, attempt.provider, attempt.return_to)
        key = session_id(attempt.session_secret(self._sealer))
        if key not in self._running:
            try:
                self._completing.take()
            except Unavailable as failure:
                return self._failed(failure, attempt.provider, attempt.return_to)
        # a code is good once, so neither a browser that leaves nor a second answer may spoil it
        complete = partial(self._complete, client, attempt, parameters, cookies)
        return await self._running.run(key, complete, on_end=self._completing.give_back)

    def _attempt(self, parameters: CallbackParameters, cookies: BrowserCookies) -> Attempt:
        """The attempt that is answered. Raises Refused."""
        if parameters.state is None:
            raise Refused(Reason.LOGIN_FAILED, Cause.STATE_INVALID, "no state")
        attempt, is_old = self._transactions.open(parameters.state, cookies.login)
        if attempt.provider != parameters.provider or attempt.provider not in self._clients:
            raise Refused(Reason.LOGIN_FAILED, Cause.PROVIDER_MISMATCH)
        if is_old:
            raise AttemptRefused(Cause.STATE_EXPIRED, attempt.return_to)
        return attempt

    async def _check_response(self, client: ProviderClient, parameters: CallbackParameters) -> None:
        """RFC 9207, then errors. Raises Refused, Unavailable."""
        metadata = await self._decider.within_limits(client.metadata())
        if parameters.issuer is None:
            if metadata.sends_issuer:
                raise Refused(Reason.LOGIN_FAILED, Cause.RESPONSE_ISSUER, "the response has no iss")
        elif parameters.issuer != metadata.issuer:
            raise Refused(Reason.LOGIN_FAILED, Cause.RESPONSE_ISSUER)
        if parameters.error is not None:
            known = parameters.error if parameters.error in _PROVIDER_ERRORS else "another error"
            message = _PROVIDER_ERRORS.get(parameters.error, "The identity provider has refused the login.")
            raise Refused(Reason.LOGIN_FAILED, Cause.PROVIDER_ERROR, known, message=message)
        if not parameters.code:
            raise Refused(Reason.LOGIN_FAILED, Cause.PROVIDER_ANSWER, "neither code nor error")

    async def _complete(
        self, client: ProviderClient, attempt: Attempt, parameters: CallbackParameters, cookies: BrowserCookies
    ) -> Step:
        secret = attempt.session_secret(self._sealer)
        try:
            # asked of the store: a code is not redeemed before a session can be written
            if await self._sessions.exists(secret):
                raise AttemptRefused(Cause.STATE_USED, attempt.return_to)
            person = await client.redeem(parameters.code or "", attempt)
            actor = await self._create(client, secret, person, replaces=cookies.session)
        except AttemptRefused as failure:
            return await self._unusable(failure, client.name, failure.return_to, cookies)
        except Failed as failure:
            return self._failed(failure, client.name, attempt.return_to)
        self._logins.child(client.name, "succeeded", Cause.NONE.value).inc()
        _audit.info(
            "login",
            extra={
                "event": "login",
                "actor": f"{actor.type}:{actor.id}",
                "provider": client.name,
                "issuer": person.issuer,
                "session_id": session_id(secret),
            },
        )
        age = self.names.session_cookie_age
        return Redirect(attempt.return_to, (SetCookie(self.names.session_cookie, secret, age),))

    async def _create(self, client: ProviderClient, secret: str, person: Person, *, replaces: str) -> Actor:
        """Write the session of ``person``. Raises Refused, and Unavailable if the store does not answer."""
        content = content_of(
            client.name,
            person.issuer,
            person.claims,
            issued_at=person.issued_at,
            confirmed_at=self._sessions.now(),
            id_token=person.id_token,
            refresh_token=person.refresh_token if client.refreshes else "",
        )
        claims = {**content.claims, "iss": content.issuer, "sub": content.subject, "iat": content.issued_at}
        actor = make_actor(claims, client.policy)
        keys = revocation_keys(actor, session=content.sid, session_began_at=self._sessions.now())
        accepted = Accepted(actor, is_session=True, revocation_keys=keys)
        failure = self._gate.check(accepted)  # a person whom every request would refuse gets no session
        if failure is not None:
            raise failure
        await self._sessions.create(secret, content, actor, replaces=replaces)
        return actor

    async def _unusable(self, failure: Refused, provider: str, return_to: str, cookies: BrowserCookies) -> Step:
        """An answer that begins nothing: a person who is logged in goes on, others may begin anew."""
        self._count(failure, provider)
        if cookies.session and await self._decider.within_limits(self.person(cookies.session)) is not None:
            return Redirect(return_to)
        if isinstance(failure, AttemptRefused) and failure.provider == provider and provider in self._clients:
            return await self.begin(return_to, cookies, provider=provider)
        return PageStep(
            400,
            "Sign in again",
            "This sign-in page is no longer valid. It may have been used before, or begun in another browser.",
            (Link("Sign in", self._start(return_to)),),
            failure=failure,
        )

    def _failed(self, failure: Failed, provider: str, return_to: str) -> PageStep:
        self._count(failure, provider)
        again = (Link("Try again", self._start(return_to)),)
        if isinstance(failure, Unavailable):
            message = "The sign-in cannot be completed now. Try again in a moment."
            return PageStep(503, "Temporarily unavailable", message, again, failure=failure)
        if failure.reason in _NOT_ALLOWED or failure.status == 403 or failure.cause is Cause.DENIED:
            return _not_allowed(failure, again)
        shown = failure.cause is Cause.PROVIDER_ERROR
        message = failure.message if shown else "The identity provider's answer was not accepted."
        refused = Refused(Reason.LOGIN_FAILED, failure.cause, failure.detail)
        return PageStep(400, "The sign-in has failed", message, again, failure=refused)

    def _count(self, failure: Failed, provider: str) -> None:
        outcome = "unavailable" if isinstance(failure, Unavailable) else "refused"
        known = provider if provider in self._clients else "none"
        self._logins.child(known, outcome, failure.cause.value).inc()

    # --- a session that there is

    async def person(self, secret: str) -> tuple[Session, Accepted] | None:
        """The session of a cookie's value if it is in force and may pass."""
        try:
            session = await self._sessions.find(secret)
            accepted = self._accept(session)
        except Failed:
            return None
        return None if self._gate.check(accepted) is not None else (session, accepted)

    async def sign_out(self, cookies: BrowserCookies, *, form_token: str | None, is_own_page: bool) -> Step:
        """End the session of the browser, then that at the provider.

        ``form_token``: that of a posted form, None: the request is no form. ``is_own_page``: a page of our own origin
        asks. Without either of them a page asks the person. Raises Refused, and Unavailable if the store does not
        answer: the cookie is kept then, as the session is in force.
        """
        # asked of the store where the copy has none: a copy that lags must not leave the session in force
        record = await self._decider.within_limits(self._sessions.stored(cookies.session))
        if record is None or record.revoked_at is not None:
            return Redirect(f"{self.names.prefix}/signed_out", (self._deleted(),))
        expected = self._form_token(cookies.session)
        is_form = form_token is not None and hmac.compare_digest(form_token.encode(), expected.encode())
        if not is_form and not (is_own_page and form_token is None):
            if form_token is not None:
                raise Refused(Reason.CROSS_SITE, Cause.FORM_TOKEN)
            return await self._confirmation(record.owner.provider, expected)
        content = await self._decider.within_limits(self._sessions.read(record))
        by = f"{record.actor_type}:{record.name}"
        await self._decider.within_limits(self._sessions.end(record, by=by, cause="signed_out"))
        location = f"{self.names.prefix}/signed_out"
        client = self._clients.get(record.owner.provider)
        if client is not None and content is not None and content.content.refresh_token:
            self._revoke(client, content.content.refresh_token)
        if client is not None and self.names.ends_provider_session:
            try:
                hint = "" if content is None else content.content.id_token
                known = client.end_session_url(hint, self.names.signed_out)
                location = await self._decider.within_limits(known) or location
            except Unavailable as failure:
                _log.warning(
                    "session at the provider not ended",
                    extra={"event": "provider_logout_failed", "provider": client.name, "detail": failure.detail},
                )
        return Redirect(location, (self._deleted(),))

    def _revoke(self, client: ProviderClient, refresh_token: str) -> None:
        """In the background, and at best: the session here has ended in any case."""
        if len(self._revoking) < _MAX_REVOKING:
            task = asyncio.create_task(client.revoke(refresh_token), name="revoke refresh token")
            self._revoking.add(task)
            task.add_done_callback(self._revoking.discard)
            task.add_done_callback(retrieve)

    async def _confirmation(self, provider: str, token: str) -> PageStep:
        targets: tuple[str, ...] = ()
        client = self._clients.get(provider)
        if client is not None and self.names.ends_provider_session:
            try:
                endpoint = (await self._decider.within_limits(client.metadata())).end_session_endpoint
                targets = (web_origin(endpoint),) if endpoint else ()
            except Unavailable:
                targets = ()
        message = "Do you want to sign out?"
        return PageStep(200, "Sign out", message, button="Sign out", form_token=token, form_targets=targets)

    def signed_out(self) -> PageStep:
        """The page after a logout."""
        link = Link("Continue", self._addresses.checked(self.names.after_logout))
        return PageStep(200, "Signed out", "You are signed out.", (link,))

    def _form_token(self, secret: str) -> str:
        return encode_base64url(hmac.digest(secret.encode(), _FORM.encode(), "sha256"))

    def _deleted(self) -> SetCookie:
        return SetCookie(self.names.session_cookie, max_age=0)

    def _start(self, return_to: str, provider: str = "") -> str:
        query = {"provider": provider} if provider else {}
        if return_to != HOME:
            query["rd"] = return_to
        return f"{self.names.prefix}/start" + (f"?{urlencode(query)}" if query else "")


def _not_allowed(failure: Failed, links: tuple[Link, ...]) -> PageStep:
    message = "Your account may not use this service. Ask its administrator."
    refused = Refused(Reason.LOGIN_FAILED, failure.cause, failure.detail, status=403)
    return PageStep(403, "Not allowed", message, links, failure=refused)
