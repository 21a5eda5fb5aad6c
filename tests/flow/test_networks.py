"""Credentials in other places, forwarded headers, CORS on refusals: what real proxies and pages send."""

import base64
from typing import Any

import pytest

from tests.flow.conftest import LOOPBACK, Scene, Start, bearer
from tests.support import forge
from tests.support.scripted_upstream import OK, ScriptedUpstream, answering
from tests.support.wire import Answer, Lines

IAP = "X-Goog-IAP-JWT-Assertion"
UPGRADE = [
    ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]  # fmt: skip
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Protocol: x\r\n\r\n"
)
K8S = "base64url.bearer.authorization.k8s.io."
UI = "https://ui.example.com"


def jwt(**claims: Any) -> str:
    return forge.token(forge.claims(**claims))


def encoded(token: str) -> str:
    return base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def headers_block(**settings: Any) -> dict[str, Any]:
    return {"tokenHeaders": [{"name": IAP, **settings}]}


async def ask(scene: Scene, headers: Lines, target: str = "/x") -> Answer:
    async with await scene.connect() as wire:
        return await wire.ask(target, headers)


async def test_token_in_a_named_header_counts_and_goes_no_further(start: Start) -> None:
    """With passthrough too: the upstream gets the identity headers, in every spelling nothing of the token."""
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(upstream.url, authentication=headers_block(providers=["corp"]))
        for name, value in ((IAP, jwt()), (IAP.lower(), f"Bearer {jwt()}")):
            answer = await ask(scene, [(name, value), ("X_Goog_IAP_JWT_Assertion", "forged")])
            assert answer.status == 200
        for request in upstream.requests:
            assert request.head.all("X-Auth-Request-User") == ["sam"]
            assert b"assertion" not in request.raw.lower().replace(b"x-auth-assertion", b"")
        refused = await ask(scene, [(IAP, jwt(exp=int(forge.NOW) - 100))])
        assert (refused.status, refused.json()["reason"]) == (401, "token_expired")
        assert (await ask(scene, [(IAP, "")])).json()["reason"] == "token_missing"


async def test_without_the_setting_no_other_header_is_read(start: Start) -> None:
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(upstream.url)
        assert (await ask(scene, [(IAP, jwt())])).json()["reason"] == "token_missing"


async def test_header_of_one_provider_takes_no_token_of_another(start: Start) -> None:
    """Known tokens as well: a token that was accepted in Authorization is still refused there."""
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(upstream.url, authentication=headers_block(providers=["own"]))
        assert (await ask(scene, [bearer()])).status == 200
        for _ in range(2):
            refused = await ask(scene, [(IAP, jwt())])
            assert (refused.status, refused.json()["reason"]) == (401, "token_invalid")


async def test_exactly_one_credential_over_all_places(start: Start) -> None:
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(upstream.url, authentication=headers_block())
        for headers in (
            [bearer(), (IAP, jwt())],
            [(IAP, jwt()), (IAP, jwt())],
            [("Authorization", "Basic x"), (IAP, jwt())],
        ):
            assert (await ask(scene, headers)).json()["reason"] == "credentials_ambiguous"


async def test_authorization_goes_before_an_ambient_header(start: Start) -> None:
    """A proxy adds the header to every request: a caller's own credential counts, a bad one too."""
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(upstream.url, authentication=headers_block(ambient=True, forward=True))
        both = [bearer(sub="ann"), (IAP, jwt())]
        assert (await ask(scene, both)).status == 200
        assert upstream.requests[-1].head.all("X-Auth-Request-User") == ["ann"]
        assert upstream.requests[-1].head.all(IAP) == [jwt()]
        assert (await ask(scene, [("Authorization", "Bearer bad"), (IAP, jwt())])).status == 401
        assert (await ask(scene, [(IAP, jwt()), (IAP, jwt())])).json()["reason"] == "credentials_ambiguous"
        assert (await ask(scene, [(IAP, jwt()), (IAP.replace("-", "_"), "forged")])).status == 200
        assert b"forged" not in upstream.requests[-1].raw


async def test_check_reads_the_header_too(start: Start) -> None:
    scene = await start(authentication=headers_block(ambient=True), server={"trustedProxies": [LOOPBACK]})
    for _ in range(2):  # new, then known
        answer = await ask(
            scene, [(IAP, jwt()), ("X-Original-URI", "/a"), ("X-Original-Method", "GET")], "/oauth2/auth"
        )
        assert (answer.status, answer.all("X-Auth-Request-User")) == (200, ["sam"])


@pytest.mark.parametrize("protocol", ["bearer", "k8s", "letters"])
async def test_token_among_websocket_subprotocols_counts_and_goes_no_further(start: Start, protocol: str) -> None:
    """The others are offered to the upstream; neither it nor the log sees the token."""
    token = jwt()
    name = {"bearer": f"bearer.{token}", "k8s": K8S + encoded(token), "letters": f"Bearer.{token}"}[protocol]
    async with ScriptedUpstream(answering(SWITCHED)) as upstream:
        scene = await start(upstream.url, authentication={"websocketTokens": {"subprotocol": True}})
        async with await scene.connect() as wire:
            await wire.request(
                "/ws", [*UPGRADE, ("Sec-WebSocket-Protocol", f"{name}, x"), ("Sec-WebSocket-Protocol", "y")]
            )
            head = await wire.head()
        assert head.start.startswith("HTTP/1.1 101")
        (request,) = upstream.requests
        assert request.head.all("Sec-WebSocket-Protocol") == ["x", "y"]
        assert request.head.all("X-Auth-Request-User") == ["sam"]
        assert token.encode() not in request.raw


async def test_subprotocol_that_names_a_token_alone_is_400(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """The upstream could select none, and the browser would give up without a reason. On public paths too."""
    caplog.set_level("DEBUG")
    async with ScriptedUpstream(answering(SWITCHED)) as upstream:
        rules = [{"path": "/public", "access": "public"}]
        block = {"websocketTokens": {"subprotocol": True}}
        scene = await start(upstream.url, authentication=block, rules=rules, logging={"level": "debug", "access": True})
        token = jwt()
        invisible = K8S + encoded(f"\n{token}")  # the key of a session in the cache begins so
        for target, value in (
            ("/ws", f"bearer.{token}"),
            ("/public", f"bearer.{token}"),
            ("/ws", f"{K8S}%%, x"),
            ("/ws", f"{invisible}, x"),
        ):
            answer = await ask(scene, [*UPGRADE, ("Sec-WebSocket-Protocol", value)], target)
            assert (answer.status, answer.json()["reason"]) == (400, "request_invalid")
        several = [*UPGRADE, ("Sec-WebSocket-Protocol", f"bearer.{token}, x"), bearer()]
        assert (await ask(scene, several)).json()["reason"] == "credentials_ambiguous"
        twice = [*UPGRADE, ("Sec-WebSocket-Protocol", f"bearer.{token}, bearer.{token}, x")]
        assert (await ask(scene, twice)).json()["reason"] == "credentials_ambiguous"
        assert not upstream.requests
    assert token not in caplog.text


async def test_without_the_setting_subprotocols_are_the_upstreams(start: Start) -> None:
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(upstream.url)
        offered = [*UPGRADE, ("Sec-WebSocket-Protocol", f"bearer.{jwt()}, x")]
        assert (await ask(scene, offered)).json()["reason"] == "token_missing"


async def test_subprotocol_tokens_are_removed_from_what_needs_no_credential(start: Start) -> None:
    async with ScriptedUpstream(answering(OK)) as upstream:
        rules = [{"path": "/public", "access": "public"}]
        scene = await start(upstream.url, authentication={"websocketTokens": {"subprotocol": True}}, rules=rules)
        await ask(
            scene,
            [("Sec-WebSocket-Protocol", "bearer.SECRET-abc, x"), ("Sec_WebSocket_Protocol", "bearer.SECRET-abc")],
            "/public",
        )
        assert upstream.requests[-1].head.all("Sec-WebSocket-Protocol") == ["x"]
        assert b"SECRET-abc" not in upstream.requests[-1].raw


FORWARDED = [
    ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "om.example.org"),
    ("X-Forwarded-For", "203.0.113.7, 10.0.0.1"), ("X-Forwarded-Port", "443"),
]  # fmt: skip


async def seen_by_upstream(start: Start, **server: Any) -> dict[str, list[str]]:
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(upstream.url, server=server)
        assert (await ask(scene, [bearer(), *FORWARDED])).status == 200
        head = upstream.requests[-1].head
        names = ("X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-For", "X-Forwarded-Port")
        return {name: head.all(name) for name in names}


async def test_forwarded_headers_of_a_trusted_peer_go_on_with_the_peer_added(start: Start) -> None:
    seen = await seen_by_upstream(start, trustedProxies=[LOOPBACK], publicUrl="https://public.example.org")
    assert seen == {
        "X-Forwarded-Proto": ["https"],
        "X-Forwarded-Host": ["om.example.org"],
        "X-Forwarded-For": ["203.0.113.7, 10.0.0.1, 127.0.0.1"],
        "X-Forwarded-Port": ["443"],
    }


async def test_forwarded_headers_of_others_are_replaced_by_the_public_url(start: Start) -> None:
    """The upstream makes links and redirects of them: a caller must not choose their scheme or host."""
    seen = await seen_by_upstream(start, publicUrl="https://public.example.org:8443/meta")
    assert seen == {
        "X-Forwarded-Proto": ["https"],
        "X-Forwarded-Host": ["public.example.org:8443"],
        "X-Forwarded-For": ["127.0.0.1"],
        "X-Forwarded-Port": [],
    }
    seen = await seen_by_upstream(start)
    assert seen["X-Forwarded-Proto"] == ["http"]
    assert seen["X-Forwarded-Host"] != ["om.example.org"]


async def test_refusals_can_be_read_by_pages_that_are_listed(start: Start) -> None:
    """A page sees that its token has expired, not a network error; a page of another origin sees nothing."""
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(upstream.url, cors={"origins": [UI], "credentials": True, "preflight": "public"})
        expired = bearer(exp=int(forge.NOW) - 100)
        answer = await ask(scene, [expired, ("Origin", UI)])
        assert (answer.status, answer.all("Access-Control-Allow-Origin")) == (401, [UI])
        assert answer.all("Access-Control-Allow-Credentials") == ["true"]
        assert "WWW-Authenticate" in answer.all("Access-Control-Expose-Headers")[0]
        assert answer.all("Vary") == ["Origin"]
        for origins in ([], ["https://evil.example.com"], ["null"], [f"{UI}.evil.example"], [UI, UI]):
            answer = await ask(scene, [expired, *(("Origin", origin) for origin in origins)])
            assert (answer.all("Access-Control-Allow-Origin"), answer.all("Vary")) == ([], ["Origin"])
        for target in ("/oauth2/userinfo", "/oauth2/tokens"):
            assert not (await ask(scene, [expired, ("Origin", UI)], target)).all("Access-Control-Allow-Origin")
        passed = await ask(scene, [bearer(), ("Origin", UI)])
        assert (passed.status, passed.all("Access-Control-Allow-Origin")) == (200, [])


async def test_upstream_that_cannot_be_reached_is_a_refusal_that_pages_can_read(start: Start) -> None:
    scene = await start("http://127.0.0.1:1", server={"origins": [UI]})
    answer = await ask(scene, [bearer(), ("Origin", UI)])
    assert (answer.status, answer.all("Access-Control-Allow-Origin")) == (502, [UI])
    assert not answer.all("Access-Control-Allow-Credentials")


async def test_every_page_may_read_refusals_where_the_list_says_so(start: Start) -> None:
    scene = await start("http://127.0.0.1:1", cors={"origins": ["*"]})
    answer = await ask(scene, [("Origin", "https://any.example.com")])
    assert (answer.status, answer.all("Access-Control-Allow-Origin")) == (401, ["*"])


async def test_origins_of_the_server_are_those_of_websockets_and_its_own_is_among_them(start: Start) -> None:
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(upstream.url, server={"origins": [UI], "publicUrl": "https://om.example.com/x"})
        got = [
            (await ask(scene, [*UPGRADE, bearer(), ("Origin", origin)])).status
            for origin in (UI, "https://om.example.com", "https://evil.example.com")
        ]
        assert got == [200, 200, 403]
