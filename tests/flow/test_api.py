"""The sidecar's own answers on the public listener: who am I, and which keys are ours."""

from pathlib import Path

import pytest

from sidecar.keys.keyset import parse_key_set
from tests.flow.conftest import Start, bearer, own_keys
from tests.support.scripted_upstream import ScriptedUpstream

KEYS = "/api/v1/config/jwks"


async def test_userinfo_tells_the_caller_who_it_is_whatever_the_rules(start: Start) -> None:
    scene = await start(rules=[{"path": "/**", "access": "public"}])
    async with await scene.connect() as wire:
        answer = await wire.ask("/oauth2/userinfo?x=y", [bearer(groups=["dev"])])
        assert answer.status == 200
        assert answer.all("Cache-Control") == ["no-store"]
        assert answer.json()["actor"] == {"type": "USER", "id": "sam", "urn": "urn:li:corpuser:sam"}
        assert answer.json()["groups"] == ["dev"]
        refused = await wire.ask("/oauth2/userinfo")
        assert (refused.status, refused.all("WWW-Authenticate")) == (401, ['Bearer realm="auth-sidecar"'])
        bad = await wire.ask("/oauth2/userinfo", [bearer(aud="other")])
        assert (bad.status, bad.json()["reason"]) == (401, "token_invalid")
        head = await wire.ask("/oauth2/userinfo", [bearer()], method="HEAD")
        assert (head.status, head.body) == (200, b"")
        post = await wire.ask("/oauth2/userinfo", [bearer()], method="POST", body=b"x")
        assert (post.status, post.all("Allow")) == (405, ["GET, HEAD"])


@pytest.mark.parametrize("path", [KEYS, "/oauth2/jwks"])
async def test_own_keys_are_public(start: Start, tmp_path: Path, path: str) -> None:
    """Never the upstream's answer, with an entity tag that is honoured, and public members only."""
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url, jwtTokenConfiguration=own_keys(tmp_path))
        async with await scene.connect() as wire:
            answer = await wire.ask(path)
            assert answer.status == 200
            (key,) = answer.json()["keys"]
            assert set(key) <= {"kty", "kid", "use", "alg", "n", "e"}
            assert parse_key_set(answer.body).keys[0].kid == "own1"
            (tag,) = answer.all("ETag")
            assert answer.all("Cache-Control") == ["public, max-age=300"]
            for value in (tag, f'"x", W/{tag}', "*"):
                again = await wire.ask(path, [("If-None-Match", value)])
                assert (again.status, again.all("ETag"), again.body) == (304, [tag], b"")
            assert (await wire.ask(path, [("If-None-Match", '"x"')])).status == 200
            refused = await wire.ask(path, method="DELETE")
            assert (refused.status, refused.all("Allow")) == (405, ["GET, HEAD"])
    assert upstream.accepted == 0


async def test_without_own_keys_the_path_is_the_services(start: Start) -> None:
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            assert (await wire.ask(KEYS)).status == 401
            assert (await wire.ask(KEYS, [bearer()])).body == b"ok"
            assert (await wire.ask("/oauth2/jwks", [bearer()])).status == 404
    assert [request.target for request in upstream.requests] == [KEYS]


async def test_the_assertions_key_is_published(start: Start) -> None:
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url, identityHeaders={"assertion": True})
        async with await scene.connect() as wire:
            keys = await wire.ask("/oauth2/assertion/jwks")
            assert keys.status == 200
            assert all("d" not in key for key in keys.json()["keys"])
            await wire.ask("/x", [bearer()])
    (assertion,) = upstream.requests[0].all("X-Auth-Assertion")
    assert assertion.count(".") == 2
