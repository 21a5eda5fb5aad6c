"""Azure Key Vault, with the SDK behind limits of our own.

The SDK follows redirects, waits without a bound for ``Retry-After`` and for a silent metadata service, reads answers of
any size, turns an empty name into a list, and quotes answers in the texts of its exceptions and log lines. So every
request passes :class:`_GuardedTransport`, every call has a timeout (:class:`sidecar.vaults.base.BoundedVault`), and of
an exception only its class, status and error code are used.
"""

import asyncio
import logging
import os
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp.connector import NEEDS_CLEANUP_CLOSED

from sidecar.config.settings import SecretsManagerParameters
from sidecar.egress import Egress
from sidecar.errors import Misconfigured, Problem
from sidecar.outbound import GuardedResolver, OutboundError, check_url, proxy_arguments, select_proxy
from sidecar.secrets.ids import VaultKind
from sidecar.secrets.value import Secret
from sidecar.tls import client_context
from sidecar.vaults.base import (
    MAX_ANSWER_BYTES,
    NEWER_VERSION,
    Held,
    VaultError,
    VaultFailure,
    VersionInfo,
    of_status,
)

try:
    from azure.core.exceptions import (
        AzureError,
        ClientAuthenticationError,
        HttpResponseError,
        ResourceExistsError,
        ServiceRequestError,
        ServiceResponseError,
    )
    from azure.core.pipeline.transport import AioHttpTransport
    from azure.identity import CredentialUnavailableError
    from azure.identity.aio import (
        ClientSecretCredential,
        EnvironmentCredential,
        ManagedIdentityCredential,
        WorkloadIdentityCredential,
    )
    from azure.keyvault.secrets.aio import SecretClient
except ImportError as missing:
    _text = "needs the extra azure, which is not installed: pip install 'auth-sidecar[azure]'"
    raise Misconfigured([Problem("secretsManagerConfiguration.secretsManager", _text)]) from missing

# DNS suffix of the vaults of a cloud, which is also the audience of its tokens, and the authority of the cloud.
_CLOUDS: Mapping[str, str] = {
    "vault.azure.net": "login.microsoftonline.com",
    "vault.usgovcloudapi.net": "login.microsoftonline.us",
    "vault.azure.cn": "login.chinacloudapi.cn",
}
_PUBLIC = "vault.azure.net"
_METADATA_HOST = "169.254.169.254"
_METADATA_VARIABLES = ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "IDENTITY_ENDPOINT", "MSI_ENDPOINT")
_WORKLOAD_VARIABLES = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE")
_LOGGERS = ("azure", "msal", "msal_extensions")
_ERROR_CODE = re.compile(r"[A-Za-z]{1,64}")
_AUTHORITY_CODE = re.compile(r"AADSTS\d{1,9}")
_DELETED = "ObjectIsDeletedButRecoverable"
_IN_TRANSITION = frozenset({"ObjectIsBeingRecovered", "ObjectIsBeingDeleted"})
_TRANSITION_PAUSE = 1.0


def open_azure(
    given: SecretsManagerParameters, egress: Egress, timeout: float, tags: Mapping[str, str]
) -> "AzureVault":
    """A client of the vault. Call it inside a running loop. Raises Misconfigured if the CA bundle cannot be read."""
    for name in _LOGGERS:  # their lines quote answers
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
    try:
        context = client_context(given.ca_file)
    except (OSError, ValueError) as error:
        message = f"the CA bundle cannot be loaded ({type(error).__name__}); specify a readable PEM file"
        path = "secretsManagerConfiguration.parameters.caFile"
        raise Misconfigured([Problem(path, f"{message}: {given.ca_file}")]) from error
    return AzureVault(given, egress, timeout, tags, context)


class AzureVault:
    """See :class:`sidecar.vaults.base.Vault`. Without compare-and-set: versions are compared before a write."""

    kind = VaultKind.AZURE

    def __init__(
        self,
        given: SecretsManagerParameters,
        egress: Egress,
        timeout: float,
        tags: Mapping[str, str],
        context: ssl.SSLContext,
    ) -> None:
        """``tags`` are set on secrets that are written."""
        self._tags = dict(tags)
        url = (given.vault_url or f"https://{given.vault_name}.{_PUBLIC}").rstrip("/")
        host = urlsplit(url).hostname or ""
        suffix = next((suffix for suffix in _CLOUDS if host.endswith(f".{suffix}")), "")
        resolver = GuardedResolver(aiohttp.DefaultResolver())
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=resolver,
                use_dns_cache=False,
                ssl=context,
                # else a server that does not answer the end of TLS keeps a closed connection open
                enable_cleanup_closed=NEEDS_CLEANUP_CLOSED,
            ),
            response_class=_BoundedResponse,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
        )
        transport = _GuardedTransport(self._session, resolver, egress, timeout)
        pipeline: dict[str, Any] = {"transport": transport, "retry_total": 0, "permit_redirects": False}
        authority = given.authority or os.environ.get("AZURE_AUTHORITY_HOST", "") or _CLOUDS[suffix or _PUBLIC]
        inner = _credential(given, authority, pipeline)
        audiences = [suffix] if suffix else list(_CLOUDS)
        self._credential = _VaultOnly(inner, frozenset(f"https://{audience}/.default" for audience in audiences))
        # the SDK compares the audience with the vault's host, which a private name cannot match
        self._client = SecretClient(url, self._credential, verify_challenge_resource=bool(suffix), **pipeline)

    async def get(self, secret_id: str) -> Held:
        """The newest version whose ``nbf`` has passed. A newest version that is disabled is DISABLED."""
        async with _translated():
            found = await self._client.get_secret(secret_id)
        info = _version_info(found.properties)
        if info.not_before is not None and info.not_before > time.time():
            return await self._get_earlier(secret_id, info)
        return _held(found.value, info)

    async def set(self, secret_id: str, value: Secret, replaces: str | None = None) -> str:
        """A deleted secret is recovered first, which Key Vault requires; this takes seconds."""
        if replaces is not None:
            await self._compare(secret_id, replaces)
        while True:
            try:
                written = await self._client.set_secret(secret_id, value.reveal(), tags=self._tags or None)
            except ResourceExistsError as error:
                code = _error_code(error)
                if code == _DELETED:
                    async with _translated():
                        await self._client.recover_deleted_secret(secret_id)
                elif code in _IN_TRANSITION:
                    await asyncio.sleep(_TRANSITION_PAUSE)
                else:
                    raise _failure(error) from None
            except Exception as error:  # noqa: BLE001 - see _failure
                raise _failure(error) from None
            else:
                return str(written.properties.version)

    async def delete(self, secret_id: str, version: str | None = None) -> None:
        """Soft-delete the secret. A version that was written meanwhile is recovered."""
        try:
            if version is not None and await self._newest(secret_id) != version:
                raise VaultError(VaultFailure.CONFLICT, NEWER_VERSION)
            async with _translated():
                deleted = await self._client.delete_secret(secret_id)
        except VaultError as error:
            if error.failure is VaultFailure.ABSENT:
                return
            raise
        if version is not None and str(deleted.properties.version or version) != version:
            async with _translated():
                await self._client.recover_deleted_secret(secret_id)
            raise VaultError(VaultFailure.CONFLICT, NEWER_VERSION)

    async def versions(self, secret_id: str) -> tuple[VersionInfo, ...]:
        """Newest first, by the time of creation."""
        async with _translated():
            found = [one async for one in self._client.list_properties_of_secret_versions(secret_id)]
        if not found:
            raise VaultError(VaultFailure.ABSENT, "there are no versions")
        found.sort(key=lambda one: one.created_on or datetime.min, reverse=True)
        return tuple(map(_version_info, found))

    async def aclose(self) -> None:
        """Close client, credential and connections."""
        await self._client.close()
        await self._credential.close()
        await self._session.close()

    async def _get_earlier(self, secret_id: str, newest: VersionInfo) -> Held:
        """The newest version that is valid now; ``newest`` is not yet."""
        now = time.time()
        for info in await self.versions(secret_id):
            is_valid = info.enabled and (info.not_before is None or info.not_before <= now)
            if info.version != newest.version and is_valid:
                async with _translated():
                    found = await self._client.get_secret(secret_id, info.version)
                return _held(found.value, info)
        raise VaultError(VaultFailure.DISABLED, "its only enabled version is not valid yet (nbf)")

    async def _compare(self, secret_id: str, replaces: str) -> None:
        try:
            newest = await self._newest(secret_id)
        except VaultError as error:
            if error.failure is not VaultFailure.ABSENT:
                raise
            newest = ""
        if newest != replaces:
            raise VaultError(VaultFailure.CONFLICT, NEWER_VERSION)

    async def _newest(self, secret_id: str) -> str:
        """The name of the newest version, also of one that is disabled."""
        try:
            async with _translated():
                return str((await self._client.get_secret(secret_id)).properties.version)
        except VaultError as error:
            if error.failure is not VaultFailure.DISABLED:
                raise
            return (await self.versions(secret_id))[0].version


class _BoundedResponse(aiohttp.ClientResponse):
    """A response whose body is at most ``MAX_ANSWER_BYTES`` long, and not compressed."""

    async def read(self) -> bytes:
        """The body. Raises ClientPayloadError."""
        if self.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            self.close()
            raise aiohttp.ClientPayloadError("the response is compressed")
        content = bytearray()
        async for chunk in self.content.iter_any():
            content += chunk
            if len(content) > MAX_ANSWER_BYTES:
                self.close()
                raise aiohttp.ClientPayloadError("the response is too large")
        return bytes(content)


class _GuardedTransport(AioHttpTransport):  # type: ignore[misc] # the library loads it on demand
    """Requests of the SDK, with the rules of :class:`sidecar.outbound.ControlClient` for addresses and proxies.

    The metadata service of the machine is the exception: plain http to one fixed address, or to the one that the
    platform names in a variable; never through a proxy.
    """

    def __init__(
        self, session: aiohttp.ClientSession, resolver: GuardedResolver, egress: Egress, timeout: float
    ) -> None:
        super().__init__(session=session, session_owner=False, connection_timeout=timeout, read_timeout=timeout)
        self._egress = egress
        self._resolver = resolver
        named = (os.environ.get(name, "") for name in _METADATA_VARIABLES)
        self._metadata = {_METADATA_HOST, *(urlsplit(url).netloc for url in named if url)}

    async def send(self, request: Any, **config: Any) -> Any:
        """Send ``request``. Raises OutboundError for an address that must not be contacted."""
        if urlsplit(request.url).netloc not in self._metadata:
            target = check_url(request.url)
            config.update(proxy_arguments(await select_proxy(target, self._egress, self._resolver)))
        return await super().send(request, **config)


class _VaultOnly:
    """A credential that asks for tokens of Key Vault only, whatever audience the vault's challenge names."""

    def __init__(self, inner: Any, scopes: frozenset[str]) -> None:
        self._inner = inner
        self._scopes = scopes

    async def get_token(self, *scopes: str, **options: Any) -> Any:
        """See the SDK's credentials."""
        self._check(scopes)
        return await self._inner.get_token(*scopes, **options)

    async def get_token_info(self, *scopes: str, options: Any = None) -> Any:
        """See the SDK's credentials."""
        self._check(scopes)
        return await self._inner.get_token_info(*scopes, options=options)

    async def close(self) -> None:
        """Close the credential."""
        await self._inner.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _check(self, scopes: tuple[str, ...]) -> None:
        if not self._scopes.issuperset(scopes):
            raise VaultError(VaultFailure.UNAUTHORIZED, "the address asks for a token that is not for Key Vault")


def _credential(given: SecretsManagerParameters, authority: str, pipeline: Mapping[str, Any]) -> Any:
    """The credential that the settings select, else the one that the environment of the process describes.

    There is no chain: a credential that is configured and fails must not be replaced by another one.
    """
    host = authority.removeprefix("https://").rstrip("/")
    to_authority = {"authority": host, "disable_instance_discovery": host not in _CLOUDS.values(), **pipeline}
    if given.client_secret is not None:
        return ClientSecretCredential(given.tenant_id, given.client_id, given.client_secret.reveal(), **to_authority)
    has_workload = all(os.environ.get(name) for name in _WORKLOAD_VARIABLES)
    if has_workload:
        names = {"client_id": given.client_id} if given.client_id else {}
        return WorkloadIdentityCredential(**names, **to_authority)
    client_id = given.client_id or os.environ.get("AZURE_CLIENT_ID", "")
    if not given.client_id and client_id and os.environ.get("AZURE_TENANT_ID"):
        return EnvironmentCredential(**to_authority)
    return ManagedIdentityCredential(client_id=client_id or None, **pipeline)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Every exception of the SDK as a VaultError."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - an invalid answer raises AttributeError, ValueError and others
        raise _failure(error) from None


def _failure(error: Exception) -> VaultError:
    """``error`` without its text, which may quote an answer."""
    if isinstance(error, VaultError):
        return error
    if isinstance(error, OutboundError):
        return VaultError(VaultFailure.INVALID, error.detail)
    tests: tuple[tuple[type[Exception], Callable[[Any], VaultError]], ...] = (
        (CredentialUnavailableError, _no_identity),
        (ClientAuthenticationError, _refused_credential),
        (HttpResponseError, _of_response),
        (ServiceRequestError, _of_connection),
        (ServiceResponseError, _of_connection),
        (AzureError, _of_connection),
    )
    for kind, translate in tests:
        if isinstance(error, kind):
            return translate(error)
    return VaultError(VaultFailure.UNAVAILABLE, f"the answer is not valid ({type(error).__name__})")


def _no_identity(error: Exception) -> VaultError:
    cause = error.__cause__
    if isinstance(cause, HttpResponseError) and cause.status_code == 400:
        return VaultError(VaultFailure.UNAUTHORIZED, "the managed identity is not assigned to this machine")
    return VaultError(VaultFailure.CONNECT, "the metadata service of the machine does not answer")


def _refused_credential(error: Any) -> VaultError:
    # its text is the authority's, of which only the number is used
    status = getattr(error, "status_code", None) or 0
    failure = of_status(status) if status == 429 or status >= 500 else VaultFailure.UNAUTHORIZED
    code = _AUTHORITY_CODE.search(str(error))
    told = ", ".join(filter(None, (f"status {status}" if status else "", code[0] if code else "")))
    return VaultError(failure, f"the credential was refused{f' ({told})' if told else ''}", _retry_after(error))


def _of_response(error: Any) -> VaultError:
    status, code = error.status_code or 0, _error_code(error)
    failure = of_status(status)
    if code == "SecretDisabled":
        failure = VaultFailure.DISABLED
    if 300 <= status < 400:
        return VaultError(VaultFailure.UNAVAILABLE, f"status {status}; redirects are not followed")
    if status == 0 or status < 300:
        return VaultError(VaultFailure.UNAVAILABLE, f"the answer is not valid ({type(error).__name__})")
    return VaultError(failure, f"status {status}{f', {code}' if code else ''}", _retry_after(error))


def _of_connection(error: Any) -> VaultError:
    inner = getattr(error, "inner_exception", None)
    cause = getattr(inner, "certificate_error", None) or inner
    if isinstance(cause, ssl.SSLCertVerificationError):
        return VaultError(VaultFailure.TLS, f"certificate verification failed: {cause.verify_message}")
    if isinstance(inner, aiohttp.ClientSSLError):
        return VaultError(VaultFailure.TLS, "TLS handshake failed")
    return VaultError(VaultFailure.CONNECT, f"no connection, or it was lost ({type(error).__name__})")


def _error_code(error: Any) -> str:
    """The most specific error code of the answer, if it looks like one."""
    model = getattr(error, "error", None)
    inner = getattr(model, "innererror", None)
    code = (inner.get("code") if isinstance(inner, dict) else None) or getattr(model, "code", None)
    return code if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else ""


def _retry_after(error: Any) -> float:
    response = getattr(error, "response", None)
    text = str(response.headers.get("Retry-After", "")) if response is not None else ""
    return float(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0.0


def _held(value: object, info: VersionInfo) -> Held:
    if not isinstance(value, str):
        raise VaultError(VaultFailure.INVALID, "the secret has no value")
    return Held(Secret(value), info)


def _version_info(properties: Any) -> VersionInfo:
    times = (properties.updated_on, properties.not_before, properties.expires_on)
    updated, not_before, expires = (one.timestamp() if isinstance(one, datetime) else None for one in times)
    return VersionInfo(str(properties.version or ""), updated, not_before, expires, properties.enabled is not False)
