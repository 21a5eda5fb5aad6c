"""Answers that are given before their request has ended: each ends its connection, on every listener."""

from pathlib import Path
from typing import Any

import pytest

from tests.flow.conftest import LOOPBACK, Scene, Start, bearer, own_keys, plainly
from tests.support.http_client import request as send
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.sidecar_process import running_sidecar
from tests.support.wire import Answer, Wire

ANNOUNCED = {
    "length": "Content-Length: 1032\r\n",
    "chunked": "Transfer-Encoding: chunked\r\n",
    "expectation and length": "Expect: 100-continue\r\nContent-Length: 10\r\n",
    "expectation and chunked": "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n",
    "expectation": "Expect: 100-continue\r\n",
    "length and upgrade": "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1032\r\n",
}
GOOD = "{}: {}\r\n".format(*bearer())
BAD = "Authorization: Bearer nonsense\r\n"
ORIGINAL = "X-Original-URI: /x\r\nX-Original-Method: POST\r\nX-Forwarded-Uri: /x\r\nX-Forwarded-Method: POST\r\n"
SMUGGLED = b"GET /oauth2/userinfo HTTP/1.1\r\nHost: a\r\n\r\n"
# Method, target, credential and the status of the answer, which none of them needs a body for.
PUBLIC = {
    "nginx's check": ("GET", "/oauth2/auth", GOOD, 200),
    "nginx's check, refused": ("GET", "/oauth2/auth", BAD, 401),
    "Traefik's check": ("GET", "/oauth2/forward_auth", GOOD, 200),
    "Traefik's check, refused": ("POST", "/oauth2/forward_auth", BAD, 401),
    "Envoy's check": ("PUT", "/oauth2/ext_authz/x", GOOD, 200),
    "Envoy's check, refused": ("GET", "/oauth2/ext_authz/x", BAD, 401),
    "user info": ("GET", "/oauth2/userinfo", GOOD, 200),
    "user info, wrong method": ("POST", "/oauth2/userinfo", GOOD, 405),
    "published keys": ("GET", "/oauth2/jwks", "", 200),
    "list of tokens": ("GET", "/oauth2/tokens", GOOD, 200),
    "minting, refused": ("POST", "/oauth2/tokens", BAD, 401),
    "minting, wrong type": ("POST", "/oauth2/tokens", GOOD, 400),
    "revocation list, refused": ("POST", "/oauth2/revocations", GOOD, 403),
    "removal, refused": ("DELETE", "/oauth2/tokens/x", BAD, 401),
    "revocation, bad credential": ("POST", "/oauth2/revoke", BAD, 401),
    "revocation, wrong type": ("POST", "/oauth2/revoke", "", 400),
    "introspection, refused": ("POST", "/oauth2/introspect", "", 401),
    "no such endpoint": ("POST", "/oauth2/nothing", GOOD, 404),
    "no upstream": ("POST", "/elsewhere", GOOD, 404),
    "bad target": ("POST", "/a/../b", GOOD, 404),
    "no host": ("POST", "http://b/x", GOOD, 400),
}  # fmt: skip
OPERATIONS = {
    "alive": ("GET", "/livez", "", 200),
    "ready": ("GET", "/readyz", "", 200),
    "metrics": ("GET", "/metrics", "", 200),
    "configuration": ("GET", "/config", "", 200),
    "no such path": ("GET", "/nothing", "", 404),
    "wrong method": ("POST", "/livez", "", 405),
}  # fmt: skip
Asked = tuple[str, str, str, int]


async def assert_ends(wire: Wire, asked: Asked, announced: str, version: str = "1.1") -> Answer:
    """The answer says that it is the last one, and nothing that follows is read as a request."""
    method, target, credential, status = asked
    kept = "Connection: keep-alive\r\n" if version == "1.0" else ""
    head = f"{method} {target} HTTP/{version}\r\nHost: a\r\n{kept}{credential}{ORIGINAL}{announced}\r\n"
    await wire.send(head.encode())
    answer = await wire.answer(method)
    while answer.status == 100:  # a caller that waits for it may get it; it is not the answer
        answer = await wire.answer(method)
    assert (answer.status, answer.all("Connection")) == (status, ["close"]), asked
    wire.writer.write(SMUGGLED * 3)
    assert await wire.ended() == b"", f"{asked}: answered what was announced as a body"
    return answer


async def check_scene(start: Start, folder: Path) -> Scene:
    configured = {"server": {"trustedProxies": [LOOPBACK]}, "jwtTokenConfiguration": own_keys(folder)}
    return await start(**configured)


@pytest.mark.parametrize("announced", ANNOUNCED.values(), ids=ANNOUNCED)
async def test_an_answer_before_the_end_of_its_request_ends_the_connection(
    start: Start, tmp_path: Path, announced: str
) -> None:
    """Whatever answers, a second request is never read out of a body that was announced."""
    scene = await check_scene(start, tmp_path)
    for asked in PUBLIC.values():
        async with await scene.connect() as wire:
            await assert_ends(wire, asked, announced)


async def test_so_does_one_to_a_request_of_http_1_0(start: Start, tmp_path: Path) -> None:
    scene = await check_scene(start, tmp_path)
    for asked in PUBLIC.values():
        async with await scene.connect() as wire:
            await assert_ends(wire, asked, ANNOUNCED["length"], "1.0")


@pytest.mark.parametrize("announced", ANNOUNCED.values(), ids=ANNOUNCED)
async def test_so_does_one_that_is_not_the_first_on_its_connection(
    start: Start, tmp_path: Path, announced: str
) -> None:
    """On an idle connection a check is answered without a task; one that announces a body is not."""
    scene = await check_scene(start, tmp_path)
    async with await scene.connect() as wire:
        check = "GET /oauth2/auth HTTP/1.1\r\nHost: a\r\n" + GOOD + ORIGINAL
        for _ in range(2):
            await wire.send(f"{check}\r\n".encode())
            assert (await wire.answer()).status == 200
        await assert_ends(wire, PUBLIC["nginx's check"], announced)
    async with plainly(scene) as wire:
        await assert_ends(wire, PUBLIC["nginx's check"], announced)


@pytest.mark.parametrize("announced", ANNOUNCED.values(), ids=ANNOUNCED)
async def test_the_operations_listener_ends_its_connection_too(start: Start, announced: str) -> None:
    scene = await start()
    for asked in OPERATIONS.values():
        async with await Wire.to(scene.admin_address) as wire:
            answer = await assert_ends(wire, asked, announced)
            assert answer.all("Allow") == (["GET, HEAD"] if asked[3] == 405 else []), asked


@pytest.mark.parametrize("announced", ["length", "chunked", "expectation and length"])
@pytest.mark.parametrize(("credential", "status"), [(GOOD, 413), (BAD, 401), ("", 401)])
async def test_a_refusal_to_forward_ends_the_connection(
    start: Start, announced: str, credential: str, status: int
) -> None:
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url, server={"limits": {"maxBodyBytes": 5}})
        async with await scene.connect() as wire:
            if status == 413 and announced == "chunked":
                await wire.send(f"POST /x HTTP/1.1\r\nHost: a\r\n{GOOD}Transfer-Encoding: chunked\r\n\r\n".encode())
                await wire.send(b"9\r\n123456789\r\n")
                answer = await wire.answer()
                assert (answer.status, answer.all("Connection")) == (413, ["close"])
                assert await wire.ended() == b""
            else:
                await assert_ends(wire, ("POST", "/x", credential, status), ANNOUNCED[announced])
    assert all(not request.target.startswith("/oauth2") for request in upstream.requests)


async def test_an_answer_of_the_upstream_that_comes_early_ends_the_connection(start: Start) -> None:
    async def script(connection: Any) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            await assert_ends(wire, ("POST", "/x", GOOD, 403), ANNOUNCED["length"])


@pytest.mark.parametrize("body", ["Content-Length: 9\r\n\r\nall of it", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
async def test_a_body_that_has_arrived_keeps_the_connection(start: Start, tmp_path: Path, body: str) -> None:
    """It is dropped; what follows it is the next request."""
    scene = await check_scene(start, tmp_path)
    async with await scene.connect() as wire:
        for _ in range(3):
            await wire.send(f"GET /oauth2/auth HTTP/1.1\r\nHost: a\r\n{GOOD}{ORIGINAL}{body}".encode())
            answer = await wire.answer()
            assert (answer.status, answer.all("Connection")) == (200, [])
        await wire.send(f"GET /oauth2/auth HTTP/1.1\r\nHost: a\r\n{GOOD}{ORIGINAL}Content-Length: 0\r\n\r\n".encode())
        assert (await wire.answer()).all("Connection") == []


async def test_the_caller_sees_the_end_without_sending_what_it_announced(start: Start, tmp_path: Path) -> None:
    """The sidecar waits for no body: its direction of the connection ends with the answer."""
    scene = await check_scene(start, tmp_path)
    async with await scene.connect() as wire:
        await wire.send(f"GET /oauth2/auth HTTP/1.1\r\nHost: a\r\n{GOOD}{ORIGINAL}Content-Length: 5\r\n\r\n".encode())
        assert (await wire.answer()).status == 200
        assert await wire.ended() == b""
        await wire.send(b"12345")  # read and dropped: no reset, which could destroy an answer on its way


GET = f"GET /oauth2/auth HTTP/1.1\r\nHost: a\r\n{GOOD}\r\n".encode()
BAD_REQUESTS = (b"???\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", b"GET / HTTP/1.1\r\n\x00")
POSTED = f"GET /oauth2/auth HTTP/1.1\r\nHost: a\r\n{GOOD}Content-Length: 8\r\n\r\n\r\n\r\nabcd".encode()


@pytest.mark.parametrize("good", [[GET], [GET] * 5, [POSTED], [POSTED, GET]], ids=["one", "five", "body", "both"])
@pytest.mark.parametrize("bad", BAD_REQUESTS)
@pytest.mark.parametrize("is_first", [True, False])
async def test_good_requests_in_front_of_a_malformed_one_are_answered(
    start: Start, good: list[bytes], bad: bytes, *, is_first: bool
) -> None:
    """Also when all of them come in one segment: each gets its answer, then the malformed one gets its 400."""
    scene = await start()
    async with await scene.connect() as wire:
        if not is_first:
            await wire.send(GET)
            assert (await wire.answer()).status == 200
        await wire.send(b"".join(good) + bad)
        for _ in good:
            answer = await wire.answer()
            assert (answer.status, answer.all("Connection")) == (200, [])
        answer = await wire.answer()
        assert (answer.status, answer.all("Connection")) == (400, ["close"])
        assert await wire.ended() == b""


def test_every_worker_ends_connections_alike(tmp_path: Path) -> None:
    with IdentityProvider() as provider:
        block = {"name": "corp", "issuer": provider.issuer, "audiences": [AUDIENCE]}
        configuration = {"authenticationConfiguration": {"providers": [block]}, "server": {"workers": 2}}
        with running_sidecar(tmp_path, configuration) as sidecar:
            for url in (f"{sidecar.url}/oauth2/auth", f"{sidecar.url}/oauth2/nothing", f"{sidecar.admin_url}/livez"):
                reply = send(url, headers=[("Content-Length", "10"), ("Authorization", f"Bearer {provider.mint()}")])
                assert reply.all("Connection") == ["close"], url
