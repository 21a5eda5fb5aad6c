"""A stand-in of Microsoft Entra, the instance metadata service and one Key Vault, at the level of the wire.

It answers as the services do, as far as the SDK looks: challenges, tokens, versions, soft delete, error codes. A test
changes what it answers through :attr:`Azure.answer`.
"""

import asyncio
import json
import secrets as random
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from aiohttp import web

from tests.support.certificates import certificate
from tests.support.loopback_server import LoopbackServer

TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "66666666-7777-8888-9999-000000000000"
CLIENT_SECRET = "client~secret-of-the-stand-in"
AUDIENCE = "https://vault.azure.net"
VAULT = "acme-metadata"
VAULT_HOST = f"{VAULT}.vault.azure.net"
AUTHORITY_HOST = "login.microsoftonline.com"
Override = Callable[[web.BaseRequest], Awaitable[web.StreamResponse | None]]


@dataclass(slots=True)
class Version:
    """One version of a secret."""

    value: str
    version: str
    created: int
    attributes: dict[str, Any]
    tags: dict[str, str]


@dataclass(slots=True)
class Azure:
    """The stand-in while it runs."""

    server: LoopbackServer
    ca_file: Path
    metadata: LoopbackServer | None = None
    secrets: dict[str, list[Version]] = field(default_factory=dict)
    deleted: dict[str, list[Version]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    """Access tokens that were issued, with the name of the credential."""
    answer: Override | None = None
    """Answers instead of the stand-in, unless it returns None."""
    may_write: bool = True
    busy_for: int = 0
    """So many writes still answer that the secret is being recovered."""
    resource: str = AUDIENCE
    is_public: bool = False
    """It is reached under Azure's names."""

    @property
    def url(self) -> str:
        """Of the vault."""
        return f"https://{VAULT_HOST}" if self.is_public else self.server.url

    @property
    def authority(self) -> str:
        """Of the authority."""
        return f"https://{AUTHORITY_HOST}" if self.is_public else self.server.url

    def parameters(self, **more: Any) -> dict[str, Any]:
        """``secretsManagerConfiguration.parameters`` that reach it with the client secret."""
        return {
            "vaultUrl": self.url,
            "authority": self.authority,
            "caFile": str(self.ca_file),
            "tenantId": TENANT,
            "clientId": CLIENT,
            "clientSecret": CLIENT_SECRET,
            **more,
        }

    def put(self, name: str, value: str, **attributes: Any) -> str:
        """Store a new version as an operator would; returns its name."""
        version = Version(value, random.token_hex(16), _tick(), {"enabled": True, **attributes}, {})
        self.secrets.setdefault(name.lower(), []).append(version)
        return version.version

    def value(self, name: str) -> str:
        """The newest value."""
        return self.secrets[name.lower()][-1].value


_ticks = iter(range(1_700_000_000, 1_800_000_000))


def _tick() -> int:
    """A second that no other version has."""
    return next(_ticks)


@contextmanager
def azure(folder: Path, *, is_public: bool = False) -> Iterator[Azure]:
    """Run the stand-in; ``folder`` takes the certificate of its CA.

    ``is_public``: for clients that reach it under Azure's host names, through a proxy.
    """
    authority = certificate("ca")
    pem, key = certificate("azure", authority, [VAULT_HOST, AUTHORITY_HOST])
    (folder / "azure.pem").write_bytes(authority[0])
    (folder / "azure-server.pem").write_bytes(pem)
    (folder / "azure.key").write_bytes(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "azure-server.pem", folder / "azure.key")
    found: list[Azure] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return await _handle(found[0], request)

    with LoopbackServer(handle, tls=context) as server, LoopbackServer(handle) as metadata:
        found.append(Azure(server, folder / "azure.pem", metadata, is_public=is_public))
        yield found[0]


async def _handle(world: Azure, request: web.BaseRequest) -> web.StreamResponse:
    world.requests.append((request.method, request.path_qs))
    if world.answer is not None:
        answered = await world.answer(request)
        if answered is not None:
            return answered
    if request.path.endswith("/oauth2/v2.0/token"):
        return await _authority(world, request)
    if request.path.endswith("/v2.0/.well-known/openid-configuration"):
        return _discovery(world)
    if request.path == "/metadata/identity/oauth2/token":
        return _metadata(world, request)
    if not request.secure:
        return _error(400, "BadParameter")
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token not in world.tokens:
        return _challenge(world)
    return await _vault(world, request)


def _discovery(world: Azure) -> web.Response:
    base = f"{world.authority}/{TENANT}"
    return web.json_response(
        {
            "issuer": f"{base}/v2.0",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
        }
    )


def _challenge(world: Azure) -> web.Response:
    value = f'Bearer authorization="{world.authority}/{TENANT}", resource="{world.resource}"'
    body = {"error": {"code": "Unauthorized", "message": "AKV10000: Request is missing a Bearer or PoP token."}}
    return web.json_response(body, status=401, headers={"WWW-Authenticate": value})


async def _authority(world: Azure, request: web.BaseRequest) -> web.Response:
    form = {name: values[0] for name, values in parse_qs((await request.read()).decode()).items()}
    is_secret = form.get("client_secret") == CLIENT_SECRET
    is_workload = form.get("client_assertion") == "projected-token"
    if form.get("client_id") != CLIENT or not (is_secret or is_workload):
        text = f"AADSTS7000215: Invalid client secret provided: {form.get('client_secret')}"
        return web.json_response({"error": "invalid_client", "error_description": text}, status=401)
    if form.get("scope", "").split()[0] != f"{AUDIENCE}/.default":
        return web.json_response({"error": "invalid_scope", "error_description": "AADSTS70011"}, status=400)
    return web.json_response(_token(world, "secret" if is_secret else "workload"))


def _metadata(world: Azure, request: web.BaseRequest) -> web.Response:
    if request.headers.get("Metadata") != "true" or request.query.get("resource") != AUDIENCE:
        return web.json_response({"error": "invalid_request"}, status=400)
    wanted = request.query.get("client_id", "")
    if wanted not in ("", CLIENT):
        return web.json_response({"error": "invalid_request", "error_description": "Identity not found"}, status=400)
    return web.json_response({**_token(world, f"identity {wanted}".strip()), "resource": AUDIENCE})


def _token(world: Azure, who: str) -> dict[str, Any]:
    token = f"access-token-{random.token_hex(8)}"
    world.tokens[token] = who
    expires = int(time.time()) + 3600
    return {"token_type": "Bearer", "expires_in": 3600, "expires_on": str(expires), "access_token": token}


async def _vault(world: Azure, request: web.BaseRequest) -> web.StreamResponse:
    parts = request.path.strip("/").split("/")
    if parts == ["secrets"]:
        return web.json_response({"value": [_item(world, name, all_[-1]) for name, all_ in world.secrets.items()]})
    if parts[0] == "deletedsecrets":
        return _deleted(world, request.method, parts)
    name = parts[1].lower()
    if request.method == "PUT":
        return _set(world, name, json.loads(await request.read()))
    if name not in world.secrets:
        return _error(404, "SecretNotFound")
    if request.method == "DELETE":
        world.deleted[name] = world.secrets.pop(name)
        return web.json_response({**_item(world, name, world.deleted[name][-1]), **_recovery(world, name)})
    versions = world.secrets[name]
    if parts[2:] == ["versions"]:
        return web.json_response({"value": [_item(world, name, one) for one in versions]})
    chosen = [one for one in versions if parts[2:] in ([], [one.version])]
    if not chosen:
        return _error(404, "SecretNotFound")
    if not chosen[-1].attributes["enabled"]:
        return _error(403, "Forbidden", "SecretDisabled")
    return web.json_response({**_item(world, name, chosen[-1]), "value": chosen[-1].value})


def _set(world: Azure, name: str, body: Mapping[str, Any]) -> web.Response:
    if not world.may_write:
        return _error(403, "Forbidden", "ForbiddenByRbac")
    if name in world.deleted:
        return _error(409, "Conflict", "ObjectIsDeletedButRecoverable")
    if world.busy_for:
        world.busy_for -= 1
        return _error(409, "Conflict", "ObjectIsBeingRecovered")
    world.put(name, body["value"])
    made = world.secrets[name][-1]
    made.tags = dict(body.get("tags") or {})
    return web.json_response({**_item(world, name, made), "value": made.value})


def _deleted(world: Azure, method: str, parts: list[str]) -> web.Response:
    name = parts[1].lower()
    if name not in world.deleted:
        return _error(404, "SecretNotFound")
    if method == "POST" and parts[2:] == ["recover"]:
        world.secrets[name] = world.deleted.pop(name)
        return web.json_response(_item(world, name, world.secrets[name][-1]))
    return web.json_response({**_item(world, name, world.deleted[name][-1]), **_recovery(world, name)})


def _recovery(world: Azure, name: str) -> dict[str, Any]:
    now = int(time.time())
    url = f"{world.url}/deletedsecrets/{name}"
    return {"recoveryId": url, "deletedDate": now, "scheduledPurgeDate": now + 7_776_000}


def _item(world: Azure, name: str, version: Version) -> dict[str, Any]:
    attributes = {"created": version.created, "updated": version.created, **version.attributes}
    return {"id": f"{world.url}/secrets/{name}/{version.version}", "attributes": attributes, "tags": version.tags}


def _error(status: int, code: str, inner: str = "") -> web.Response:
    error: dict[str, Any] = {"code": code, "message": f"{code}: the message names who asked"}
    if inner:
        error["innererror"] = {"code": inner}
    return web.json_response({"error": error}, status=status)


async def never(_: web.BaseRequest) -> web.StreamResponse:
    """An override that does not answer in the time of a test."""
    await asyncio.sleep(60)
    return web.Response()
