"""DataHub's callers through a running sidecar, and what a DataHub behind gets to see of them."""

import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.tokens.jwt.compact import decode_segment
from tests.support.datahub import KEY_TEXT, PUBLISHED_KEY, PUBLISHED_SALT, SALT_TEXT, token
from tests.support.echo_upstream import Received, echo_upstream
from tests.support.forge import hs256
from tests.support.http_client import Reply
from tests.support.http_client import request as http_request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.sidecar_process import Sidecar, running_sidecar

CLIENT, SECRET = "__datahub_system", "s3cret-of-the-tests"
_JAVA = "com.datahub.authentication.authenticator."
AUTHENTICATION: Mapping[str, Any] = {
    "systemClientId": CLIENT,
    "systemClientSecret": SECRET,
    "tokenService": {"signingKey": KEY_TEXT, "salt": SALT_TEXT},
    "authenticators": [
        {"type": f"{_JAVA}DataHubTokenAuthenticator", "configs": {"signingKey": KEY_TEXT, "salt": SALT_TEXT}},
        {"type": f"{_JAVA}HealthStatusAuthenticator"},
        {"type": f"{_JAVA}DataHubGuestAuthenticator", "configs": {"enabled": "true", "guestUser": "visitor"}},
    ],
}


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        yield provider


@dataclass(frozen=True, slots=True)
class Stage:
    """A sidecar before a DataHub; ``credentials`` is its ``upstream.credentials``."""

    sidecar: Sidecar
    credentials: str

    def ask(self, authorization: str | None, target: str = "/entities", *more: tuple[str, str]) -> Reply:
        lines = [] if authorization is None else [("Authorization", authorization)]
        return http_request(f"{self.sidecar.url}{target}", headers=[*lines, *more])

    def actor(self, reply: Reply) -> str:
        """Whom the DataHub behind takes the caller for."""
        assert reply.status == 200, reply.body
        received = Received.of(reply.json())
        if self.credentials == "datahubHeader":
            assert received.all("Authorization") == []
            [urn] = received.all("X-DataHub-Actor")
            return urn.removeprefix("urn:li:corpuser:")
        assert received.all("X-DataHub-Actor") == []
        [line] = received.all("Authorization") or [""]
        scheme, _, value = line.partition(" ")
        if scheme == "Basic":
            assert value == f"{CLIENT}:{SECRET}"
            return CLIENT
        return self._bearer(value) if value else ""

    def _bearer(self, value: str) -> str:
        signing_input, _, signature = value.rpartition(".")
        claims = json.loads(decode_segment(signing_input.partition(".")[2]))
        if self.credentials == "datahub":
            assert signature == hs256(signing_input, KEY_TEXT.encode())
            assert (claims["type"], claims["version"], claims["auth_sidecar"]) == ("SESSION", "1", "upstream")
            assert claims["exp"] - claims["iat"] <= 300
        return str(claims.get("actorId") or claims["preferred_username"])


@pytest.fixture(scope="module", params=["passthrough", "datahub", "datahubHeader"])
def stage(
    request: pytest.FixtureRequest, provider: IdentityProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    with echo_upstream() as upstream:
        corp = {"name": "corp", "issuer": provider.issuer, "audiences": [AUDIENCE]}
        configuration = {
            "upstream": {"url": upstream.url, "credentials": request.param},
            "authenticationConfiguration": {"providers": [{**corp, "jwtPrincipalClaims": ["preferred_username"]}]},
            "authorizerConfiguration": {"adminPrincipals": ["chief"]},
            "authentication": AUTHENTICATION,
            "rules": [{"path": "/guests/**", "access": "guest"}, {"preset": "datahub"}, {"path": "/entities"}],
        }
        with running_sidecar(tmp_path_factory.mktemp("datahub"), configuration) as sidecar:
            yield Stage(sidecar, request.param)


def test_person_of_any_provider_is_that_person(stage: Stage, provider: IdentityProvider) -> None:
    assert stage.actor(stage.ask(f"Bearer {provider.mint()}")) == "alice"


def test_shared_key_speaks_for_no_provider(stage: Stage, provider: IdentityProvider) -> None:
    """A provider's tokens are good by its own keys alone."""
    reply = stage.ask(f"Bearer {token(iss=provider.issuer)}")
    assert (reply.status, reply.json()["reason"]) == (401, "token_invalid")


def test_foreign_issuer_cannot_name_the_servers_admin(stage: Stage, provider: IdentityProvider) -> None:
    """DataHub recognises its admins by their urn alone, independent of the issuer of the name."""
    reply = stage.ask(f"Bearer {provider.mint(preferred_username='chief')}")
    seen = {"passthrough": "chief", "datahub": "", "datahubHeader": "anonymous"}
    assert stage.actor(reply) == seen[stage.credentials]


@pytest.mark.parametrize("more", [{}, {"type": "SESSION", "version": "1"}, {"type": "SERVICE_ACCOUNT"}, {"exp": ...}])
def test_datahubs_own_token_is_its_user(stage: Stage, more: dict[str, Any]) -> None:
    """Any holder of the shared key can sign there: only DataHub knows whether the token is still valid."""
    text = token(actorId="Sam@x.com", **more)
    reply = stage.ask(f"BEARER {text}")
    assert reply.status == 200
    assert Received.of(reply.json()).all("X-Auth-Request-User") == ["Sam@x.com"]
    if stage.credentials == "datahub":
        assert Received.of(reply.json()).all("Authorization") == [f"Bearer {text}"]
        assert _check_answer(stage, text).all("Authorization") == [f"Bearer {text}"]
    else:
        assert stage.actor(reply) == "Sam@x.com"


def test_datahubs_own_token_of_an_admin_is_judged_by_datahub(stage: Stage) -> None:
    """It names one of the server's admins; whether it is still good is asked there and not made up here."""
    text = token(actorId="chief")
    seen = Received.of(stage.ask(f"Bearer {text}").json())
    if stage.credentials == "datahubHeader":
        assert seen.all("X-DataHub-Actor") == ["urn:li:corpuser:anonymous"]
    else:
        assert seen.all("Authorization") == [f"Bearer {text}"]


def test_other_issuers_cannot_name_the_root_user(stage: Stage, provider: IdentityProvider) -> None:
    """DataHub's root user needs no entry in ``adminPrincipals`` to be one there."""
    reply = stage.ask(f"Bearer {provider.mint(preferred_username='DataHub')}")
    seen = {"passthrough": "DataHub", "datahub": "", "datahubHeader": "anonymous"}
    assert stage.actor(reply) == seen[stage.credentials]


@pytest.mark.parametrize("path", ["/auth/generateSessionTokenForUser", "/auth/getSsoSettings", "/auth/signUp"])
def test_what_datahubs_user_interface_asks_is_for_the_system_client(
    stage: Stage, provider: IdentityProvider, path: str
) -> None:
    """A GMS answers every authenticated caller."""
    assert stage.actor(stage.ask(f"Basic {CLIENT}:{SECRET}", path)) == CLIENT
    for authorization, status in ((f"Bearer {provider.mint()}", 403), (f"Bearer {token()}", 403), (None, 401)):
        assert stage.ask(authorization, path).status == status


def test_credentials_of_the_system_client_are_forwarded(stage: Stage) -> None:
    assert stage.actor(stage.ask(f"Basic {CLIENT}:{SECRET}")) == CLIENT
    if stage.credentials != "passthrough":
        encoded = b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        assert stage.actor(stage.ask(f"BASIC {encoded}")) == CLIENT


@pytest.mark.parametrize(
    "authorization",
    [
        f"Basic {CLIENT}:wrong",
        f"Basic other:{SECRET}",
        "Basic",
        "Basic \x00\xff",
        f"Bearer {token(key='x' * 40)}",
        f"Bearer {token(exp=1)}",
        f"Bearer {token(actorId='__datahub_system')}",
        f"Bearer {token(actorId='anonymous')}",
        f"Bearer {token(auth_sidecar='upstream')}",
        f"Bearer {token(algorithm='none').rpartition('.')[0]}.",
        "Bearer x",
    ],
)
@pytest.mark.parametrize("target", ["/entities", "/guests/x"])
def test_bad_credential_is_refused_and_never_the_guest(stage: Stage, authorization: str, target: str) -> None:
    if "\x00" in authorization:
        assert stage.ask(authorization, target).status in (400, 401)
        return
    reply = stage.ask(authorization, target)
    assert (reply.status, reply.json()["code"]) == (401, 401)
    assert SECRET not in reply.body.decode()


def test_no_credential_is_the_guest_where_guests_are_allowed(stage: Stage) -> None:
    reply = stage.ask(None, "/guests/x")
    assert stage.actor(reply) == ("" if stage.credentials == "passthrough" else "visitor")
    assert Received.of(reply.json()).all("X-Auth-Request-User") == ["visitor"]
    assert stage.ask(None).status == 401


@pytest.mark.parametrize("authorization", [None, f"Bearer {token(key='x' * 40)}"])
def test_public_path_sends_no_actor_to_datahub(stage: Stage, authorization: str | None) -> None:
    reply = stage.ask(authorization, "/config", ("X-DataHub-Actor", "urn:li:corpuser:datahub"))
    if stage.credentials == "passthrough":
        assert Received.of(reply.json()).all("X-DataHub-Actor") == []
    else:
        assert stage.actor(reply) == ("anonymous" if stage.credentials == "datahubHeader" else "")


@pytest.mark.parametrize(
    "name", ["X-DataHub-Actor", "x_datahub_actor", "X.DataHub.Actor", "X-DataHub-Delegated-For-Id"]
)
def test_claimed_actor_is_removed(stage: Stage, provider: IdentityProvider, name: str) -> None:
    reply = stage.ask(f"Bearer {provider.mint()}", "/entities", (name, "urn:li:corpuser:datahub"))
    assert stage.actor(reply) == "alice"
    assert Received.of(reply.json()).all("X-DataHub-Delegated-For-Id") == []


def _check_answer(stage: Stage, text: str) -> Reply:
    """The peer is a trusted proxy here."""
    asked = [("X-Original-URI", "/entities"), ("X-Original-Method", "GET")]
    reply = http_request(f"{stage.sidecar.url}/oauth2/auth", headers=[("Authorization", f"Bearer {text}"), *asked])
    assert reply.status == 200
    return reply


def test_check_answer_carries_the_credential(stage: Stage, provider: IdentityProvider) -> None:
    reply = _check_answer(stage, provider.mint())
    assert reply.all("X-DataHub-Actor") == (["urn:li:corpuser:alice"] if stage.credentials == "datahubHeader" else [])
    assert len(reply.all("Authorization")) == (stage.credentials == "datahub")


def test_foreign_issuer_cannot_name_the_system_client(stage: Stage, provider: IdentityProvider) -> None:
    reply = stage.ask(f"Bearer {provider.mint(preferred_username='__DataHub_System')}")
    assert (reply.status, reply.json()["reason"]) == (401, "principal_reserved")


def _check(folder: Path, authentication: Mapping[str, Any], **more: Any) -> tuple[int, str, str]:
    config = folder / "sidecar.yaml"
    store = {"url": f"sqlite:///{folder}/sidecar.db"}
    config.write_text(yaml.safe_dump({"authentication": authentication, "store": store, **more}), encoding="utf-8")
    command = [sys.executable, "-m", "sidecar", "check", "--offline", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_check_prints_the_chain(tmp_path: Path) -> None:
    code, out, _ = _check(tmp_path, AUTHENTICATION)
    assert code == 0
    lines = [line.strip() for line in out.splitlines()]
    assert lines[1].startswith("1. system:")
    assert any(line.startswith("3. datahub: Bearer tokens of DataHub") for line in lines)


@pytest.mark.parametrize(
    ("changes", "more", "place"),
    [
        ({"systemClientSecret": "JohnSnow" + "KnowsNothing"}, {}, "authentication.systemClientSecret"),
        ({"tokenService": {"signingKey": PUBLISHED_KEY}}, {}, "authentication.authenticators[0].configs.signingKey"),
        ({"tokenService": {"signingKey": "k" * 31, "salt": "s"}}, {}, "authentication.tokenService.signingKey"),
        ({"tokenService": {"signingKey": "k" * 32, "salt": PUBLISHED_SALT}}, {}, "authentication.tokenService.salt"),
        ({"tokenService": {"signingKey": "k" * 32}}, {}, "authentication.tokenService.salt"),
        ({"tokenService": {}}, {}, "authentication.tokenService.signingKey"),
        (
            {"tokenService": {}, "authenticators": []},
            {"upstream": {"credentials": "datahub"}},
            "authentication.tokenService.signingKey",
        ),
    ],
)
def test_secrets_that_protect_nothing_stop_the_check(
    tmp_path: Path, changes: dict[str, Any], more: dict[str, Any], place: str
) -> None:
    plain: list[dict[str, Any]] = [{"type": "datahub"}]
    if "configs" in place:
        plain = [{"type": "datahub", "configs": {"signingKey": "other" * 9, "salt": "s"}}]
    code, _, err = _check(tmp_path, {"authenticators": plain, **changes}, **more)
    assert code == 2
    assert f"{place}: " in err
    assert PUBLISHED_KEY not in err


@pytest.mark.parametrize(
    ("member", "options", "said"),
    [
        ({"type": "guest"}, {"guestUser": CLIENT}, f"guestUser: is the name of the system client ({CLIENT})"),
        ({"type": "basic", "name": "system"}, {"htpasswd": "/x"}, "has the name of a provider, system"),
    ],
)
def test_no_guest_can_have_the_name_of_the_system_client(
    tmp_path: Path, member: dict[str, str], options: dict[str, str], said: str
) -> None:
    code, _, err = _check(tmp_path, {"authenticators": [{**member, "configs": options}]})
    assert code == 2
    assert said in err


@pytest.mark.parametrize(
    ("credentials", "admins", "warned"),
    [
        ("datahub", ["chief"], True),
        ("datahubHeader", [], True),
        ("datahub", ["DataHub"], False),
        ("passthrough", [], False),
    ],
)
def test_check_speaks_of_the_root_user(tmp_path: Path, credentials: str, admins: list[str], warned: bool) -> None:
    upstream = {"url": "http://127.0.0.1:1", "credentials": credentials}
    code, _, err = _check(
        tmp_path, AUTHENTICATION, upstream=upstream, authorizerConfiguration={"adminPrincipals": admins}
    )
    assert (code, "does not list datahub, DataHub's root user" in err) == (0, warned)


@pytest.mark.parametrize(
    ("text", "authenticators", "code", "said"),
    [
        (token(), ["datahub"], 0, "accepted"),
        (token(key="x" * 40), ["datahub"], 1, "rejected: token_invalid (signature)"),
        # the key only signs tokens for the upstream; it authenticates no caller
        (token(), [], 1, "rejected"),
    ],
)
def test_explain_decides_as_the_chain_would(
    tmp_path: Path, text: str, authenticators: list[str], code: int, said: str
) -> None:
    block = {"tokenService": AUTHENTICATION["tokenService"], "authenticators": [{"type": t} for t in authenticators]}
    assert _check(tmp_path, block, upstream={"url": "http://127.0.0.1:1", "credentials": "datahub"})[0] == 0
    command = [sys.executable, "-m", "sidecar", "token", "explain", "--config", str(tmp_path / "sidecar.yaml"), text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, said in done.stdout) == (code, True), done
