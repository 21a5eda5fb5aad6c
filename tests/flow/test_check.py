"""Check endpoints: the response for each proxy, from its own headers only, and only if it is trusted."""

import logging
from typing import Any

import pytest

from sidecar.dataplane.identity_headers import NAMES
from tests.flow.conftest import LOOPBACK, Scene, Start, bearer, own_keys
from tests.support import forge
from tests.support.wire import Answer, Lines

TRUSTED = {"server": {"trustedProxies": [LOOPBACK]}}
RULES = {
    "rules": [
        {"path": "/public/**", "access": "public"},
        {"path": "/admin/**", "require": {"groups": ["admins"]}},
        {"path": "/read", "methods": ["GET"], "access": "public"},
    ]
}
DIALECTS = ("nginx", "envoy", "traefik")


def question(dialect: str, target: str, method: str = "GET") -> tuple[str, str, Lines]:
    """Method, target and headers by which a proxy asks about a request."""
    if dialect == "nginx":
        return "GET", "/oauth2/auth", [("X-Original-URI", target), ("X-Original-Method", method)]
    if dialect == "envoy":
        return method, f"/oauth2/ext_authz{target}", []
    return "GET", "/oauth2/forward_auth", [("X-Forwarded-Uri", target), ("X-Forwarded-Method", method)]


async def check(scene: Scene, dialect: str, target: str, *headers: tuple[str, str], method: str = "GET") -> Answer:
    asked_by, asked_at, named = question(dialect, target, method)
    async with await scene.connect() as wire:
        return await wire.ask(asked_at, [*named, *headers], method=asked_by)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_good_credential_gets_the_complete_set(start: Start, dialect: str) -> None:
    scene = await start(**TRUSTED)
    delegated = {"azp": "catalog-ui", "scope": "a b%", "act": {"sub": "agent one"}}
    answer = await check(scene, dialect, "/x", bearer(jti="t1", **delegated))
    assert answer.status == 200
    assert {name: answer.all(name) for name in NAMES} == {
        "X-Auth-Request-User": ["sam"],
        "X-Auth-Request-Email": ["sam@example.com"],
        "X-Auth-Request-Preferred-Username": ["sam"],
        "X-Auth-Request-Groups": [""],
        "X-Auth-Actor-Type": ["USER"],
        "X-Auth-Actor-Urn": ["urn:li:corpuser:sam"],
        "X-Auth-Issuer": [forge.ISSUER],
        "X-Auth-Token-Id": ["t1"],
        "X-Auth-Client": ["catalog-ui"],
        "X-Auth-Scopes": ["a b%25"],
        "X-Auth-Acting": [""],  # the issuer may not say who acts
    }
    assert answer.all("Authorization") == []


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("credential", [None, "Bearer stale", "Basic eA=="])
async def test_a_public_path_is_never_refused_and_blank(start: Start, dialect: str, credential: str | None) -> None:
    """And the blank set overwrites what the caller sent."""
    scene = await start(**TRUSTED, **RULES)
    headers = [("Authorization", credential)] if credential else []
    answer = await check(scene, dialect, "/public/x?y", *headers, ("X-Auth-Request-User", "forged"))
    assert answer.status == 200
    assert [answer.all(name) for name in NAMES] == [[""]] * len(NAMES)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_rules_are_judged_on_the_original_request(start: Start, dialect: str) -> None:
    scene = await start(**TRUSTED, **RULES)
    assert (await check(scene, dialect, "/x")).status == 401
    assert (await check(scene, dialect, "/read")).status == 200
    assert (await check(scene, dialect, "/read", method="PUT")).status == 401
    assert (await check(scene, dialect, "/admin/x", bearer())).status == 403
    assert (await check(scene, dialect, "/admin/x", bearer(groups=["admins"]))).status == 200
    assert (await check(scene, dialect, "/x?next=/public/x")).status == 401
    assert (await check(scene, dialect, "//public/x")).status == 401
    assert (await check(scene, dialect, "/public;x/../admin/x", bearer())).status in (400, 403)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_rules_are_not_read_for_an_untrusted_peer(start: Start, dialect: str) -> None:
    """200 for a good credential, 401 otherwise, whatever it says about the original request."""
    scene = await start(rules=[RULES["rules"][0]])
    assert (await check(scene, dialect, "/public/x")).status == 401
    assert (await check(scene, dialect, "/admin/x", bearer())).status == 200
    assert (await check(scene, dialect, "/a/../b", bearer())).status == 200
    assert (await check(scene, dialect, "/public/x", ("Authorization", "Bearer bad"))).status == 401


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_untrusted_peer_is_refused_where_rules_require_something(
    start: Start, dialect: str, caplog: pytest.LogCaptureFixture
) -> None:
    """403 whatever is asked and presented: no requirement is passed over because the proxy's address is not listed."""
    caplog.set_level(logging.INFO)
    scene = await start(**RULES)
    good = bearer(groups=["admins"])
    for target, headers in (("/admin/x", [good]), ("/public/x", []), ("/x", [good]), ("/x", [good]), ("/a/../b", [])):
        answer = await check(scene, dialect, target, *headers)
        assert (answer.status, answer.json()["reason"]) == (403, "forbidden")
        assert "server.trustedProxies" in answer.json()["message"]
        assert answer.all("WWW-Authenticate") == []
    assert await scene.metric("sidecar_untrusted_checks_total") == 5
    lines = [record for record in caplog.records if record.name == "sidecar.check"]
    assert [record.__dict__["peer"] for record in lines] == ["127.0.0.1"], "once a minute for each peer"
    refused = [record.__dict__ for record in caplog.records if record.__dict__.get("event") == "request_rejected"]
    assert {(line["cause"], line["detail"]) for line in refused} == {
        ("peer_untrusted", "peer 127.0.0.1 is not in server.trustedProxies")
    }


def lines_of(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [record.__dict__ for record in caplog.records if record.__dict__.get("event") == event]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_line_of_a_refused_check_has_the_original_request_the_rule_and_both_values(
    start: Start, dialect: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The path without its query, which may hold a code or a token, and not at any length."""
    caplog.set_level(logging.INFO)
    scene = await start(**TRUSTED, **RULES)
    target = f"/admin/{'x' * 400}?code=s3cret"
    assert (await check(scene, dialect, target, bearer(groups=["staff"]), method="DELETE")).status == 403
    assert (await check(scene, dialect, "/x", bearer(aud="others", sub="mallory"))).status == 401
    assert (await check(scene, dialect, "/admin/a")).status == 401
    ruled, judged, absent = lines_of(caplog, "request_rejected")
    assert ruled["originalMethod"] == "DELETE"
    assert ruled["originalPath"] == f"/admin/{'x' * 249}"
    assert (ruled["actor"], ruled["provider"], ruled["rule"]) == ("sam", "corp", "rules[1] /admin/**")
    assert ruled["detail"] == 'requires the group admins; the caller has the groups "staff"'
    assert (judged["originalPath"], judged["actor"], judged["rule"]) == ("/x", "", "")
    assert judged["detail"] == 'aud is "others"; expected: "meta"'
    assert "mallory" not in str(judged)
    assert (absent["originalPath"], absent["actor"]) == ("/admin/a", "")
    assert "s3cret" not in str([record.__dict__ for record in caplog.records])


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_access_line_of_a_check_has_the_original_request_and_the_caller(
    start: Start, dialect: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene = await start(**TRUSTED, **RULES, logging={"access": True})
    for _ in range(2):  # the second time the token is known
        assert (await check(scene, dialect, "/a?code=1", bearer(), method="PUT")).status == 200
    assert (await check(scene, dialect, "/public/a")).status == 200
    first, second, public = lines_of(caplog, "request_answered")
    for line in (first, second):
        assert (line["originalMethod"], line["originalPath"]) == ("PUT", "/a")
        assert (line["actor"], line["provider"]) == ("sam", "corp")
    assert public["originalPath"] == "/public/a"
    assert "actor" not in public


async def test_lines_of_later_requests_on_a_connection_have_nothing_of_an_earlier_check(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """With and without a task: a request with a body needs one."""
    caplog.set_level(logging.INFO)
    scene = await start(**TRUSTED, **RULES, logging={"access": True})
    asked = [("X-Original-URI", "/a"), ("X-Original-Method", "GET")]
    form = b"POST /oauth2/introspect HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    async with await scene.connect() as wire:
        assert (await wire.ask("/oauth2/auth", [*asked, bearer()])).status == 200
        assert (await wire.ask("/oauth2/userinfo", [])).status == 401
        assert (await wire.ask("/oauth2/auth", [*asked, bearer()])).status == 200
        await wire.send(form + b"Content-Length: 7\r\n\r\ntoken=x")
        assert (await wire.answer()).status == 401
    for line in (*lines_of(caplog, "request_rejected"), *lines_of(caplog, "request_answered")[1::2]):
        assert line["route"] in ("userinfo", "introspect")
        assert "originalPath" not in line
        assert line.get("actor", "") == ""
    assert len(lines_of(caplog, "request_answered")) == 4


async def test_line_of_an_untrusted_check_has_nothing_that_the_peer_claims(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene = await start()
    assert (await check(scene, "nginx", "/claimed", bearer(aud="others"))).status == 401
    (line,) = lines_of(caplog, "request_rejected")
    assert line["originalPath"] == ""
    assert "claimed" not in str(line)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_presets_requirement_refuses_an_untrusted_peer_on_its_own_paths_only(
    start: Start, dialect: str
) -> None:
    """What is asked of the helpers of DataHub's user interface is not passed over; all else is answered as before."""
    scene = await start(rules=[{"preset": "datahub"}])
    assert (await check(scene, dialect, "/entities", bearer())).status == 200
    assert (await check(scene, dialect, "/entities")).status == 401
    for target in ("/auth/generateSessionTokenForUser", "/auth", "//auth/x", "/auth%2fx", "/a/../auth/x"):
        answer = await check(scene, dialect, target, bearer())
        assert (answer.status, answer.json()["reason"]) == (403, "forbidden"), target
    if dialect != "envoy":
        path = question(dialect, "/")[1]
        async with await scene.connect() as wire:
            assert (await wire.ask(path)).status == 401
            assert (await wire.ask(path, [bearer()])).status == 403, "the path may be one of them"


ALLOWED = "?allowed_groups=ops,admins"


async def conditioned(scene: Scene, dialect: str, query: str, target: str, *headers: tuple[str, str]) -> Answer:
    _, path, named = question(dialect, target)
    async with await scene.connect() as wire:
        return await wire.ask(path + query, [*named, *headers])


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("dialect", ["nginx", "traefik"])
async def test_the_questions_own_conditions_hold(start: Start, dialect: str, trusted: bool) -> None:
    """As oauth2-proxy's: for known tokens as for new ones, and on paths that a rule opens; for every peer."""
    scene = await start(rules=[{"path": "/public/**", "access": "public"}], **(TRUSTED if trusted else {}))
    for _ in range(2):
        for target in ("/x", "/public/x"):
            refused = await conditioned(scene, dialect, ALLOWED, target, bearer(groups=["interns"]))
            assert (refused.status, refused.json()["reason"]) == (403, "forbidden")
            assert "one of the groups admins, ops" in refused.json()["message"]
            assert (await conditioned(scene, dialect, ALLOWED, target, bearer(groups=["admins"]))).status == 200
            assert (await conditioned(scene, dialect, ALLOWED, target)).status == 401


@pytest.mark.parametrize(
    "query",
    ["?", "?allowed_groups=", "?allowed_groups=a&allowed_groups=a", "?groups=a", "?x", "?allowed_groups=a&x=1"],
)
@pytest.mark.parametrize("dialect", ["nginx", "traefik"])
async def test_a_condition_that_is_not_understood_is_refused(start: Start, dialect: str, query: str) -> None:
    scene = await start(**TRUSTED)
    answer = await conditioned(scene, dialect, query, "/x", bearer(groups=["a"]))
    assert (answer.status, answer.json()["reason"]) == (403 if dialect == "nginx" else 400, "request_invalid")


async def test_an_address_that_was_made_up_meets_no_condition(start: Start) -> None:
    """Only an address in the token does: principalDomain gives every user of every provider an address."""
    scene = await start(**TRUSTED)
    for query in ("?allowed_email_domains=example.com", "?allowed_emails=sam@example.com"):
        answer = await conditioned(scene, "nginx", query, "/x", bearer())
        assert (answer.status, answer.json()["reason"]) == (403, "forbidden")
        assert "sam@" not in answer.json()["message"]
        assert (await conditioned(scene, "nginx", query, "/x", bearer(sub="sam@example.com"))).status == 200


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_header_that_names_another_method_opens_nothing(start: Start, dialect: str) -> None:
    """The path is public for GET: neither PUT with GET in the header, nor GET with PUT in it, is let through."""
    scene = await start(**TRUSTED, **RULES)
    for method, other in (("PUT", "GET"), ("GET", "PUT"), ("GET", "put")):
        answer = await check(scene, dialect, "/read", ("X-HTTP-Method-Override", other), method=method)
        assert (answer.status, answer.json()["reason"]) == (401, "token_missing")
    assert (await check(scene, dialect, "/read", ("X-HTTP-Method-Override", "GET"))).status == 200


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_each_dialect_reads_its_own_proxys_headers_only(start: Start, dialect: str) -> None:
    scene = await start(**TRUSTED, **RULES)
    others: list[tuple[str, str]] = [
        (name, value) for other in DIALECTS if other != dialect for name, value in question(other, "/public/x")[2]
    ]
    aliases = [
        ("X_Original_URI", "/public/x"), ("X-Original-Url", "/public/x"), ("X-Forwarded-Path", "/public/x"),
        ("X_Forwarded_Uri", "/public/x"), ("X-Forwarded-Prefix", "/public"), ("X-Rewrite-URL", "/public/x"),
        ("X-Envoy-Original-Path", "/public/x"), ("X-HTTP-Method-Override", "GET"), ("User-Agent", "kube-probe/1"),
    ]  # fmt: skip
    assert (await check(scene, dialect, "/x", *others, *aliases)).status == 401
    assert (await check(scene, dialect, "/admin/x", *others, *aliases, bearer())).status == 403


@pytest.mark.parametrize("dialect", ["nginx", "traefik"])
async def test_an_original_request_that_is_not_named_once_is_refused(start: Start, dialect: str) -> None:
    scene = await start(**TRUSTED, **RULES)
    _, path, named = question(dialect, "/public/x")
    refused = 403 if dialect == "nginx" else 400
    async with await scene.connect() as wire:
        for headers in ([], named[:1], named[1:], [*named, named[0]], [*named, named[1]]):
            answer = await wire.ask(path, [*headers, bearer(groups=["admins"])])
            assert answer.status == refused, headers
            assert answer.json()["reason"] == "request_invalid"
            if dialect == "nginx":
                assert answer.all("X-Auth-Status") == ["400"]


@pytest.mark.parametrize("dialect", ["nginx", "traefik"])
async def test_without_rules_that_require_something_a_plain_question_is_answered(start: Start, dialect: str) -> None:
    scene = await start(**TRUSTED, rules=[{"path": "/public", "access": "public"}])
    _, path, _ = question(dialect, "/")
    async with await scene.connect() as wire:
        assert (await wire.ask(path, [bearer()])).status == 200
        assert (await wire.ask(path)).status == 401


UNREADABLE = (
    "", "*", "relative", "http://a/public/x", "/public/%2e%2e/x", "/public/../x", "/public\\x", "/public/\xe9",
    "/public/%00", "/public/%zz", "/public#/x",
)  # fmt: skip


@pytest.mark.parametrize("target", UNREADABLE)
@pytest.mark.parametrize("dialect", ["nginx", "traefik"])
async def test_an_original_target_that_cannot_be_read_is_refused(start: Start, dialect: str, target: str) -> None:
    scene = await start(**TRUSTED, **RULES)
    answer = await check(scene, dialect, target, bearer(groups=["admins"]))
    assert answer.status == (403 if dialect == "nginx" else 400)


async def test_nginx_hears_only_what_it_can_carry(start: Start) -> None:
    scene = await start(**TRUSTED, **RULES)
    statuses = {
        401: await check(scene, "nginx", "/x"),
        403: await check(scene, "nginx", "/admin/x", bearer()),
        400: await check(scene, "nginx", "/x", bearer(), bearer()),
    }
    assert {told: answer.all("X-Auth-Status") for told, answer in statuses.items()} == {
        told: [str(told)] for told in statuses
    }
    assert [answer.status for answer in statuses.values()] == [401, 403, 403]
    assert statuses[400].all("X-Auth-Reason") == ["credentials_ambiguous"]
    assert statuses[401].all("WWW-Authenticate") == ['Bearer realm="auth-sidecar"']
    assert statuses[400].json()["code"] == 403, "the code is the status that was sent"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_without_keys_the_answer_is_503_and_never_anonymous(start: Start, dialect: str) -> None:
    """Public paths are allowed without an identity; an unknown token still gets 401."""
    scene = await start(published=False, **TRUSTED, **RULES)
    for target in ("/x", "/admin/x"):
        answer = await check(scene, dialect, target, bearer(groups=["admins"]))
        assert (answer.status, answer.json()["reason"]) == (503, "unavailable")
        assert int(answer.all("Retry-After")[0]) > 0
        assert answer.all("WWW-Authenticate") == []
    public = await check(scene, dialect, "/public/x", bearer())
    assert (public.status, public.all("X-Auth-Request-User")) == (200, [""])
    assert (await check(scene, dialect, "/x", bearer(iss="https://other.example.com"))).status == 401


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_known_credential_is_judged_like_a_new_one(start: Start, dialect: str) -> None:
    """The same answer on the same connection, until the token, its key or the path says otherwise."""
    scene = await start(**TRUSTED, **RULES)
    auth = bearer(exp=int(forge.NOW) + 100)
    asked_by, asked_at, named = question(dialect, "/x", "GET")
    async with await scene.connect() as wire:
        answers = [await wire.ask(asked_at, [*named, auth], method=asked_by) for _ in range(4)]
        heads = [[(n, v) for n, v in answer.head.headers if n not in ("Date", "X-Request-Id")] for answer in answers]
        assert [answer.status for answer in answers] == [200] * 4
        assert all(head == heads[0] for head in heads)
        path = question(dialect, "/admin/x")
        assert (await wire.ask(path[1], [*path[2], auth])).status == 403
        dots = question(dialect, "/a/../x")
        assert (await wire.ask(dots[1], [*dots[2], auth])).status in (400, 403)
        assert (await wire.ask(asked_at, [*named, auth, auth])).status in (400, 403)
        assert (await wire.ask(asked_at, [*named, ("Host", "b"), auth])).status == 400
    async with await scene.connect() as wire:
        assert (await wire.ask(asked_at, [*named, auth])).status == 200
        scene.clock.advance(200)
        assert (await wire.ask(asked_at, [*named, auth])).json()["reason"] == "token_expired"
        assert await scene.metric('sidecar_http_requests_total{code="200",listener="public",route="check"}') == 5


async def test_envoys_prefix_is_taken_off_exactly_once(start: Start) -> None:
    rules = [{"path": "/oauth2/ext_authz/x", "access": "public"}, {"path": "/metrics", "access": "public"}]
    scene = await start(**TRUSTED, rules=rules)
    async with await scene.connect() as wire:
        assert (await wire.ask("/oauth2/ext_authz/oauth2/ext_authz/x")).status == 200
        assert (await wire.ask("/oauth2/ext_authz/x")).status == 401
        assert (await wire.ask("/oauth2/ext_authz/metrics")).status == 200
        assert (await wire.ask("/oauth2/ext_authz/healthz")).status == 401
        assert (await wire.ask("/oauth2/ext_authz/oauth2/userinfo")).status == 401
        assert (await wire.ask("/oauth2/ext_authz")).status == 401
        assert (await wire.ask("/oauth2/ext_authz?x")).status == 401
        assert (await wire.ask("/oauth2/ext_authzx")).status == 404
        assert (await wire.ask("/oauth2/ext_authz//metrics")).status == 401


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_envoy_may_ask_with_every_method(start: Start, method: str) -> None:
    scene = await start(**TRUSTED)
    async with await scene.connect() as wire:
        for headers, expected in (([bearer()], 200), ([], 401)):
            await wire.request("/oauth2/ext_authz/x", headers, method=method)
            answer = await wire.answer(method)
            assert answer.status == expected


@pytest.mark.parametrize("keep", [True, False])
async def test_http_1_0_proxies_are_answered(start: Start, keep: bool) -> None:
    """As nginx asks by default: closed, or kept when it says so."""
    scene = await start(**TRUSTED)
    connection = "Connection: keep-alive\r\n" if keep else ""
    lines = f"X-Original-URI: /x\r\nX-Original-Method: GET\r\n{': '.join(bearer())}\r\n{connection}"
    async with await scene.connect() as wire:
        for _ in range(2 if keep else 1):
            await wire.send(f"GET /oauth2/auth HTTP/1.0\r\n{lines}\r\n".encode())
            answer = await wire.answer()
            assert (answer.status, answer.all("Connection")) == (200, ["keep-alive" if keep else "close"])
        if not keep:
            assert await wire.ended() == b""


@pytest.mark.parametrize("trusted", [True, False])
async def test_bearer_tokens_of_ours_go_to_trusted_peers_only(start: Start, tmp_path: Any, trusted: bool) -> None:
    scene = await start(
        identityHeaders={"assertion": True},
        upstream={"credentials": "openmetadata"},
        jwtTokenConfiguration=own_keys(tmp_path),
        **(TRUSTED if trusted else {}),
    )
    answer = await check(scene, "nginx", "/x", bearer())
    assert answer.status == 200
    assert len(answer.all("X-Auth-Assertion")) == 1
    assert answer.all("X-Auth-Assertion")[0].startswith("eyJ") is trusted
    assert bool(answer.all("Authorization")) is trusted


async def test_too_many_groups_are_left_blank_counted_and_logged(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    scene = await start(**TRUSTED)
    answer = await check(scene, "nginx", "/x", bearer(groups=[f"group-{n}" for n in range(400)]))
    assert (answer.status, answer.all("X-Auth-Request-Groups")) == (200, [""])
    assert answer.all("X-Auth-Request-User") == ["sam"]
    assert await scene.metric("sidecar_identity_headers_blanked_total") == 1
    assert [record.message for record in caplog.records if record.name == "sidecar.identity_headers"] == [
        "groups left blank: identity headers too large"
    ]
    assert "group-1" not in caplog.text


async def test_values_are_visible_ascii(start: Start) -> None:
    scene = await start(**TRUSTED)
    answer = await check(
        scene, "nginx", "/x", bearer(groups=["a b", "c,d", "é", "100%", "x\r\nX-Evil: 1"], jti="j\u2603")
    )
    assert answer.all("X-Auth-Request-Groups") == ["a%20b,c%2Cd,%C3%A9,100%25,x%0D%0AX-Evil:%201"]
    assert answer.all("X-Auth-Token-Id") == ["j%E2%98%83"]
    assert answer.all("X-Evil") == []


async def test_a_preflight_passes_only_where_that_is_configured(start: Start) -> None:
    preflight = [("Origin", "https://x"), ("Access-Control-Request-Method", "PUT")]
    strict, open_ = await start(**TRUSTED), await start(**TRUSTED, cors={"preflight": "public"})
    for dialect in DIALECTS:
        assert (await check(strict, dialect, "/x", *preflight, method="OPTIONS")).status == 401
        assert (await check(open_, dialect, "/x", *preflight, method="OPTIONS")).status == 200
        assert (await check(open_, dialect, "/x", preflight[0], method="OPTIONS")).status == 401
        assert (await check(open_, dialect, "/x", *preflight, method="GET")).status == 401


async def test_check_mode_answers_nothing_else(start: Start) -> None:
    scene = await start(**TRUSTED)
    async with await scene.connect() as wire:
        for target in ("/", "/oauth2", "/oauth2/", "/oauth2/authx", "/oauth2/tokensx", "/oauth2/start", "/metrics"):
            answer = await wire.ask(target, [bearer()])
            assert (answer.status, answer.json()["reason"]) == (404, "not_found")
