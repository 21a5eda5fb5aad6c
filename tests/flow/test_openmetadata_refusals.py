"""Every refusal of OpenMetadata's request filter: what the same request gets here, one by one, as the page says."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.main import main
from sidecar.keys.key_files import generate, write_pair
from tests.support import forge
from tests.support.echo_upstream import Received, echo_upstream
from tests.support.http_client import Reply, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.sidecar_process import Sidecar, running_sidecar

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


@dataclass(frozen=True, slots=True)
class Stage:
    """A sidecar of two issuers, one of them with a mapping, before a service; the domain is enforced."""

    sidecar: Sidecar
    listed: IdentityProvider
    mapped: IdentityProvider

    def ask(self, *headers: tuple[str, str], target: str = "/api/v1/tables") -> Reply:
        return request(self.sidecar.url + target, headers=headers)

    def bearer(self, token: str) -> Reply:
        return self.ask(("Authorization", f"Bearer {token}"))

    def ended(self, token: str) -> Reply:
        """The refusal of a valid token that is being revoked."""
        self.sidecar.process.wait_until(lambda: self.bearer(token).status != 200, within=10, what="the end of a token")
        return self.bearer(token)

    def created(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
        """A token of the command line's and its id."""
        assert main(["token", "create", "--config", str(self.sidecar.config), "--json", *arguments]) == 0
        made = json.loads(capsys.readouterr().out)
        return {"token": made["token"], "id": made["record"]["id"]}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("openmetadata")
    write_pair(folder, generate("RS256"))
    with IdentityProvider() as listed, IdentityProvider() as mapped, echo_upstream() as upstream:
        configuration = {
            "upstream": {"url": upstream.url},
            "rules": [{"preset": "openmetadata"}],
            "authenticationConfiguration": {
                "providers": [
                    {"name": "listed", "issuer": listed.issuer, "audiences": [AUDIENCE]},
                    {
                        "name": "mapped",
                        "issuer": mapped.issuer,
                        "audiences": [AUDIENCE],
                        "jwtPrincipalClaimsMapping": ["username:preferred_username", "email:email"],
                    },
                ]
            },
            "authorizerConfiguration": {"principalDomain": "example.com", "enforcePrincipalDomain": "true"},
            "jwtTokenConfiguration": {
                "rsaprivateKeyFilePath": str(folder / "private_key.der"),
                "rsapublicKeyFilePath": str(folder / "public_key.der"),
                "jwtissuer": "meta.example.com",
            },
        }
        with running_sidecar(folder, configuration) as sidecar:
            yield Stage(sidecar, listed, mapped)


def _replaced_bot(stage: Stage, capsys: pytest.CaptureFixture[str]) -> Reply:
    old = stage.created(capsys, "--kind", "bot", "--name", "ingestion-bot")["token"]
    assert stage.bearer(old).status == 200
    stage.created(capsys, "--kind", "bot", "--name", "ingestion-bot")
    return stage.ended(old)


def _revoked_personal(stage: Stage, capsys: pytest.CaptureFixture[str]) -> Reply:
    made = stage.created(capsys, "--name", "laptop", "--kind", "personal", "--actor-id", "sam")
    assert stage.bearer(made["token"]).status == 200
    assert main(["token", "revoke", "--config", str(stage.sidecar.config), made["id"]]) == 0
    return stage.ended(made["token"])


def _logged_out(stage: Stage, _: pytest.CaptureFixture[str]) -> Reply:
    token = stage.listed.mint(jti="over")
    assert stage.bearer(token).status == 200
    denied = ["--config", str(stage.sidecar.config), "--issuer", stage.listed.issuer, "--jti", "over"]
    assert main(["revocations", "add", *denied]) == 0
    return stage.ended(token)


Ask = Callable[[Stage, pytest.CaptureFixture[str]], Reply]
NO_NAME: dict[str, Any] = {"email": None, "preferred_username": None, "sub": None}
# What OpenMetadata says, which requests it says that of, and the reasons that they may get here.
REFUSALS: list[tuple[str, Ask, str]] = [
    ("Not Authorized! Token not present", lambda stage, _: stage.ask(), "token_missing"),
    ("Not Authorized! Token not present", lambda stage, _: stage.ask(("Authorization", "")), "token_missing"),
    ("Not Authorized! Token not present", lambda stage, _: stage.ask(("Authorization", "Bearer ")), "token_malformed"),
    (
        "Not Authorized! Token not present",
        lambda stage, _: stage.ask(("Authorization", "Basic c2FtOng=")),
        "credentials_invalid",
    ),
    ("Not Authorized! Invalid token.", lambda stage, _: stage.bearer("x.y.z"), "token_malformed"),
    ("Expired token!", lambda stage, _: stage.bearer(stage.listed.mint(lifetime=-600)), "token_expired"),
    (
        "Not Authorized! Token signing key not found in configured public keys",
        lambda stage, _: stage.bearer(
            forge.token({"iss": stage.listed.issuer, "aud": AUDIENCE, "sub": "sam", "exp": 4102444800})
        ),
        "token_invalid",
    ),
    (
        "Not Authorized! Invalid token. Token verification failed. Public key mismatch.",
        lambda stage, _: stage.bearer(stage.listed.mint().rpartition(".")[0] + "." + "A" * 342),
        "token_invalid",
    ),
    (
        "Invalid JWT token, none of the following claims are present",
        lambda stage, _: stage.bearer(stage.listed.mint(**NO_NAME)),
        "principal_invalid",
    ),
    (
        "Invalid JWT token, 'username' claim is not present",
        lambda stage, _: stage.bearer(stage.mapped.mint(preferred_username=None)),
        "principal_invalid",
    ),
    (
        "Invalid JWT token, 'email' claim is not present or invalid",
        lambda stage, _: stage.bearer(stage.mapped.mint(email="alice")),
        "principal_invalid",
    ),
    (
        "email_verified: false",
        lambda stage, _: stage.bearer(stage.listed.mint(email_verified=False)),
        "principal_invalid",
    ),
    (
        "Not Authorized! Email does not match the principal domain",
        lambda stage, _: stage.bearer(stage.listed.mint(email="alice@elsewhere.com")),
        "domain_not_allowed",
    ),
    ("Not Authorized! The given token does not match the current bot's token!", _replaced_bot, "token_revoked"),
    ("Not Authorized! Invalid personal access token!", _revoked_personal, "token_revoked"),
    ("Invalid token, used after logout!", _logged_out, "token_revoked"),
    (
        "Unauthorized WebSocket handshake",
        lambda stage, _: stage.ask(target="/api/v1/push/feed/?userId=0b1c"),
        "token_missing",
    ),
]


@pytest.mark.parametrize(("text", "ask", "reason"), REFUSALS, ids=map(str, range(len(REFUSALS))))
def test_each_refusal_has_openmetadatas_status_and_shape(
    stage: Stage, capsys: pytest.CaptureFixture[str], text: str, ask: Ask, reason: str
) -> None:
    """401 with ``code`` and ``message``, which OpenMetadata's clients read; ``reason`` distinguishes the cases."""
    reply = ask(stage, capsys)
    body = reply.json()
    assert (reply.status, body["code"], body["reason"]) == (401, 401, reason), text
    assert body["message"].startswith("Not authorized: ")
    assert "code" not in body["message"]


def test_the_page_lists_each_with_its_reasons() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("\n## Refusals\n")[2].partition("\n## ")[0]
    listed = {
        text: set(re.findall(r"`(\w+)`", reasons))
        for text, reasons in re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", section, re.MULTILINE)
    }
    expected: dict[str, set[str]] = {}
    for text, _, reason in REFUSALS:
        expected.setdefault(text, set()).add(reason)
    assert listed == expected


def test_impersonation_of_who_may_not_goes_no_further(stage: Stage) -> None:
    """OpenMetadata answers 403; here the header is removed and the caller keeps its identity."""
    reply = stage.ask(("Authorization", f"Bearer {stage.listed.mint()}"), ("X-Impersonate-User", "admin"))
    received = Received.of(reply.json())
    assert received.all("X-Impersonate-User") == []
    assert received.all("X-Auth-Request-User") == ["alice"]
