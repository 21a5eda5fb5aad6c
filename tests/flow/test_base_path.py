"""A server below a path: what is put in front of a request, and what a preset opens there."""

from typing import Any

import pytest

from tests.flow.conftest import Start, bearer
from tests.flow.test_websocket import SWITCHED, UPGRADE
from tests.support.scripted_upstream import ScriptedUpstream, UpstreamConnection

TARGETS = ("/", "/api/v1/x?a=/b%2Fc", "//a;b/%61?", "/om/x", "/a%2fb/")


@pytest.mark.parametrize("path", ["/om", "/om/", "/a/b"])
async def test_the_upstreams_path_is_put_in_front_byte_for_byte(start: Start, path: str) -> None:
    """With and without a task, with a body, and of every target: what was judged goes on behind that path."""
    async with ScriptedUpstream() as upstream:
        scene = await start(f"{upstream.url}{path}")
        async with await scene.connect() as wire:
            for target in TARGETS:
                for _ in range(2):  # a known credential goes on without a task
                    assert (await wire.ask(target, [bearer()])).status == 200
                assert (await wire.ask(target, [bearer()], method="POST", body=b"x")).status == 200
    asked = [request.target for request in upstream.requests]
    assert asked == [f"{path.rstrip('/')}{target}" for target in TARGETS for _ in range(3)]


async def test_websockets_open_behind_the_upstreams_path(start: Start) -> None:
    async def switch(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(SWITCHED)
        await connection.ended()

    async with ScriptedUpstream(switch) as upstream:
        scene = await start(f"{upstream.url}/om")
        async with await scene.connect() as wire:
            await wire.request("/socket?x", [bearer(), *UPGRADE])
            assert (await wire.head()).start.split()[1] == "101"
    assert [request.target for request in upstream.requests] == ["/om/socket?x"]


async def test_rules_judge_the_callers_path(start: Start) -> None:
    """Not the one that the server is asked for: neither opens what it is called there, nor needs it written."""
    rules = [{"path": "/public", "access": "public"}, {"path": "/om/shown", "access": "public"}]
    async with ScriptedUpstream() as upstream:
        scene = await start(f"{upstream.url}/om", rules=rules)
        async with await scene.connect() as wire:
            assert (await wire.ask("/public")).status == 200
            for target in ("/shown", "/om/public", "/public/../x", "/..%2fom/shown"):
                assert (await wire.ask(target)).status in (400, 401)
    assert [request.target for request in upstream.requests] == ["/om/public"]


@pytest.mark.parametrize("rule", [{"preset": "openmetadata"}, {"preset": "openmetadata", "basePath": "/openmetadata"}])
async def test_below_a_base_path_the_api_needs_credentials(start: Start, rule: dict[str, Any]) -> None:
    """With ``basePath`` or without; with it the preset opens what the product opens there, and nothing outside."""
    told = "basePath" in rule
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url, rules=[rule])
        async with await scene.connect() as wire:
            for target in ("/openmetadata/api/v1/users?limit=10", "/openmetadata/api/v1/push/feed/?userId=1"):
                assert (await wire.ask(target)).status == 401
                assert (await wire.ask(target, [("Authorization", "Bearer stale")])).status == 401
                assert (await wire.ask(target, [bearer()])).status == 200
            login = await wire.ask("/openmetadata/api/v1/users/login", method="POST", body=b"{}")
            assert login.status == (200 if told else 401)
            assert (await wire.ask("/my-data")).status == (401 if told else 200)
            assert (await wire.ask("/openmetadata/my-data")).status == 200


async def test_a_rules_refusal_invites_no_new_login(start: Start) -> None:
    """No scope is missing, so no challenge says so: an agent that follows it would log in again and again."""
    required = {
        "groups": ["admins"], "roles": ["steward"], "providers": ["own"], "actorTypes": ["SERVICE"], "admin": "true"
    }  # fmt: skip
    rules = [{"path": f"/{name}", "require": {name: value}} for name, value in required.items()]
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url, rules=rules)
        async with await scene.connect() as wire:
            for name, words in (
                ("groups", "the group admins"),
                ("roles", "the role steward"),
                ("providers", "the provider own"),
                ("actorTypes", "the Actor type SERVICE"),
                ("admin", "an admin"),
            ):
                answer = await wire.ask(f"/{name}", [bearer()])
                assert (answer.status, answer.all("WWW-Authenticate")) == (403, [])
                assert answer.json()["message"] == f"Forbidden: this requires {words}"
    assert upstream.requests == []
