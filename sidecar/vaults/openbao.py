"""OpenBao and HashiCorp Vault: the key-value engine, version 2. A secret is the field ``value`` of one path.

OpenMetadata writes ids with a leading slash and stores the secret at the path without it.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from sidecar.config.settings import SecretsManagerParameters
from sidecar.outbound import Answer, ControlClient, OutboundError, OutboundKind
from sidecar.secrets.ids import VaultKind
from sidecar.secrets.value import Secret
from sidecar.vaults.base import (
    MAX_ANSWER_BYTES,
    NEWER_VERSION,
    Held,
    VaultError,
    VaultFailure,
    VersionInfo,
    from_outbound,
)
from sidecar.vaults.token_file import read_token_file

_FIELD = "value"
_DESTROYED = 100
"""How many versions a deletion destroys at most: more than an engine keeps unless it is configured to."""
_FRACTION = re.compile(r"\.(\d{1,6})\d*")


class OpenBao:
    """See :class:`sidecar.vaults.base.Vault`. Logs in at the first call; the login is used until :meth:`aclose`."""

    kind = VaultKind.OPENBAO

    def __init__(self, parameters: SecretsManagerParameters, client: ControlClient, timeout: float) -> None:
        self._given = parameters
        self._client = client
        self._timeout = timeout
        self._token: Secret | None = None
        self._logging_in = asyncio.Lock()
        self._mount = parameters.bao_mount.strip("/")

    async def get(self, secret_id: str) -> Held:
        """The current version; a deleted one is ABSENT."""
        data = _block(await self._json("GET", "data", secret_id), "data")
        fields, metadata = data.get("data"), _block(data, "metadata")
        if not isinstance(fields, dict):
            raise VaultError(VaultFailure.ABSENT, "the current version is deleted")
        value = fields.get(_FIELD)
        if not isinstance(value, str):
            raise VaultError(VaultFailure.INVALID, f"the secret has no text in its field {_FIELD}")
        return Held(Secret(value), _version_info(str(metadata.get("version", "")), metadata))

    async def set(self, secret_id: str, value: Secret, replaces: str | None = None) -> str:
        """Write with compare-and-set if ``replaces`` is given."""
        body: dict[str, Any] = {"data": {_FIELD: value.reveal()}}
        if replaces is not None:
            body["options"] = {"cas": int(replaces) if replaces else await self._last_version(secret_id)}
        try:
            answer = await self._json("POST", "data", secret_id, orjson.dumps(body))
        except VaultError as error:
            # status 400 is also the answer to a compare-and-set that does not match
            if error.failure is VaultFailure.INVALID and replaces is not None:
                raise VaultError(VaultFailure.CONFLICT, NEWER_VERSION) from None
            raise
        return str(_block(answer, "data").get("version", ""))

    async def delete(self, secret_id: str, version: str | None = None) -> None:
        """Delete all versions and the metadata; with ``version`` destroy it and the versions before it.

        A version that is written meanwhile is not among those, and stays.
        """
        if version is None:
            await self._send("DELETE", "metadata", secret_id, None, accepted=(200, 204, 404))
            return
        newest = int(version)
        body = {"versions": list(range(max(1, newest - _DESTROYED + 1), newest + 1))}
        await self._send("POST", "destroy", secret_id, orjson.dumps(body), accepted=(200, 204, 404))
        try:
            is_gone = not (await self.versions(secret_id))[0].enabled
        except VaultError as error:
            if error.failure is not VaultFailure.ABSENT:
                raise
            is_gone = True
        if not is_gone:
            raise VaultError(VaultFailure.CONFLICT, NEWER_VERSION)

    async def versions(self, secret_id: str) -> tuple[VersionInfo, ...]:
        """From the metadata of the path."""
        versions = _block(_block(await self._json("GET", "metadata", secret_id), "data"), "versions")
        found = [
            _version_info(name, facts)
            for name, facts in sorted(versions.items(), key=lambda item: int(item[0]), reverse=True)
            if isinstance(facts, dict)
        ]
        return tuple(found)

    async def aclose(self) -> None:
        """Close the connections, and forget the login."""
        self._token = None
        await self._client.aclose()

    async def _last_version(self, secret_id: str) -> int:
        """The number of a version that is deleted, which compare-and-set needs; 0: the path is new.

        Raises VaultError with CONFLICT if the current version is not deleted.
        """
        try:
            versions = await self.versions(secret_id)
        except VaultError as error:
            if error.failure is VaultFailure.ABSENT:
                return 0
            raise
        if versions and versions[0].enabled:
            raise VaultError(VaultFailure.CONFLICT, "there is a secret with this id")
        return int(versions[0].version) if versions else 0

    async def _json(self, method: str, kind: str, secret_id: str, body: bytes | None = None) -> Mapping[str, Any]:
        return _document(await self._send(method, kind, secret_id, body))

    async def _send(
        self, method: str, kind: str, secret_id: str, body: bytes | None, accepted: tuple[int, ...] = (200,)
    ) -> Answer:
        token = await self._login()
        path = f"{self._mount}/{kind}/{secret_id.lstrip('/')}"
        return await self._request(method, path, body, {"X-Vault-Token": token.reveal()}, accepted)

    async def _login(self) -> Secret:
        if self._given.bao_token is not None and self._given.bao_auth_method == "token":
            return self._given.bao_token
        async with self._logging_in:
            if self._token is None:
                self._token = await self._logged_in()
            return self._token

    async def _logged_in(self) -> Secret:
        method = self._given.bao_auth_method
        bodies: Mapping[str, Callable[[], dict[str, str]]] = {
            "approle": self._approle_body,
            "kubernetes": self._kubernetes_body,
        }
        mount = self._given.bao_auth_path.strip("/") or method
        body = await asyncio.to_thread(bodies[method])
        try:
            answer = _document(await self._request("POST", f"auth/{mount}/login", orjson.dumps(body), {}, (200,)))
        except VaultError as error:
            if error.failure in {VaultFailure.INVALID, VaultFailure.FORBIDDEN, VaultFailure.ABSENT}:
                detail = f"the login at auth/{mount} was refused ({error.detail})"
                raise VaultError(VaultFailure.UNAUTHORIZED, detail) from None
            raise
        token = _block(answer, "auth").get("client_token")
        if not isinstance(token, str) or not token.isprintable() or not token:
            raise VaultError(VaultFailure.UNAVAILABLE, "the answer to the login has no token")
        return Secret(token)

    def _approle_body(self) -> dict[str, str]:
        secret = self._given.bao_secret_id
        return {"role_id": self._given.bao_role_id, "secret_id": "" if secret is None else secret.reveal()}

    def _kubernetes_body(self) -> dict[str, str]:
        return {"role": self._given.bao_role, "jwt": read_token_file(Path(self._given.token_file))}

    async def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], accepted: tuple[int, ...]
    ) -> Answer:
        url = f"{self._given.bao_address.rstrip('/')}/v1/{path}"
        sent = {**headers, "X-Vault-Request": "true"}
        if self._given.bao_namespace:
            sent["X-Vault-Namespace"] = self._given.bao_namespace
        if body is not None:
            sent["Content-Type"] = "application/json"
        try:
            return await self._client.send(
                method, url, body, sent, within=self._timeout, max_bytes=MAX_ANSWER_BYTES, accept=accepted
            )
        except OutboundError as error:
            if error.kind is OutboundKind.STATUS and error.status == 503:
                raise VaultError(VaultFailure.UNAVAILABLE, "status 503: sealed, or not ready", error.retry_after) from (
                    None
                )
            raise from_outbound(error) from None


def _document(answer: Answer) -> Mapping[str, Any]:
    try:
        document = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise VaultError(VaultFailure.UNAVAILABLE, "the answer is no JSON object")
    return document


def _block(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    block = document.get(name)
    if not isinstance(block, dict):
        raise VaultError(VaultFailure.UNAVAILABLE, f"the answer has no object {name}")
    return block


def _version_info(version: str, facts: Mapping[str, Any]) -> VersionInfo:
    is_gone = bool(facts.get("deletion_time")) or facts.get("destroyed") is True
    return VersionInfo(version, _seconds(facts.get("created_time")), enabled=not is_gone)


def _seconds(text: object) -> float | None:
    """An RFC 3339 time with any number of digits after the point, in seconds since the epoch."""
    try:
        return datetime.fromisoformat(_FRACTION.sub(r".\1", str(text))).timestamp()
    except ValueError:
        return None
