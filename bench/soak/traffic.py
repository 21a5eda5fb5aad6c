"""The traffic of the soak test: each kind is repeated until it is cancelled."""

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import ClientError, ClientResponse, ClientSession, WSMsgType, WSServerHandshakeError
from yarl import URL

from bench.service import PATTERN
from bench.soak.people import ADMIN, Issuer, Person
from bench.soak.verdicts import NO_ANSWER, Ledger

CUT_SECONDS = 3.0
"""Maximum time that a stream stays open after its token ended; the sidecar checks twice a second."""
STREAM_SECONDS = 6.0
_PAUSE = 0.02
_PAUSE_AFTER_STREAM = 0.3
_ORIGINAL = {"X-Original-URI": "/x", "X-Original-Method": "GET"}
"""The headers of a proxy about the original request; a forwarded request is checked by its request line."""


class Crowd:
    """The callers. ``doomed`` are those whose tokens are revoked one after the other."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self.root = issuer.person(ADMIN)
        self._regulars = [issuer.person() for _ in range(200)]
        self._leaving = [issuer.person(lifetime=random.uniform(1, 8)) for _ in range(20)]
        self.doomed = [issuer.person() for _ in range(20)]

    def any_caller(self) -> Person:
        """A caller with a valid token, which may expire or be revoked soon."""
        group = random.choices((self._regulars, self._leaving, self.doomed), (6, 2, 2))[0]
        place = random.randrange(len(group))
        person = group[place]
        if min(person.expires_at, person.ended) + 5 < time.time():
            group[place] = self._issuer.person(lifetime=random.uniform(3, 8) if group is self._leaving else 3600)
        return person

    def newcomer(self) -> Person:
        """A caller with a valid token that is not cached."""
        return self._issuer.person()

    def impostor(self) -> Person:
        """A caller with an invalid token."""
        return self._issuer.impostor()


class Traffic:
    """All kinds of traffic, against the sidecar at ``address``."""

    def __init__(self, address: str, session: ClientSession, crowd: Crowd, ledger: Ledger) -> None:
        self._address = address
        self._url = f"http://{address}"
        self._session = session
        self._crowd = crowd
        self._ledger = ledger

    def kinds(self) -> Mapping[Callable[[], Awaitable[None]], int]:
        """Each kind of traffic, and its concurrency."""
        return {
            self.check: 4,
            self.forward: 4,
            self.first_sight: 2,
            self.impostor: 3,
            self.public: 1,
            self.closed: 1,
            self.upload: 2,
            self.download: 1,
            self.events: 4,
            self.messages: 4,
            self.half_a_head: 1,
            self.half_a_body: 1,
            self.slow_reader: 1,
        }

    async def check(self) -> None:
        """A check by a proxy."""
        await self._ask("check", self._crowd.any_caller(), "/oauth2/auth", forwards=False)

    async def first_sight(self) -> None:
        """A check with a token that is not cached."""
        await self._ask("first sight", self._crowd.newcomer(), "/oauth2/auth", forwards=False)

    async def impostor(self) -> None:
        """An invalid token, in a check or a forwarded request."""
        forwards = random.random() < 0.5
        await self._ask("impostor", self._crowd.impostor(), "/x" if forwards else "/oauth2/auth", forwards=False)

    async def forward(self) -> None:
        """A forwarded request, which must arrive with the identity of the caller and the same target."""
        person, target = self._crowd.any_caller(), f"/api/{random.randrange(10**9)}?x=%2F"
        document = await self._ask("forward", person, target, forwards=True)
        if document is not None and (document["user"], document["target"]) != ([person.name], target):
            self._ledger.blame("forward", f"arrived as {document}, sent by {person.name} to {target}")

    async def public(self) -> None:
        """A public path: every request is allowed, and only valid tokens give an identity."""
        person = random.choice((self._crowd.any_caller(), self._crowd.impostor()))
        started = time.time()
        document = await self._ask("public", person, "/public/x", forwards=True, deserved={200})
        names = [{200: [person.name], 401: []}[status] for status in _now(person, started)]
        if document is not None and document["user"] not in names:
            self._ledger.blame("public", f"{document['user']} instead of {names}")

    async def closed(self) -> None:
        """A path for a group without members."""
        person, started = self._crowd.any_caller(), time.time()
        deserved = {200: 403, 401: 401}
        await self._ask(
            "closed", person, "/closed/x", forwards=False, deserved=lambda: {deserved[s] for s in _now(person, started)}
        )

    async def upload(self) -> None:
        """A request body, with Content-Length or chunked, which must arrive complete."""
        person, size = self._crowd.any_caller(), random.randrange(1, 2_000_000)
        body = (PATTERN * (size // len(PATTERN) + 1))[:size]
        pieces = [body[start : start + 65_536] for start in range(0, size, 65_536)]
        document = await self._ask(
            "upload", person, "/upload", forwards=True, method="PUT", data=random.choice((body, _stream(pieces)))
        )
        if document is not None and document["sha256"] != hashlib.sha256(body).hexdigest():
            self._ledger.blame("upload", f"{document['size']} of {size} bytes arrived, or different ones")

    async def download(self) -> None:
        """A response body, which must arrive complete or visibly aborted."""
        person, size, started = self._crowd.any_caller(), 3_000_000, time.time()
        status = NO_ANSWER
        try:
            async with self._session.get(f"{self._url}/download/{size}?chunked", headers=_bearer(person)) as answer:
                received = await answer.read()
                status = answer.status
        except (ClientError, OSError):
            pass
        good = self._ledger.enter("download", status, _now(person, started), started, person=person, forwards=True)
        if good and received != (PATTERN * (size // len(PATTERN) + 1))[:size]:
            self._ledger.blame("download", f"{len(received)} of {size} bytes, and the end looked regular")

    async def events(self) -> None:
        """An event stream of one caller, which ends soon after its token."""
        person, started = self._crowd.any_caller(), time.time()
        try:
            async with self._session.get(f"{self._url}/events", headers=_bearer(person)) as answer:
                deserved = _now(person, started)
                if self._ledger.enter("events", answer.status, deserved, started, person=person, forwards=True):
                    await self._follow("events", person, started, answer.content.readline, f"data: {person.name}")
        except (ClientError, OSError):
            self._ended("events", person, started)
        await asyncio.sleep(_PAUSE_AFTER_STREAM)

    async def messages(self) -> None:
        """A WebSocket that echoes messages until its token ends."""
        person, started = self._crowd.any_caller(), time.time()
        try:
            async with self._session.ws_connect(f"{self._url}/messages", headers=_bearer(person)) as socket:
                self._ledger.enter("messages", 200, _now(person, started), started, person=person, forwards=True)

                async def say() -> bytes:
                    message = await socket.receive()
                    if message.type is not WSMsgType.TEXT:
                        return b""
                    await asyncio.sleep(0.05)
                    await socket.send_str(person.name)
                    return str(message.data).encode()

                await self._follow("messages", person, started, say, person.name)
        except WSServerHandshakeError as refused:
            deserved = _now(person, started)
            self._ledger.enter("messages", refused.status, deserved, started, person=person, forwards=True)
        except (ClientError, OSError):
            self._ended("messages", person, started)
        await asyncio.sleep(_PAUSE_AFTER_STREAM)

    async def half_a_head(self) -> None:
        """A client that sends an incomplete head."""
        await self._stall("half a head", b"GET / HTTP/1.1\r\nHost: a\r\nX-", {b"408"})

    async def half_a_body(self) -> None:
        """A client that sends an incomplete body: 408, or an error of the failing upstream."""
        token = self._crowd.root.token.encode()
        head = b"PUT / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + token + b"\r\nContent-Length: 9\r\n\r\nhalf"
        await self._stall("half a body", head, {b"408", b"502", b"504"})

    async def slow_reader(self) -> None:
        """A client that disconnects during a response."""
        reader, writer = await asyncio.open_connection(*self._address.split(":"), limit=4096)
        head = f"GET /download/50000000 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {self._crowd.root.token}\r\n\r\n"
        writer.write(head.encode())
        for _ in range(30):
            if not await reader.read(1000):
                break
            await asyncio.sleep(0.1)
        self._ledger.counts["slow reader", 200] += 1
        writer.transport.abort()

    async def _ask(
        self,
        traffic: str,
        person: Person,
        target: str,
        *,
        forwards: bool,
        deserved: Any = None,
        method: str = "GET",
        data: Any = None,
    ) -> Any:
        """The document of a 200 response, else None. ``deserved``: the expected statuses, if not those of the token."""
        started, status, document = time.time(), NO_ANSWER, None
        try:
            url = f"{self._url}{target}"
            async with self._session.request(
                method, URL(url, encoded=True), headers=_bearer(person) | _ORIGINAL, data=data
            ) as answer:
                document = await _document(answer)
                status = answer.status
        except (ClientError, OSError):
            pass
        expected = _now(person, started) if deserved is None else deserved() if callable(deserved) else deserved
        good = self._ledger.enter(traffic, status, expected, started, person=person, forwards=forwards)
        await asyncio.sleep(random.random() * _PAUSE)
        return document if good and forwards else None

    async def _follow(
        self, traffic: str, person: Person, started: float, read: Callable[[], Awaitable[bytes]], expected: str
    ) -> None:
        """Read a stream until it ends or has sent enough."""
        while time.time() < started + STREAM_SECONDS:
            try:
                async with asyncio.timeout(1):
                    piece = await read()
            except TimeoutError:
                continue  # the upstream hangs; check all the same whether the stream should have ended
            finally:
                if not person.may_stream(time.time(), CUT_SECONDS):
                    self._ledger.blame(traffic, f"still open {CUT_SECONDS:g} s after the token of {person.name} ended")
            if not piece:
                self._ended(traffic, person, started)
                return
            if piece.strip() and piece.decode().strip() != expected:
                self._ledger.blame(traffic, f"{piece!r} instead of {expected!r}")

    def _ended(self, traffic: str, person: Person, started: float) -> None:
        """Check the end of a stream: only the end of its token or an upstream failure allows it."""
        self._ledger.counts[f"{traffic}: ended", NO_ANSWER] += 1
        now = time.time()
        if now < min(person.ending, person.expires_at) and not self._ledger.faults.overlap("service", started, now):
            self._ledger.blame(traffic, f"ended while the token of {person.name} was valid")

    async def _stall(self, traffic: str, data: bytes, allowed: set[bytes]) -> None:
        reader, writer = await asyncio.open_connection(*self._address.split(":"))
        writer.write(data)
        answer = b""
        try:
            async with asyncio.timeout(20):
                answer = await reader.read(12)
        except (OSError, TimeoutError):
            pass
        self._ledger.counts[traffic, int(answer[9:12] or NO_ANSWER)] += 1
        if answer[9:12] not in allowed:
            self._ledger.blame(traffic, f"{answer!r} instead of {allowed}")
        writer.transport.abort()


def _now(person: Person, started: float) -> set[int]:
    return set(person.deserves(started, time.time()))


async def _stream(pieces: list[bytes]) -> Any:
    for piece in pieces:
        yield piece


async def _document(answer: ClientResponse) -> Any:
    return await answer.json() if answer.content_type == "application/json" else await answer.read() and None


def _bearer(person: Person) -> dict[str, str]:
    return {"Authorization": f"Bearer {person.token}"}
