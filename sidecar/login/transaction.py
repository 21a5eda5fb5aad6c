"""One attempt to log in: what binds the provider's answer to the browser that was sent there.

A browser has one login cookie for all its tabs. Nonce and PKCE verifier are derived from it and from the id of the
attempt, so nothing has to be stored; the state that travels through the provider is sealed.
"""

import hmac
import json
import os
from dataclasses import dataclass, field
from hashlib import sha256

from sidecar.clock import Clock
from sidecar.errors import Cause, Reason, Refused
from sidecar.sessions.records import is_secret
from sidecar.sessions.sealing import Sealer, decode_base64url, encode_base64url

COOKIE_MAX_AGE = 3600
_STATE_MAX_AGE = 15 * 60.0
_MAX_AHEAD = 60.0
_MAX_STATE = 8192
_PURPOSE = "state"


@dataclass(frozen=True, slots=True)
class Demand:
    """What one login asks of the provider beyond its configuration: ``prompt``, and the authentication that a rule
    requires: not older than ``max_age`` seconds, with a class of ``acr_values``.
    """

    prompt: str = ""
    max_age: float | None = None
    acr_values: tuple[str, ...] = ()


NO_DEMAND = Demand()


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt. ``cookie`` is the browser's, ``secret`` the number of the secret that sealed the state."""

    provider: str
    return_to: str
    number: bytes
    cookie: str = field(repr=False)
    secret: int = 0
    demand: Demand = NO_DEMAND

    @property
    def nonce(self) -> str:
        """``nonce`` of the ID token."""
        return encode_base64url(self._derived("nonce"))

    @property
    def verifier(self) -> str:
        """``code_verifier`` of RFC 7636: 43 characters."""
        return encode_base64url(self._derived("verifier"))

    @property
    def challenge(self) -> str:
        """``code_challenge`` with S256."""
        return encode_base64url(sha256(self.verifier.encode()).digest())

    def session_secret(self, sealer: Sealer) -> str:
        """The value of the session cookie that this attempt leads to: always the same one, so that a second answer to
        the same attempt finds the session that the first one has created.
        """
        data = sealer.derive(self.secret, "session cookie", self.cookie.encode() + self.number)
        return encode_base64url(data)

    def _derived(self, purpose: str) -> bytes:
        return hmac.digest(self.cookie.encode(), purpose.encode() + b"\0" + self.number, "sha256")


class AttemptRefused(Refused):
    """An answer that begins nothing. ``return_to`` is from a state that we have sealed, perhaps for another browser.

    ``provider``: the one at which the browser may begin anew at once; empty: it asks the person first.
    """

    def __init__(self, cause: Cause, return_to: str, provider: str = "") -> None:
        super().__init__(Reason.LOGIN_FAILED, cause)
        self.return_to = return_to
        self.provider = provider


class Transactions:
    """Begins attempts and reads the state that comes back."""

    def __init__(self, sealer: Sealer, clock: Clock) -> None:
        self._sealer = sealer
        self._now = clock.now

    def begin(self, provider: str, return_to: str, cookie: str, demand: Demand = NO_DEMAND) -> tuple[Attempt, str]:
        """A new attempt and its state. ``cookie`` is the login cookie that the browser sent; unusable: a new one."""
        secret = cookie if is_secret(cookie) else encode_base64url(os.urandom(32))
        attempt = Attempt(provider, return_to, os.urandom(16), secret, demand=demand)
        content = [
            attempt.provider,
            attempt.return_to,
            encode_base64url(attempt.number),
            self._now(),
            _digest(attempt.cookie),
            [demand.prompt, demand.max_age, demand.acr_values],
        ]
        return attempt, self._sealer.seal(_PURPOSE, json.dumps(content).encode())

    def open(self, state: str, cookie: str) -> tuple[Attempt, bool]:
        """The attempt that ``state`` belongs to, and whether it is too old.

        Raises Refused(STATE_INVALID), and AttemptRefused(BROWSER_MISMATCH) if it began with another cookie.
        """
        opened = self._sealer.open(_PURPOSE, state) if len(state) <= _MAX_STATE else None
        if opened is None:
            raise Refused(Reason.LOGIN_FAILED, Cause.STATE_INVALID)
        provider, return_to, number, begun, digest, (prompt, max_age, acr) = json.loads(opened.content)
        is_old = not -_MAX_AHEAD <= self._now() - begun <= _STATE_MAX_AGE
        if not is_secret(cookie):
            raise AttemptRefused(Cause.BROWSER_MISMATCH, return_to)
        if not hmac.compare_digest(digest, _digest(cookie)):
            # Tabs that are opened at once, before there is a cookie, get different ones, and the last one counts. A new
            # attempt has that one, so it is not refused again.
            raise AttemptRefused(Cause.BROWSER_MISMATCH, return_to, "" if is_old else provider)
        demand = Demand(prompt, max_age, tuple(acr))
        attempt = Attempt(provider, return_to, decode_base64url(number) or b"", cookie, opened.secret, demand)
        return attempt, is_old


def return_address(sealer: Sealer, state: str) -> str | None:
    """Where the attempt with ``state`` leads back to; None: it is not a state of ours. For diagnosis, never a login."""
    opened = sealer.open(_PURPOSE, state) if len(state) <= _MAX_STATE else None
    return None if opened is None else str(json.loads(opened.content)[1])


def _digest(cookie: str) -> str:
    return sha256(b"login cookie\0" + cookie.encode()).hexdigest()
