"""Header fields that HTTP asks for in certain answers: Date, Upgrade with 426, Allow with 405."""

from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.flow.conftest import Start, bearer, own_keys, plainly
from tests.support.scripted_upstream import ScriptedUpstream, answering
from tests.support.wire import Wire

NO_DATE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
DATED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\nok"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_forwarded_answer_without_date_gets_one(start: Start, method: str) -> None:
    """RFC 9110 section 6.6.1, on a new connection, on one that is kept, and where nothing is answered at once."""
    async with ScriptedUpstream(answering(NO_DATE)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire, plainly(scene) as plain:
            for used in (wire, wire, plain):
                answer = await used.ask("/x", [bearer()], method=method)
                (date,) = answer.all("Date")
                assert parsedate_to_datetime(date).year >= 2024
                assert answer.all("Server") == []


async def test_the_upstreams_own_date_stays(start: Start) -> None:
    async with ScriptedUpstream(answering(DATED)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            for _ in range(2):
                answer = await wire.ask("/x", [bearer()])
                assert answer.all("Date") == ["Sun, 06 Nov 1994 08:49:37 GMT"]


async def test_an_upgrade_that_is_required_is_named(start: Start) -> None:
    """426 without it says nothing (RFC 9110 section 15.5.22); in other answers it is the upstream's own hop."""
    required = (
        b"HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n"
    )
    async with ScriptedUpstream(answering(required)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            for _ in range(2):
                answer = await wire.ask("/x", [bearer()])
                assert (answer.status, answer.all("Upgrade"), answer.all("Connection")) == (
                    426,
                    ["websocket"],
                    ["Upgrade"],
                )
    offered = b"HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n"
    async with ScriptedUpstream(answering(offered)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            answer = await wire.ask("/x", [bearer()])
            assert (answer.all("Upgrade"), answer.all("Connection")) == ([], [])


async def test_an_upgrade_with_control_characters_is_not_passed_on(start: Start) -> None:
    required = b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: web\x07socket\r\nContent-Length: 0\r\n\r\n"
    async with ScriptedUpstream(answering(required)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            assert (await wire.ask("/x", [bearer()])).status == 502


ALLOWED = {
    "/oauth2/userinfo": "GET, HEAD",
    "/oauth2/jwks": "GET, HEAD",
    "/oauth2/revoke": "POST",
    "/oauth2/introspect": "POST",
    "/oauth2/tokens": "GET, POST, HEAD",
    "/oauth2/tokens/x": "GET, DELETE, HEAD",
    "/oauth2/revocations/x": "DELETE",
}


@pytest.mark.parametrize("method", ["PATCH", "TRACE"])
async def test_every_405_names_the_methods_of_its_resource(start: Start, tmp_path: Path, method: str) -> None:
    """Also where the method is refused everywhere; then the connection ends too."""
    scene = await start(jwtTokenConfiguration=own_keys(tmp_path))
    for target, allowed in ALLOWED.items():
        async with await scene.connect() as wire:
            answer = await wire.ask(target, [bearer()], method=method)
            assert (answer.status, answer.all("Allow")) == (405, [allowed]), target
            assert answer.all("Connection") == (["close"] if method == "TRACE" else [])
    for target in ("/livez", "/metrics", "/config", "/readyz"):
        async with await Wire.to(scene.admin_address) as wire:
            answer = await wire.ask(target, method=method)
            assert (answer.status, answer.all("Allow")) == (405, ["GET, HEAD"]), target


@pytest.mark.parametrize("target", ["/oauth2/auth", "/x"])
async def test_so_does_one_where_any_other_method_may_come(start: Start, target: str) -> None:
    scene = await start()
    async with await scene.connect() as wire:
        answer = await wire.ask(target, [bearer()], method="TRACE")
        assert (answer.status, answer.all("Allow")) == (405, ["GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"])
