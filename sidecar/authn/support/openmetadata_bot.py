"""Checks with the OpenMetadata server whether a bot token is still the bot's current one.

A bot's old tokens keep a valid signature when it gets a new token; only the server that minted them can tell. Its
answer is cached for no longer than the server's own cache would keep it. If the server cannot be reached, the request
fails.
"""

from functools import partial
from hashlib import sha256

from sidecar.clock import Clock
from sidecar.concurrency import SingleFlight
from sidecar.errors import Cause, Reason, Refused, Unavailable
from sidecar.lru import BoundedLru
from sidecar.outbound import ControlClient, OutboundError
from sidecar.tokens.jwt.compact import json_object

_TIMEOUT = 3.0
_MAX_BYTES = 256 * 1024
_REJECTION_LIFETIME = 10.0
_MAX_REJECTIONS = 10_000


class BotTokenCheck:
    """Calls ``url`` (the server's ``/v1/users/loggedInUser``) with the token itself; concurrent requests share one
    call.

    ``cache`` is in seconds. Rejections are cached for ten seconds, so that a bot with an old token causes no load.
    """

    def __init__(self, client: ControlClient, url: str, clock: Clock, *, cache: float, allow_insecure: bool) -> None:
        self._client = client
        self._url = url
        self._clock = clock
        self._cache = cache
        self._allow_insecure = allow_insecure
        self._flights: SingleFlight[bytes, float] = SingleFlight()
        self._rejections: BoundedLru[bytes, float] = BoundedLru(_MAX_REJECTIONS)

    async def confirm(self, token: str, name: str) -> float:
        """Until when (seconds since the epoch) ``token`` counts as the current token of bot ``name``.

        Raises Refused(TOKEN_REVOKED) if it is not, Unavailable(BOT_CHECK) if the server does not answer.
        """
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        until = self._rejections.get(digest)
        if until is not None and self._clock.monotonic() < until:
            raise _revoked()
        return await self._flights.run(digest, partial(self._query, digest, token, name))

    async def _query(self, digest: bytes, token: str, name: str) -> float:
        asked_at = self._clock.now()
        headers = {"Authorization": f"Bearer {token}"}
        try:
            answer = await self._client.get(
                self._url, within=_TIMEOUT, max_bytes=_MAX_BYTES, allow_insecure=self._allow_insecure, headers=headers
            )
        except OutboundError as error:
            if error.status == 401:
                self._rejections.put(digest, self._clock.monotonic() + _REJECTION_LIFETIME)
                raise _revoked() from error
            raise Unavailable(Cause.BOT_CHECK, error.kind.value) from error
        if not _is_current_token(answer.body, name):
            raise Unavailable(Cause.BOT_CHECK, "the response names another user, or none")
        return asked_at + self._cache


def _is_current_token(body: bytes, name: str) -> bool:
    """Whether ``body`` describes the user ``name``: a server that answers every request with 200 confirms nothing."""
    try:
        found = json_object(body, Cause.BOT_CHECK).get("name")
    except Refused:
        return False
    return isinstance(found, str) and found.lower() == name


def _revoked() -> Refused:
    return Refused(Reason.TOKEN_REVOKED, Cause.BOT_TOKEN_REPLACED)
