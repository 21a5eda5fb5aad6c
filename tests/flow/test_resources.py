"""Protected resources: metadata and challenges from publicUrl alone; audience and scopes by path."""

from typing import Any

import pytest

from tests.flow.conftest import LOOPBACK, Scene, Start, bearer, own_keys
from tests.flow.test_check import DIALECTS, check
from tests.support import forge
from tests.support.echo_upstream import Received, echo_upstream
from tests.support.wire import Answer

PUBLIC_URL = "https://metadata.example.com"
IDENTIFIER = f"{PUBLIC_URL}/mcp"
METADATA = "/.well-known/oauth-protected-resource"
MCP = {"path": "/mcp", "scopes": ["metadata.read"], "scopesSupported": ["metadata.read", "metadata.write"]}
# The provider must let tokens for the resource in: the fixture's provider accepts "meta" only.
GOOD = {"aud": ["meta", IDENTIFIER], "scope": "metadata.read"}
MINT = b'{"name": "x", "kind": "personal", "expiry": "OneHour"}'
OPTIONS: dict[str, Any] = {"server": {"publicUrl": PUBLIC_URL, "trustedProxies": [LOOPBACK]}}


def with_resources(*resources: dict[str, Any], **blocks: Any) -> dict[str, Any]:
    return {**OPTIONS, "resources": list(resources), **blocks}


async def ask(scene: Scene, target: str, *headers: tuple[str, str], method: str = "GET", body: bytes = b"") -> Answer:
    async with await scene.connect() as wire:
        return await wire.ask(target, list(headers), method=method, body=body)


async def test_the_metadata_says_where_clients_get_tokens(start: Start) -> None:
    scene = await start(**with_resources({**MCP, "name": "Catalogue"}))
    answer = await ask(scene, f"{METADATA}/mcp?x=y")
    assert answer.status == 200
    assert answer.json() == {
        "resource": IDENTIFIER,
        "authorization_servers": [forge.ISSUER],
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["metadata.read", "metadata.write"],
        "resource_name": "Catalogue",
    }
    assert answer.all("Content-Type") == ["application/json"]
    assert answer.all("Access-Control-Allow-Origin") == ["*"]
    assert answer.all("Cache-Control") == ["public, max-age=300"]
    (tag,) = answer.all("ETag")
    assert (await ask(scene, f"{METADATA}/mcp", ("If-None-Match", tag))).status == 304
    assert (await ask(scene, f"{METADATA}/mcp", method="HEAD")).body == b""
    assert (await ask(scene, f"{METADATA}/mcp", method="OPTIONS")).status == 204
    refused = await ask(scene, f"{METADATA}/mcp", method="POST")
    assert (refused.status, refused.all("Allow")) == (405, ["GET, HEAD, OPTIONS"])


async def test_nothing_is_built_from_the_request(start: Start) -> None:
    """Host and X-Forwarded-* of a trusted peer change neither the metadata nor the challenge."""
    scene = await start(**with_resources(MCP))
    forged = (
        ("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "http"), ("X-Forwarded-Prefix", "/evil"),
        ("Forwarded", "host=evil.example"), ("X-Original-Host", "evil.example"),
    )  # fmt: skip
    plain = await ask(scene, f"{METADATA}/mcp")
    assert (await ask(scene, f"{METADATA}/mcp", *forged)).body == plain.body
    async with await scene.connect() as wire:
        await wire.send(f"GET {METADATA}/mcp HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode())
        assert (await wire.answer()).body == plain.body
    answer = await check(scene, "traefik", "/mcp", *forged)
    assert "evil" not in "".join(answer.all("WWW-Authenticate"))


@pytest.mark.parametrize(
    "target",
    ["/mcp/", "/mcp/x", "/mcp/../admin", "/mcp%2fx", "//mcp", "/MCP", "/mcpx", "/mc", "/mcp;x", "/%6dcp", "/other"],
)
async def test_other_spellings_are_no_metadata(start: Start, target: str) -> None:
    """In check mode they do not exist; in forward mode they are paths of the upstream, behind authentication."""
    scene = await start(**with_resources(MCP, {"path": "/two"}))
    assert (await ask(scene, METADATA + target)).status == 404
    with echo_upstream() as upstream:
        scene = await start(upstream.url, **with_resources(MCP, {"path": "/two"}))
        assert (await ask(scene, METADATA + target)).status in (400, 401)


async def test_the_root_form_describes_a_single_resource(start: Start) -> None:
    scene = await start(**with_resources(MCP))
    assert (await ask(scene, METADATA)).json()["resource"] == IDENTIFIER
    scene = await start(**with_resources(MCP, {"path": "/two"}))
    assert (await ask(scene, METADATA)).status == 404
    assert (await ask(scene, f"{METADATA}/two")).json()["resource"] == f"{PUBLIC_URL}/two"


async def test_a_public_url_with_a_path_moves_the_metadata(start: Start) -> None:
    """To where RFC 9728 puts it for the identifier, and below that path, where an ingress may route it."""
    server = {"server": {"publicUrl": "https://example.com/meta/"}}
    scene = await start(**with_resources(MCP, {"path": "/two"}) | server)
    for path in (f"{METADATA}/meta/mcp", f"/meta{METADATA}/mcp", f"{METADATA}/mcp"):
        assert (await ask(scene, path)).json()["resource"] == "https://example.com/meta/mcp"
    assert (await ask(scene, f"{METADATA}/meta")).status == 404


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
async def test_every_401_names_metadata_and_scopes_first(start: Start, dialect: str, method: str) -> None:
    """Whatever the method; Bearer is the first line, and the parameters come before all free text."""
    scene = await start(**with_resources(MCP))
    answer = await check(scene, dialect, "/mcp", method=method)
    assert answer.status == 401
    assert answer.all("WWW-Authenticate")[0] == (
        f'Bearer resource_metadata="{PUBLIC_URL}{METADATA}/mcp", scope="metadata.read", realm="auth-sidecar"'
    )
    stale = await check(scene, dialect, "/mcp/sub", bearer(**GOOD, exp=int(forge.NOW) - 600), method=method)
    assert stale.all("WWW-Authenticate")[0] == (
        f'Bearer resource_metadata="{PUBLIC_URL}{METADATA}/mcp", scope="metadata.read", realm="auth-sidecar", '
        'error="invalid_token", error_description="Not authorized: the token has expired"'
    )
    assert await scene.metric('sidecar_challenges_total{reason="token_expired",resource="/mcp"}') == 1


async def test_a_token_needs_an_audience_of_the_resource(start: Start) -> None:
    """A good token of another audience is invalid on these paths, with the challenge, and good elsewhere."""
    scene = await start(**with_resources({"path": "/mcp"}))
    for audience in ("meta", ["meta"], ["meta", f"{IDENTIFIER}/"], ["meta", IDENTIFIER.upper()], ["meta", "x"]):
        answer = await check(scene, "envoy", "/mcp", bearer(aud=audience))
        assert (answer.status, answer.json()["reason"]) == (401, "token_invalid"), audience
        assert 'error="invalid_token"' in answer.all("WWW-Authenticate")[0]
        assert (await check(scene, "envoy", "/api", bearer(aud=audience))).status == 200
    assert (await check(scene, "envoy", "/mcp", bearer(aud=["other", "meta", IDENTIFIER]))).status == 200


async def test_the_audience_is_judged_after_the_cache(start: Start) -> None:
    """A token that was accepted elsewhere is still refused here, and the other way round."""
    scene = await start(**with_resources({"path": "/mcp"}))
    header = bearer(aud="meta")
    assert (await check(scene, "envoy", "/api", header)).status == 200
    assert (await check(scene, "envoy", "/mcp", header)).status == 401
    assert (await check(scene, "envoy", "/api", header)).status == 200


@pytest.mark.parametrize(
    ("target", "covered"),
    [
        ("/mcp", True), ("/mcp/", True), ("/mcp/a/b", True), ("/mcp//x", True), ("/mcp;a=b", True), ("/mcp%2fx", True),
        ("/%6d%63p", True), ("//mcp", True), ("/mcp?x", True), ("/mcpx", False), ("/MCP", False),
        ("/api/mcp", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_resource_covers_whole_segments_in_every_reading(
    start: Start, dialect: str, target: str, covered: bool
) -> None:
    scene = await start(**with_resources({"path": "/mcp"}))
    status = (await check(scene, dialect, target, bearer())).status
    assert status == (401 if covered else 200)


async def test_the_longest_path_decides(start: Start) -> None:
    scene = await start(
        **with_resources({"path": "/mcp", "audiences": ["a"]}, {"path": "/mcp/x", "audiences": ["b"], "scopes": ["s"]})
    )
    assert (await check(scene, "envoy", "/mcp/y", bearer(aud=["meta", "a"]))).status == 200
    assert (await check(scene, "envoy", "/mcp/x", bearer(aud=["meta", "a"]))).status == 401
    assert (await check(scene, "envoy", "/mcp/x/z", bearer(aud=["meta", "b"], scope="s"))).status == 200
    # a path that a server may read in both ways must meet both
    assert (await check(scene, "envoy", "/mcp//x", bearer(aud=["meta", "b"], scope="s"))).status == 401


@pytest.mark.parametrize(
    "claims",
    [
        {}, {"scope": "metadata.readx"}, {"scope": "metadata"}, {"scope": ["metadata.read"]}, {"scope": 7},
        {"scope": "other\tmetadata.read"}, {"scope": "METADATA.READ"}, {"scope": "metadata.read", "scp": "other"},
        {"scope": "other", "scp": ["metadata.read"]},
    ],
)  # fmt: skip
async def test_only_missing_scopes_say_insufficient_scope(start: Start, claims: dict[str, Any]) -> None:
    """With all scopes that the request needs, so that one further login is enough."""
    rule = {"path": "/mcp/write", "require": {"scopes": ["metadata.write"]}}
    scene = await start(**with_resources(MCP, rules=[rule]))
    header = bearer(aud=["meta", IDENTIFIER], **claims)
    answer = await check(scene, "envoy", "/mcp", header)
    assert (answer.status, answer.json()["reason"]) == (403, "scope_missing")
    (challenge,) = answer.all("WWW-Authenticate")
    assert challenge == (
        f'Bearer resource_metadata="{PUBLIC_URL}{METADATA}/mcp", scope="metadata.read", realm="auth-sidecar", '
        'error="insufficient_scope", error_description="Forbidden: this requires the scope metadata.read"'
    )
    answer = await check(scene, "envoy", "/mcp/write", bearer(**GOOD))
    assert 'scope="metadata.read metadata.write"' in answer.all("WWW-Authenticate")[0]
    good = bearer(aud=["meta", IDENTIFIER], scope="metadata.write  metadata.read metadata.read")
    assert (await check(scene, "envoy", "/mcp/write", good)).status == 200


async def test_a_refusal_that_no_scope_can_mend_has_no_challenge(start: Start) -> None:
    """A client would ask for scopes again and again. The group is missing too here."""
    rule = {"path": "/**", "require": {"groups": ["readers"], "scopes": ["metadata.write"]}}
    scene = await start(**with_resources(MCP, rules=[rule]))
    for target in ("/mcp", "/api"):
        answer = await check(scene, "envoy", target, bearer(**GOOD))
        assert (answer.status, answer.json()["reason"], answer.all("WWW-Authenticate")) == (403, "forbidden", [])
    scope_only = await check(scene, "envoy", "/api", bearer(groups=["readers"]))
    (challenge,) = scope_only.all("WWW-Authenticate")
    assert challenge == (
        'Bearer scope="metadata.write", realm="auth-sidecar", error="insufficient_scope", '
        'error_description="Forbidden: this requires the scope metadata.write"'
    )


async def test_own_tokens_without_an_audience_stay_out(start: Start, tmp_path: Any) -> None:
    """Unless ``audiences: []`` is written."""
    keys = {"jwtTokenConfiguration": own_keys(tmp_path), "authorizerConfiguration": {"adminPrincipals": ["corp/sam"]}}
    cases: list[tuple[dict[str, Any], int]] = [({}, 401), ({"audiences": []}, 200)]
    for audiences, status in cases:
        scene = await start(**with_resources({"path": "/mcp", **audiences}, **keys))
        async with await scene.connect() as wire:
            headers = [bearer(), ("Content-Type", "application/json")]
            minted = await wire.ask("/oauth2/tokens", headers, method="POST", body=MINT)
        assert minted.status == 201, minted.body
        token = minted.json()["token"]
        answer = await check(scene, "envoy", "/mcp", ("Authorization", f"Bearer {token}"))
        assert answer.status == status


async def test_a_resource_is_not_opened_by_rules_around_it(start: Start) -> None:
    """Rules for other paths that happen to match it do not; a rule for a part of it does."""
    rules = [
        {"path": "/mcp/health", "access": "public"},
        {"path": "/*/status", "access": "public"},
        {"path": "/**", "methods": ["GET"], "access": "public"},
    ]
    scene = await start(**with_resources({"path": "/mcp"}, rules=rules))
    assert (await check(scene, "envoy", "/x")).status == 200
    assert (await check(scene, "envoy", "/mcp")).status == 401
    assert (await check(scene, "envoy", "/mcp/status")).status == 401
    assert (await check(scene, "envoy", "/mcp/health")).status == 200
    assert (await check(scene, "envoy", "/mcp/health/")).status == 401


async def test_origins_hold_for_every_interpretation_of_a_path(start: Start) -> None:
    """For an upstream that merges slashes, the path is that of the resource with origins."""
    whole = {"path": "", "audiences": []}
    inner = {"path": "/mcp", "audiences": [], "origins": ["https://good.example"]}
    scene = await start(**with_resources(whole, inner))
    for origin, status in (("https://good.example", 200), ("https://evil.example", 403)):
        for path in ("/mcp", "//mcp", "/x//..;y/mcp", "/mcp;x", "/%2fmcp"):
            answer = await check(scene, "envoy", path, bearer(), ("Origin", origin))
            assert answer.status in (status, 400), path
    assert (await check(scene, "envoy", "//mcp", bearer(), ("Origin", "https://good.example"))).status == 200


async def test_the_whole_service_keeps_its_public_paths(start: Start) -> None:
    scene = await start(**with_resources({"path": ""}, rules=[{"preset": "openmetadata"}]))
    assert (await check(scene, "envoy", "/api/v1/system/version")).status == 200
    answer = await check(scene, "envoy", "/api/v1/tables")
    assert answer.all("WWW-Authenticate")[0].startswith(f'Bearer resource_metadata="{PUBLIC_URL}{METADATA}", realm=')
    assert (await ask(scene, METADATA)).json()["resource"] == PUBLIC_URL


async def test_guests_do_not_enter(start: Start) -> None:
    authentication = {"authentication": {"authenticators": [{"type": "guest"}]}}
    scene = await start(**with_resources({"path": "/mcp"}, **authentication))
    assert (await check(scene, "envoy", "/x")).status == 200
    assert (await check(scene, "envoy", "/mcp")).status == 401


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_pages_of_other_origins_are_refused(start: Start, dialect: str) -> None:
    """With or without a credential; programs, which send no Origin, are not affected."""
    scene = await start(**with_resources({"path": "/mcp", "audiences": [], "origins": ["https://agent.example"]}))
    for origin in ("https://evil.example", "null", "https://agent.example.evil", PUBLIC_URL.upper()):
        for headers in ((), (bearer(),)):
            answer = await check(scene, dialect, "/mcp", *headers, ("Origin", origin))
            assert (answer.status, answer.json()["reason"]) == (403, "cross_site")
            assert answer.all("WWW-Authenticate") == []
    twice = (("Origin", "https://agent.example"), ("Origin", "https://agent.example"))
    assert (await check(scene, dialect, "/mcp", bearer(), *twice)).status == 403
    for headers in ((), (("Origin", "https://agent.example"),), (("Origin", PUBLIC_URL),)):
        assert (await check(scene, dialect, "/mcp", bearer(), *headers)).status == 200
    assert (await check(scene, dialect, "/api", bearer(), ("Origin", "https://evil.example"))).status == 200


async def test_two_credentials_are_refused_with_the_challenge(start: Start) -> None:
    scene = await start(**with_resources(MCP))
    answer = await check(scene, "envoy", "/mcp", bearer(**GOOD), bearer(**GOOD))
    assert answer.status == 400
    assert "resource_metadata=" in answer.all("WWW-Authenticate")[0]


async def test_an_untrusted_peer_gets_no_further(start: Start) -> None:
    """Its word for the path counts for nothing, so neither audience nor scopes can be judged."""
    server = {"server": {"publicUrl": PUBLIC_URL}}
    scene = await start(**with_resources({"path": "/mcp"}) | server)
    answer = await check(scene, "envoy", "/api", bearer(**GOOD))
    assert (answer.status, answer.json()["reason"]) == (403, "forbidden")


async def test_unknown_paths_leave_nothing_behind(start: Start) -> None:
    scene = await start(**with_resources(MCP))
    async with await scene.connect() as wire:
        for number in range(2000):
            assert (await wire.ask(f"{METADATA}/x{number}", [])).status == 404
    text = (await scene.operations("/metrics")).body.decode()
    assert "x1999" not in text
    assert sum("sidecar_http_requests_total{" in line for line in text.splitlines()) < 10


SERVER = {"path": "/mcp", "metadata": "server"}
FLOW = [
    *(("GET", f"/.well-known/{name}{end}") for name in (
        "oauth-protected-resource", "oauth-authorization-server", "openid-configuration",
    ) for end in ("", "/mcp")),
    ("GET", "/mcp/.well-known/oauth-protected-resource"), ("GET", "/mcp/authorize?client_id=x"),
    ("POST", "/mcp/authorize"), ("GET", "/mcp/callback?code=x"), ("POST", "/mcp/callback"), ("POST", "/mcp/token"),
    ("POST", "/mcp/register"), ("POST", "/mcp/revoke"),
]  # fmt: skip


async def test_the_servers_own_authorization_server_is_passed_through(start: Start) -> None:
    """Without credentials and identity; ``Basic`` of a client reaches token and revoke."""
    with echo_upstream() as upstream:
        options = with_resources(SERVER, rules=[{"preset": "openmetadata"}])
        scene = await start(upstream.url, **options)
        for method, target in FLOW:
            for credential in (None, bearer(), ("Authorization", "Bearer stale"), ("Authorization", "Basic YTpi")):
                headers = () if credential is None else (credential,)
                sent = (*headers, ("X-Auth-Request-User", "forged"))
                answer = await ask(scene, target, *sent, method=method, body=b"a=b" if method == "POST" else b"")
                assert answer.status == 200, (method, target, answer.body)
                seen = Received.of(answer.json())
                is_client = credential == ("Authorization", "Basic YTpi") and target in ("/mcp/token", "/mcp/revoke")
                assert seen.all("Authorization") == (["Basic YTpi"] if is_client else [])
                assert seen.all("X-Auth-Request-User") == []


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/mcp"), ("GET", "/mcp"), ("GET", "/mcp/"), ("PUT", "/mcp/token"), ("GET", "/mcp/token"),
        ("POST", "/mcp/token/"), ("POST", "/mcp/token/x"), ("POST", "/mcp/token;x"), ("POST", "/mcp%2Ftoken"),
        ("POST", "/mcp//token"), ("POST", "/MCP/token"), ("DELETE", "/mcp/register"), ("GET", "/mcp/register/id"),
        ("POST", "/.well-known/oauth-authorization-server"), ("GET", "/mcp/.well-known/other"), ("POST", "/mcpx/token"),
        ("POST", "/mcp/sse"),
    ],
)  # fmt: skip
async def test_nothing_else_of_it_is_open(start: Start, method: str, target: str) -> None:
    with echo_upstream() as upstream:
        options = with_resources(SERVER, rules=[{"preset": "openmetadata"}])
        scene = await start(upstream.url, **options)
        answer = await ask(scene, target, method=method)
        assert answer.status == 401
        if target.startswith("/mcp") and not target.startswith("/mcpx"):
            assert answer.all("WWW-Authenticate")[0].startswith(
                f'Bearer resource_metadata="{PUBLIC_URL}{METADATA}/mcp", realm='
            )


async def test_a_method_override_does_not_open_it(start: Start) -> None:
    scene = await start(**with_resources(SERVER))
    override = ("X-HTTP-Method-Override", "PUT")
    assert (await check(scene, "envoy", "/mcp/token", method="POST")).status == 200
    assert (await check(scene, "envoy", "/mcp/token", override, method="POST")).status == 401


async def test_tokens_of_the_server_need_no_audience(start: Start) -> None:
    with echo_upstream() as upstream:
        scene = await start(upstream.url, **with_resources(SERVER))
        seen = Received.of((await ask(scene, "/mcp", bearer(), method="POST")).json())
        assert seen.all("X-Auth-Request-User") == ["sam"]
