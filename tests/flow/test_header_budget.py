"""With any number of groups, the identity headers stay within their limit and requests are forwarded."""

import json
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any

import pytest

from tests.flow.conftest import LOOPBACK, Start, bearer, own_keys, plainly
from tests.support.scripted_upstream import ScriptedUpstream


def groups(number: int) -> list[str]:
    return [f"{index:08x}-0000-4000-8000-000000000000" for index in range(number)]


def claims(token: str) -> Any:
    """What a compact JWS says; its signature is others' business."""
    payload = token.split(".")[1]
    return json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


BUDGET = 8192
CASES = pytest.mark.parametrize(
    ("number", "header", "stated"),
    [(60, 60, True), (87, 0, True), (200, 0, False), (1000, 0, False)],
    ids=["all fit", "the header is left out", "the assertion's too", "very many"],
)


@CASES
async def test_an_upstream_gets_headers_within_the_budget(
    start: Start, tmp_path: Path, number: int, header: int, stated: bool
) -> None:
    blocks = {"identityHeaders": {"assertion": True}, "jwtTokenConfiguration": own_keys(tmp_path)}
    limits = {"limits": {"maxHeaderBytes": "128KiB", "maxTokenBytes": "128KiB"}}
    caller = bearer(groups=groups(number))
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url, server=limits, **blocks)
        async with plainly(scene) as plain, await scene.connect() as wire:
            for connection in (plain, wire):
                assert (await connection.ask("/x", [caller])).status == 200
    for request in upstream.requests:
        (assertion,) = request.all("X-Auth-Assertion")
        sent = [(name, value) for name, value in request.head.headers if name.lower().startswith("x-auth-")]
        assert sum(len(name) + len(value) + 4 for name, value in sent) <= BUDGET
        told = [value for line in request.all("X-Auth-Request-Groups") for value in line.split(",")]
        assert told == groups(header)
        actor = claims(assertion)["actor"]
        assert actor.get("groups") == (groups(number) if stated else None)
        assert claims(assertion).get("groups_omitted", False) is not stated
        assert request.all("X-Auth-Request-User") == ["sam"]


@CASES
async def test_a_check_is_answered_within_the_budget(
    start: Start, tmp_path: Path, number: int, header: int, stated: bool
) -> None:
    headers = {"assertion": True, "maxTotalBytes": BUDGET}
    blocks = {"identityHeaders": headers, "jwtTokenConfiguration": own_keys(tmp_path)}
    limits = {"maxHeaderBytes": "128KiB", "maxTokenBytes": "128KiB"}
    scene = await start(server={"trustedProxies": [LOOPBACK], "limits": limits}, **blocks)
    asked = [("X-Original-URI", "/x"), ("X-Original-Method", "GET"), bearer(groups=groups(number))]
    async with plainly(scene) as plain, await scene.connect() as wire:
        for connection in (plain, wire):
            answer = await connection.ask("/oauth2/auth", asked)
            assert answer.status == 200
            sent = [(name, value) for name, value in answer.head.headers if name.lower().startswith("x-auth-")]
            assert sum(len(name) + len(value) + 4 for name, value in sent) <= BUDGET
            assert answer.all("X-Auth-Request-Groups") == [",".join(groups(header))]
            assert claims(answer.all("X-Auth-Assertion")[0]).get("groups_omitted", False) is not stated


@pytest.mark.parametrize("number", [3, 60, 87, 200])
async def test_an_answer_to_nginx_fits_its_default_buffer(start: Start, tmp_path: Path, number: int) -> None:
    """nginx answers 500 to a head over 4 KB unless ``proxy_buffer_size`` is set; other proxies have larger limits."""
    blocks = {"identityHeaders": {"assertion": True}, "jwtTokenConfiguration": own_keys(tmp_path)}
    limits = {"maxHeaderBytes": "128KiB", "maxTokenBytes": "128KiB"}
    scene = await start(server={"trustedProxies": [LOOPBACK], "limits": limits}, **blocks)
    asked = [("X-Original-URI", "/x"), ("X-Original-Method", "GET"), bearer(groups=groups(number))]
    async with await scene.connect() as wire:
        answer = await wire.ask("/oauth2/auth", asked)
        assert answer.status == 200
        assert sum(len(name) + len(value) + 4 for name, value in answer.head.headers) < 4000
        assert answer.all("X-Auth-Assertion")


async def test_what_never_fits_is_503_and_reaches_no_upstream(start: Start, tmp_path: Path) -> None:
    """Better no answer than one for a caller without a name or a credential; the log says what to raise."""
    budget = {"maxBytes": "400B", "maxTotalBytes": "500B", "assertion": True}
    blocks = {"identityHeaders": budget, "jwtTokenConfiguration": own_keys(tmp_path)}
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url, server={"trustedProxies": [LOOPBACK]}, **blocks)
        async with plainly(scene) as plain, await scene.connect() as wire:
            for connection in (plain, wire):
                answer = await connection.ask("/x", [bearer()])
                assert (answer.status, answer.json()["reason"]) == (503, "too_large")
                asked = [("X-Original-URI", "/x"), ("X-Original-Method", "GET"), bearer()]
                check = await connection.ask("/oauth2/auth", asked)
                assert (check.status, check.json()["reason"]) == (503, "too_large")
    assert upstream.requests == []


async def test_memory_of_verified_tokens_is_bounded_and_shown(start: Start) -> None:
    scene = await start(tokens={"cacheBytes": "100KiB"})
    async with await scene.connect() as wire:
        for number in range(20):
            caller = bearer(sub=f"user{number}", groups=groups(60))
            assert (await wire.ask("/oauth2/auth", [caller])).status == 200
    entries, size = [await scene.metric(f"sidecar_token_cache_{what}") for what in ("entries", "bytes")]
    assert 1 < entries < 20
    assert 10_000 * entries < size <= 100 * 1024
