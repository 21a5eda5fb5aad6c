"""Checks are answered without a task where nothing has to be awaited, and the answer is the same in both cases."""

import asyncio
import base64
import hashlib
import ssl
import time
from typing import Any
from urllib.parse import quote

import pytest

from sidecar.authn.authenticators.jwt import JwtAuthenticator
from sidecar.authn.base import ABSTAINED, Accepted, Authenticator, Outcome
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.request import RequestContext
from sidecar.web.dispatcher import Dispatcher
from tests.flow.conftest import LOOPBACK, Scene, Start, bearer, plainly
from tests.support import forge
from tests.support.certificates import certificate
from tests.support.jwks_server import eventually
from tests.support.wire import Answer, Wire

TRUSTED = {"server": {"trustedProxies": [LOOPBACK]}}
ASKED = [("X-Original-URI", "/x"), ("X-Original-Method", "GET")]
HITS = 'sidecar_token_cache_lookups_total{result="hit"}'


class Counted:
    """How many requests were answered without a task, and how often a token was verified."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_once = 0
        self.verified = 0
        handle_head, authenticate = Dispatcher.handle_head, JwtAuthenticator.authenticate

        def counting_heads(*arguments: Any) -> bytes | None:
            answer = handle_head(*arguments)
            self.at_once += bool(answer)
            return answer

        def counting_verifications(*arguments: Any) -> Any:
            self.verified += 1
            return authenticate(*arguments)

        monkeypatch.setattr(Dispatcher, "handle_head", counting_heads)
        monkeypatch.setattr(JwtAuthenticator, "authenticate", counting_verifications)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def without_date(answer: Answer) -> tuple[int, list[tuple[str, str]], bytes]:
    return answer.status, [line for line in answer.head.headers if line[0] != "Date"], answer.body


async def known(scene: Scene, *headers: tuple[str, str]) -> Answer:
    """The answer to a check in a task, after which the token is known."""
    async with plainly(scene) as wire:
        answer = await wire.ask("/oauth2/auth", [*ASKED, *headers])
    assert answer.status == 200
    return answer


async def ask(wire: Wire, *headers: tuple[str, str]) -> Answer:
    """The good answer to a question about a token."""
    answer = await wire.ask("/oauth2/auth", [*ASKED, *headers])
    assert answer.status == 200
    return answer


@pytest.mark.parametrize(
    "target", ["/oauth2/auth", "/oauth2/forward_auth", "/oauth2/ext_authz/x", "/oauth2/auth?allowed_groups=staff"]
)
async def test_the_second_answer_is_the_first(start: Start, counted: Counted, target: str) -> None:
    """Byte for byte, but for the date; and it is counted like every other."""
    scene = await start(**TRUSTED)
    async with await scene.connect() as wire:
        token = bearer(groups=["staff"])
        headers = [*ASKED, ("X-Forwarded-Uri", "/x"), ("X-Forwarded-Method", "GET"), token]
        headers.append(("X-Request-Id", "the-same"))
        async with plainly(scene) as plain:
            first = await plain.ask(target, headers)
        second = await wire.ask(target, headers)
    assert without_date(first) == without_date(second)
    assert (counted.verified, counted.at_once) == (1, 1)
    assert await scene.metric('sidecar_http_requests_total{code="200",listener="public",route="check"}') == 2
    assert await scene.metric(HITS) == 1
    assert await scene.metric('sidecar_token_cache_lookups_total{result="miss"}') == 1
    accepted = 'sidecar_authentications_total{authenticator="jwt",outcome="accepted",provider="corp",reason="none"}'
    assert await scene.metric(accepted) == 2


async def test_pipelined_questions_are_answered_in_order(start: Start, counted: Counted) -> None:
    """Several in one packet, one cut in two, one behind a slower one: each gets its own answer, in turn."""
    scene = await start(**TRUSTED)
    name, value = bearer()
    known_one = f"GET /oauth2/auth HTTP/1.1\r\nHost: h\r\n{name}: {value}\r\n\r\n".encode()
    unknown = b"GET /oauth2/auth HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x\r\n\r\n"
    async with await scene.connect() as wire:
        await known(scene, bearer())
        await wire.send(known_one + unknown + known_one)
        assert [(await wire.answer()).status for _ in range(3)] == [200, 401, 200]
        await wire.send(known_one[:40])
        await wire.send(known_one[40:] + known_one[:10])
        assert (await wire.answer()).status == 200
        await wire.send(known_one[10:])
        assert (await wire.answer()).status == 200
        await wire.send(unknown)
        await wire.send(known_one)
        assert [(await wire.answer()).status for _ in range(2)] == [401, 200]
    assert counted.at_once >= 2


async def test_what_no_longer_stands_is_refused(start: Start, counted: Counted) -> None:
    """A known token is asked for its expiry, and its key for its life, on every use."""
    scene = await start(**TRUSTED)
    async with await scene.connect() as wire:
        await known(scene, bearer())
        await ask(wire, bearer())
        scene.clock.advance(forge.claims()["exp"] - forge.NOW + 60)
        refused = await wire.ask("/oauth2/auth", [*ASKED, bearer()])
        assert (refused.status, refused.json()["reason"]) == (401, "token_expired")
    assert counted.at_once == 2


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([("X-Original-URI", "/a/../b"), ("X-Original-Method", "GET")], 403),
        ([("X-Original-URI", "/admin"), ("X-Original-Method", "GET")], 403),
        ([("X-Original-URI", "/x"), ("X-Original-URI", "/x"), ("X-Original-Method", "GET")], 403),
        ([], 403),
        ([("X-Original-URI", "/x"), ("X-Original-Method", "GET"), ("Authorization", "Bearer y")], 403),
        ([("X-Original-URI", "/x"), ("X-Original-Method", "GET"), ("Expect", "wonders")], 417),
    ],
)
async def test_known_tokens_do_not_open_what_is_closed(
    start: Start, counted: Counted, lines: list[tuple[str, str]], status: int
) -> None:
    """Paths, rules, doubled headers and framing are judged for a known token as for any other."""
    scene = await start(**TRUSTED, rules=[{"path": "/admin", "require": {"groups": ["admins"]}}])
    async with await scene.connect() as wire:
        await known(scene, bearer())
        assert (await wire.ask("/oauth2/auth", [*lines, bearer()])).status == status
    assert counted.at_once == (status == 403), "a refusal without a task, unless it ends the connection"


async def test_untrusted_peers_get_no_minted_tokens_at_once(start: Start, counted: Counted) -> None:
    scene = await start(identityHeaders={"assertion": True})
    async with await scene.connect() as wire:
        assert (await known(scene, bearer())).all("X-Auth-Assertion") == [""]
        assert (await ask(wire, bearer())).all("X-Auth-Assertion") == [""]
    assert counted.at_once == 1


async def test_bodies_old_versions_and_closing_callers_need_a_task(start: Start, counted: Counted) -> None:
    scene = await start(**TRUSTED)
    name, value = bearer()
    async with await scene.connect() as wire:
        await known(scene, bearer())
        assert (await wire.ask("/oauth2/auth", [*ASKED, bearer()], method="POST", body=b"x")).status == 200
        assert (await wire.ask("/oauth2/auth", [*ASKED, bearer(), ("Connection", "close")])).status == 200
        assert await wire.ended() == b""
    async with await scene.connect() as wire:
        await wire.send(f"GET /oauth2/auth HTTP/1.0\r\n{name}: {value}\r\n\r\n".encode())
        assert (await wire.answer()).status == 200
        assert await wire.ended() == b""
    assert counted.at_once == 0


async def test_a_connection_kept_busy_at_once_stays_open(start: Start, counted: Counted) -> None:
    """Answers given at once count as life on the connection."""
    scene = await start(server={"trustedProxies": [LOOPBACK], "limits": {"idleTimeout": "500ms"}})
    async with await scene.connect() as wire:
        await ask(wire, bearer())
        until = time.monotonic() + 1.5
        asked = 0
        while time.monotonic() < until:
            await ask(wire, bearer())
            asked += 1
            await asyncio.sleep(0.01)
    assert counted.at_once >= asked


async def test_broken_requests_behind_known_ones_are_refused(start: Start, counted: Counted) -> None:
    scene = await start(**TRUSTED)
    async with await scene.connect() as wire:
        await known(scene, bearer())
        await ask(wire, bearer())
        await wire.send(b"GET /oauth2/auth HTTP/1.1\r\nHost: h\r\nBad Header: x\r\n\r\n")
        refused = await wire.answer()
        assert (refused.status, refused.json()["reason"]) == (400, "request_invalid")
        assert await wire.ended() == b""


async def test_bound_tokens_need_their_certificate_at_once_too(start: Start, counted: Counted) -> None:
    """A token that is bound to a client certificate (RFC 8705) is asked for it on every use."""
    pem = certificate()[0].decode()
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest()
    bound = bearer(cnf={"x5t#S256": base64.urlsafe_b64encode(digest).rstrip(b"=").decode()})
    proof = ("X-Forwarded-Client-Cert", quote(pem))
    scene = await start(server={"trustedProxies": [LOOPBACK], "clientCertificates": "nginx"})
    async with await scene.connect() as wire:
        await known(scene, bound, proof)
        await ask(wire, bound, proof)
        assert (await wire.ask("/oauth2/auth", [*ASKED, bound])).status == 401
    assert counted.at_once == 2


@pytest.mark.parametrize("claims", [{}, {"jti": "j1"}, {"sub": "Sam@Example.COM"}, {"groups": ["a,b", "c d"]}])
async def test_the_first_answer_is_what_it_would_have_been(
    start: Start, counted: Counted, claims: dict[str, Any]
) -> None:
    """A token seen for the first time is verified at once where its keys are in memory, and remembered."""
    scene = await start(**TRUSTED)
    token, named = bearer(**claims), ("X-Request-Id", "the-same")
    async with await scene.connect() as wire:
        first = await ask(wire, token, named)
        assert (counted.verified, counted.at_once) == (1, 1)
        second = await ask(wire, token, named)
    other = bearer(**{**claims, "unread": 1})  # another text, the same Actor
    third = await known(scene, other, named)
    assert (counted.verified, counted.at_once) == (2, 2)
    assert without_date(first) == without_date(second) == without_date(third)
    assert await scene.metric('sidecar_token_cache_lookups_total{result="miss"}') == 2
    assert await scene.metric(HITS) == 1


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": 1}, "token_expired"),
        ({"iss": "https://elsewhere.example"}, "token_invalid"),
        ({"aud": "another"}, "token_invalid"),
        ({"sub": ""}, "principal_invalid"),
        ({"auth_sidecar": "upstream"}, "token_invalid"),
    ],
)
async def test_a_bad_token_is_verified_once_for_each_request(
    start: Start, counted: Counted, claims: dict[str, Any], reason: str
) -> None:
    scene = await start(**TRUSTED)
    async with await scene.connect() as wire:
        for _ in range(2):
            refused = await wire.ask("/oauth2/auth", [*ASKED, bearer(**claims)])
            assert (refused.status, refused.json()["reason"]) == (401, reason)
    assert (counted.verified, counted.at_once) == (2, 2)
    assert await scene.metric("sidecar_token_cache_entries") == 0
    assert await scene.metric('sidecar_http_requests_total{code="401",listener="public",route="check"}') == 2


class AnyCredential(Authenticator):
    """Accepts any credential as its one user."""

    async def authenticate(self, view: RequestContext) -> Outcome:
        return Accepted(Actor(ActorType.USER, "any-credential", provider=self.name, authenticator=self.name))


async def test_authenticators_are_called_in_order(start: Start, counted: Counted) -> None:
    """Where another member comes first, a new token is not verified before that one has been asked."""
    members = [{"type": f"{__name__}:AnyCredential"}, {"type": "jwt"}]
    scene = await start(**TRUSTED, authentication={"authenticators": members})
    async with await scene.connect() as wire:
        assert (await ask(wire, bearer())).all("X-Auth-Request-User") == ["any-credential"]
    assert (counted.at_once, counted.verified) == (0, 0)


class Abstains(Authenticator):
    """Recognises nothing, and awaits nothing."""

    def authenticate(self, view: RequestContext) -> Outcome:
        return ABSTAINED


class AbstainsLater(Authenticator):
    """Recognises nothing, as a coroutine."""

    async def authenticate(self, view: RequestContext) -> Outcome:
        return ABSTAINED


@pytest.mark.parametrize(("kind", "at_once"), [("Abstains", 1), ("AbstainsLater", 0)])
async def test_only_an_authenticator_that_waits_needs_a_task(
    start: Start, counted: Counted, kind: str, at_once: int
) -> None:
    """Others before ``jwt`` do not slow down new tokens. Known tokens are not affected by either."""
    members = [{"type": f"{__name__}:{kind}"}, {"type": "jwt"}]
    scene = await start(**TRUSTED, authentication={"authenticators": members})
    async with await scene.connect() as wire:
        assert (await ask(wire, bearer())).all("X-Auth-Request-User") == ["sam"]
        assert (counted.at_once, counted.verified) == (at_once, 1)
        await ask(wire, bearer())
        assert (counted.at_once, counted.verified) == (at_once + 1, 1)


async def test_the_access_log_needs_no_task(start: Start, counted: Counted, caplog: pytest.LogCaptureFixture) -> None:
    scene = await start(**TRUSTED, logging={"access": True})
    async with await scene.connect() as wire:
        with caplog.at_level("INFO", "sidecar.access"):
            first = await ask(wire, bearer())
            refused = await wire.ask("/oauth2/auth", [*ASKED, bearer(exp=1)])
    lines = [record.__dict__ for record in caplog.records if record.name == "sidecar.access"]
    assert counted.at_once == 2
    assert [(line["status"], line["route"], line["path"], line["requestId"]) for line in lines] == [
        (answer.status, "check", "/oauth2/auth", answer.all("X-Request-Id")[0]) for answer in (first, refused)
    ]


async def test_an_answer_that_waits_is_given_up_with_its_caller(start: Start, counted: Counted) -> None:
    """Its place is free again, and nothing is left of it."""
    scene = await start(published=False, **TRUSTED)
    async with await scene.connect() as wire:
        await wire.request("/oauth2/auth", [*ASKED, bearer()])
        wire.writer.transport.abort()
    await eventually(lambda: counted.verified == 1 and not scene.connections)
    await eventually(lambda: scene.in_flight == scene.undecided == 0)
