"""Clients of the token endpoint, and the limit for wrong secrets."""

import logging
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from secrets import token_urlsafe

from sidecar.clock import Clock
from sidecar.config.settings import TokenClientSettings
from sidecar.errors import Cause, RateLimited
from sidecar.secrets.value import Secret
from sidecar.tokens.exchange.assertions import KeyedAssertions

_log = logging.getLogger("sidecar.token_endpoint")
_WINDOW = 60.0
_MAX_WRONG = 10
_MAX_COUNTED = 10_000
# An unknown client is compared with this one, so that it takes as long as a known one.
_NO_SECRET = Secret(token_urlsafe(48))


@dataclass(frozen=True, slots=True)
class Client:
    """A configured client. ``keys`` verify its assertions; None: it has no keys."""

    settings: TokenClientSettings
    keys: KeyedAssertions | None = None

    @property
    def id(self) -> str:
        """Its ``client_id``."""
        return self.settings.id


def has_secret(client: Client | None, presented: Sequence[str]) -> bool:
    """Whether a reading of ``presented`` is the secret of ``client``; as much work for an unknown client (None)."""
    secret = None if client is None else client.settings.secret
    matches = [(secret or _NO_SECRET).matches(reading) for reading in presented]
    return any(matches) and secret is not None


class WrongSecrets:
    """Counts wrong secrets per minute for each client and address; a right secret is never limited."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self._counted: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()
        self._warned: dict[str, float] = {}

    def note(self, client: str, address: str, *, is_known: bool) -> None:
        """Count a wrong secret. Raises RateLimited above the limit. ``is_known``: ``client`` exists."""
        now, key = self._now(), (client if is_known else "", address)
        mine = self._counted.setdefault(key, deque(maxlen=_MAX_WRONG))
        self._counted.move_to_end(key)
        if len(self._counted) > _MAX_COUNTED:
            self._counted.popitem(last=False)
        wait = _WINDOW - (now - mine[0]) if len(mine) == _MAX_WRONG else 0.0
        if wait > 0:
            if is_known and now - self._warned.get(client, -_WINDOW) >= _WINDOW:
                self._warned[client] = now
                _log.warning(
                    "many wrong secrets of a client",
                    extra={"event": "client_secrets_wrong", "client": client, "address": address},
                )
            raise RateLimited(Cause.THROTTLED, retry_after=ceil(wait))
        mine.append(now)


class RequestRate:
    """Limits the tokens of a workload rule per minute."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self._issued: dict[str, deque[float]] = {}

    def admit(self, name: str, per_minute: int) -> None:
        """Count a token of the rule ``name``. Raises RateLimited above ``per_minute``."""
        now = self._now()
        mine = self._issued.setdefault(name, deque(maxlen=per_minute))
        wait = _WINDOW - (now - mine[0]) if len(mine) == per_minute else 0.0
        if wait > 0:
            raise RateLimited(Cause.THROTTLED, f"rule {name}: more than {per_minute} a minute", retry_after=ceil(wait))
        mine.append(now)

    def give_back(self, name: str) -> None:
        """Do not count the last token of the rule ``name``: it was not issued."""
        self._issued[name].pop()
