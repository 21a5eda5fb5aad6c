"""Forward mode: what of a request's head reaches the upstream, and what of its answer's head comes back."""

import gzip
from typing import Any

import pytest

from sidecar.dataplane.identity_headers import NAMES
from tests.flow.conftest import LOOPBACK, Start, bearer, own_keys
from tests.support import forge
from tests.support.echo_upstream import folded
from tests.support.scripted_upstream import OK, Request, ScriptedUpstream, answering
from tests.support.wire import Answer, Lines

TARGETS = (
    "/aspects/urn%3Ali%3Adataset%3A%28a%2Cb%2CPROD%29?aspect=x&version=0",
    "/entitiesV2/urn%3Ali?aspects=List(datasetProperties,status)",
    "/name/eval_svc.db.sch.a%2Fb%20c%2541%C3%A9",
    "//double//slash",
    "/a;param=1/b;c",
    "/?",
    "/x?a=/../b&c=%zz",
)
OTHERS = (
    "X-Auth-Assertion", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Preferred-Username",
    "X-Forwarded-Groups", "X-Forwarded-Access-Token", "Remote-User", "Remote-Email", "Remote-Groups", "Remote-Name",
    "X-Remote-User", "X-WEBAUTH-USER", "X-Auth-Params-Email", "X-DataHub-Actor", "X-DataHub-Delegated-For-Id",
    "X-DataHub-Delegated-For-Type", "X-Original-URL", "X-Rewrite-URL", "X-Impersonate-User", "X-Company-Secret",
)  # fmt: skip
IDENTITY = {
    "X-Auth-Request-User": "sam",
    "X-Auth-Request-Email": "sam@example.com",
    "X-Auth-Request-Preferred-Username": "sam",
    "X-Auth-Request-Groups": "dev",
    "X-Auth-Actor-Type": "USER",
    "X-Auth-Actor-Urn": "urn:li:corpuser:sam",
    "X-Auth-Issuer": forge.ISSUER,
    "X-Auth-Token-Id": "t1",
    "X-Auth-Client": "catalog",
    "X-Auth-Scopes": "read write",
}
CALLER = bearer(groups=["dev"], jti="t1", client_id="catalog", scope="read write")


# All characters of a header name that are no letters or digits (RFC 9110 section 5.6.2).
MARKS = "!#$%&'*+-.^_`|~"


def spellings(name: str) -> list[str]:
    """A name in every form that an upstream may read as that name."""
    return [
        name.upper(), name.lower(), name.lower().replace("-", "_", 1), ".".join(name.rsplit("-", 1)),
        "|".join(name.split("-", 1)), *(name.replace("-", mark) for mark in MARKS),
    ]  # fmt: skip


def folded_values(request: Request, name: str) -> list[str]:
    return [value for key, value in request.head.headers if folded(key) == folded(name)]


async def passed_on(start: Start, headers: Lines, target: str = "/x", **blocks: Any) -> Request:
    """What the upstream receives of a request that passes."""
    async with ScriptedUpstream() as upstream:
        scene = await start(upstream.url, **blocks)
        async with await scene.connect() as wire:
            assert (await wire.ask(target, headers)).status == 200
    (request,) = upstream.requests
    return request


async def passed_back(start: Start, raw: bytes, *, method: str = "GET") -> Answer:
    """What the caller receives when the service answers with ``bytes``."""
    async with ScriptedUpstream(answering(raw)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            return await wire.ask("/x", [bearer()], method=method)


@pytest.mark.parametrize("target", TARGETS)
async def test_the_target_is_forwarded_byte_for_byte(start: Start, target: str) -> None:
    assert (await passed_on(start, [CALLER], target)).head.start == f"GET {target} HTTP/1.1"


async def test_other_headers_keep_order_case_duplicates_and_bytes(start: Start) -> None:
    sent = [
        ("zeta", "1"), ("Alpha", "2"), ("X-Multi", "a"), ("x-multi", "b"), ("X-Latin", "caf\xe9\xff"),
        ("Accept-Encoding", "gzip, deflate"), ("X-Empty", ""), ("Cookie", "a=1"),
    ]  # fmt: skip
    request = await passed_on(start, [*sent, CALLER])
    names = {name for name, _ in sent}
    assert [(name, value) for name, value in request.head.headers if name in names] == sent
    assert request.all("Host") == ["api.example.com"]


async def test_hop_by_hop_headers_and_those_that_connection_names_end_here(start: Start) -> None:
    hop = [
        ("Connection", "close, X-Private, TE"), ("connection", "x-other"), ("X-Private", "1"), ("X-Other", "2"),
        ("TE", "trailers"), ("Keep-Alive", "timeout=5"), ("Proxy-Connection", "keep-alive"), ("Trailer", "X-T"),
        ("Proxy-Authorization", "Basic x"), ("HTTP2-Settings", "AAMAAABk"), ("Upgrade", "h2c"), ("X-Kept", "yes"),
        *((f"Transfer{mark}Encoding", "chunked") for mark in MARKS if mark != "-"),
        *((f"Content{mark}Length", "7") for mark in MARKS if mark != "-"), ("Keep!Alive", "1"),
    ]  # fmt: skip
    request = await passed_on(start, [*hop, CALLER])
    left = {folded(name) for name, _ in request.head.headers} & {folded(name) for name, _ in hop}
    assert left == {"x-kept"}


async def test_the_service_hears_who_is_asking_and_nothing_blank(start: Start) -> None:
    request = await passed_on(start, [CALLER])
    expected = {name: [value] for name, value in IDENTITY.items()}
    # a header without a value is left out: the issuer may not say who acts
    assert {name: folded_values(request, name) for name in NAMES} == {**expected, "X-Auth-Acting": []}
    without_groups = await passed_on(start, [bearer()])
    assert without_groups.all("X-Auth-Request-Groups") == []


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
async def test_forged_identity_is_removed_in_every_spelling(start: Start, name: str) -> None:
    """Also when it is repeated, and when Connection names it."""
    forged = [(spelling, "forged") for spelling in spellings(name)]
    nominated = ("Connection", ", ".join({name for name, _ in forged}))
    strip: dict[str, Any] = {"identityHeaders": {"strip": ["X-Company-Secret"]}}
    request = await passed_on(start, [*forged, *forged, CALLER, nominated], **strip)
    expected = [IDENTITY[name]] if name in IDENTITY else []
    assert folded_values(request, name) == expected
    assert b"forged" not in request.raw


OVERRIDES = (
    "X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL", "SCRIPT-NAME",
    "X-Script-Name", "PATH-INFO",
)  # fmt: skip


@pytest.mark.parametrize("server", [{}, {"trustedProxies": [LOOPBACK]}], ids=["any peer", "a trusted proxy"])
async def test_headers_that_name_another_method_or_path_are_removed(start: Start, server: dict[str, Any]) -> None:
    """The upstream receives the method and path that the rules have checked, for every peer."""
    sent = [(spelling, "DELETE") for name in OVERRIDES for spelling in (name, name.lower(), name.replace("-", "_"))]
    sent += [(name.replace("-", "~"), "DELETE") for name in OVERRIDES]
    request = await passed_on(start, [*sent, CALLER], server=server)
    assert request.head.start == "GET /x HTTP/1.1"
    assert b"DELETE" not in request.raw


async def test_forged_identity_does_not_pass_a_public_path_either(start: Start) -> None:
    rules: dict[str, Any] = {"rules": [{"path": "/x", "access": "public"}]}
    request = await passed_on(start, [("X-Auth-Request-User", "forged"), ("x_auth_request_user", "forged")], **rules)
    assert b"forged" not in request.raw
    assert all(folded_values(request, name) == [] for name in NAMES)


async def test_untrusted_forwarding_headers_are_replaced(start: Start) -> None:
    sent = [
        ("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-Host", "evil"), ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Prefix", "/p"), ("X_Forwarded_Port", "1"), ("Forwarded", "for=1.2.3.4"), ("X-Real-IP", "1.2.3.4"),
        ("X-Request-Id", "theirs"), ("X-Real!IP", "1.2.3.4"), ("X|Request|Id", "theirs"),
        *((f"X{mark}Forwarded{mark}For", "1.2.3.4") for mark in MARKS if mark != "-"),
    ]  # fmt: skip
    request = await passed_on(start, [*sent, CALLER])
    assert folded_values(request, "X-Forwarded-For") == ["127.0.0.1"]
    assert request.all("X-Forwarded-For") == ["127.0.0.1"]
    assert request.all("X-Forwarded-Host") == ["api.example.com"]
    assert request.all("X-Forwarded-Proto") == ["http"]
    assert request.all("X-Request-Id") not in ([], ["theirs"])
    for name in ("X-Forwarded-Prefix", "X-Forwarded-Port", "Forwarded", "X-Real-IP"):
        assert folded_values(request, name) == []


async def test_trusted_forwarding_headers_are_kept_and_appended_to(start: Start) -> None:
    sent = [
        ("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-For", "5.6.7.8"), ("X-Forwarded-Host", "public.example.com"),
        ("X-Forwarded-Proto", "https"), ("X-Forwarded-Prefix", "/p"), ("X-Real-IP", "1.2.3.4"),
        ("X-Request-Id", "theirs"), ("Forwarded", "for=9.9.9.9"), ("X_Forwarded_Host", "evil"),
        ("X'Forwarded'Host", "evil"),
    ]  # fmt: skip
    request = await passed_on(start, [*sent, CALLER], server={"trustedProxies": [LOOPBACK]})
    assert request.all("X-Forwarded-For") == ["1.2.3.4, 5.6.7.8, 127.0.0.1"]
    assert folded_values(request, "X-Forwarded-Host") == ["public.example.com"]
    assert request.all("X-Forwarded-Proto") == ["https"]
    assert request.all("X-Forwarded-Prefix") == ["/p"]
    assert request.all("X-Real-IP") == ["1.2.3.4"]
    assert request.all("X-Request-Id") == ["theirs"]
    assert request.all("Forwarded") == []


async def test_one_request_id_in_answer_and_upstream(start: Start) -> None:
    async with ScriptedUpstream(answering(b"HTTP/1.1 200 OK\r\nX-Request-Id: own\r\nContent-Length: 0\r\n\r\n")) as up:
        scene = await start(up.url)
        async with await scene.connect() as wire:
            answers = [await wire.ask("/x", [bearer()]) for _ in range(2)]
    told = [request.all("X-Request-Id") for request in up.requests]
    assert [answer.all("X-Request-Id") for answer in answers] == told
    assert told[0] != told[1]


async def test_one_request_id_in_upstream_refusal_and_log(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sidecar")
    async with ScriptedUpstream(answering(b"garbage\r\n\r\n")) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            answer = await wire.ask("/x", [bearer()])
    identifier = answer.json()["requestId"]
    assert answer.status == 502
    assert answer.all("X-Request-Id") == [identifier]
    assert upstream.requests[0].all("X-Request-Id") == [identifier]
    assert [record.requestId for record in caplog.records if record.name == "sidecar.refusals"] == [identifier]  # type: ignore[attr-defined]


async def test_credentials_passthrough_leaves_authorization_as_it_was(start: Start) -> None:
    assert (await passed_on(start, [CALLER])).all("Authorization") == [CALLER[1]]


async def test_credentials_none_removes_authorization(start: Start) -> None:
    aliases = [("authorization.", "x"), ("AUTHORIZATION", CALLER[1])]
    request = await passed_on(start, aliases, upstream={"credentials": "none"})
    assert request.all("Authorization") == []
    assert CALLER[1].encode() not in request.raw


async def test_credentials_openmetadata_are_minted_for_the_actor(start: Start, tmp_path: Any) -> None:
    """The caller's own token is not forwarded, and no identity is sent without an authenticated caller."""
    blocks: dict[str, Any] = {"upstream": {"credentials": "openmetadata"}, "jwtTokenConfiguration": own_keys(tmp_path)}
    request = await passed_on(start, [CALLER], **blocks)
    (authorization,) = request.all("Authorization")
    assert authorization.startswith("Bearer eyJ")
    assert authorization != CALLER[1]
    rules: dict[str, Any] = {"rules": [{"path": "/x", "access": "public"}]}
    public = await passed_on(start, [("Authorization", "Bearer stale")], **blocks, **rules)
    assert public.all("Authorization") == []


async def test_every_set_cookie_comes_back_as_a_line_of_its_own(start: Start) -> None:
    cookies = b"Set-Cookie: a=1; Path=/\r\nset-cookie: b=2, x\r\nSet-Cookie: a=3\r\n"
    answer = await passed_back(start, b"HTTP/1.1 200 OK\r\n" + cookies + b'ETag: W/"x"\r\nContent-Length: 0\r\n\r\n')
    assert answer.all("Set-Cookie") == ["a=1; Path=/", "b=2, x", "a=3"]
    assert ("ETag", 'W/"x"') in answer.head.headers


async def test_hop_by_hop_headers_of_answers_end_here(start: Start) -> None:
    raw = (
        b"HTTP/1.1 200 Fine\r\nConnection: X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Proxy-Authenticate: Basic\r\nTrailer: X\r\nUpgrade: h2c\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok"
    )
    answer = await passed_back(start, raw)
    assert answer.head.start == "HTTP/1.1 200 Fine"
    names = {name for name, _ in answer.head.headers}
    assert names - {"X-Request-Id"} == {"X-Kept", "Content-Length", "Date"}


async def test_compressed_bytes_pass_untouched_both_ways(start: Start) -> None:
    packed = gzip.compress(b"hello" * 1000)
    raw = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    async with ScriptedUpstream(answering(raw)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            answer = await wire.ask("/x", [bearer(), ("Content-Encoding", "gzip")], method="POST", body=packed)
    assert (answer.body, answer.all("Content-Encoding")) == (packed, ["gzip"])
    assert (upstream.requests[0].body, upstream.requests[0].all("Content-Encoding")) == (packed, ["gzip"])


@pytest.mark.parametrize(
    ("raw", "method", "status", "length"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", 200, ["5"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD", 200, []),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", 204, []),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n", "GET", 304, ["5"]),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK, "GET", 200, ["2"]),
    ],
)
async def test_answers_without_body_and_interim_answers(
    start: Start, raw: bytes, method: str, status: int, length: list[str]
) -> None:
    """The connections stay in step: a second request gets its own answer."""
    async with ScriptedUpstream(answering(raw, OK)) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            answer = await wire.ask("/first", [bearer()], method=method)
            assert (answer.status, answer.all("Content-Length")) == (status, length)
            assert answer.all("Transfer-Encoding") == []
            assert (await wire.ask("/second", [bearer()])).body == b"ok"


BAD_ANSWERS = {
    "control byte": b"HTTP/1.1 200 OK\r\nX-A: 1\x012\r\nContent-Length: 2\r\n\r\nok",
    "escape": b"HTTP/1.1 200 OK\r\nX-A: \x1b[2J\r\nContent-Length: 2\r\n\r\nok",
    "delete": b"HTTP/1.1 200 OK\r\nX-A: \x7f\r\nContent-Length: 2\r\n\r\nok",
    "bare CR": b"HTTP/1.1 200 OK\r\nX-A: 1\rX-B: 2\r\nContent-Length: 2\r\n\r\nok",
    "NUL": b"HTTP/1.1 200 OK\r\nX-A: 1\x002\r\nContent-Length: 2\r\n\r\nok",
    "space before colon": b"HTTP/1.1 200 OK\r\nSet-Cookie : a\r\nContent-Length: 2\r\n\r\nok",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    "equal lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nok\r\n0\r\n\r\n",
    "signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "huge length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nok",
    "largest length": b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nok",
    "empty length": b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nok",
    "list length": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    "other coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
    "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nok",
    "status 99": b"HTTP/1.1 99 OK\r\nContent-Length: 2\r\n\r\nok",
    "status 600": b"HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\nok",
    "status 9999": b"HTTP/1.1 9999 OK\r\nContent-Length: 2\r\n\r\nok",
    "unasked 101": b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "204 with a body": b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "other version": b"HTTP/3.7 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "long line": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 200_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "nothing": b"",
}


@pytest.mark.parametrize("raw", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_an_invalid_answer_becomes_502(start: Start, raw: bytes) -> None:
    """In our shape, without anything of the answer; the connection is not used again, the caller's goes on."""

    async def script(connection: Any) -> None:
        request = await connection.request()
        if request.target == "/second":
            await connection.send(OK)
        elif raw:
            await connection.send(raw)
            await connection.ended()

    async with ScriptedUpstream(script) as upstream:
        scene = await start(upstream.url)
        async with await scene.connect() as wire:
            answer = await wire.ask("/first", [bearer()])
            assert (answer.status, answer.json()["reason"]) == (502, "upstream_unreachable")
            assert (await wire.ask("/second", [bearer()])).body == b"ok"
        assert upstream.accepted == 2
        assert await scene.metric('sidecar_upstream_requests_total{code="502"}') == 1
    assert [request.target for request in upstream.requests] == ["/first", "/second"]


async def test_a_folded_line_of_an_answer_is_unfolded(start: Start) -> None:
    """RFC 9112 section 5.2: the upstream must not parse one line as two."""
    answer = await passed_back(start, b"HTTP/1.1 200 OK\r\nX-A: 1\r\n Set-Cookie: b\r\nContent-Length: 2\r\n\r\nok")
    assert answer.all("Set-Cookie") == []
    assert answer.all("X-A") == ["1 Set-Cookie: b"]


async def test_status_and_reason_phrase_of_others_pass(start: Start) -> None:
    answer = await passed_back(start, b"HTTP/1.1 451 Unavailable For L\xe9gal\r\nContent-Length: 0\r\n\r\n")
    assert answer.head.start.startswith("HTTP/1.1 451 Unavailable For L")
    assert (await passed_back(start, b"HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n")).status == 299
