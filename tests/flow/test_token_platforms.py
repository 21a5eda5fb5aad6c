"""Tokens of GitLab and SPIFFE with the claims that they have there; and ``token explain --workload``."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from joserfc.jwk import ECKey

from sidecar.cli.main import main
from tests.flow.conftest import Start
from tests.flow.test_token_endpoint import (
    ENDPOINT,
    JWT_BEARER,
    PLATFORM_KEY,
    admin,
    ask,
    claims_of,
    configuration,
    github_claims,
    key_file,
    platform_token,
    status,
)
from tests.support import forge
from tests.support.jwks_server import jwk

GITLAB = "https://gitlab.example.com"
TRUST_DOMAIN = "spiffe://example.org"
SVID_KEY = ECKey.generate_key("P-256")


def gitlab_claims(**changes: Any) -> dict[str, Any]:
    """The claims of an ID token of GitLab CI."""
    now = int(forge.NOW)
    good = {
        "namespace_id": "72",
        "namespace_path": "data",
        "project_id": "20",
        "project_path": "data/etl",
        "user_id": "1",
        "user_login": "sample-user",
        "user_email": "sample-user@example.com",
        "user_identities": [{"provider": "github", "extern_uid": "2435223452345"}],
        "pipeline_id": "574",
        "pipeline_source": "push",
        "job_id": "302",
        "ref": "main",
        "ref_type": "branch",
        "ref_path": "refs/heads/main",
        "ref_protected": "true",
        "environment": "production",
        "environment_protected": "false",
        "runner_id": 1,
        "runner_environment": "self-hosted",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "project_visibility": "public",
        "ci_config_ref_uri": "gitlab.example.com/data/etl//.gitlab-ci.yml@refs/heads/main",
        "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b",
        "iss": GITLAB,
        "iat": now,
        "nbf": now - 5,
        "exp": now + 3600,
        "sub": "project_path:data/etl:ref_type:branch:ref:main",
        "aud": ENDPOINT,
    }
    return {**good, **changes}


def svid(subject: str = f"{TRUST_DOMAIN}/ns/data/sa/etl", **changes: Any) -> str:
    """A JWT-SVID: ``aud``, ``exp`` and ``sub`` are all that it must have."""
    claims = {"sub": subject, "aud": [ENDPOINT], "exp": int(forge.NOW) + 300, "iat": int(forge.NOW) - 10, **changes}
    head = {"alg": "ES256", "kid": "s1", "typ": "JOSE"}
    return forge.token(claims, head, key=SVID_KEY, algorithm="ES256")


def platforms(folder: Path) -> dict[str, Any]:
    """The blocks with rules for both platforms."""
    bundle = folder / "bundle.json"
    keys = [{**jwk(SVID_KEY, "s1"), "use": "jwt-svid"}, {**jwk(forge.EC, "x1"), "use": "x509-svid"}]
    bundle.write_text(json.dumps({"keys": keys, "spiffe_sequence": 1, "spiffe_refresh_hint": 300}), encoding="utf-8")
    rules = [
        {
            "name": "gitlab-main",
            "provider": "gitlab",
            "subject": "project_path:data/etl:ref_type:branch:ref:main",
            "claims": {"project_id": ["20"], "ref_protected": ["true"], "runner_id": ["1"]},
            "as": {"bot": "ingestion"},
        },
        {
            "name": "etl-svid",
            "provider": "spire",
            "subjectPattern": f"{TRUST_DOMAIN}/ns/data/sa/*",
            "as": {"bot": "ingestion"},
        },
    ]
    blocks = configuration(folder)
    blocks["tokenEndpoint"]["workloads"] += rules
    blocks["authenticationConfiguration"]["providers"] += [
        {"name": "gitlab", "issuer": GITLAB, "publicKeyUrls": [key_file(folder, "gitlab", PLATFORM_KEY, "p1")]},
        {"name": "spire", "issuer": TRUST_DOMAIN, "publicKeyUrls": [f"file:{bundle}"]},
    ]
    return blocks


async def test_gitlab(start: Start, tmp_path: Path) -> None:
    scene = await start(**platforms(tmp_path))
    async with await scene.connect() as wire:
        assert (await admin(wire, "/bots", {"name": "ingestion"})).status == 201
        good = platform_token(gitlab_claims())
        answer = await ask(wire, grant_type=JWT_BEARER, assertion=good)
        assert answer.status == 200, answer.body
        assert answer.json()["expires_in"] == 900
        assert claims_of(answer)["src"] == {
            "iss": GITLAB,
            "sub": "project_path:data/etl:ref_type:branch:ref:main",
            "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b",
            "iat": int(forge.NOW),
        }
        wrong: tuple[dict[str, Any], ...] = (
            {"ref_protected": True},
            {"ref_protected": "false"},
            {"project_id": "21"},
            {"sub": "project_path:data/etl:ref_type:tag:ref:main"},
            {"sub": "project_path:data/etl:ref_type:branch:ref:main2"},
            {"iss": f"{GITLAB}/"},
            # the key of one provider signs for the issuer of another
            {**github_claims(), "iss": GITLAB},
        )
        for number, changes in enumerate(wrong):
            text = platform_token(gitlab_claims(**changes, **({} if "jti" in changes else {"jti": str(number)})))
            assert (await ask(wire, grant_type=JWT_BEARER, assertion=text)).status == 400, changes


async def test_spiffe_with_and_without_an_issuer(start: Start, tmp_path: Path) -> None:
    scene = await start(**platforms(tmp_path))
    async with await scene.connect() as wire:
        assert (await admin(wire, "/bots", {"name": "ingestion"})).status == 201
        for changes in ({}, {"iss": "https://spire.example.org"}, {"aud": ENDPOINT, "jti": "1"}):
            answer = await ask(wire, grant_type=JWT_BEARER, assertion=svid(**changes))
            assert answer.status == 200, (changes, answer.body)
            assert claims_of(answer)["src"]["iss"] == TRUST_DOMAIN
            again = await ask(wire, grant_type=JWT_BEARER, assertion=svid(**changes))
            # ES256 signs differently each time; the same claims are the same token
            assert again.status == 400
        end = {"issuer": TRUST_DOMAIN, "subject": f"{TRUST_DOMAIN}/ns/data/sa/etl"}
        assert (await admin(wire, "/revocations", end)).status == 201
        assert await status(wire, answer.json()["access_token"]) == 401
        for text in (
            svid(f"{TRUST_DOMAIN}/ns/data/sa/etl/x"),
            svid(f"{TRUST_DOMAIN}/ns/other/sa/etl"),
            svid("spiffe://example.org.evil.com/ns/data/sa/etl"),
            svid("spiffe://example.org"),
            svid(sub=1),
            svid(aud=[ENDPOINT, "other"]),
            forge.token(
                {"sub": f"{TRUST_DOMAIN}/ns/data/sa/a", "aud": ENDPOINT, "exp": int(forge.NOW) + 300},
                {"alg": "ES256", "kid": "x1", "typ": "JWT"},
                key=forge.EC,
                algorithm="ES256",
            ),
        ):
            refused = await ask(wire, grant_type=JWT_BEARER, assertion=text)
            assert (refused.status, refused.json()["error"]) == (400, "invalid_grant")


def explained(folder: Path, capsys: pytest.CaptureFixture[str], text: str) -> tuple[int, str]:
    blocks = platforms(folder)
    blocks["store"] = {"url": f"sqlite:///{folder}/explain.db"}
    blocks["keys"] = {"cacheDir": str(folder)}
    path = folder / "explain.yaml"
    path.write_text(yaml.safe_dump(blocks), encoding="utf-8")
    code = main(["token", "explain", "--workload", "--config", str(path), text])
    return code, capsys.readouterr().out


def test_explain_prints_both_values_of_each_condition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claims = github_claims(sub="repo:acme@17/etl@4711:environment:prod", repository_id="4712")
    code, out = explained(tmp_path, capsys, platform_token(claims))
    assert code == 1
    assert f'aud            "{ENDPOINT}": matches exactly "{ENDPOINT}"' in out
    assert 'differs from "repo:acme/etl:environment:prod"' in out
    assert "Newer GitHub repositories have ids in sub" in out
    assert 'repository_id  "4712": differs from one of ["4711"]' in out
    assert 'event_name     "push": matches one of ["push", "schedule"]' in out
    assert "verdict          rejected: no rule matches" in out


def test_explain_verifies_what_matches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tokens of the tests have a time of their own, long from now."""
    code, out = explained(tmp_path, capsys, platform_token())
    assert (code, "rejected: not_yet_valid" in out or "rejected: issued_in_future" in out) == (1, True), out
    forged = forge.token(github_claims(), {"alg": "RS256", "kid": "p1", "typ": "JWT"}, key=forge.RSA)
    assert "rejected: signature" in explained(tmp_path, capsys, forged)[1]
    assert "no rule is about it" in explained(tmp_path, capsys, forge.token())[1]
    assert "rejected: not_a_jwt" in explained(tmp_path, capsys, "x")[1]
