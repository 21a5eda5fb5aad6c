"""Most checks are answered before aiohttp makes a request of them: nobody may notice, but for the time it takes."""

import asyncio
import base64
import hashlib
import ssl
import time
from typing import Any
from urllib.parse import quote

import pytest

from sidecar.authn.authenticators.jwt import JwtAuthenticator
from sidecar.authn.base import Accepted, Authenticator, Outcome
from sidecar.dataplane.check import CheckEndpoint
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.request import RequestContext
from tests.flow.conftest import LOOPBACK, Scene, Start, bearer, plainly
from tests.support import forge
from tests.support.certificates import certificate
from tests.support.wire import Answer, Wire

TRUSTED = {"server": {"trustedProxies": [LOOPBACK]}}
ASKED = [("X-Original-URI", "/x"), ("X-Original-Method", "GET")]
HITS = 'sidecar_token_cache_lookups_total{result="hit"}'


class Counted:
    """How often a known check was answered at once, and how often a credential was judged in the usual way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_once = 0
        self.judged = 0
        at_once, judge = CheckEndpoint.at_once, JwtAuthenticator.authenticate

        def counting_at_once(*arguments: Any, **named: Any) -> bytes | None:
            block = at_once(*arguments, **named)
            self.at_once += block is not None
            return block

        def counting_judge(*arguments: Any) -> Any:
            self.judged += 1
            return judge(*arguments)

        monkeypatch.setattr(CheckEndpoint, "at_once", counting_at_once)
        monkeypatch.setattr(JwtAuthenticator, "authenticate", counting_judge)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def without_date(answer: Answer) -> tuple[int, list[tuple[str, str]], bytes]:
    return answer.status, [line for line in answer.head.headers if line[0] != "Date"], answer.body


async def known(scene: Scene, *headers: tuple[str, str]) -> Answer:
    """The answer to the first question, asked in the usual way, after which the token is known."""
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
    ("target", "at_once"),
    [
        ("/oauth2/auth", 1),
        ("/oauth2/forward_auth", 1),
        ("/oauth2/ext_authz/x", 1),
        ("/oauth2/auth?allowed_groups=staff", 0),  # conditions are decided by a task
    ],
)
async def test_the_second_answer_is_the_first(start: Start, counted: Counted, target: str, at_once: int) -> None:
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
    assert (counted.judged, counted.at_once) == (1, at_once)
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
    assert counted.at_once == 1


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
    assert counted.at_once == 0


async def test_untrusted_peers_get_no_minted_tokens_at_once(start: Start, counted: Counted) -> None:
    scene = await start(identityHeaders={"assertion": True})
    async with await scene.connect() as wire:
        assert (await known(scene, bearer())).all("X-Auth-Assertion") == [""]
        assert (await ask(wire, bearer())).all("X-Auth-Assertion") == [""]
    assert counted.at_once == 1


async def test_bodies_old_versions_and_closing_callers_take_the_usual_way(start: Start, counted: Counted) -> None:
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
    assert counted.at_once == 1


@pytest.mark.parametrize("claims", [{}, {"jti": "j1"}, {"sub": "Sam@Example.COM"}, {"groups": ["a,b", "c d"]}])
async def test_the_first_answer_is_what_it_would_have_been(
    start: Start, counted: Counted, claims: dict[str, Any]
) -> None:
    """A token seen for the first time is verified at once where its keys are in memory, and remembered."""
    scene = await start(**TRUSTED)
    token, named = bearer(**claims), ("X-Request-Id", "the-same")
    async with await scene.connect() as wire:
        first = await ask(wire, token, named)
        assert (counted.judged, counted.at_once) == (0, 1)
        second = await ask(wire, token, named)
    other = bearer(**{**claims, "unread": 1})  # another text, the same Actor
    third = await known(scene, other, named)
    assert (counted.judged, counted.at_once) == (1, 2)
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
async def test_bad_new_tokens_are_refused_in_the_usual_way(
    start: Start, counted: Counted, claims: dict[str, Any], reason: str
) -> None:
    scene = await start(**TRUSTED)
    async with await scene.connect() as wire:
        for _ in range(2):
            refused = await wire.ask("/oauth2/auth", [*ASKED, bearer(**claims)])
            assert (refused.status, refused.json()["reason"]) == (401, reason)
    assert counted.at_once == 0
    assert await scene.metric("sidecar_token_cache_entries") == 0


class Everybody(Authenticator):
    """Takes whoever presents anything for its own user."""

    async def authenticate(self, view: RequestContext) -> Outcome:
        return Accepted(Actor(ActorType.USER, "everybody", provider=self.name, authenticator=self.name))


async def test_nobody_is_asked_out_of_turn(start: Start, counted: Counted) -> None:
    """Where another member comes first, a new token is not verified before that one has been asked."""
    members = [{"type": f"{__name__}:Everybody"}, {"type": "jwt"}]
    scene = await start(**TRUSTED, authentication={"authenticators": members})
    async with await scene.connect() as wire:
        assert (await ask(wire, bearer())).all("X-Auth-Request-User") == ["everybody"]
    assert (counted.at_once, counted.judged) == (0, 0)
