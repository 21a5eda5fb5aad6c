"""docs/guides/rules.md: each request of its tables is sent through a sidecar with the rules above the table."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.errors import Cause
from tests.support.echo_upstream import echo_upstream
from tests.support.http_client import Reply, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.sidecar_process import Sidecar, running_sidecar
from tests.support.tools import ROOT

PAGE = (ROOT / "docs" / "guides" / "rules.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
RULES = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `([A-Z]+) (/\S*)` \| ([^|]+) \| (\d+)(?: `(\w+)`)? \|$", re.MULTILINE)
CALLER = re.compile(
    r"(\w+)(?: in (\w+))?(?: with (\w+))?(?: as (service))?(?: by (\w+))?(?: for ([a-z. ]+))?(?: through (\w+))?"
)
SECTIONS = {title: body for title, body in SECTION.findall(PAGE) if RULES.search(body)}


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as idp:
        yield idp


def credentials(caller: str, idp: IdentityProvider) -> list[tuple[str, str]]:
    """The header of the caller that a table names."""
    if caller == "anonymous":
        return []
    if caller == "a bad token":
        return [("Authorization", "Bearer not.a.token")]
    found = CALLER.fullmatch(caller)
    assert found, caller
    name, group, role, service, client, scopes, agent = found.groups()
    token = idp.mint(
        preferred_username=name,
        email=f"{name}@example.com",
        groups=[group] if group else [],
        roles=[role] if role else [],
        kind="job" if service else "person",
        azp=client,
        scope=scopes,
        act={"sub": agent} if agent else None,
    )
    return [("Authorization", f"Bearer {token}")]


def outcome(reply: Reply) -> tuple[int, str]:
    """Status and reason."""
    return reply.status, "" if reply.status == 200 else reply.json()["reason"]


@pytest.mark.parametrize("title", SECTIONS)
def test_the_requests_of_a_section_get_what_its_table_says(
    title: str, provider: IdentityProvider, tmp_path: Path
) -> None:
    """Forwarded, and as a check for nginx."""
    body = SECTIONS[title]
    found = RULES.search(body)
    assert found
    rows = ROW.findall(body)
    assert len(rows) == body.count("\n| `")
    entry: dict[str, Any] = {"name": "corp", "issuer": provider.issuer, "audiences": [AUDIENCE], "mayBeAdmin": True}
    entry |= {"groupsClaim": "groups", "jwtPrincipalClaims": ["preferred_username"]}
    entry |= {"actorType": {"claim": "kind", "service": ["job"]}, "trustAct": True}
    with echo_upstream() as upstream:
        configuration = {
            "upstream": {"url": upstream.url},
            "authenticationConfiguration": {"providers": [entry]},
            "authorizerConfiguration": {"adminPrincipals": ["root"], "principalDomain": "example.com"},
            **yaml.safe_load(found[1]),
        }
        with running_sidecar(tmp_path, configuration) as sidecar:
            wrong = [
                (method, target, caller, status, reason, seen)
                for method, target, caller, status, reason in rows
                for seen in both(sidecar, method, target, credentials(caller.strip(), provider))
                if seen != (int(status), reason)
            ]
    assert not wrong


def both(sidecar: Sidecar, method: str, target: str, headers: list[tuple[str, str]]) -> list[tuple[int, str]]:
    """What the request gets itself, and what nginx's check about it gets."""
    asked = [("X-Original-Method", method), ("X-Original-URI", target), *headers]
    replies = [request(f"{sidecar.url}/oauth2/auth", headers=asked)]
    if method != "HEAD":  # its refusals have no body
        replies.append(request(sidecar.url, method, target=target, headers=headers))
    return [outcome(reply) for reply in replies]


def test_the_tables_are_found() -> None:
    """The test above would pass on empty ones."""
    assert len(SECTIONS) >= 8
    assert len(ROW.findall(PAGE)) == PAGE.count("\n| `") >= 35


def test_the_causes_of_a_403_exist() -> None:
    """Those that the last section names."""
    named = set(re.findall(r"`(rule_\w+)`", PAGE))
    assert named == {cause.value for cause in Cause if cause.value.startswith("rule_")}
