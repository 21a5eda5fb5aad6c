"""The token endpoint on two replicas with one Redis: what may happen once happens once, and ends on both."""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.jwk import RSAKey

from sidecar.keys.key_files import generate, write_pair
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.redis_servers import RedisServer, running
from tests.support.sidecar_process import Sidecar, running_sidecar

PLATFORM = RSAKey.generate_key(2048, auto_kid=True)
GITHUB = "https://token.actions.githubusercontent.com"
ISSUER = "http://127.0.0.1:4180/oauth2"
SECRET = "a-secret-of-more-than-32-characters"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ASSERTIONS = 500
REVOCATIONS = 60


def platform_token(number: int) -> str:
    now = int(time.time())
    claims = {
        "iss": GITHUB,
        "aud": ISSUER,
        "sub": "repo:acme/etl:environment:prod",
        "repository_id": "4711",
        "event_name": "push",
        "jti": f"job-{number}",
        "iat": now,
        "exp": now + 300,
    }
    return jwt.encode({"alg": "RS256", "typ": "JWT", "kid": PLATFORM.kid}, claims, PLATFORM, algorithms=["RS256"])


@contextmanager
def replicas(folder: Path, redis: RedisServer, idp: IdentityProvider) -> Iterator[tuple[Sidecar, Sidecar]]:
    """Two sidecars with a token endpoint on ``redis``."""
    write_pair(folder / "keys", generate("ES256"))
    jwks = folder / "platform.jwks"
    jwks.write_text(json.dumps({"keys": [{**PLATFORM.as_dict(private=False), "use": "sig"}]}), encoding="utf-8")
    configuration: dict[str, Any] = {
        "server": {"publicUrl": "http://127.0.0.1:4180"},
        "store": {"url": f"redis://127.0.0.1:{redis.port}"},
        "jwtTokenConfiguration": {
            "rsaprivateKeyFilePath": str(folder / "keys" / "private_key.der"),
            "rsapublicKeyFilePath": str(folder / "keys" / "public_key.der"),
            "jwtissuer": ISSUER,
        },
        "authorizerConfiguration": {"adminPrincipals": ["corp/root"]},
        "authenticationConfiguration": {
            "providers": [
                {"name": "corp", "issuer": idp.issuer, "audiences": [AUDIENCE]},
                {"name": "github", "issuer": GITHUB, "publicKeyUrls": [f"file:{jwks}"]},
            ]
        },
        "tokenEndpoint": {
            "enabled": True,
            "audiences": [AUDIENCE],
            "clients": [{"id": "agent", "secret": SECRET, "exchange": {"providers": ["corp"]}}],
            "workloads": [
                {
                    "name": "jobs",
                    "provider": "github",
                    "subject": "repo:acme/etl:environment:prod",
                    "claims": {"repository_id": ["4711"], "event_name": ["push"]},
                    "as": {"bot": "ingestion"},
                    "perMinute": 10_000,
                }
            ],
        },
    }
    with ExitStack() as stack:
        both = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            both.append(stack.enter_context(running_sidecar(folder / name, configuration)))
        yield both[0], both[1]


class Caller:
    """One connection to a sidecar."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._connection = HTTPConnection(sidecar.address, timeout=30)

    def ask(self, method: str, path: str, token: str = "", body: object = None, **form: str) -> tuple[int, Any]:
        """Status, and the JSON of the body if there is one."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        raw = b""
        if form:
            headers |= FORM
            raw = urlencode(form).encode()
        elif body is not None:
            headers["Content-Type"] = "application/json"
            raw = json.dumps(body).encode()
        self._connection.request(method, f"/oauth2{path}", raw, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.startswith(b"{") else None

    def close(self) -> None:
        self._connection.close()


def _until(condition: Callable[[], bool], within: float = 15.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_each_assertion_is_good_for_one_token(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """500 assertions, each presented to both replicas at once: 500 tokens, all good at both, and no error but one."""
    redis = RedisServer(require_tool("redis-server"), tmp_path / "redis")
    with running(redis), IdentityProvider() as idp, replicas(tmp_path, redis, idp) as (one, two):
        root = idp.mint(sub="s-0", preferred_username="root", email=None)
        callers = [Caller(one), Caller(two)]
        _until(lambda: callers[0].ask("POST", "/bots", root, {"name": "ingestion"})[0] in (200, 201))
        _until(lambda: callers[1].ask("GET", "/bots", root)[1]["paging"]["total"] == 1)
        texts = [platform_token(number) for number in range(ASSERTIONS)]

        def present(caller: Caller, text: str) -> tuple[int, Any]:
            return caller.ask("POST", "/token", grant_type=JWT_BEARER, assertion=text)

        with ThreadPoolExecutor(2) as pool:
            answers = []
            for text in texts:  # both requests of a pair are in progress at the same time
                pair = [pool.submit(present, caller, text) for caller in callers]
                answers.append([future.result() for future in pair])
        assert [sorted(status for status, _ in pair) for pair in answers] == [[200, 400]] * ASSERTIONS
        refused = {document["error"] for pair in answers for status, document in pair if status == 400}
        assert refused == {"invalid_grant"}
        tokens = [document["access_token"] for pair in answers for status, document in pair if status == 200]
        assert len(set(tokens)) == ASSERTIONS
        for caller in callers:
            assert {caller.ask("GET", "/auth", token)[0] for token in tokens[::25]} == {200}
            assert present(caller, texts[0])[0] == 400
        for caller in callers:
            caller.close()


def test_without_the_store_there_is_no_token_and_no_replay_after_it(
    require_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """503 while Redis is away. When it comes back empty, the copies of the replicas know what was used."""
    redis = RedisServer(require_tool("redis-server"), tmp_path / "redis", options=["save ''", "appendonly no"])
    with running(redis), IdentityProvider() as idp, replicas(tmp_path, redis, idp) as (one, two):
        root = idp.mint(sub="s-0", preferred_username="root", email=None)
        callers = [Caller(one), Caller(two)]
        _until(lambda: callers[0].ask("POST", "/bots", root, {"name": "ingestion"})[0] in (200, 201))
        _until(lambda: callers[1].ask("GET", "/bots", root)[1]["paging"]["total"] == 1)
        used, fresh = platform_token(1), platform_token(2)
        status, document = callers[0].ask("POST", "/token", grant_type=JWT_BEARER, assertion=used)
        assert status == 200
        token = document["access_token"]
        _until(lambda: callers[1].ask("GET", "/auth", token)[0] == 200)
        redis.kill()
        for caller in callers:
            status, document = caller.ask("POST", "/token", grant_type=JWT_BEARER, assertion=fresh)
            assert (status, document["error"]) == (503, "temporarily_unavailable")
            # known tokens stay good, and what was used stays used
            assert caller.ask("GET", "/auth", token)[0] == 200
            assert caller.ask("POST", "/token", grant_type=JWT_BEARER, assertion=used)[0] == 400
        redis.start()
        _until(lambda: callers[0].ask("POST", "/token", grant_type=JWT_BEARER, assertion=platform_token(3))[0] != 503)
        for caller in callers:
            assert caller.ask("POST", "/token", grant_type=JWT_BEARER, assertion=used)[0] == 400
            assert caller.ask("GET", "/auth", token)[0] == 200
            caller.close()


def test_the_end_of_a_source_reaches_the_other_replica(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """Refused at once where the source was revoked, and within milliseconds on the other replica."""
    redis = RedisServer(require_tool("redis-server"), tmp_path / "redis")
    with running(redis), IdentityProvider() as idp, replicas(tmp_path, redis, idp) as (one, two):
        here, there = Caller(one), Caller(two)
        root = idp.mint(sub="s-0", preferred_username="root", email=None)
        for caller in (here, there):
            _until(lambda caller=caller: caller.ask("GET", "/auth", root)[0] == 200)  # type: ignore[misc]
        delays = []
        for number in range(REVOCATIONS):
            source = idp.mint(sub=f"s-{number}", preferred_username=f"person{number}", email=None)
            status, document = here.ask(
                "POST",
                "/token",
                grant_type=EXCHANGE,
                client_id="agent",
                client_secret=SECRET,
                subject_token=source,
                subject_token_type="urn:ietf:params:oauth:token-type:access_token",
            )
            assert status == 200, document
            token = document["access_token"]
            assert there.ask("GET", "/auth", token)[0] == 200
            assert here.ask("POST", "/revocations", root, {"token": source})[0] == 201
            began = time.monotonic()
            assert here.ask("GET", "/auth", token)[0] == 401
            while there.ask("GET", "/auth", token)[0] == 200:
                assert time.monotonic() - began < 5
            delays.append(time.monotonic() - began)
        here.close()
        there.close()
    assert statistics.median(delays) <= 0.05
    assert max(delays) <= 1
