"""Tokens of real OpenID providers, found by discovery, over a live change of keys."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.http_client import Reply, answers, form, request
from tests.support.keycloak import running_keycloak
from tests.support.ports import free_port
from tests.support.process import running
from tests.support.sidecar_process import Sidecar, running_sidecar
from tests.support.tools import OIDC_PROVIDER

CLIENT = "ingestion"
SECRET = "ingestion-secret-for-tests-only"
AUDIENCE = "metadata"
KEY_PROVIDER = "org.keycloak.keys.KeyProvider"


class OpenIDProvider(ABC):
    """A provider as these tests see it."""

    issuer: str
    token_endpoint: str

    @abstractmethod
    def rotate(self) -> None:
        """Sign with a new key, go on publishing the older ones."""

    @abstractmethod
    def withdraw(self) -> None:
        """Publish the newest key only."""

    def client_token(self) -> str:
        """An access token for a program (RFC 6749 section 4.4)."""
        answer = form(self.token_endpoint, {"grant_type": "client_credentials"}, basic=(CLIENT, SECRET))
        return str(answer["access_token"])


class NodeProvider(OpenIDProvider):
    """``oidc-provider``, certified, from npm."""

    def __init__(self, url: str) -> None:
        self.issuer = url
        self.token_endpoint = f"{url}/token"

    def rotate(self) -> None:
        assert request(f"{self.issuer}/control/rotate", "POST", body=b"").status == 204

    def withdraw(self) -> None:
        assert request(f"{self.issuer}/control/withdraw", "POST", body=b"").status == 204


class Keycloak(OpenIDProvider):
    """Keycloak with a realm of its own, made over its administration API."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.issuer = f"{url}/realms/corp"
        self.token_endpoint = f"{self.issuer}/protocol/openid-connect/token"
        self._serial = 0
        self._administer("POST", "/admin/realms", self._realm())
        self._realm_id = self._administer("GET", "/admin/realms/corp").json()["id"]

    @staticmethod
    def _realm() -> dict[str, Any]:
        audience = {
            "name": "audience",
            "protocol": "openid-connect",
            "protocolMapper": "oidc-audience-mapper",
            "config": {"included.custom.audience": AUDIENCE, "access.token.claim": "true"},
        }
        client = {
            "clientId": CLIENT,
            "secret": SECRET,
            "serviceAccountsEnabled": True,
            "directAccessGrantsEnabled": True,
            "standardFlowEnabled": False,
            "protocolMappers": [audience],
        }
        alice = {
            "username": "alice",
            "enabled": True,
            "email": "alice@example.com",
            "emailVerified": True,
            "firstName": "Alice",
            "lastName": "Example",
            "credentials": [{"type": "password", "value": "alice-password", "temporary": False}],
            "realmRoles": ["admins"],
        }
        roles = {"realm": [{"name": "admins"}]}
        return {"realm": "corp", "enabled": True, "roles": roles, "clients": [client], "users": [alice]}

    def _administer(self, method: str, path: str, document: object = None) -> Reply:
        fields = {"client_id": "admin-cli", "grant_type": "password", "username": "admin", "password": "admin"}
        token = form(f"{self._url}/realms/master/protocol/openid-connect/token", fields)["access_token"]
        headers = [("Authorization", f"Bearer {token}"), ("Content-Type", "application/json")]
        body = None if document is None else json.dumps(document).encode()
        reply = request(self._url + path, method, headers=headers, body=body)
        assert reply.status < 300, reply
        return reply

    def _signing_keys(self) -> list[dict[str, Any]]:
        query = urlencode({"type": KEY_PROVIDER})
        components = self._administer("GET", f"/admin/realms/corp/components?{query}").json()
        return [component for component in components if component["providerId"] == "rsa-generated"]

    def rotate(self) -> None:
        self._serial += 1
        config = {"priority": [str(200 + self._serial)], "keySize": ["2048"], "algorithm": ["RS256"]}
        component = {
            "name": f"signing-{self._serial}",
            "providerId": "rsa-generated",
            "providerType": KEY_PROVIDER,
            "parentId": self._realm_id,
            "config": config,
        }
        self._administer("POST", "/admin/realms/corp/components", component)

    def withdraw(self) -> None:
        newest = f"signing-{self._serial}"
        for component in self._signing_keys():
            if component["name"] != newest:
                self._administer("DELETE", f"/admin/realms/corp/components/{component['id']}")

    def person_token(self) -> str:
        """An access token for Alice, by her password (RFC 6749 section 4.3)."""
        fields = {"grant_type": "password", "username": "alice", "password": "alice-password"}
        return str(form(self.token_endpoint, fields, basic=(CLIENT, SECRET))["access_token"])


@pytest.fixture
def node_provider(require_tool: Callable[[str], Path], tmp_path: Path) -> Iterator[OpenIDProvider]:
    """A running ``oidc-provider``."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [require_tool("oidc-provider"), OIDC_PROVIDER / "server.mjs", str(port)]
    ready_url = f"{url}/.well-known/openid-configuration"
    with running(command, log=tmp_path / "provider.log", ready=lambda: answers(ready_url, 200)):
        yield NodeProvider(url)


@pytest.fixture
def keycloak(require_tool: Callable[[str], Path], tmp_path: Path) -> Iterator[Keycloak]:
    """A running Keycloak that keeps everything in memory."""
    with running_keycloak(require_tool("keycloak"), tmp_path) as url:
        yield Keycloak(url)


@contextmanager
def sidecar_for(provider: OpenIDProvider, folder: Path, **settings: object) -> Iterator[Sidecar]:
    """A sidecar that knows nothing of the provider but its issuer and the audience."""
    entry = {"name": "corp", "issuer": provider.issuer, "audiences": [AUDIENCE], **settings}
    configuration = {
        "authenticationConfiguration": {"providers": [entry]},
        # Rotations here follow each other faster than anywhere else.
        "keys": {"unknownKidCooldown": "1ms"},
    }
    with running_sidecar(folder, configuration) as sidecar:
        yield sidecar


def ask(sidecar: Sidecar, token: str) -> Reply:
    """Who the sidecar takes the bearer of this token for."""
    return request(f"{sidecar.url}/oauth2/userinfo", headers=[("Authorization", f"Bearer {token}")])


def assert_follows_the_keys(provider: OpenIDProvider, sidecar: Sidecar) -> None:
    """A new key counts from its first token on, an old one for as long as it is published and not longer."""
    first = provider.client_token()
    assert ask(sidecar, first).status == 200

    provider.rotate()
    second = provider.client_token()
    assert ask(sidecar, second).status == 200
    assert ask(sidecar, first).status == 200

    provider.rotate()
    provider.withdraw()
    third = provider.client_token()
    assert ask(sidecar, third).status == 200
    for withdrawn in (first, second):
        reply = ask(sidecar, withdrawn)
        assert (reply.status, reply.json()["reason"]) == (401, "token_invalid")


def test_oidc_provider_names_the_program_that_asks(node_provider: OpenIDProvider, tmp_path: Path) -> None:
    """An access token by client credentials (RFC 9068) is accepted with nothing but the issuer configured."""
    with sidecar_for(node_provider, tmp_path, actorType="SERVICE") as sidecar:
        reply = ask(sidecar, node_provider.client_token())
    assert reply.status == 200, reply
    document = reply.json()
    assert document["actor"] == {"type": "SERVICE", "id": CLIENT, "urn": f"urn:li:corpuser:{CLIENT}"}
    assert document["issuer"] == node_provider.issuer


def test_oidc_provider_changes_its_keys(node_provider: OpenIDProvider, tmp_path: Path) -> None:
    """Live rotation and withdrawal, without a restart and without waiting for a refresh."""
    with sidecar_for(node_provider, tmp_path) as sidecar:
        assert_follows_the_keys(node_provider, sidecar)


@pytest.mark.heavy
def test_keycloak_names_people_and_programs_and_changes_its_keys(keycloak: Keycloak, tmp_path: Path) -> None:
    """Password and client-credentials tokens become Actors with their realm roles; keys are followed live."""
    settings = {
        "groupsClaim": "realm_access.roles",
        "requiredClaims": {"azp": [CLIENT]},
    }
    with sidecar_for(keycloak, tmp_path, **settings) as sidecar:
        person = ask(sidecar, keycloak.person_token())
        assert person.status == 200, person
        assert person.json()["actor"]["id"] == "alice"
        assert person.json()["email"] == "alice@example.com"
        assert "admins" in person.json()["groups"]
        program = ask(sidecar, keycloak.client_token())
        assert program.status == 200, program
        assert program.json()["actor"]["id"] == f"service-account-{CLIENT}"
        assert_follows_the_keys(keycloak, sidecar)
