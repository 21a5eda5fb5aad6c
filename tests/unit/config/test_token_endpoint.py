"""A token endpoint that cannot issue tokens, or whose rules trust strangers, is found at the start."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.load import load
from sidecar.config.reading.subject_pattern import compile_subject_pattern
from sidecar.errors import Misconfigured

SECRET = "s" * 32
GITHUB = "https://token.actions.githubusercontent.com"
CLIENT: dict[str, Any] = {"id": "etl", "secret": SECRET, "as": {"bot": "ingestion"}}
RULE: dict[str, Any] = {
    "name": "prod",
    "provider": "github",
    "subject": "repo:acme@17/etl@4711:environment:prod",
    "claims": {"event_name": ["push"]},
    "as": {"bot": "ingestion"},
}


def problems(
    folder: Path, endpoint: dict[str, Any], provider: dict[str, Any] | None = None, **blocks: Any
) -> list[str]:
    """Errors, and warnings with a question mark, as ``path: message``."""
    github = {"name": "github", "issuer": GITHUB, **(provider or {})}
    issuer = "https://metadata.example.com/oauth2"
    document = {
        "server": {"publicUrl": "https://metadata.example.com", "trustedProxies": ["10.0.0.0/8"]},
        "store": {"url": f"sqlite:///{folder}/s.db"},
        "jwtTokenConfiguration": {"keyDir": str(folder), "jwtissuer": issuer},
        "authenticationConfiguration": {"providers": [github]},
        "tokenEndpoint": {"enabled": True, "audiences": ["meta"], "clients": [CLIENT], "workloads": [RULE], **endpoint},
        **blocks,
    }
    path = folder / "sidecar.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    try:
        found = load([str(path)], {}).warnings
    except Misconfigured as error:
        found = tuple(error.problems)
    return [f"{'' if one.fatal else '?'}{one.path}: {one.message}" for one in found]


def test_good_endpoint(tmp_path: Path) -> None:
    assert problems(tmp_path, {}) == []


CASES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"enabled": False}, {}, "?tokenEndpoint.enabled: is false"),
    ({}, {"jwtTokenConfiguration": {}}, "tokenEndpoint.enabled: needs own keys"),
    ({}, {"server": {}}, "server.publicUrl: is required for tokenEndpoint"),
    ({}, {"server": {"publicUrl": "http://metadata.example.com"}}, "server.publicUrl: is http, and tokenEndpoint"),
    ({"audiences": []}, {}, "tokenEndpoint.audiences: is empty"),
    ({"audiences": ["*"]}, {}, "tokenEndpoint.audiences[0]: must be one exact audience"),
    ({"audiences": ["a", "b"]}, {}, "tokenEndpoint.defaultAudience: is required"),
    ({"defaultAudience": "b"}, {}, "tokenEndpoint.defaultAudience: is not one of audiences"),
    ({"audienceLifetimes": {"b": "5m"}}, {}, "tokenEndpoint.audienceLifetimes.b: is not one of audiences"),
    ({"lifetime": "2h"}, {}, "tokenEndpoint.lifetime"),
    ({"clients": [], "workloads": []}, {}, "tokenEndpoint: has neither clients nor workloads nor bots"),
    ({"clients": [CLIENT, CLIENT]}, {}, "tokenEndpoint.clients[1].id: etl is the name of another"),
    ({"clients": [CLIENT | {"id": "prod"}]}, {}, "tokenEndpoint.workloads[0].name: prod is the name of another"),
    ({"clients": [CLIENT | {"secret": "short"}]}, {}, "tokenEndpoint.clients[0].secret: has 5 characters, at least 32"),
    ({"clients": [{"id": "x", "as": {"bot": "b"}}]}, {}, "tokenEndpoint.clients[0].secret: is missing"),
    ({"clients": [CLIENT | {"jwks": "/x"}]}, {}, "tokenEndpoint.clients[0].jwks: must be file:/path"),
    ({"clients": [CLIENT | {"jwksUrl": "http://idp.example.com"}]}, {}, "tokenEndpoint.clients[0].jwksUrl"),
    ({"clients": [CLIENT | {"jwks": "file:/x", "jwksUrl": "https://x"}]}, {}, "jwksUrl: excludes jwks"),
    ({"clients": [{"id": "etl", "secret": SECRET}]}, {}, "tokenEndpoint.clients[0].as: is missing"),
    ({"clients": [CLIENT | {"id": "auth-sidecar"}]}, {}, "tokenEndpoint.clients[0].id: is the name of an issuer"),
    ({"clients": [CLIENT | {"scopes": ["*"]}]}, {}, "tokenEndpoint.clients[0].scopes[0]: must be one scope"),
    ({"clients": [CLIENT | {"scopes": ["a b"]}]}, {}, "tokenEndpoint.clients[0].scopes[0]: must be one scope"),
    (
        {"clients": [CLIENT | {"audiences": ["x"]}]},
        {},
        "clients[0].audiences[0]: is not one of tokenEndpoint.audiences",
    ),
    ({"clients": [CLIENT | {"as": {"bot": "guest"}}]}, {}, "clients[0].as.bot: guest is a reserved name"),
    ({"clients": [CLIENT | {"as": {"bot": "a@b"}}]}, {}, "clients[0].as.bot: must be the name of a bot"),
    (
        {},
        {"authorizerConfiguration": {"adminPrincipals": ["corp/Ingestion"]}},
        "clients[0].as.bot: ingestion is in adminPrincipals",
    ),
    ({"clients": [CLIENT | {"exchange": {"providers": ["no"]}}]}, {}, "exchange.providers[0]: no provider is named no"),
    ({"clients": [CLIENT | {"exchange": {"providers": ["github"]}}]}, {}, "providers[0]: github has bearer: false"),
    (
        {"clients": [CLIENT | {"as": {"bot": "corp/root"}}]},
        {"authorizerConfiguration": {"adminPrincipals": ["corp/Root"]}},
        "clients[0].as.bot: corp/root is in adminPrincipals",
    ),
    ({"clients": [CLIENT | {"exchange": {"providers": ["own"], "act": "none"}}]}, {}, "exchange.act"),
    ({"workloads": [RULE | {"provider": "gitlab"}]}, {}, "workloads[0].provider: no provider and no authenticator"),
    ({"workloads": [RULE | {"subjectPattern": "a*"}]}, {}, "workloads[0].subjectPattern: excludes subject"),
    ({"workloads": [RULE | {"subject": "", "claims": {}}]}, {}, "workloads[0].subject: is missing, and so are"),
    ({"workloads": [RULE | {"subject": "repo:*"}]}, {}, "workloads[0].subject: is compared exactly"),
    ({"workloads": [RULE | {"subject": "", "subjectPattern": "a"}]}, {}, "subjectPattern: must be printable"),
    ({"workloads": [RULE | {"claims": {"event_name": []}}]}, {}, "claims.event_name: accepts no value"),
    ({"workloads": [RULE | {"claims": {"event_name": ["p*"]}}]}, {}, "claims.event_name: has a wildcard"),
    ({"workloads": [RULE | {"claims": {"a..b": ["p"]}}]}, {}, "is not a claim path"),
    (
        {"workloads": [RULE | {"subject": "", "subjectPattern": "repo:acme@1/etl@2:ref:refs/heads/*"}]},
        {},
        "?tokenEndpoint.workloads[0].subjectPattern: ends in *",
    ),
    (
        {"workloads": [RULE | {"subject": "repo:acme/etl:environment:prod"}]},
        {},
        "?tokenEndpoint.workloads[0].claims: has no repository_id",
    ),
    (
        {"workloads": [RULE | {"claims": {"event_name": ["pull_request_target"]}}]},
        {},
        "?tokenEndpoint.workloads[0].claims.event_name: lets pull_request_target in",
    ),
    (
        {"workloads": [RULE | {"subject": "repo:a@1/b@2:ref:refs/heads/main", "claims": {}}]},
        {},
        "?tokenEndpoint.workloads[0].claims: lets pull_request_target in",
    ),
    (
        {"workloads": [RULE | {"audience": "https://github.com/acme"}]},
        {},
        "?tokenEndpoint.workloads[0].audience: is a default audience",
    ),
]


@pytest.mark.parametrize(("endpoint", "blocks", "text"), CASES, ids=[text[:60] for _, _, text in CASES])
def test_bad_endpoint(tmp_path: Path, endpoint: dict[str, Any], blocks: dict[str, Any], text: str) -> None:
    found = problems(tmp_path, endpoint, **blocks)
    wanted = text.removeprefix("?")
    assert any(wanted in one and one.startswith("?") == text.startswith("?") for one in found), found


def test_issuer_of_the_tokens_that_differs_from_the_metadata_is_printed(tmp_path: Path) -> None:
    jwt = {"keyDir": str(tmp_path), "jwtissuer": "open-metadata.org"}
    (found,) = problems(tmp_path, {}, jwtTokenConfiguration=jwt)
    assert found.startswith('?jwtTokenConfiguration.jwtissuer: is "open-metadata.org", and the metadata')
    assert 'must expect iss "open-metadata.org"' in found


@pytest.mark.parametrize(
    ("provider", "endpoint", "text"),
    [
        ({"bearer": True}, {}, "bearer: accepts tokens of"),
        ({"bearer": True, "requiredClaims": {"repository_owner_id": ["17"]}}, {}, ""),
        ({}, {"workloads": []}, "bearer: accepts tokens of"),
        ({"bearer": False}, {"workloads": []}, "bearer: is false, and no rule"),
        ({"issuer": "https://accounts.google.com", "bearer": True}, {}, "bearer: accepts tokens of"),
        ({"issuer": "https://login.microsoftonline.com/common/v2.0", "bearer": True}, {}, "bearer: accepts tokens of"),
        ({"issuer": "https://gitlab.com"}, {"workloads": []}, "bearer: accepts tokens of"),
        ({"issuer": "https://gitlab.example.com"}, {"workloads": []}, ""),
    ],
)
def test_issuers_that_strangers_share(
    tmp_path: Path, provider: dict[str, Any], endpoint: dict[str, Any], text: str
) -> None:
    found = [one for one in problems(tmp_path, endpoint, provider) if not one.startswith("?")]
    assert any(text in one for one in found) if text else not found, found


@pytest.mark.parametrize("text", ["abc", "a**", "x:a*b*c", "*:" * 9, "a\n*"])
def test_patterns_that_are_not_accepted(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|more than"):
        compile_subject_pattern(text)


def test_a_long_subject_takes_no_longer_than_its_length() -> None:
    pattern = compile_subject_pattern("a*a:b*b/c*c:d*d/e*e:f*f/g*g:h*h")
    assert not pattern.fullmatch("a" * 20_000 + ":" + "b" * 20_000)
