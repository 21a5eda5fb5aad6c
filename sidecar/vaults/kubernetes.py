"""Kubernetes Secrets: a secret is the key ``value`` of the Secret with its id as name, as OpenMetadata stores it."""

import asyncio
import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from sidecar.config.settings import SecretsManagerParameters
from sidecar.outbound import Answer, ControlClient, OutboundError
from sidecar.secrets.ids import VaultKind
from sidecar.secrets.value import Secret
from sidecar.vaults.base import (
    MAX_ANSWER_BYTES,
    Held,
    VaultError,
    VaultFailure,
    VersionInfo,
    from_outbound,
)
from sidecar.vaults.token_file import read_token_file

_KEY = "value"
_LABELS = {"app.kubernetes.io/managed-by": "auth-sidecar"}


class KubernetesSecrets:
    """See :class:`sidecar.vaults.base.Vault`. A Secret has one version: its ``resourceVersion``."""

    kind = VaultKind.KUBERNETES

    def __init__(
        self,
        parameters: SecretsManagerParameters,
        client: ControlClient,
        timeout: float,
        annotations: Mapping[str, str],
    ) -> None:
        """``annotations`` are added to Secrets that are written."""
        self._given = parameters
        self._client = client
        self._timeout = timeout
        self._annotations = annotations

    async def get(self, secret_id: str) -> Held:
        """The content of the key."""
        document = await self._read(secret_id)
        encoded = (document.get("data") or {}).get(_KEY)
        if not isinstance(encoded, str):
            raise VaultError(VaultFailure.INVALID, f"the Secret has no key {_KEY}")
        try:
            text = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, ValueError):
            raise VaultError(VaultFailure.INVALID, f"the key {_KEY} is not UTF-8 text") from None
        return Held(Secret(text), _version_info(document))

    async def set(self, secret_id: str, value: Secret, replaces: str | None = None) -> str:
        """Create the Secret, or replace its key. The API server compares the version."""
        data = {_KEY: base64.b64encode(value.reveal().encode()).decode()}
        if replaces == "":
            return await self._create(secret_id, data)
        try:
            present = await self._read(secret_id)
        except VaultError as error:
            if error.failure is VaultFailure.ABSENT and replaces is None:
                return await self._create(secret_id, data)
            if error.failure is VaultFailure.ABSENT:
                raise VaultError(VaultFailure.CONFLICT, "the Secret was deleted in the meantime") from None
            raise
        metadata = _metadata(present)
        if replaces is not None:
            metadata = {**metadata, "resourceVersion": replaces}
        body = {**present, "metadata": metadata, "data": {**(present.get("data") or {}), **data}}
        return _version_info(_document(await self._send("PUT", f"/{secret_id}", body, (200,)))).version

    async def delete(self, secret_id: str, version: str | None = None) -> None:
        """Delete the Secret with all its keys. The API server compares the version."""
        body = None
        if version is not None:
            body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"resourceVersion": version}}
        await self._send("DELETE", f"/{secret_id}", body, (200, 202, 404))

    async def versions(self, secret_id: str) -> tuple[VersionInfo, ...]:
        """The only version."""
        return (_version_info(await self._read(secret_id)),)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _create(self, secret_id: str, data: Mapping[str, str]) -> str:
        metadata = {"name": secret_id, "labels": _LABELS, "annotations": dict(self._annotations)}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}
        return _version_info(_document(await self._send("POST", "", body, (201,)))).version

    async def _read(self, secret_id: str) -> Mapping[str, Any]:
        return _document(await self._send("GET", f"/{secret_id}", None, (200,)))

    async def _send(self, method: str, below: str, body: object, accepted: tuple[int, ...]) -> Answer:
        token = await asyncio.to_thread(read_token_file, Path(self._given.token_file))
        url = f"{self._given.api_server.rstrip('/')}/api/v1/namespaces/{self._given.namespace}/secrets{below}"
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            return await self._client.send(
                method,
                url,
                None if body is None else orjson.dumps(body),
                headers,
                within=self._timeout,
                max_bytes=MAX_ANSWER_BYTES,
                accept=accepted,
            )
        except OutboundError as error:
            raise from_outbound(error) from None


def _document(answer: Answer) -> Mapping[str, Any]:
    try:
        document = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("data") or {}, dict):
        raise VaultError(VaultFailure.UNAVAILABLE, "the answer is not a Secret")
    return document


def _metadata(document: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        raise VaultError(VaultFailure.UNAVAILABLE, "the answer has no metadata")
    return metadata


def _version_info(document: Mapping[str, Any]) -> VersionInfo:
    metadata = _metadata(document)
    try:
        created = datetime.fromisoformat(str(metadata.get("creationTimestamp"))).timestamp()
    except ValueError:
        created = None
    return VersionInfo(str(metadata.get("resourceVersion", "")), created)
