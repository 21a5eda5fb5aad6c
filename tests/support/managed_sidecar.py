"""A sidecar in this process over a store on disk, with an identity provider, and callers of every kind."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sidecar.app.running import run_sidecar
from sidecar.config.load import load
from sidecar.keys.key_files import generate, write_pair
from tests.support.http_client import Reply, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider

ISSUER = "meta.example.com"
LISTENERS = {"listen": "127.0.0.1:0", "adminListen": "127.0.0.1:0"}
_PATIENCE = 15.0


@dataclass(frozen=True, slots=True)
class ManagedSidecar:
    """A sidecar that is up."""

    url: str
    idp: IdentityProvider
    folder: Path

    def token_of(self, name: str, **claims: Any) -> str:
        """A token of the identity provider for ``name``; ``root`` is an admin."""
        return self.idp.mint(
            **{"sub": f"sub-{name}", "preferred_username": name, "email": f"{name}@example.com", **claims}
        )

    async def call(
        self,
        method: str,
        path: str,
        token: str | None = None,
        *,
        body: object = None,
        form: Mapping[str, str] | None = None,
        raw: bytes | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> Reply:
        """One request below the prefix, with JSON, a form, or bytes."""
        sent = list(headers)
        if token is not None:
            sent.append(("Authorization", f"Bearer {token}"))
        if body is not None:
            raw = json.dumps(body).encode()
            sent.append(("Content-Type", "application/json"))
        if form is not None:
            raw = urlencode(form).encode()
            sent.append(("Content-Type", "application/x-www-form-urlencoded"))
        return await asyncio.to_thread(request, f"{self.url}/oauth2{path}", method, headers=sent, body=raw)

    async def status(self, token: str) -> int:
        """How a check of ``token`` ends."""
        return (await self.call("GET", "/auth", token)).status

    async def mint(self, token: str, **body: Any) -> dict[str, Any]:
        """A new token's record, with its text as ``token``."""
        reply = await self.call("POST", "/tokens", token, body={"name": "laptop", **body})
        assert reply.status == 201, reply.body
        made: dict[str, Any] = reply.json()
        return made


def write_configuration(
    folder: Path, idp: IdentityProvider, more_providers: Sequence[Mapping[str, Any]] = (), **blocks: Any
) -> Path:
    """A configuration with own keys, an identity provider and a store, all in ``folder``."""
    keys = folder / "keys"
    if not keys.exists():
        write_pair(keys, generate("ES256"))
    document = {
        "server": LISTENERS,
        "store": {"url": f"sqlite:///{folder}/sidecar.db"},
        "jwtTokenConfiguration": {
            "rsaprivateKeyFilePath": str(keys / "private_key.der"),
            "rsapublicKeyFilePath": str(keys / "public_key.der"),
            "jwtissuer": ISSUER,
            "keyId": "own1",
        },
        "authorizerConfiguration": {"adminPrincipals": ["root", "chief"], "principalDomain": "example.com"},
        "authenticationConfiguration": {
            "providers": [
                {
                    "name": "corp",
                    "issuer": idp.issuer,
                    "audiences": [AUDIENCE],
                    "mayBeAdmin": True,
                    "actorType": {"claim": "kind", "service": ["job"]},
                },
                *more_providers,
            ]
        },
        **blocks,
    }
    path = folder / "sidecar.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@asynccontextmanager
async def managed_sidecar(folder: Path, **blocks: Any) -> AsyncIterator[ManagedSidecar]:
    """Run one until the block ends; ``blocks`` replace those of its configuration."""
    with IdentityProvider() as idp:
        path = write_configuration(folder, idp, **blocks)
        async with run_sidecar(load([str(path)], {})) as sidecar:
            host, port = sidecar.public_addresses[0][:2]
            managed = ManagedSidecar(f"http://{host}:{port}", idp, folder)
            async with asyncio.timeout(_PATIENCE):
                while await managed.status(managed.token_of("anyone")) != 200:
                    await asyncio.sleep(0.02)
            yield managed
