"""The ``Basic`` credential (RFC 7617): parsing, and a rate limit for wrong passwords."""

from binascii import Error, a2b_base64
from collections import deque

from sidecar.clock import Clock
from sidecar.errors import Cause, Reason, Refused, Unavailable
from sidecar.identity.request import Credential, Scheme
from sidecar.lru import BoundedLru

_MAX_VALUE = 4096
_MAX_USERS = 10_000


def parse_basic_credential(credential: Credential) -> tuple[str, str] | None:
    """User name and password; None if the scheme is not ``Basic``, or the value is in DataHub's form (with a colon).

    Raises Refused(CREDENTIALS_INVALID) if it is malformed, contains control characters or has an empty part.
    """
    if credential.scheme is not Scheme.OTHER or credential.scheme_text.lower() != "basic" or ":" in credential.value:
        return None
    value = credential.value
    if len(value) > _MAX_VALUE:
        raise Refused(Reason.CREDENTIALS_INVALID, Cause.TOKEN_SIZE)
    try:
        text = a2b_base64(value.encode("ascii"), strict_mode=True).decode("utf-8")
    except (Error, ValueError):
        raise _malformed("not base64 of UTF-8") from None
    user, colon, password = text.partition(":")
    if not colon or not user or not password:  # directories treat an empty password as an anonymous bind
        raise _malformed("no user name or no password")
    if any(character < " " or character == "\x7f" for character in text):
        raise _malformed("a control character")
    return user, password


def wrong_password_error() -> Refused:
    """The rejection for a wrong password and for an unknown user; callers cannot tell them apart."""
    return Refused(Reason.CREDENTIALS_INVALID, Cause.CREDENTIALS_WRONG)


def _malformed(detail: str) -> Refused:
    return Refused(Reason.CREDENTIALS_INVALID, Cause.CREDENTIALS_MALFORMED, detail)


class RateLimiter:
    """Limits wrong passwords per minute, for each user and in total. Attempts in progress count as wrong."""

    WINDOW = 60.0

    def __init__(self, clock: Clock, *, per_user: int, total: int) -> None:
        self._clock = clock
        self._all_attempts: deque[float] = deque(maxlen=total)
        self._per_user = per_user
        # two names per attempt: no user is evicted while its attempts still count
        self._users: BoundedLru[str, deque[float]] = BoundedLru(max(_MAX_USERS, 2 * total))

    def attempt(self, user: str) -> None:
        """Count an attempt. Raises Unavailable(THROTTLED) if the limit is reached."""
        self._check(self._all_attempts)  # first: rejected attempts must not evict other users
        self._count(self._all_attempts, self._attempts_of(user))

    def alias(self, user: str) -> None:
        """Count the current attempt for a second name of the same user. Raises Unavailable(THROTTLED)."""
        self._count(self._attempts_of(user))

    def success(self, *names: str) -> None:
        """Remove the attempt from the counts of all its names."""
        for attempts in (self._all_attempts, *map(self._users.get, names)):
            if attempts:
                attempts.pop()

    def _attempts_of(self, user: str) -> deque[float]:
        attempts = self._users.get(user)
        if attempts is None:
            attempts = deque(maxlen=self._per_user)
        self._users.put(user, attempts)
        return attempts

    def _count(self, *counted: deque[float]) -> None:
        for attempts in counted:
            self._check(attempts)
        for attempts in counted:
            attempts.append(self._clock.monotonic())

    def _check(self, attempts: deque[float]) -> None:
        wait = self.WINDOW - (self._clock.monotonic() - attempts[0]) if len(attempts) == attempts.maxlen else 0.0
        if wait > 0:
            raise Unavailable(Cause.THROTTLED, retry_after=int(wait) + 1)
