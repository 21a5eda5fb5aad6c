"""docs/guides/provider-tokens.md: every claim set of the page, through a sidecar with all providers of the page."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.support.http_client import request
from tests.support.sidecar_process import Sidecar, running_sidecar
from tests.support.tools import ROOT

PAGE = (ROOT / "docs" / "guides" / "provider-tokens.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KEY = RSAKey.generate_key(2048, {"kid": "k1"})


@dataclass(frozen=True, slots=True)
class Case:
    """A claim set of the page, and the headers that the page shows for it."""

    provider: str
    claims: dict[str, Any]
    headers: dict[str, str]


def page() -> tuple[list[dict[str, Any]], list[Case]]:
    """Its providers and cases, in order."""
    entries: list[dict[str, Any]] = []
    cases: list[Case] = []
    claims: dict[str, Any] = {}
    for language, text in BLOCK.findall(PAGE):
        if language == "yaml":
            entries.append(yaml.safe_load(text))
        elif language == "json":
            claims = json.loads(text)
        else:
            lines = (line.partition(":") for line in text.splitlines())
            headers = {name: value.strip() for name, _, value in lines}
            cases.append(Case(entries[-1]["name"], claims, headers))
    return entries, cases


ENTRIES, CASES = page()


@pytest.fixture(scope="module")
def sidecars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Sidecar]]:
    """By provider: one sidecar for all, and one for what shares its issuer with another.

    Only the keys are not the provider's: they are read from a file.
    """
    folder = tmp_path_factory.mktemp("providers")
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"keys": [{**KEY.as_dict(private=False), "use": "sig"}]}), encoding="utf-8")
    first: dict[str, dict[str, Any]] = {}
    all_entries = [{**entry, "publicKeyUrls": [f"file:{keys}"]} for entry in ENTRIES]
    second = [entry for entry in all_entries if first.setdefault(entry["issuer"], entry) is not entry]
    found: dict[str, Sidecar] = {}
    with ExitStack() as stack:
        for number, entries in enumerate((list(first.values()), second)):
            (folder / str(number)).mkdir()
            configuration = {"authenticationConfiguration": {"providers": entries}}
            running = stack.enter_context(running_sidecar(folder / str(number), configuration))
            found |= {entry["name"]: running for entry in entries}
        yield found


def token(claims: dict[str, Any]) -> str:
    """A signed token with these claims and times of now."""
    now = int(time.time())
    return jwt.encode({"alg": "RS256", "kid": "k1"}, {**claims, "iat": now - 5, "exp": now + 600}, KEY)


def answer(sidecar: Sidecar, claims: dict[str, Any]) -> Any:
    """The response of a check."""
    return request(f"{sidecar.url}/oauth2/auth", headers=[("Authorization", f"Bearer {token(claims)}")])


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case.provider}" for number, case in enumerate(CASES)])
def test_a_claim_set_becomes_the_headers_of_the_page(sidecars: dict[str, Sidecar], case: Case) -> None:
    """Header by header."""
    reply = answer(sidecars[case.provider], case.claims)
    assert reply.status == 200, reply.body
    assert {name: reply.all(name) for name in case.headers} == {name: [value] for name, value in case.headers.items()}


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case.provider}" for number, case in enumerate(CASES)])
def test_the_same_claims_for_another_application_are_rejected(sidecars: dict[str, Sidecar], case: Case) -> None:
    """By ``aud``; where tokens have none, by the required claim that takes its place."""
    changed = dict(case.claims)
    if "aud" in changed:
        changed["aud"] = "another"
    else:
        changed["client_id"] = "another"
    reply = answer(sidecars[case.provider], changed)
    assert (reply.status, reply.json().get("reason")) == (401, "token_invalid")


def test_each_provider_has_a_case() -> None:
    """Users and programs."""
    assert {case.provider for case in CASES} == {entry["name"] for entry in ENTRIES}
    assert len(CASES) >= 12
    titles = set(re.findall(r"^## (.+)$", PAGE, re.MULTILINE))
    assert titles == {"Keycloak", "Entra ID", "Okta", "Auth0", "Amazon Cognito", "AD FS", "Google"}
