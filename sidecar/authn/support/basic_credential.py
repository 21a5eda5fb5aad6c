"""User names and passwords: the ``Basic`` credential (RFC 7617), and how often one may be guessed at."""

from binascii import Error, a2b_base64
from collections import OrderedDict, deque

from sidecar.clock import Clock
from sidecar.errors import Cause, Reason, Refused, Unavailable
from sidecar.identity.request import Credential, Scheme

_MAX_VALUE = 4096
_MAX_USERS = 10_000


def read_password(credential: Credential) -> tuple[str, str] | None:
    """User name and password; None when the credential is no ``Basic`` one, or in DataHub's form (with a colon).

    Raises Refused(CREDENTIALS_INVALID) for one that cannot be read, has control characters or an empty part.
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
    if not colon or not user or not password:  # a directory takes an empty password for an anonymous bind
        raise _malformed("no user name or no password")
    if any(character < " " or character == "\x7f" for character in text):
        raise _malformed("a control character")
    return user, password


def wrong_password() -> Refused:
    """The refusal of a wrong password and of an unknown user: nobody learns which."""
    return Refused(Reason.CREDENTIALS_INVALID, Cause.CREDENTIALS_WRONG)


def _malformed(detail: str) -> Refused:
    return Refused(Reason.CREDENTIALS_INVALID, Cause.CREDENTIALS_MALFORMED, detail)


class RateLimiter:
    """Counts the wrong passwords of the last minute, for each user and for all; those being compared count as wrong."""

    WINDOW = 60.0

    def __init__(self, clock: Clock, *, per_user: int, in_all: int) -> None:
        self._clock = clock
        self._in_all: deque[float] = deque(maxlen=in_all)
        self._per_user = per_user
        # by two names each: nobody is counted out of memory while his attempts still count
        self._most_users = max(_MAX_USERS, 2 * in_all)
        self._users: OrderedDict[str, deque[float]] = OrderedDict()

    def attempt(self, user: str) -> None:
        """Count an attempt. Raises Unavailable(THROTTLED) when there were too many."""
        self._check(self._in_all)  # first: names that cost nothing must not push others out
        self._count(self._in_all, self._attempts_of(user))

    def alias(self, user: str) -> None:
        """The attempt that has begun is about ``user`` too, by another name. Raises Unavailable(THROTTLED)."""
        self._count(self._attempts_of(user))

    def success(self, *names: str) -> None:
        """The attempt, by every name that it was counted under, was none to count."""
        for attempts in (self._in_all, *map(self._users.get, names)):
            if attempts:
                attempts.pop()

    def _attempts_of(self, user: str) -> deque[float]:
        mine = self._users.setdefault(user, deque(maxlen=self._per_user))
        self._users.move_to_end(user)
        if len(self._users) > self._most_users:
            self._users.popitem(last=False)
        return mine

    def _count(self, *counted: deque[float]) -> None:
        for attempts in counted:
            self._check(attempts)
        for attempts in counted:
            attempts.append(self._clock.monotonic())

    def _check(self, attempts: deque[float]) -> None:
        wait = self.WINDOW - (self._clock.monotonic() - attempts[0]) if len(attempts) == attempts.maxlen else 0.0
        if wait > 0:
            raise Unavailable(Cause.THROTTLED, retry_after=int(wait) + 1)
