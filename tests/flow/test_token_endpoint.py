"""The token endpoint over HTTP: grants, errors, and what the tokens are good for."""

import json
import logging
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest
from joserfc.jwk import RSAKey

from sidecar.store.base import Batch
from sidecar.store.revocation_entry import Scope, make_entry
from sidecar.tokens.jwt.compact import parse
from tests.flow.conftest import LOOPBACK, Scene, Start, own_keys
from tests.support import forge
from tests.support.jwks_server import jwk
from tests.support.ports import free_port
from tests.support.wire import Answer, Wire

FORM = ("Content-Type", "application/x-www-form-urlencoded")
URL = "https://metadata.example.com"
ENDPOINT = f"{URL}/oauth2"
SECRET = "a-secret-of-more-than-32-characters:%+/ü"
GITHUB = "https://token.actions.githubusercontent.com"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
TYPE = "urn:ietf:params:oauth:token-type:"
CLIENT_KEY = RSAKey.generate_key(2048)
PLATFORM_KEY = RSAKey.generate_key(2048)


def basic(client: str = "etl", secret: str = SECRET) -> tuple[str, str]:
    text = f"{quote_plus(client)}:{quote_plus(secret)}"
    return "Authorization", f"Basic {b64encode(text.encode()).decode()}"


def github_claims(**changes: Any) -> dict[str, Any]:
    """The claims of a job's token, as GitHub writes them; ``changes`` as for :func:`forge.claims`."""
    now = int(forge.NOW)
    good = {
        "jti": "c8c8a1f0-7a51-4b0e-9b0a-6d3d6a1d2f10",
        "sub": "repo:acme/etl:environment:prod",
        "aud": ENDPOINT,
        "ref": "refs/heads/main",
        "sha": "4f6e1b0a",
        "repository": "acme/etl",
        "repository_owner": "acme",
        "repository_owner_id": "17",
        "run_id": "9001",
        "run_number": "12",
        "run_attempt": "1",
        "repository_visibility": "private",
        "repository_id": "4711",
        "actor": "octocat",
        "workflow": "ingest",
        "head_ref": "",
        "base_ref": "",
        "event_name": "push",
        "ref_protected": "true",
        "ref_type": "branch",
        "environment": "prod",
        "job_workflow_ref": "acme/etl/.github/workflows/ingest.yml@refs/heads/main",
        "runner_environment": "github-hosted",
        "iss": GITHUB,
        "nbf": now - 10,
        "iat": now - 10,
        "exp": now + 290,
        **changes,
    }
    return {name: value for name, value in good.items() if value is not ...}


def platform_token(claims: dict[str, Any] | None = None, **header: Any) -> str:
    head = {"alg": "RS256", "kid": "p1", "typ": "JWT", **header}
    return forge.token(github_claims() if claims is None else claims, head, key=PLATFORM_KEY)


def client_assertion(client: str = "robot", **changes: Any) -> str:
    now = int(forge.NOW)
    claims = {"iss": client, "sub": client, "aud": ENDPOINT, "jti": "j1", "iat": now, "exp": now + 60, **changes}
    good = {name: value for name, value in claims.items() if value is not ...}
    return forge.token(good, {"alg": "RS256", "kid": "c1", "typ": "JWT"}, key=CLIENT_KEY)


def key_file(folder: Path, name: str, key: RSAKey, kid: str) -> str:
    path = folder / f"{name}.jwks"
    path.write_text(json.dumps({"keys": [jwk(key, kid)]}), encoding="utf-8")
    return f"file:{path}"


def configuration(folder: Path, **changes: Any) -> dict[str, Any]:
    """The blocks of a sidecar with a token endpoint; ``changes`` replace members of ``tokenEndpoint``."""
    corp = {
        "name": "corp",
        "issuer": forge.ISSUER,
        "publicKeyUrls": [key_file(folder, "corp", forge.RSA, "k1")],
        "audiences": ["meta"],
        "jwtPrincipalClaims": ["sub"],
    }
    github: dict[str, Any] = {"name": "github", "issuer": GITHUB, "jwtPrincipalClaims": ["actor"]}
    github["publicKeyUrls"] = [key_file(folder, "github", PLATFORM_KEY, "p1")]
    endpoint = {
        "enabled": True,
        "audiences": ["meta", f"{URL}/mcp", "kafka:prod"],
        "defaultAudience": "meta",
        "clients": [
            {
                "id": "etl",
                "secret": SECRET,
                "as": {"bot": "ingestion"},
                "exchange": {"providers": ["corp", "own"]},
                "scopes": ["read", "write"],
                "audiences": ["meta", f"{URL}/mcp", "kafka:prod"],
            },
            {"id": "robot", "jwks": key_file(folder, "robot", CLIENT_KEY, "c1"), "as": {"bot": "ingestion"}},
            {"id": "agent", "secret": SECRET, "exchange": {"providers": ["corp"], "grant": True}, "scopes": ["read"]},
        ],
        "workloads": [
            {
                "name": "github-prod",
                "provider": "github",
                "subject": "repo:acme/etl:environment:prod",
                "claims": {"repository_id": ["4711"], "event_name": ["push", "schedule"]},
                "as": {"bot": "ingestion"},
                "scopes": ["write"],
            },
            {
                "name": "github-branches",
                "provider": "github",
                "subjectPattern": "repo:acme/etl:ref:refs/heads/release-*",
                "claims": {"repository_id": ["4711"], "event_name": ["push"]},
                "as": {"bot": "ingestion"},
                "reuse": True,
                "perMinute": 3,
            },
        ],
        **changes,
    }
    return {
        "server": {"publicUrl": URL},
        "jwtTokenConfiguration": {**own_keys(folder), "jwtissuer": ENDPOINT},
        "authenticationConfiguration": {"providers": [corp, github]},
        "authorizerConfiguration": {"adminPrincipals": ["corp/root"], "principalDomain": "example.com"},
        "tokenEndpoint": endpoint,
    }


async def ask(wire: Wire, *headers: tuple[str, str], path: str = "/oauth2/token", **fields: str) -> Answer:
    return await wire.ask(path, [FORM, *headers], method="POST", body=urlencode(fields).encode())


async def admin(wire: Wire, path: str, body: object, method: str = "POST") -> Answer:
    token = forge.token(forge.claims(sub="root"))
    headers = [("Authorization", f"Bearer {token}"), ("Content-Type", "application/json")]
    return await wire.ask(f"/oauth2{path}", headers, method=method, body=json.dumps(body).encode())


async def status(wire: Wire, token: str, path: str = "/oauth2/auth") -> int:
    return (await wire.ask(path, [("Authorization", f"Bearer {token}")])).status


async def begin(start: Start, folder: Path, *, bot: bool = True, **changes: Any) -> Scene:
    scene = await start(**configuration(folder, **changes))
    if bot:
        async with await scene.connect() as wire:
            assert (await admin(wire, "/bots", {"name": "ingestion"})).status == 201
    return scene


def claims_of(answer: Answer) -> dict[str, Any]:
    return dict(parse(answer.json()["access_token"], 16_384).claims)


async def test_client_credentials_by_each_method(start: Start, tmp_path: Path) -> None:
    scene = await begin(start, tmp_path)
    async with await scene.connect() as wire:
        by_basic = await ask(
            wire, basic(), grant_type="client_credentials", scope="write nothing", resource=f"{URL}/mcp"
        )
        assert by_basic.status == 200, by_basic.body
        assert by_basic.all("Cache-Control") == ["no-store"]
        document = by_basic.json()
        assert (document["token_type"], document["expires_in"], document["scope"]) == ("Bearer", 900, "write")
        assert "issued_token_type" not in document
        claims = claims_of(by_basic)
        assert claims["iss"] == ENDPOINT
        assert (claims["sub"], claims["aud"], claims["client_id"]) == ("ingestion", f"{URL}/mcp", "etl")
        assert (claims["isBot"], claims["tokenType"], claims["exp"] - claims["iat"]) == (False, "OM_USER", 900)
        assert "act" not in claims
        by_post = await ask(wire, grant_type="client_credentials", client_id="etl", client_secret=SECRET)
        assert (by_post.status, by_post.json()["scope"], claims_of(by_post)["aud"]) == (200, "read write", "meta")
        assertion = {"client_assertion": client_assertion(), "client_assertion_type": ASSERTION}
        by_key = await ask(wire, grant_type="client_credentials", **assertion)
        assert by_key.status == 200, by_key.body
        again = await ask(wire, grant_type="client_credentials", **assertion)
        assert (again.status, again.json()["error"]) == (400, "invalid_grant")
        to_token_url = client_assertion(aud=f"{ENDPOINT}/token", jti="j2")
        other = await ask(
            wire, grant_type="client_credentials", client_assertion=to_token_url, client_assertion_type=ASSERTION
        )
        assert other.status == 200
        token = by_post.json()["access_token"]
        assert await status(wire, token) == 200
        shown = await wire.ask("/oauth2/userinfo", [("Authorization", f"Bearer {token}")])
        assert shown.json()["actor"]["id"] == "ingestion"


@pytest.mark.parametrize("audience", [f"{URL}/mcp", "kafka:prod"])
async def test_tokens_for_other_servers_are_not_accepted_here(start: Start, tmp_path: Path, audience: str) -> None:
    scene = await begin(start, tmp_path)
    async with await scene.connect() as wire:
        answer = await ask(wire, basic(), grant_type="client_credentials", audience=audience)
        assert answer.status == 200
        assert await status(wire, answer.json()["access_token"]) == 401


@pytest.mark.parametrize("text", [f"etl:{SECRET}", f"etl:{quote_plus(SECRET)}", f"%65tl:{quote_plus(SECRET)}"])
async def test_secret_in_basic_is_read_in_both_ways(start: Start, tmp_path: Path, text: str) -> None:
    """Form-encoded, as RFC 6749 demands, and as it is, as many clients send it."""
    scene = await begin(start, tmp_path)
    async with await scene.connect() as wire:
        header = ("Authorization", f"Basic {b64encode(text.encode()).decode()}")
        assert (await ask(wire, header, grant_type="client_credentials")).status == 200
        wrong = ("Authorization", f"Basic {b64encode(quote_plus(text).encode()).decode()}")
        assert (await ask(wire, wrong, grant_type="client_credentials")).status in (400, 401)


async def test_an_issued_token_manages_nothing(start: Start, tmp_path: Path) -> None:
    """It mints nothing, and sees no other token of its Actor or of the person that it acts for."""
    scene = await begin(start, tmp_path)
    async with await scene.connect() as wire:
        alice = forge.token(forge.claims(sub="alice"))
        mine = await wire.ask(
            "/oauth2/tokens",
            [("Authorization", f"Bearer {alice}"), ("Content-Type", "application/json")],
            method="POST",
            body=b'{"name": "laptop"}',
        )
        assert mine.status == 201
        exchanged = await ask(
            wire, basic(), grant_type=EXCHANGE, subject_token=alice, subject_token_type=f"{TYPE}access_token"
        )
        assert exchanged.status == 200, exchanged.body
        header = ("Authorization", f"Bearer {exchanged.json()['access_token']}")
        minted = await wire.ask(
            "/oauth2/tokens", [header, ("Content-Type", "application/json")], method="POST", body=b'{"name": "x"}'
        )
        assert minted.status == 403
        listed = await wire.ask("/oauth2/tokens", [header])
        assert listed.json()["data"] == []
        assert (await wire.ask(f"/oauth2/tokens/{mine.json()['id']}", [header], method="DELETE")).status == 404
        asked = await ask(wire, header, path="/oauth2/introspect", token=mine.json()["token"])
        assert asked.json() == {"active": False}
        # the person sees and revokes it, as any token of hers
        own = await wire.ask("/oauth2/tokens?kind=exchanged", [("Authorization", f"Bearer {alice}")])
        (record,) = own.json()["data"]
        assert record["exchange"]["client"] == record["exchange"]["acting"] == "etl"
        assert record["exchange"]["source"]["issuer"] == forge.ISSUER
        deleted = await wire.ask(
            f"/oauth2/tokens/{record['id']}", [("Authorization", f"Bearer {alice}")], method="DELETE"
        )
        assert deleted.status == 204
        assert await status(wire, exchanged.json()["access_token"]) == 401


async def test_workloads_in_three_shapes(start: Start, tmp_path: Path) -> None:
    scene = await begin(start, tmp_path)
    async with await scene.connect() as wire:
        shapes = (
            {"grant_type": JWT_BEARER, "assertion": platform_token(github_claims(jti="1"))},
            {
                "grant_type": "client_credentials",
                "client_assertion": platform_token(github_claims(jti="2")),
                "client_assertion_type": ASSERTION,
            },
            {
                "grant_type": EXCHANGE,
                "subject_token": platform_token(github_claims(jti="3")),
                "subject_token_type": f"{TYPE}jwt",
            },
        )
        for fields in shapes:
            answer = await ask(wire, **fields)
            assert answer.status == 200, answer.body
            claims = claims_of(answer)
            assert (claims["sub"], claims["client_id"], claims["scope"]) == ("ingestion", "github-prod", "write")
            assert claims["exp"] == int(forge.NOW) + 290  # not longer than the platform's token
            assert claims["src"]["iss"] == GITHUB
            assert await status(wire, answer.json()["access_token"]) == 200
            again = await ask(wire, **fields)
            assert (again.status, again.json()["error"]) == (400, "invalid_grant")
        # the platform's token itself is no credential here
        assert await status(wire, platform_token(github_claims(jti="4", aud="meta"))) == 401


FOREIGN: list[tuple[str, dict[str, Any]]] = [
    ("another environment below it", {"sub": "repo:acme/etl:environment:prod:x"}),
    ("another owner", {"sub": "repo:acme-evil/etl:environment:prod"}),
    ("other letters", {"sub": "repo:Acme/etl:environment:prod"}),
    ("NUL", {"sub": "repo:acme/etl:environment:prod\0"}),
    ("percent", {"sub": "repo:acme/etl:environment%3Aprod"}),
    ("a slash in a wildcard", {"sub": "repo:acme/etl:ref:refs/heads/release-1/x"}),
    ("an @ in a wildcard", {"sub": "repo:acme/etl:ref:refs/heads/release-1@x"}),
    ("an empty wildcard", {"sub": "repo:acme/etl:ref:refs/heads/release-"}),
    ("a line feed in a wildcard", {"sub": "repo:acme/etl:ref:refs/heads/release-1\n"}),
    ("no sub", {"sub": ...}),
    ("repository_id of another", {"repository_id": "4712"}),
    ("repository_id as list", {"repository_id": ["4711"]}),
    ("repository_id as float", {"repository_id": 4711.0}),
    ("repository_id as boolean", {"repository_id": True}),
    ("no repository_id", {"repository_id": ...}),
    ("a claim in other case", {"repository_id": ..., "Repository_Id": "4711"}),
    ("pull_request_target", {"event_name": "pull_request_target"}),
    ("aud of another sidecar", {"aud": "https://other.example.com/oauth2"}),
    ("aud with a slash", {"aud": f"{ENDPOINT}/"}),
    ("aud is the token URL", {"aud": f"{ENDPOINT}/token"}),
    ("two aud", {"aud": [ENDPOINT, "meta"]}),
    ("the same aud twice", {"aud": [ENDPOINT, ENDPOINT]}),
    ("empty aud", {"aud": []}),
    ("no aud", {"aud": ...}),
    ("aud is a number", {"aud": 1}),
    ("expired by a second", {"exp": int(forge.NOW) - 1}),
    ("ends within 30 s", {"exp": int(forge.NOW) + 29}),
    ("exp in ten years", {"exp": int(forge.NOW) + 315_360_000}),
    ("no exp", {"exp": ...}),
    ("iat an hour ahead", {"iat": int(forge.NOW) + 3600}),
    ("nbf an hour ahead", {"nbf": int(forge.NOW) + 3600}),
    ("bound to a key", {"cnf": {"jkt": "x"}}),
    ("a logout token", {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}),
    ("an upstream credential", {"auth_sidecar": "upstream"}),
    ("unknown issuer", {"iss": "https://evil.example.com"}),
    ("issuer of a provider without rule", {"iss": forge.ISSUER}),
    ("iss is a list", {"iss": [GITHUB]}),
]


@pytest.mark.parametrize("changes", [changes for _, changes in FOREIGN], ids=[name for name, _ in FOREIGN])
async def test_foreign_workloads_get_nothing(start: Start, tmp_path: Path, changes: dict[str, Any]) -> None:
    """One public text for every reason, and no trace of the token in it."""
    scene = await begin(start, tmp_path)
    async with await scene.connect() as wire:
        answer = await ask(wire, grant_type=JWT_BEARER, assertion=platform_token(github_claims(**changes)))
        assert (answer.status, answer.json()["error"]) == (400, "invalid_grant")
        assert answer.json()["message"] == "The token in the request is not accepted"
        assert (await ask(wire, grant_type=JWT_BEARER, assertion=platform_token())).status == 200


async def test_forged_signatures_get_nothing(start: Start, tmp_path: Path) -> None:
    scene = await begin(start, tmp_path)
    forged = {
        "another key": forge.token(github_claims(), {"alg": "RS256", "kid": "p1", "typ": "JWT"}, key=forge.RSA),
        "unsigned": platform_token(alg="none").rpartition(".")[0] + ".",
        "a foreign kid": platform_token(kid="k1"),
        "HS256 with the JWKS text": _hs256((tmp_path / "github.jwks").read_bytes()),
        "the key in the header": forge.token(
            github_claims(),
            {"alg": "RS256", "typ": "JWT", "jwk": jwk(forge.OTHER_RSA, "x"), "jku": "http://127.0.0.1:1/jwks"},
            key=forge.OTHER_RSA,
        ),
        "another type": platform_token(typ="oauth-id-jag+jwt"),
        "a security event": platform_token(typ="secevent+jwt"),
        "no token": "x",
        "three dots": "a.b.c",
        "a token of our own": "",
    }
    async with await scene.connect() as wire:
        own = await ask(wire, basic(), grant_type="client_credentials")
        forged["a token of our own"] = own.json()["access_token"]
        for name, text in forged.items():
            answer = await ask(wire, grant_type=JWT_BEARER, assertion=text)
            assert (answer.status, answer.json()["error"]) == (400, "invalid_grant"), name


def _hs256(secret: bytes) -> str:
    parts = [
        forge.b64(forge.encode_part(part)) for part in ({"alg": "HS256", "kid": "p1", "typ": "JWT"}, github_claims())
    ]
    text = ".".join(parts)
    return f"{text}.{forge.hs256(text, secret)}"


async def test_both_forms_of_whole_numbers_match(start: Start, tmp_path: Path) -> None:
    scene = await begin(start, tmp_path)
    async with await scene.connect() as wire:
        answer = await ask(wire, grant_type=JWT_BEARER, assertion=platform_token(github_claims(repository_id=4711)))
        assert answer.status == 200


async def test_a_rule_with_reuse_is_limited_by_its_rate(start: Start, tmp_path: Path) -> None:
    scene = await begin(start, tmp_path)
    text = platform_token(github_claims(sub="repo:acme/etl:ref:refs/heads/release-7"))
    async with await scene.connect() as wire:
        answers = [await ask(wire, grant_type=JWT_BEARER, assertion=text) for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert len({answer.json()["access_token"] for answer in answers[:3]}) == 3
        assert answers[3].json()["reason"] == "rate_limited"
        assert 1 <= int(answers[3].all("Retry-After")[0]) <= 60
        scene.clock.advance(61)
        assert (await ask(wire, grant_type=JWT_BEARER, assertion=text)).status == 200


async def test_a_token_without_jti_is_used_once_too(start: Start, tmp_path: Path) -> None:
    scene = await begin(start, tmp_path)
    async with await scene.connect() as wire:
        fields = {"grant_type": JWT_BEARER, "assertion": platform_token(github_claims(jti=...))}
        assert (await ask(wire, **fields)).status == 200
        assert (await ask(wire, **fields)).status == 400


async def test_exchange_names_the_person_and_the_client(start: Start, tmp_path: Path) -> None:
    scene = await begin(start, tmp_path)
    alice = forge.token(forge.claims(sub="alice", jti="a1", sid="s1", scope="read other"))
    fields = {"grant_type": EXCHANGE, "subject_token": alice, "subject_token_type": f"{TYPE}access_token"}
    async with await scene.connect() as wire:
        answer = await ask(wire, basic(), **fields)
        assert answer.status == 200, answer.body
        assert answer.json()["issued_token_type"] == f"{TYPE}access_token"
        claims = claims_of(answer)
        assert (claims["sub"], claims["act"], claims["scope"]) == ("alice", {"sub": "etl"}, "read")
        assert claims["src"] == {
            "iss": forge.ISSUER,
            "sub": "alice",
            "jti": "a1",
            "sid": "s1",
            "iat": int(forge.NOW) - 60,
        }
        assert claims["exp"] == int(forge.NOW) + 600
        # neither the same client nor another one exchanges it again
        token = answer.json()["access_token"]
        for client in ("etl", "agent"):
            again = await ask(wire, basic(client), **{**fields, "subject_token": token})
            assert (again.status, again.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["meta2", "other"]},
        {"act": {"sub": "mallory"}},
        {"cnf": {"jkt": "x"}},
        {"exp": int(forge.NOW) + 20},
        {"exp": int(forge.NOW) - 100},
        {"iss": GITHUB},
        {"auth_sidecar": "upstream"},
    ],
    ids=lambda changes: "-".join(changes),
)
async def test_subject_tokens_that_are_not_exchanged(start: Start, tmp_path: Path, changes: dict[str, Any]) -> None:
    scene = await begin(start, tmp_path)
    async with await scene.connect() as wire:
        subject = forge.token(forge.claims(sub="alice", **changes))
        answer = await ask(
            wire, basic(), grant_type=EXCHANGE, subject_token=subject, subject_token_type=f"{TYPE}access_token"
        )
        assert (answer.status, answer.json()["error"]) == (400, "invalid_grant")


async def test_a_token_of_another_client_is_not_exchanged(start: Start, tmp_path: Path) -> None:
    """Good here as a credential, but issued neither for this service nor for the client: a confused deputy."""
    blocks = configuration(tmp_path)
    blocks["authenticationConfiguration"]["providers"][0]["audiences"] = ["meta", "account"]
    scene = await start(**blocks)
    async with await scene.connect() as wire:
        assert (await admin(wire, "/bots", {"name": "ingestion"})).status == 201
        for changes, expected in (
            ({}, 400),
            ({"azp": "other"}, 400),
            ({"azp": "etl"}, 200),
            ({"client_id": "etl"}, 200),
        ):
            subject = forge.token(forge.claims(sub="alice", aud="account", **changes))
            assert await status(wire, subject) == 200
            answer = await ask(
                wire, basic(), grant_type=EXCHANGE, subject_token=subject, subject_token_type=f"{TYPE}access_token"
            )
            assert answer.status == expected, changes


async def test_scopes_are_never_more_than_the_subject_has(start: Start, tmp_path: Path) -> None:
    scene = await begin(start, tmp_path)
    cases: list[tuple[str, dict[str, Any], dict[str, str], str | None]] = [
        ("etl", {}, {}, ""),
        ("etl", {"scope": "read"}, {}, "read"),
        ("etl", {"scp": ["write", "read"]}, {}, "read write"),
        ("etl", {"scope": "read", "scp": ["write"]}, {}, ""),
        ("etl", {"scope": "read write"}, {"scope": "write write"}, "write"),
        ("etl", {"scope": "read"}, {"scope": "write"}, None),
        ("etl", {}, {"scope": "read"}, None),
        ("etl", {"scope": "*"}, {"scope": "*"}, None),
        ("agent", {}, {}, "read"),
        ("agent", {"scope": ""}, {}, ""),
    ]
    async with await scene.connect() as wire:
        for client, claims, fields, expected in cases:
            subject = forge.token(forge.claims(sub="alice", **claims))
            answer = await ask(
                wire,
                basic(client),
                grant_type=EXCHANGE,
                subject_token=subject,
                subject_token_type=f"{TYPE}access_token",
                **fields,
            )
            if expected is None:
                assert (answer.status, answer.json()["error"]) == (400, "invalid_scope"), claims
            else:
                assert answer.json()["scope"] == expected, claims
                assert ("scope" in claims_of(answer)) == bool(expected)


ENDS: dict[str, dict[str, Any]] = {
    "token": {"issuer": forge.ISSUER, "jti": "a1"},
    "subject": {"issuer": forge.ISSUER, "subject": "s-alice"},
    "issuer": {"issuer": forge.ISSUER, "issuedBefore": "now"},
    "actor": {"actor": {"type": "USER", "id": "alice"}},
}


@pytest.mark.parametrize("scope", [*ENDS, "session", "subject_sessions"])
async def test_what_ends_the_source_ends_the_exchanged_token(start: Start, tmp_path: Path, scope: str) -> None:
    blocks = configuration(tmp_path)
    blocks["authenticationConfiguration"]["providers"][0]["jwtPrincipalClaims"] = ["preferred_username"]
    scene = await start(**blocks)
    root = forge.token(forge.claims(iss=forge.ISSUER, sub="s-root", preferred_username="root"))
    alice = forge.token(forge.claims(sub="s-alice", preferred_username="alice", jti="a1", sid="s1"))
    headers = [("Authorization", f"Bearer {root}"), ("Content-Type", "application/json")]
    fields = {"grant_type": EXCHANGE, "subject_token": alice, "subject_token_type": f"{TYPE}jwt"}
    async with await scene.connect() as wire:
        token = (await ask(wire, basic(), **fields)).json()["access_token"]
        assert await status(wire, token) == 200
        if scope in ENDS:
            body = json.dumps(ENDS[scope]).encode()
            added = await wire.ask("/oauth2/revocations", headers, method="POST", body=body)
            assert added.status == 201, added.body
        else:
            name, before = ("s1", None) if scope == Scope.SESSION else ("s-alice", forge.NOW)
            entry = make_entry(Scope(scope), forge.ISSUER, name, forge.NOW, issued_before=before)
            await scene.sidecar._generation.issuers.mirror.write(Batch(add_entries=(entry,)))
        assert await status(wire, token) == 401
        again = await ask(wire, basic(), **fields)
        assert (again.status, again.json()["error"]) == (400, "invalid_grant")


async def test_a_cut_off_between_source_and_exchange_counts(start: Start, tmp_path: Path) -> None:
    """A token that is exchanged after a cut-off that another replica has set is older than the cut-off all the same."""
    scene = await begin(start, tmp_path)
    alice = forge.token(forge.claims(sub="alice", iat=int(forge.NOW) - 300))
    fields = {"grant_type": EXCHANGE, "subject_token": alice, "subject_token_type": f"{TYPE}jwt"}
    async with await scene.connect() as wire:
        token = (await ask(wire, basic(), **fields)).json()["access_token"]
        before = {"issuer": forge.ISSUER, "subject": "alice", "issuedBefore": "2027-01-15T07:58:00Z"}
        assert (await admin(wire, "/revocations", before)).status == 201
        assert await status(wire, token) == 401


async def test_revoking_an_issued_source_ends_what_came_from_it(start: Start, tmp_path: Path) -> None:
    blocks = configuration(tmp_path)
    blocks["jwtTokenConfiguration"]["audience"] = "meta"
    scene = await start(**blocks)
    alice = forge.token(forge.claims(sub="alice"))
    async with await scene.connect() as wire:
        personal = await wire.ask(
            "/oauth2/tokens",
            [("Authorization", f"Bearer {alice}"), ("Content-Type", "application/json")],
            method="POST",
            body=b'{"name": "laptop"}',
        )
        source = personal.json()["token"]
        answer = await ask(
            wire, basic(), grant_type=EXCHANGE, subject_token=source, subject_token_type=f"{TYPE}access_token"
        )
        assert answer.status == 200, answer.body
        token = answer.json()["access_token"]
        assert await status(wire, token) == 200
        assert (await ask(wire, path="/oauth2/revoke", token=source)).status == 200
        assert await status(wire, token) == 401


async def test_the_end_of_a_source_lasts_as_long_as_what_came_from_it(start: Start, tmp_path: Path) -> None:
    """The issued token is accepted within the own tolerance after its end, which may be larger than the provider's."""
    blocks = configuration(tmp_path)
    blocks["jwtTokenConfiguration"]["clockSkew"] = "5m"
    blocks["authenticationConfiguration"]["providers"][0]["clockSkew"] = "0s"
    scene = await start(**blocks)
    alice = forge.token(forge.claims(sub="alice", exp=int(forge.NOW) + 120))
    fields = {"grant_type": EXCHANGE, "subject_token": alice, "subject_token_type": f"{TYPE}jwt"}
    async with await scene.connect() as wire:
        token = (await ask(wire, basic(), **fields)).json()["access_token"]
        assert (await ask(wire, path="/oauth2/revoke", token=alice)).status == 200
        scene.clock.advance(121)
        assert await status(wire, token) == 401
        entries = list(scene.sidecar._generation.issuers.mirror.revocations.active(scene.clock.now()))
        assert [entry.expires_at for entry in entries] == [forge.NOW + 120 + 300]


async def test_bots_that_must_not_get_tokens(start: Start, tmp_path: Path) -> None:
    scene = await begin(start, tmp_path, bot=False)
    async with await scene.connect() as wire:
        unregistered = await ask(wire, basic(), grant_type="client_credentials")
        assert (unregistered.status, unregistered.json()["error"]) == (400, "invalid_grant")
        assert (await admin(wire, "/bots", {"name": "ingestion"})).status == 201
        answer = await ask(wire, basic(), grant_type="client_credentials")
        assert answer.status == 200
        later = {"actor": {"type": "SERVICE", "id": "ingestion"}, "issuedBefore": "2027-02-15T00:00:00Z"}
        assert (await admin(wire, "/revocations", later)).status == 201
        assert await status(wire, answer.json()["access_token"]) == 401
        denied = await ask(wire, basic(), grant_type="client_credentials")
        assert (denied.status, denied.json()["error"]) == (400, "invalid_grant")


async def test_tokens_end_when_their_bot_is_released(start: Start, tmp_path: Path) -> None:
    """A person may have the name from then on."""
    scene = await begin(start, tmp_path)
    async with await scene.connect() as wire:
        token = (await ask(wire, basic(), grant_type="client_credentials")).json()["access_token"]
        assert await status(wire, token) == 200
        assert (await admin(wire, "/bots/ingestion", None, "DELETE")).status == 204
        assert await status(wire, token) == 401
        refused = await ask(wire, basic(), grant_type="client_credentials")
        assert (refused.status, refused.json()["error"]) == (400, "invalid_grant")


async def test_without_the_keys_of_a_platform_there_is_no_verdict(start: Start, tmp_path: Path) -> None:
    blocks = configuration(tmp_path)
    github = blocks["authenticationConfiguration"]["providers"][1]
    github["publicKeyUrls"] = [f"http://127.0.0.1:{free_port()}/jwks"]
    scene = await start(**blocks, published=False)
    async with await scene.connect() as wire:
        answer = await ask(wire, grant_type=JWT_BEARER, assertion=platform_token())
        assert (answer.status, answer.json()["error"]) == (503, "temporarily_unavailable")
        assert answer.all("Retry-After")


async def test_a_bot_is_a_client_with_its_own_token(start: Start, tmp_path: Path) -> None:
    scene = await begin(start, tmp_path, bots={"audiences": ["meta"], "scopes": ["read"]})
    async with await scene.connect() as wire:
        minted = await admin(wire, "/tokens", {"name": "loader", "kind": "bot"})
        secret = minted.json()["token"]
        answer = await ask(wire, basic("loader", secret), grant_type="client_credentials")
        assert answer.status == 200, answer.body
        assert claims_of(answer)["client_id"] == claims_of(answer)["sub"] == "loader"
        token = answer.json()["access_token"]
        assert await status(wire, token) == 200
        other = await ask(wire, basic("ingestion", secret), grant_type="client_credentials")
        assert (other.status, other.json()["error"]) == (401, "invalid_client")
        exchange = await ask(
            wire,
            basic("loader", secret),
            grant_type=EXCHANGE,
            subject_token=forge.token(),
            subject_token_type=f"{TYPE}jwt",
        )
        assert exchange.json()["error"] == "unauthorized_client"
        # a new token of the bot replaces the old one, and what was issued for it ends
        assert (await admin(wire, "/tokens", {"name": "loader", "kind": "bot"})).status == 201
        assert await status(wire, token) == 401


async def test_used_assertions_do_not_use_up_the_rate_of_a_rule(start: Start, tmp_path: Path) -> None:
    """Otherwise a token from the log of a job would keep the jobs of its rule from getting tokens."""
    configured = configuration(tmp_path)["tokenEndpoint"]
    rules = [{**configured["workloads"][0], "perMinute": 2}]
    scene = await begin(start, tmp_path, workloads=rules)
    async with await scene.connect() as wire:
        used = platform_token(github_claims(jti="used"))
        answers = [await ask(wire, grant_type=JWT_BEARER, assertion=used) for _ in range(6)]
        assert [answer.status for answer in answers] == [200] + [400] * 5
        for jti, expected in (("second", 200), ("third", 429)):
            answer = await ask(wire, grant_type=JWT_BEARER, assertion=platform_token(github_claims(jti=jti)))
            assert answer.status == expected


async def test_wrong_secrets_are_limited_and_the_right_one_is_not(start: Start, tmp_path: Path) -> None:
    scene = await begin(start, tmp_path)
    async with await scene.connect() as wire:
        for client in ("etl", "stranger"):
            answers = [await ask(wire, basic(client, "x" * 40), grant_type="client_credentials") for _ in range(12)]
            assert [answer.status for answer in answers] == [401] * 10 + [429] * 2
            assert answers[0].all("WWW-Authenticate") == ['Basic realm="auth-sidecar"']
            assert (answers[0].json()["error"], answers[0].json()["reason"]) == (
                "invalid_client",
                "credentials_invalid",
            )
            assert "Retry-After" in dict(answers[-1].head.headers)
        unknown = await ask(wire, grant_type="client_credentials", client_id="stranger2", client_secret="x" * 40)
        assert unknown.status == 429  # unknown clients of one address are counted together
        assert (await ask(wire, basic(), grant_type="client_credentials")).status == 200


BAD_REQUESTS: list[tuple[str, bytes, list[tuple[str, str]], int, str]] = [
    ("no grant type", b"scope=read", [basic()], 400, "invalid_request"),
    ("unknown grant type", b"grant_type=password", [basic()], 400, "unsupported_grant_type"),
    ("grant type twice", b"grant_type=client_credentials&grant_type=x", [basic()], 400, "invalid_request"),
    ("resource twice", b"grant_type=client_credentials&resource=a&resource=b", [basic()], 400, "invalid_request"),
    (
        "two targets",
        b"grant_type=client_credentials&resource=meta&audience=kafka:prod",
        [basic()],
        400,
        "invalid_target",
    ),
    ("foreign target", b"grant_type=client_credentials&resource=https://x", [basic()], 400, "invalid_target"),
    ("target with a slash", b"grant_type=client_credentials&resource=meta/", [basic()], 400, "invalid_target"),
    ("foreign scope", b"grant_type=client_credentials&scope=admin", [basic()], 400, "invalid_scope"),
    ("wildcard", b"grant_type=client_credentials&scope=*", [basic()], 400, "invalid_scope"),
    ("no client", b"grant_type=client_credentials", [], 401, "invalid_client"),
    ("only an id", b"grant_type=client_credentials&client_id=etl", [], 401, "invalid_client"),
    (
        "two credentials",
        b"grant_type=client_credentials&client_id=etl&client_secret=x",
        [basic()],
        400,
        "invalid_request",
    ),
    ("another client_id", b"grant_type=client_credentials&client_id=agent", [basic()], 400, "invalid_request"),
    ("Authorization twice", b"grant_type=client_credentials", [basic(), basic()], 400, "invalid_request"),
    ("Bearer", b"grant_type=client_credentials", [("Authorization", "Bearer x")], 400, "invalid_request"),
    ("no base64", b"grant_type=client_credentials", [("Authorization", "Basic ***")], 400, "invalid_request"),
    ("no grant for the client", b"grant_type=client_credentials", [basic("agent")], 400, "unauthorized_client"),
    ("assertion of another grant", b"grant_type=client_credentials&assertion=x", [basic()], 400, "invalid_request"),
    ("subject of another grant", b"grant_type=client_credentials&subject_token=x", [basic()], 400, "invalid_request"),
    ("no subject token", f"grant_type={quote_plus(EXCHANGE)}".encode(), [basic()], 400, "invalid_request"),
    (
        "assertion with a client",
        f"grant_type={quote_plus(JWT_BEARER)}&assertion=x".encode(),
        [basic()],
        400,
        "invalid_request",
    ),
    ("no ASCII", "grant_type=client_credentials&scope=ü".encode(), [basic()], 400, "invalid_request"),
    ("too many fields", b"&".join(b"f%d=1" % number for number in range(20)), [basic()], 400, "invalid_request"),
    ("no form", b"grant_type", [basic()], 400, "invalid_request"),
    ("empty", b"", [basic()], 400, "invalid_request"),
    ("a body of 10 MB", b"x" * 10_000_000, [basic()], 413, "invalid_request"),
]


@pytest.mark.parametrize(
    ("body", "headers", "code", "error"), [case[1:] for case in BAD_REQUESTS], ids=[case[0] for case in BAD_REQUESTS]
)
async def test_bad_requests(
    start: Start, tmp_path: Path, body: bytes, headers: list[tuple[str, str]], code: int, error: str
) -> None:
    scene = await begin(start, tmp_path)
    async with await scene.connect() as wire:
        answer = await wire.ask("/oauth2/token", [FORM, *headers], method="POST", body=body)
        assert (answer.status, answer.json()["error"]) == (code, error)
        assert answer.all("Cache-Control") == ["no-store"]


async def test_methods_query_and_type_of_the_body(start: Start, tmp_path: Path) -> None:
    scene = await begin(start, tmp_path)
    body = b"grant_type=client_credentials"
    async with await scene.connect() as wire:
        got = await wire.ask("/oauth2/token?grant_type=client_credentials", [basic()])
        assert (got.status, got.all("Allow")) == (405, ["POST"])
        query = await wire.ask("/oauth2/token?scope=read", [FORM, basic()], method="POST", body=body)
        assert (query.status, query.json()["error"]) == (400, "invalid_request")
        as_json = await wire.ask(
            "/oauth2/token", [("Content-Type", "application/json"), basic()], method="POST", body=b"{}"
        )
        assert (as_json.status, as_json.json()["error"]) == (400, "invalid_request")


ASSERTIONS: dict[str, dict[str, Any]] = {
    "for another client": {"sub": "etl"},
    "of a client without keys": {"iss": "etl", "sub": "etl"},
    "of an unknown client": {"iss": "stranger", "sub": "stranger"},
    "two aud": {"aud": [ENDPOINT, "https://other.example.com"]},
    "for another server": {"aud": "https://other.example.com/oauth2"},
    "token URL with a slash": {"aud": f"{ENDPOINT}/token/"},
    "expired": {"exp": int(forge.NOW) - 1},
    "for ten years": {"exp": int(forge.NOW) + 315_360_000},
    "no exp": {"exp": ...},
}


@pytest.mark.parametrize("name", ASSERTIONS)
async def test_client_assertions_that_do_not_authenticate(start: Start, tmp_path: Path, name: str) -> None:
    scene = await begin(start, tmp_path)
    async with await scene.connect() as wire:
        answer = await ask(
            wire,
            grant_type="client_credentials",
            client_assertion=client_assertion(**ASSERTIONS[name]),
            client_assertion_type=ASSERTION,
        )
        assert (answer.status, answer.json()["error"]) == (401, "invalid_client")
        assert answer.json()["message"] == "Client authentication failed"


async def test_client_id_must_be_the_subject_of_the_assertion(start: Start, tmp_path: Path) -> None:
    scene = await begin(start, tmp_path)
    fields = {"grant_type": "client_credentials", "client_assertion": client_assertion()}
    async with await scene.connect() as wire:
        other = await ask(wire, client_id="etl", client_assertion_type=ASSERTION, **fields)
        assert (other.status, other.json()["error"]) == (401, "invalid_client")
        untyped = await ask(wire, **fields)
        assert (untyped.status, untyped.json()["error"]) == (400, "invalid_request")
        # refused requests have not used the assertion up
        assert (await ask(wire, client_id="robot", client_assertion_type=ASSERTION, **fields)).status == 200


async def test_metadata_and_the_authorization_endpoint_that_there_is_not(start: Start, tmp_path: Path) -> None:
    scene = await begin(start, tmp_path)
    async with await scene.connect() as wire:
        documents = []
        for path in ("/.well-known/oauth-authorization-server/oauth2", "/oauth2/.well-known/openid-configuration"):
            answer = await wire.ask(path, [("X-Forwarded-Host", "evil.example.com"), ("X-Forwarded-Proto", "http")])
            assert (answer.status, answer.all("Access-Control-Allow-Origin")) == (200, ["*"])
            documents.append(answer.json())
        assert documents[0] == documents[1]
        document = documents[0]
        assert document["issuer"] == ENDPOINT
        assert document["token_endpoint"] == f"{ENDPOINT}/token"
        assert document["response_types_supported"] == []
        assert document["grant_types_supported"] == ["client_credentials", JWT_BEARER, EXCHANGE]
        assert document["scopes_supported"] == ["read", "write"]
        for method in ("GET", "POST"):
            refused = await wire.ask(
                "/oauth2/authorize?redirect_uri=https://evil.example.com", [FORM], method=method, body=b""
            )
            assert (refused.status, refused.json()["error"]) == (400, "unsupported_response_type")
            assert refused.all("Location") == []


async def test_log_and_audit_say_who_and_why_but_hold_no_credential(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene = await begin(start, tmp_path)
    alice = forge.token(forge.claims(sub="alice", jti="a1"))
    wrong = platform_token(github_claims(event_name="issue_comment"))
    async with await scene.connect() as wire:
        answer = await ask(wire, basic(), grant_type=EXCHANGE, subject_token=alice, subject_token_type=f"{TYPE}jwt")
        assert (await ask(wire, grant_type=JWT_BEARER, assertion=wrong)).status == 400
        assert (await ask(wire, basic("etl", "w" * 40), grant_type="client_credentials")).status == 401
    lines = [record.__dict__ for record in caplog.records]
    (audited,) = [line for line in lines if line.get("event") == "token_exchanged"]
    assert {
        name: audited[name] for name in ("client", "actor", "acting", "audience", "source_issuer", "source_id")
    } == {
        "client": "etl",
        "actor": "alice",
        "acting": "etl",
        "audience": "meta",
        "source_issuer": forge.ISSUER,
        "source_id": "a1",
    }
    causes = {line["cause"]: line["detail"] for line in lines if line.get("event") == "request_rejected"}
    assert causes["workload_claim"] == 'rule github-prod: claim "event_name" does not match'
    assert "client_wrong" in causes
    text = "\n".join(map(str, lines))
    for secret in (SECRET, "w" * 40, alice, wrong, answer.json()["access_token"], "issue_comment"):
        assert secret not in text


async def test_without_the_setting_there_is_no_endpoint(start: Start, tmp_path: Path) -> None:
    scene = await start(**configuration(tmp_path, enabled=False))
    async with await scene.connect() as wire:
        for path in ("/oauth2/token", "/oauth2/authorize", "/.well-known/oauth-authorization-server/oauth2"):
            assert (await wire.ask(path)).status in (401, 404)


async def test_a_token_for_a_protected_resource_is_good_there_only(start: Start, tmp_path: Path) -> None:
    """Neither at other paths, nor at another resource, nor in the API."""
    blocks = configuration(tmp_path)
    blocks["server"]["trustedProxies"] = [LOOPBACK]
    blocks["resources"] = [{"path": "/mcp", "scopes": ["read"]}, {"path": "/open", "audiences": []}]
    scene = await start(**blocks)
    async with await scene.connect() as wire:
        assert (await admin(wire, "/bots", {"name": "ingestion"})).status == 201
        answer = await ask(wire, basic(), grant_type="client_credentials", resource=f"{URL}/mcp", scope="read")
        token = answer.json()["access_token"]

        async def at(path: str, credential: str = token) -> int:
            headers = [("X-Original-URI", path), ("X-Original-Method", "GET")]
            found = await wire.ask("/oauth2/auth", [("Authorization", f"Bearer {credential}"), *headers])
            return found.status

        assert await at("/mcp") == await at("/mcp/x") == 200
        assert [await at(path) for path in ("/", "/api", "/mcpx", "/open")] == [401] * 4
        assert (await wire.ask("/oauth2/tokens", [("Authorization", f"Bearer {token}")])).status == 401
        usual = (await ask(wire, basic(), grant_type="client_credentials")).json()["access_token"]
        assert (await at("/api", usual), await at("/mcp", usual)) == (200, 401)
        # clients of the resource are sent to the login of people first, and never to the platforms of workloads
        metadata = await wire.ask("/.well-known/oauth-protected-resource/mcp")
        assert metadata.json()["authorization_servers"] == [forge.ISSUER, ENDPOINT]
