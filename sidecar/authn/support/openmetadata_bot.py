"""Is this still the current token of its bot? Only the OpenMetadata server that minted it knows, so it is asked.

A bot's old tokens keep their good signature when it gets a new one. The server compares; its word holds for a while,
no longer than its own cache would have it, and where it cannot be asked nobody is let in.
"""

import asyncio
from collections import OrderedDict
from hashlib import sha256

from sidecar.clock import Clock
from sidecar.concurrency import retrieve
from sidecar.errors import Cause, Reason, Refused, Unavailable
from sidecar.outbound import ControlClient, OutboundError
from sidecar.tokens.jwt.compact import json_object

_TIMEOUT = 3.0
_MAX_BYTES = 256 * 1024
_REFUSED_LIFETIME = 10.0
_MAX_REFUSED = 10_000


class BotTokenCheck:
    """Asks ``url`` (the server's ``/v1/users/loggedInUser``) with the token itself; one question for many waiters.

    ``cache`` is in seconds. A refusal is remembered for ten seconds, so that a bot with an old token is no load.
    """

    def __init__(self, client: ControlClient, url: str, clock: Clock, *, cache: float, allow_insecure: bool) -> None:
        self._client = client
        self._url = url
        self._clock = clock
        self._cache = cache
        self._allow_insecure = allow_insecure
        self._asked: dict[bytes, asyncio.Task[float]] = {}
        self._refused: OrderedDict[bytes, float] = OrderedDict()

    async def confirm(self, token: str, name: str) -> float:
        """Until when (seconds since the epoch) it may be believed that ``token`` is the current one of bot ``name``.

        Raises Refused(TOKEN_REVOKED) when it is not, Unavailable(BOT_CHECK) when the server cannot say.
        """
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        if self._clock.monotonic() < self._refused.get(digest, 0.0):
            raise _revoked()
        task = self._asked.get(digest)
        if task is None:
            task = self._asked[digest] = asyncio.create_task(self._ask(digest, token, name))
            task.add_done_callback(lambda done: self._forget(digest, done))
        # who gives up waiting must not take the answer from the others
        return await asyncio.shield(task)

    def _forget(self, digest: bytes, task: asyncio.Task[float]) -> None:
        self._asked.pop(digest, None)
        retrieve(task)

    async def _ask(self, digest: bytes, token: str, name: str) -> float:
        asked_at = self._clock.now()
        headers = {"Authorization": f"Bearer {token}"}
        try:
            answer = await self._client.get(
                self._url, within=_TIMEOUT, max_bytes=_MAX_BYTES, allow_insecure=self._allow_insecure, headers=headers
            )
        except OutboundError as error:
            if error.status == 401:
                self._remember_refused(digest)
                raise _revoked() from error
            raise Unavailable(Cause.BOT_CHECK, error.kind.value) from error
        if not _same_token(answer.body, name):
            raise Unavailable(Cause.BOT_CHECK, "the answer is about somebody else, or none")
        return asked_at + self._cache

    def _remember_refused(self, digest: bytes) -> None:
        self._refused[digest] = self._clock.monotonic() + _REFUSED_LIFETIME
        self._refused.move_to_end(digest)
        if len(self._refused) > _MAX_REFUSED:
            self._refused.popitem(last=False)


def _same_token(body: bytes, name: str) -> bool:
    """Whether ``body`` is a user of that name: a page that answers everything with 200 confirms nothing."""
    try:
        found = json_object(body, Cause.BOT_CHECK).get("name")
    except Refused:
        return False
    return isinstance(found, str) and found.lower() == name


def _revoked() -> Refused:
    return Refused(Reason.TOKEN_REVOKED, Cause.BOT_TOKEN_REPLACED)
