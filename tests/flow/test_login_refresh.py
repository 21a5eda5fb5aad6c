"""Sessions ask the provider again: once for all replicas, without waiting, and what it says counts everywhere."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar.app.running import run_sidecar
from sidecar.config.load import load
from sidecar.login import recheck
from tests.flow.test_login import API, SESSION, World, received, world_of
from tests.support.http_client import Reply
from tests.support.login_provider import Browser
from tests.support.ports import free_port

# The clocks are real: with a recheck of one second, a refresh is due after 2.2 seconds at the latest.
QUICK = {"recheck": "1s", "recheckGrace": "1h"}


@asynccontextmanager
async def replicas(folder: Path, **session: str) -> AsyncIterator[tuple[World, str]]:
    """A world, and the URL of a second sidecar over its store."""
    async with world_of(folder, login={"session": {**QUICK, **session}}) as world:
        document = json.loads((folder / "sidecar.yaml").read_text())
        port = free_port()
        document["server"] |= {"listen": f"127.0.0.1:{port}"}
        path = folder / "second.yaml"
        path.write_text(json.dumps(document), encoding="utf-8")
        world.idp.gives_refresh_tokens = True
        async with run_sidecar(load([str(path)], {})):
            yield world, f"http://127.0.0.1:{port}"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path, login={"session": QUICK}) as made:
        made.idp.gives_refresh_tokens = True
        yield made


async def until(world: World, browser: Browser, wanted: int) -> Reply:
    """The first answer with the status ``wanted``."""
    for _ in range(60):
        reply = await browser.send(world.url + "/", headers=API)
        if reply.status == wanted:
            return reply
        await asyncio.sleep(0.1)
    raise AssertionError(f"{reply.status} {reply.body!r}, not {wanted}")


async def test_one_refresh_for_many_requests_at_two_replicas(tmp_path: Path) -> None:
    """The provider takes each refresh token once and ends the session of one that comes twice."""
    # twenty requests take less than the four seconds after which another refresh is due
    async with replicas(tmp_path, recheck="4s") as (world, second):
        browser = await world.login()
        for expected in (1, 2):
            await asyncio.sleep(8.2)  # twice the recheck: a refresh is due
            urls = [url + "/" for url in (world.url, second) for _ in range(10)]
            replies = await asyncio.gather(*(browser.send(url, headers=API) for url in urls))
            assert {reply.status for reply in replies} == {200}
            assert (world.idp.refreshes, world.idp.reused) == (expected, 0)


async def test_provider_that_is_slow_gets_no_refresh_token_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock lasts as long as the provider may take."""
    monkeypatch.setattr(recheck, "_LOCK", 0.3)
    async with replicas(tmp_path) as (world, second):
        browser = await world.login()
        world.idp.wrong = "refresh: slow"
        await asyncio.sleep(1.1)
        for url in (world.url, second):
            assert (await browser.send(url + "/", headers=API)).status == 200
            await asyncio.sleep(0.5)
        await asyncio.sleep(1.5)
        assert (world.idp.refreshes, world.idp.reused) == (1, 0)


async def test_known_claims_stand_while_the_refresh_runs(world: World) -> None:
    browser = await world.login()
    world.idp.wrong = "refresh: slow"
    await asyncio.sleep(1.1)
    started = asyncio.get_running_loop().time()
    assert (await browser.send(world.url + "/", headers=API)).status == 200
    assert asyncio.get_running_loop().time() - started < 0.8
    await asyncio.sleep(1.2)
    assert world.idp.refreshes == 1


async def test_groups_are_those_of_the_last_refresh(world: World) -> None:
    browser = await world.login()
    world.idp.groups = ["writers"]
    await asyncio.sleep(2.2)
    reply = await browser.send(world.url + "/", headers=API)
    assert received(reply).all("X-Auth-Request-Groups") == ["writers"]
    labels = {"provider": "corp", "outcome": "confirmed"}
    assert world.sidecar.metrics.registry.get_sample_value("sidecar_session_refreshes_total", labels) == 1
    assert received(reply).all("X-Auth-Request-User") == ["alice"]


async def test_person_who_is_disabled_at_the_provider_is_out_on_every_replica(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (world, second):
        browser = await world.login()
        assert (await browser.send(second + "/", headers=API)).status == 200
        world.idp.end("alice")
        await asyncio.sleep(2.2)
        assert (await browser.send(world.url + "/", headers=API)).json()["reason"] == "session_ended"
        await asyncio.sleep(0.3)
        reply = await browser.send(second + "/", headers=API)
        assert (reply.status, reply.json()["reason"]) == (401, "session_ended")
        assert world.idp.refreshes == 0


@pytest.mark.parametrize("wrong", ["subject", "issuer", "audience", "nonce", "auth_time", "name"])
async def test_refresh_that_names_another_person_or_login_ends_the_session(world: World, wrong: str) -> None:
    browser = await world.login()
    world.idp.wrong = f"refresh: {wrong}"
    await asyncio.sleep(2.2)
    reply = await until(world, browser, 401)
    assert reply.json()["reason"] == "session_ended"


@pytest.mark.parametrize("wrong", ["down", "temporarily", "client", "token type"])
async def test_session_goes_on_while_the_provider_cannot_say(world: World, wrong: str) -> None:
    browser = await world.login()
    world.idp.wrong = f"refresh: {wrong}"
    await asyncio.sleep(2.2)
    for _ in range(3):
        assert (await browser.send(world.url + "/", headers=API)).status == 200
        await asyncio.sleep(0.2)


async def test_session_ends_if_the_provider_is_away_for_longer_than_the_grace(tmp_path: Path) -> None:
    async with world_of(tmp_path, login={"session": {**QUICK, "recheckGrace": "2s"}}) as world:
        world.idp.gives_refresh_tokens = True
        browser = await world.login()
        world.idp.wrong = "refresh: down"
        await asyncio.sleep(2.2)
        assert (await browser.send(world.url + "/", headers=API)).status == 200
        assert (await until(world, browser, 401)).json()["reason"] == "session_ended"


async def test_refresh_without_id_token_asks_userinfo(world: World) -> None:
    browser = await world.login()
    world.idp.wrong = "refresh: no id token"
    await asyncio.sleep(2.2)
    reply = await browser.send(world.url + "/", headers=API)
    assert received(reply).all("X-Auth-Request-Groups") == ["from-userinfo"]


async def test_refresh_token_is_revoked_at_sign_out(world: World) -> None:
    browser = await world.login()
    headers = (("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"))
    reply = await browser.send(world.url + "/oauth2/sign_out", headers=headers)
    assert reply.status == 303
    await asyncio.sleep(0.3)
    assert world.idp.revoked == ["refresh-alice-0"]
    assert SESSION not in browser.cookies


async def test_without_refresh_token_or_by_configuration_nothing_is_asked(tmp_path: Path) -> None:
    async with world_of(tmp_path, login={"session": QUICK}, registration={"refresh": "never"}) as world:
        world.idp.gives_refresh_tokens = True
        browser = await world.login()
        world.idp.end("alice")
        await asyncio.sleep(2.2)
        assert (await browser.send(world.url + "/", headers=API)).status == 200


async def test_no_token_of_the_provider_is_readable_in_the_store(tmp_path: Path) -> None:
    async with world_of(tmp_path, login={"session": QUICK}) as world:
        world.idp.gives_refresh_tokens = True
        await world.login()
    written = b"".join(path.read_bytes() for path in tmp_path.glob("sidecar.db*"))
    assert b"companions" in written
    assert b"refresh-alice" not in written
