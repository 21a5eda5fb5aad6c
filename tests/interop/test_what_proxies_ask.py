"""What real proxies and gateways with the files of ``deploy/`` ask, told by a judge in the sidecar's place."""

import hashlib
import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from aiohttp import web

from sidecar.dataplane import identity_headers
from tests.interop.test_proxies import EVERY_FRONT, EVERY_NAME, FORGED, PROXIES, SPELLINGS, reached_upstream
from tests.support.echo_upstream import Received, echo_upstream
from tests.support.http_client import Reply, request
from tests.support.loopback_server import LoopbackServer
from tests.support.proxies import Addresses

ENVOY_PREFIX = "/oauth2/ext_authz"
EVERY_IDENTITY_HEADER = (*identity_headers.NAMES, identity_headers.ASSERTION, identity_headers.DATAHUB_ACTOR)
MINTED = "Bearer minted"
# Identity headers, which every proxy passes on: this is how the judge tells the test what it was asked.
JUDGED_TARGET, JUDGED_METHOD, JUDGED_HEADERS = "X-Auth-Request-User", "X-Auth-Request-Email", "X-Auth-Issuer"


async def _judge(asked: web.BaseRequest) -> web.StreamResponse:
    """Let everything pass, and say what was asked for. Long values are cut: nginx takes an answer of 4 KB."""
    named = asked.headers
    target = named.get("X-Original-URI") or named.get("X-Forwarded-Uri") or asked.raw_path.removeprefix(ENVOY_PREFIX)
    method = named.get("X-Original-Method") or named.get("X-Forwarded-Method") or asked.method
    headers = "\n".join(f"{name}: {value[:100]}" for name, value in named.items())
    told = dict.fromkeys(EVERY_IDENTITY_HEADER, "told") | {
        JUDGED_TARGET: target,
        JUDGED_METHOD: method,
        JUDGED_HEADERS: headers,
    }
    answer = {name: quote(value, "", errors="surrogateescape") for name, value in told.items()}
    return web.Response(headers=answer | {"Authorization": MINTED})


@dataclass(frozen=True, slots=True)
class Question:
    """One request as the upstream got it, and as the judge was asked about it. ``headers``: the judge's, as text."""

    received: Received
    target: str
    method: str
    headers: str


class Front:
    """A running proxy between this test, the judge and the upstream."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name

    def send(self, target: str, method: str = "GET", headers: tuple[tuple[str, str], ...] = ()) -> Question | Reply:
        """What was asked about the request, or the proxy's own answer when it did not pass it on."""
        reply = request(self.url, method, target=target, headers=headers)
        if not reached_upstream(reply):
            return reply
        seen = Received.of(reply.json())
        target, method, heard = (
            unquote(seen.all(name)[0], errors="surrogateescape")
            for name in (JUDGED_TARGET, JUDGED_METHOD, JUDGED_HEADERS)
        )
        return Question(seen, target, method, heard)

    def ask(self, target: str, method: str = "GET", headers: tuple[tuple[str, str], ...] = ()) -> Question:
        """As ``send``, for a request that must pass."""
        answer = self.send(target, method, headers)
        assert isinstance(answer, Question), answer
        return answer


@contextmanager
def between(
    name: str, start: Callable[[Path, Path, Addresses], AbstractContextManager[str]], binary: Path, folder: Path
) -> Iterator[Front]:
    """``start``'s proxy before the judge."""
    with LoopbackServer(_judge) as judge, echo_upstream() as upstream:
        addresses = Addresses(judge.url.removeprefix("http://"), upstream.url.removeprefix("http://"))
        with start(binary, folder, addresses) as url:
            yield Front(url, name)


@pytest.fixture(scope="module", params=EVERY_FRONT)
def front(
    request: pytest.FixtureRequest, require_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """Each proxy in turn."""
    tool, start = EVERY_FRONT[request.param]
    with between(request.param, start, require_tool(tool), tmp_path_factory.mktemp(tool)) as front:
        yield front


def test_every_identity_header_goes_on(front: Front) -> None:
    """Once, with the judge's value; a name that a proxy left out would be the caller's to send."""
    seen = front.ask("/a").received
    others = set(EVERY_IDENTITY_HEADER) - {JUDGED_TARGET, JUDGED_METHOD, JUDGED_HEADERS}
    assert {name: seen.all(name) for name in others} == {name: ["told"] for name in others}


def test_the_callers_own_credential_goes_on(front: Front) -> None:
    """Unless the lines that the file keeps for it are used."""
    assert front.ask("/a", headers=(("Authorization", "Bearer own"),)).received.all("Authorization") == ["Bearer own"]


@pytest.mark.parametrize("name", PROXIES)
def test_the_service_may_be_presented_what_the_sidecar_says(
    name: str, require_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """With the lines that each file keeps for ``upstream.credentials``, in place of the caller's own."""
    tool, start = PROXIES[name]
    with between(name, partial(start, mints=True), require_tool(tool), tmp_path) as front:
        for headers in ((), (("Authorization", "Bearer own"),)):
            assert front.ask("/a", headers=headers).received.all("Authorization") == [MINTED]


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/a%2fb%2Fc%5cd%5Ce",
        "/a%41%7eb%2e%2Dc",
        "/%C3%A9%e2%82%ac%ff",
        "/%25%2525%3f%23%3b%26%3d",
        "//a//b/",
        "/a/./b/../c",
        "/a/%2e%2e/b/%2E/c",
        "/a;v=1/b;w=%3b?x;y=1;z",
        "/a\\b",
        "/a+b*c!d$e'f(g)h,i:j@k|l^m`n{o}p",
        '/a"b<c>d',
        "/\u00e9",
        "/a?",
        "/?",
        "/a??b=?&c=/../d//e",
        "/a?b=%zz&c=%",
        "/a?b=\u00e9&c=\"<>|'",
        "/a%zz",
        "/a%",
        "/a%00b",
        "/a#b?c",
        "/*",
        "/a/",
        "/a.",
        "/.a/..b/...",
        "?a",
        "*",
        "http://elsewhere.example/a//b",
    ],
)
def test_what_is_judged_is_what_goes_on(front: Front, target: str) -> None:
    """However oddly it is spelled: the judge hears the very path and query that the upstream gets."""
    answer = front.send(target)
    if isinstance(answer, Question):
        assert answer.target == answer.received.target


@pytest.mark.parametrize("target", ["/api/v1/tables/name/a%2Fb%20c%2541%C3%A9?fields=x%2Fy&q=List(a,b)", "/a;b=c/d"])
def test_paths_that_clients_rely_on_pass_unchanged(front: Front, target: str) -> None:
    """The test above would pass on a proxy that refuses everything."""
    assert front.ask(target).target == target


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_the_method_is_sent_with_the_check(front: Front, method: str) -> None:
    """The original one, in whatever way this proxy asks."""
    answer = front.ask("/a", method)
    assert (answer.method, answer.received.method) == (method, method)


def test_the_judge_hears_nothing_that_a_caller_says_for_a_proxy(front: Front) -> None:
    """Paths, methods and client certificates that a caller makes up do not reach the judge, in any spelling."""
    names = ["X-Original-URI", "X-Original-URL", "X-Original-Method", "X-Forwarded-Client-Cert"]
    if front.name != "ingress-nginx":  # it sends every header, and the endpoint for nginx reads no others
        names += [
            "X-Forwarded-Uri",
            "X-Forwarded-Method",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
            "X-Auth-Request-User",
        ]
    for spell in SPELLINGS.values():
        headers = tuple((spell(name), FORGED) for name in names)
        answer = front.send("/a", headers=headers)
        if isinstance(answer, Question):
            assert FORGED not in answer.headers
        else:
            assert answer.status == 400, answer  # Envoy refuses underscores altogether


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_identities_cannot_be_forged(front: Front, spelling: str) -> None:
    """What a caller sends under a name that tells identities, in this spelling, does not reach the service."""
    for name in EVERY_NAME:
        answer = front.send("/a", headers=((SPELLINGS[spelling](name), FORGED),))
        if isinstance(answer, Question):
            assert not [header for header in answer.received.headers if header[1] == FORGED]
        else:
            assert answer.status == 400, answer  # Envoy refuses underscores altogether


def test_the_judge_hears_what_it_needs(front: Front) -> None:
    """The credential, what makes a preflight, and the trace."""
    trace = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "a=b"))
    preflight = (("Origin", "https://ui.example"), ("Access-Control-Request-Method", "PUT"))
    needed = (("Authorization", "Bearer x"), *preflight, *trace)
    heard = front.ask("/a", "OPTIONS", needed).headers.lower().splitlines()
    assert {f"{name}: {value}".lower() for name, value in needed} <= set(heard)


@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_is_for_the_service_alone(front: Front, chunked: bool) -> None:
    """The judge is announced none, so that nothing of the next request is ever taken for it."""
    body = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n" * 4000
    for _ in range(3):
        seen, heard = _upload(front.url, body, chunked)
        assert seen.body_sha256 == hashlib.sha256(body).hexdigest()
        assert not [line for line in heard if line.startswith(("transfer-encoding:", "expect:"))]
        assert [line for line in heard if line.startswith("content-length:")] in ([], ["content-length: 0"])


def _upload(url: str, body: bytes, chunked: bool) -> tuple[Received, list[str]]:
    """What the upstream got, and the lines that the judge did, in lower case."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    pieces = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
    headers = {} if chunked else {"Content-Length": str(len(body))}
    try:
        connection.request("POST", "/a", pieces, headers, encode_chunked=chunked)
        seen = Received.of(json.loads(connection.getresponse().read()))
    finally:
        connection.close()
    return seen, unquote(seen.all(JUDGED_HEADERS)[0]).lower().splitlines()


def test_many_cookies_are_no_burden(front: Front) -> None:
    """A browser's cookies reach the upstream, and do not make the check too large."""
    cookie = "; ".join(f"c{number}={'v' * 100}" for number in range(120))
    assert front.ask("/a", headers=(("Cookie", cookie),)).received.all("Cookie") == [cookie]
