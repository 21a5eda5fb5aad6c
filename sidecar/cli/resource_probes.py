"""Probes of protected resources: what a client fetches on its way to a token, in a client's order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sidecar.config.load import Loaded
from sidecar.config.resources import (
    RESOURCE_METADATA,
    SERVER_METADATA,
    authorization_servers,
    public_path,
    resource_issuers,
    resource_urls,
)
from sidecar.config.settings import ResourceSettings, Settings
from sidecar.errors import Problem, quoted
from sidecar.keys.discovery import well_known_urls
from sidecar.outbound import ControlClient, OutboundError

_MAX_BYTES = 256 * 1024
_MCP = "/mcp"
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "registration_endpoint", "revocation_endpoint")


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A JSON object, or why there is none."""

    document: Mapping[str, Any] | None
    fault: str = ""


async def _fetch(client: ControlClient, url: str, within: float, *, allow_insecure: bool) -> _Fetched:
    try:
        answer = await client.get(url, within=within, max_bytes=_MAX_BYTES, allow_insecure=allow_insecure)
        document = orjson.loads(answer.body)
    except OutboundError as error:
        return _Fetched(None, error.detail)
    except orjson.JSONDecodeError:
        return _Fetched(None, "the response is not JSON")
    return _Fetched(document) if isinstance(document, dict) else _Fetched(None, "the response is not a JSON object")


class OwnMetadataProbe:
    """A resource whose metadata the sidecar serves: whether it is at its public URL, and its authorization servers.

    All problems are warnings: the sidecar works without any of it, clients do not.
    """

    def __init__(self, name: str, resource: ResourceSettings, loaded: Loaded) -> None:
        self.name = name
        self._resource = resource
        self._loaded = loaded

    async def run(self) -> list[Problem]:
        """What a client would fail at."""
        settings = self._loaded.settings
        client = ControlClient(settings.keys.ca_file, egress=self._loaded.egress)
        issuers = resource_issuers(self._loaded.providers)
        try:
            faults = await self._public_faults(client, settings)
            for issuer in authorization_servers(self._resource, issuers):
                faults += await self._server_faults(client, settings, issuer)
        finally:
            await client.aclose()
        return [Problem(self.name, fault, fatal=False) for fault in faults]

    async def _public_faults(self, client: ControlClient, settings: Settings) -> list[str]:
        urls = resource_urls(settings, self._resource.path)
        allowed = settings.authentication_configuration.allow_insecure_urls
        fetched = await _fetch(client, urls.metadata, settings.keys.timeout, allow_insecure=allowed)
        faults = []
        if fetched.document is None:
            faults.append(
                f"the metadata cannot be fetched from {urls.metadata}: {fetched.fault}; start the sidecar, and have "
                "the proxy forward that path to it without a check"
            )
        elif fetched.document.get("resource") != urls.identifier:
            named = quoted(fetched.document.get("resource"))
            faults.append(
                f"{urls.metadata} describes the resource {named} instead of {quoted(urls.identifier)}; have the proxy "
                "forward that path to this sidecar without a check"
            )
        base = public_path(settings)
        if base:
            faults.append(
                f"some clients look for the metadata at {RESOURCE_METADATA}{base}{self._resource.path}, because "
                f"server.publicUrl has the path {base}; have the proxy forward that path to the sidecar too"
            )
        return faults

    async def _server_faults(self, client: ControlClient, settings: Settings, issuer: str) -> list[str]:
        allowed = settings.authentication_configuration.allow_insecure_urls
        missed = []
        for url in client_urls(issuer):
            fetched = await _fetch(client, url, settings.keys.timeout, allow_insecure=allowed)
            if fetched.document is not None:
                return [
                    f"authorization server {issuer}: {fault}" for fault in metadata_faults(issuer, fetched.document)
                ]
            missed.append(f"{url}: {fetched.fault}")
        return [f"authorization server {issuer}: clients find no metadata ({'; '.join(missed)})"]


class ServerMetadataProbe:
    """A resource whose upstream is its own authorization server: whether its documents contain the public URL."""

    def __init__(self, name: str, resource: ResourceSettings, settings: Settings) -> None:
        self.name = name
        self._resource = resource
        self._settings = settings

    async def run(self) -> list[Problem]:
        """Documents that are missing, and URLs in them that clients cannot reach; all are warnings."""
        settings, path = self._settings, self._resource.path
        if settings.upstream is None or not settings.upstream.url.startswith("http"):
            return []
        wanted = (
            (f"{RESOURCE_METADATA}{path}", ("resource",)),
            (f"{SERVER_METADATA[0]}{path}", ("issuer", *_ENDPOINTS)),
        )
        client = ControlClient(settings.upstream.ca_file)
        faults: list[str] = []
        try:
            for target, members in wanted:
                url = settings.upstream.url.rstrip("/") + target
                fetched = await _fetch(client, url, settings.keys.timeout, allow_insecure=True)
                if fetched.document is None:
                    faults.append(f"the upstream has no metadata at {target}: {fetched.fault}; check metadata: server")
                else:
                    faults += self._foreign(target, fetched.document, members)
        finally:
            await client.aclose()
        return [Problem(self.name, fault, fatal=False) for fault in faults]

    def _foreign(self, target: str, document: Mapping[str, Any], members: Sequence[str]) -> Iterator[str]:
        public = self._settings.server.public_url.rstrip("/")
        for member in members:
            value = document.get(member)
            if value is not None and not _is_below(value, public):
                yield (
                    f"{member} in {target} of the upstream is {quoted(value)}, but clients use {quoted(public)}; set "
                    "the server's URL in its system settings"
                )


class McpProbe:
    """Whether an OpenMetadata upstream has an MCP server for which no resource is configured."""

    name = "resources"

    def __init__(self, url: str, base_path: str, settings: Settings) -> None:
        self._url = url
        self._base_path = base_path
        self._settings = settings

    async def run(self) -> list[Problem]:
        """The entry to write, as a warning."""
        path = f"{self._base_path}{_MCP}"
        client = ControlClient("" if self._settings.upstream is None else self._settings.upstream.ca_file)
        try:
            url = f"{self._url.rstrip('/')}{RESOURCE_METADATA}{path}"
            fetched = await _fetch(client, url, self._settings.keys.timeout, allow_insecure=True)
        finally:
            await client.aclose()
        if fetched.document is None or "resource" not in fetched.document:
            return []
        needed = "" if self._settings.server.public_url else ", and server.publicUrl"
        text = (
            f"the upstream has an MCP server at {path}, at which clients cannot log in through the sidecar; to allow "
            f"it, write resources: [{{path: {path}, metadata: server}}]{needed}"
        )
        return [Problem(self.name, text, fatal=False)]


def resource_probes(loaded: Loaded) -> Iterator[OwnMetadataProbe | ServerMetadataProbe | McpProbe]:
    """The probes for the resources of ``loaded``, and for one that is missing."""
    settings = loaded.settings
    for index, resource in enumerate(settings.resources):
        name = f"resources[{index}]"
        if resource.metadata == "own":
            yield OwnMetadataProbe(name, resource, loaded)
        else:
            yield ServerMetadataProbe(name, resource, settings)
    upstream = settings.upstream
    if upstream is None or not upstream.url.startswith("http"):
        return
    for rule in settings.rules:
        configured = {resource.path for resource in settings.resources}
        if rule.preset == "openmetadata" and f"{rule.base_path}{_MCP}" not in configured:
            yield McpProbe(upstream.url, rule.base_path, settings)


def client_urls(issuer: str) -> tuple[str, ...]:
    """Where clients look for the metadata of an authorization server, in their order."""
    bare = issuer.rstrip("/")
    appended, inserted = well_known_urls(bare)
    scheme, _, rest = bare.partition("://")
    host, _, path = rest.partition("/")
    if not path:
        return inserted.rstrip("/"), appended
    return inserted, f"{scheme}://{host}/.well-known/openid-configuration/{path}", appended


def metadata_faults(issuer: str, document: Mapping[str, Any]) -> Iterator[str]:
    """What keeps MCP clients from a login at the authorization server ``issuer`` with this metadata."""
    named = document.get("issuer")
    if named != issuer:
        yield f"its metadata names the issuer {quoted(named)}; clients need exactly that in authorizationServers"
    for member in ("authorization_endpoint", "token_endpoint"):
        if not isinstance(document.get(member), str):
            yield f"its metadata has no {member}, without which clients cannot use it"
    methods = document.get("code_challenge_methods_supported")
    if not isinstance(methods, list) or "S256" not in methods:
        yield "its metadata has no S256 in code_challenge_methods_supported (PKCE), without which MCP clients stop"
    if document.get("client_id_metadata_document_supported") is not True and not document.get("registration_endpoint"):
        yield "it has neither client ID metadata documents nor a registration endpoint: register clients by hand"


def _is_below(value: object, public: str) -> bool:
    return isinstance(value, str) and (value == public or value.startswith(f"{public}/"))
