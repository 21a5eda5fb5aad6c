"""The endpoints of a provider, from its verified discovery document (OpenID Connect Discovery 1.0 section 3)."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

from yarl import URL

from sidecar.clock import Clock
from sidecar.concurrency import SingleFlight
from sidecar.config.providers import Provider
from sidecar.config.settings import KeyFetchSettings
from sidecar.errors import Cause, Unavailable
from sidecar.hosts import is_loopback
from sidecar.keys.discovery import fetch_document, parse_metadata
from sidecar.keys.document import DocumentError
from sidecar.outbound import ControlClient, OutboundError, check_url

_log = logging.getLogger("sidecar.login")
_FETCH = "fetch"  # the only call that is shared
_LIFETIME = 3600.0
_RETRY = 5.0
_MAX_URL = 2048
_VISIBLE = re.compile(r"[!-~]+").fullmatch


@dataclass(frozen=True, slots=True)
class ProviderMetadata:
    """What a login needs to know of a provider. Empty: the provider has no such endpoint."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    pushed_endpoint: str = ""
    revocation_endpoint: str = ""
    requires_pushed: bool = False
    sends_issuer: bool = False
    authentication_methods: frozenset[str] = frozenset({"client_secret_basic"})


def parse_endpoints(document: Mapping[str, object], provider: Provider) -> ProviderMetadata:
    """Validate the endpoints in a discovery document. Raises DocumentError and OutboundError."""
    issuer = parse_metadata(dict(document), provider).issuer

    def endpoint(name: str, *, required: bool = False) -> str:
        url = document.get(name)
        if url is None and not required:
            return ""
        # visible ASCII: the text goes into header fields as it is, and others may read what stands after white space
        if not isinstance(url, str) or len(url) > _MAX_URL or not _VISIBLE(url) or "#" in url:
            raise DocumentError("useless", f"the discovery document has no usable {name}")
        target = check_url(url, allow_insecure=provider.allow_insecure_urls)
        if is_loopback(target.host or "") and not is_loopback(URL(issuer).host or ""):
            raise DocumentError("useless", f"the issuer is on another host, but its {name} is on loopback")
        return url

    methods = document.get("token_endpoint_auth_methods_supported")
    return ProviderMetadata(
        issuer,
        endpoint("authorization_endpoint", required=True),
        endpoint("token_endpoint", required=True),
        endpoint("userinfo_endpoint"),
        endpoint("end_session_endpoint"),
        endpoint("pushed_authorization_request_endpoint"),
        endpoint("revocation_endpoint"),
        requires_pushed=document.get("require_pushed_authorization_requests") is True,
        sends_issuer=document.get("authorization_response_iss_parameter_supported") is True,
        authentication_methods=frozenset(item for item in methods if isinstance(item, str))
        if isinstance(methods, list)
        else frozenset({"client_secret_basic"}),
    )


class MetadataSource:
    """Fetches the metadata when a login needs it, once an hour; through an outage the last one is used."""

    def __init__(self, provider: Provider, settings: KeyFetchSettings, client: ControlClient, clock: Clock) -> None:
        self._provider = provider
        self._settings = settings
        self._client = client
        self._monotonic = clock.monotonic
        self._found: ProviderMetadata | None = None
        self._fetched_at = float("-inf")
        self._failed_at = float("-inf")
        self._problem = ""
        self._fetching: SingleFlight[str, None] = SingleFlight()

    async def get(self) -> ProviderMetadata:
        """The metadata. Raises Unavailable(PROVIDER_UNAVAILABLE)."""
        now = self._monotonic()
        is_old = self._found is None or now - self._fetched_at > _LIFETIME
        if is_old and (_FETCH in self._fetching or now - self._failed_at > _RETRY):
            await self._fetching.run(_FETCH, self._fetch)
        if self._found is None or self._monotonic() - self._fetched_at > self._settings.max_stale:
            raise Unavailable(Cause.PROVIDER_UNAVAILABLE, f"provider {self._provider.name}: {self._problem}")
        return self._found

    async def aclose(self) -> None:
        """Stop fetching."""
        await self._fetching.aclose()

    async def _fetch(self) -> None:
        try:
            document = await fetch_document(
                self._provider, self._client, self._settings.timeout, self._settings.max_bytes
            )
            self._found = parse_endpoints(document, self._provider)
            self._fetched_at = self._monotonic()
        except (OutboundError, DocumentError) as error:
            self._failed_at = self._monotonic()
            self._problem = f"{error.kind}: {error.detail}"
            _log.warning(
                "discovery for login failed",
                extra={
                    "event": "login_discovery_failed",
                    "provider": self._provider.name,
                    "issuer": self._provider.issuer,
                    "detail": self._problem,
                },
            )
