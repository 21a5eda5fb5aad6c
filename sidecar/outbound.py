"""The only HTTP client for control traffic: key sets, discovery documents, introspection, probes.

Not used for requests of callers. The server is treated as hostile: time and size are bounded, including the
decompressed size; redirects are rejected; cookies are not stored; and the client never connects to the address of a
cloud metadata service, whatever the host name.
"""

import asyncio
import base64
import ipaddress
import re
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import NEEDS_CLEANUP_CLOSED
from multidict import CIMultiDict
from yarl import URL

from sidecar.egress import NO_PROXY, Egress, Proxy
from sidecar.errors import Misconfigured, Problem, SidecarError, system_text
from sidecar.hosts import IPAddress, is_loopback, literal_address
from sidecar.tls import client_context

_Response = TypeVar("_Response", "Answer", "Observed")

# Some gateways add policy headers of many kilobytes to every response.
_MAX_HEADER_LINE = 64 * 1024
_MAX_HEADER_LINES = 512
# An isolated resolver may not answer at all; a proxy resolves names itself.
_LOOKUP_TIMEOUT = 1.0
_IDENTITY = frozenset({"", "identity"})
_GZIP = frozenset({"gzip", "x-gzip"})

_REFUSED_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # "this host": Linux connects it to loopback
        "100.100.100.200/32",  # Alibaba Cloud metadata
        "168.63.129.16/32",  # Azure's in-machine agent
        "192.0.0.192/32",  # Oracle Cloud metadata
        "255.255.255.255/32",
        "fd00:ec2::/32",  # AWS metadata, EKS pod identity and resolver
        "fd20:ce::/32",  # Google Cloud metadata
    )
)
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/96"))
_IPV4_COMPATIBLE = ipaddress.IPv6Network("::/96")
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?(\d{1,9})\"?(?=$|[,\s])", re.IGNORECASE)
_NOT_STORED = re.compile(r"(?:^|[,\s])(?:no-store|no-cache)(?=$|[,\s=])", re.IGNORECASE)
_ETAG = re.compile(r"(?:W/)?\"[\x21\x23-\x7e]{0,256}\"")


class OutboundKind(StrEnum):
    """Why a fetch failed. A fixed set, so that it can be a metric label."""

    TIMEOUT = "timeout"
    CONNECT = "connect"
    PROXY = "proxy"
    TLS = "tls"
    STATUS = "status"
    REDIRECT = "redirect"
    TOO_LARGE = "too_large"
    ENCODING = "encoding"
    ADDRESS_REFUSED = "address_refused"
    URL_REFUSED = "url_refused"


class OutboundError(SidecarError):
    """A fetch failed. ``detail`` is for the log and has no content of the response body.

    ``status`` is the response status for the kind STATUS, else 0; ``retry_after`` the seconds that it asks to wait.
    """

    def __init__(self, kind: OutboundKind, detail: str, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(f"{kind.value}: {detail}")
        self.kind = kind
        self.detail = detail
        self.status = status
        self.retry_after = retry_after


_MENDS: Mapping[str, str] = {
    OutboundKind.TIMEOUT: "check NetworkPolicies and firewalls, and whether the host needs outbound.proxy",
    OutboundKind.CONNECT: "check host and port, NetworkPolicies, and whether the host needs outbound.proxy",
    OutboundKind.TLS: "set outbound.caFile to the CA of the certificate, and check that the port speaks TLS",
    OutboundKind.STATUS: "check the URL, such as the realm or tenant in it",
    OutboundKind.REDIRECT: "configure the URL that it leads to",
    "not_json": "check the URL: it may be that of a login page",
}


def explained(kind: str, detail: str) -> str:
    """What failed, and what to do about it where the kind says that."""
    mend = _MENDS.get(kind, "")
    return f"{kind}: {detail}{f'; {mend}' if mend else ''}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A 200, or a 304 to the ``etag`` that was sent (``not_modified``, no body), or another accepted ``status``.

    ``max_age`` is the remaining lifetime by Cache-Control in seconds (0 for no-store); None if not specified.
    """

    body: bytes
    etag: str
    max_age: float | None
    not_modified: bool
    status: int = 200


@dataclass(frozen=True, slots=True)
class Observed:
    """A response as a client gets it, whatever its status; ``headers`` in the order received."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """The first value of the header ``name``; empty: absent."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


class ControlClient:
    """GET and POST with all limits set. Create it inside a running loop and close it with :meth:`aclose`.

    Raises Misconfigured if ``ca_file`` (a PEM bundle that replaces the system's) cannot be read.
    """

    def __init__(
        self,
        ca_file: str = "",
        resolver: AbstractResolver | None = None,
        headers: Callable[[], Mapping[str, str]] = dict,
        *,
        egress: Egress = NO_PROXY,
    ) -> None:
        """``headers`` is called for each request and returns additional headers.

        ``egress`` selects the requests that use a proxy.
        """
        self._headers = headers
        self._egress = egress
        self._resolver = GuardedResolver(resolver or aiohttp.DefaultResolver())
        connector = aiohttp.TCPConnector(
            resolver=self._resolver,
            use_dns_cache=False,
            force_close=True,  # fetches are minutes apart: an idle connection would be closed by then
            ssl=_tls(ca_file),
            # else a server that does not answer the end of TLS keeps a closed connection open
            enable_cleanup_closed=NEEDS_CLEANUP_CLOSED,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            max_field_size=_MAX_HEADER_LINE,
            max_headers=_MAX_HEADER_LINES,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={
                "Accept": "application/json, */*;q=0.1",
                "Accept-Encoding": "identity",
                "User-Agent": "auth-sidecar",
            },
        )

    async def get(
        self,
        url: str,
        *,
        within: float,
        max_bytes: int,
        allow_insecure: bool = False,
        etag: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Answer:
        """Fetch ``url`` within ``within`` seconds, from name lookup to last byte. Raises OutboundError.

        Plain http is allowed for loopback only, unless ``allow_insecure``. ``etag`` makes the request conditional.
        """
        headers = {**headers, "If-None-Match": etag} if etag else headers
        return await self.send(
            "GET", url, None, headers, within=within, max_bytes=max_bytes, allow_insecure=allow_insecure
        )

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        within: float,
        max_bytes: int,
        allow_insecure: bool = False,
        accept: Sequence[int] = (200, 201),
    ) -> Answer:
        """Send ``body`` to ``url`` with the same limits. Raises OutboundError, also for a status not in ``accept``."""
        return await self.send(
            "POST",
            url,
            body,
            headers,
            within=within,
            max_bytes=max_bytes,
            allow_insecure=allow_insecure,
            accept=accept,
        )

    async def send(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        within: float,
        max_bytes: int,
        allow_insecure: bool = False,
        accept: Sequence[int] = (200,),
    ) -> Answer:
        """Any request with the same limits. A status that is not in ``accept`` is an OutboundError."""

        async def read(response: aiohttp.ClientResponse) -> Answer:
            not_modified = "If-None-Match" in headers and response.status == 304
            if not not_modified:
                _check_head(response, max_bytes, accept)
            content = b"" if not_modified else await _read(response, max_bytes)
            return Answer(content, _etag(response), _max_age(response), not_modified, response.status)

        target = check_url(url, allow_insecure=allow_insecure)
        return await self._exchange(method, target, body, {**self._headers(), **headers}, within, read)

    async def observe(self, url: str, headers: Sequence[tuple[str, str]], *, within: float, max_bytes: int) -> Observed:
        """GET ``url`` exactly as it is written, over https or http; any status is a result. Raises OutboundError."""

        async def read(response: aiohttp.ClientResponse) -> Observed:
            return Observed(response.status, tuple(response.headers.items()), await _read(response, max_bytes))

        check_url(url, allow_insecure=True)
        return await self._exchange("GET", URL(url, encoded=True), None, CIMultiDict(headers), within, read)

    async def _exchange(
        self,
        method: str,
        target: URL,
        body: bytes | None,
        headers: Mapping[str, str],
        within: float,
        read: Callable[[aiohttp.ClientResponse], Awaitable[_Response]],
    ) -> _Response:
        proxy: Proxy | None = None
        try:
            async with asyncio.timeout(within):
                proxy = await select_proxy(target, self._egress, self._resolver)
                async with self._session.request(
                    method, target, headers=headers, data=body, allow_redirects=False, **proxy_arguments(proxy)
                ) as response:
                    return await read(response)
        except TimeoutError as error:
            way = "" if proxy is None else f" through the proxy {proxy.url} ({proxy.origin})"
            raise OutboundError(OutboundKind.TIMEOUT, f"no complete response within {within:g} s{way}") from error
        except (aiohttp.ClientHttpProxyError, aiohttp.ClientProxyConnectionError) as error:
            raise OutboundError(OutboundKind.PROXY, _proxy_detail(error, proxy, target)) from error
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise OutboundError(OutboundKind.TLS, _tls_detail(error)) from error
        except aiohttp.InvalidURL as error:
            raise OutboundError(OutboundKind.URL_REFUSED, "not a usable URL") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise OutboundError(OutboundKind.CONNECT, _connect_detail(error)) from error

    async def aclose(self) -> None:
        """Close every connection."""
        await self._session.close()


def check_url(url: str, *, allow_insecure: bool = False) -> URL:
    """Parse ``url`` and check that it may be fetched: https, or http on loopback, no credentials, no forbidden address.

    Raises OutboundError. Host names are checked again after they are resolved.
    """
    try:
        target = URL(url)
        host = target.host
    except ValueError as error:
        raise OutboundError(OutboundKind.URL_REFUSED, "not a URL") from error
    if target.scheme not in ("https", "http") or not host:
        raise OutboundError(OutboundKind.URL_REFUSED, "neither https nor http")
    if target.user is not None or target.password is not None:
        raise OutboundError(OutboundKind.URL_REFUSED, "contains credentials")
    if is_refused_address(host):
        raise OutboundError(OutboundKind.ADDRESS_REFUSED, f"{host} is a link-local, metadata or multicast address")
    if target.scheme == "http" and not allow_insecure and not is_loopback(host):
        raise OutboundError(OutboundKind.URL_REFUSED, "plain http is allowed for loopback only")
    return target


def is_refused_address(host: str) -> bool:
    """Whether ``host`` is a literal address that must not be connected to, also embedded in an IPv6 address.

    These are link-local, metadata services of clouds, multicast, broadcast, unspecified. False for host names.
    """
    address = literal_address(host)
    return address is not None and any(_is_refused(candidate) for candidate in (address, *_embedded(address)))


def _embedded(address: IPAddress) -> list[ipaddress.IPv4Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if (address in _IPV4_COMPATIBLE and int(address) > 1) or any(address in network for network in _NAT64):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [inner for inner in found if inner is not None]


def _is_refused(address: IPAddress) -> bool:
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or any(address in network for network in _REFUSED_NETWORKS)
    )


async def select_proxy(target: URL, egress: Egress, resolver: AbstractResolver) -> Proxy | None:
    """The proxy for ``target``. None: a direct connection.

    A proxy resolves names itself, so this resolves the name first and rejects forbidden addresses. A name that only
    the proxy can resolve cannot be an address of this machine. Raises OutboundError.
    """
    proxy = egress.route(str(target)).proxy
    host = target.host or ""
    if proxy is None or literal_address(host) is not None:
        return proxy
    try:
        async with asyncio.timeout(_LOOKUP_TIMEOUT):
            found = await resolver.resolve(host, target.port or 443, socket.AF_UNSPEC)
    except (OSError, TimeoutError):
        return proxy
    return None if any(is_loopback(result["host"]) for result in found) else proxy


class GuardedResolver(AbstractResolver):
    """Rejects names that resolve to a forbidden address. :func:`check_url` checks literal addresses."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for result in found:
            if is_refused_address(result["host"]):
                detail = f"{host} resolves to a link-local, metadata or multicast address"
                raise OutboundError(OutboundKind.ADDRESS_REFUSED, detail)
        return found

    async def close(self) -> None:
        await self._resolver.close()


def proxy_arguments(proxy: Proxy | None) -> dict[str, Any]:
    """Arguments for the request that select ``proxy``."""
    if proxy is None:
        return {}
    headers = {}
    if proxy.user:
        pair = f"{proxy.user}:{proxy.password.reveal()}".encode()
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    return {"proxy": proxy.url, "proxy_headers": headers}


def _proxy_detail(error: Exception, proxy: Proxy | None, target: URL) -> str:
    name = "the proxy" if proxy is None else f"the proxy {proxy.url} ({proxy.origin})"
    if not isinstance(error, aiohttp.ClientHttpProxyError):
        return f"{name} cannot be reached"
    what = f"{name} answers {error.status} to CONNECT {target.host}:{target.port}"
    if error.status == 407:
        return f"{what}: the credentials are missing or not accepted"
    return f"{what}: allow this host there, or name it in NO_PROXY if it can be reached directly"


def _tls(ca_file: str) -> ssl.SSLContext:
    try:
        return client_context(ca_file)
    except (OSError, ValueError) as error:
        message = f"the CA bundle cannot be loaded ({type(error).__name__}); specify a readable PEM file"
        raise Misconfigured([Problem("caFile", f"{message}: {ca_file}")]) from error


def _check_head(response: aiohttp.ClientResponse, max_bytes: int, good: Sequence[int]) -> None:
    if 300 <= response.status < 400:
        raise OutboundError(OutboundKind.REDIRECT, f"status {response.status}; redirects are not followed")
    if response.status not in good:
        wait = response.headers.get("Retry-After", "")
        retry_after = float(wait) if re.fullmatch(r"[0-9]{1,9}", wait) else 0.0
        raise OutboundError(OutboundKind.STATUS, f"status {response.status}", response.status, retry_after)
    if _encoding(response) not in _IDENTITY | _GZIP:
        raise OutboundError(OutboundKind.ENCODING, "unsupported Content-Encoding; only identity and gzip are accepted")
    if response.content_length is not None and response.content_length > max_bytes:
        raise OutboundError(OutboundKind.TOO_LARGE, f"more than {max_bytes} bytes")


def _encoding(response: aiohttp.ClientResponse) -> str:
    return ",".join(response.headers.getall("Content-Encoding", ())).strip().lower()


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            raise OutboundError(OutboundKind.TOO_LARGE, f"more than {max_bytes} bytes")
    return _decompressed(bytes(body), max_bytes) if _encoding(response) in _GZIP else bytes(body)


def _decompressed(body: bytes, max_bytes: int) -> bytes:
    """The content of ``body``, one or more gzip members (RFC 1952); decompresses at most ``max_bytes``."""
    content = bytearray()
    while body:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            content += member.decompress(body, max_bytes + 1 - len(content))
        except zlib.error as error:
            raise OutboundError(OutboundKind.ENCODING, "Content-Encoding is gzip, but the body is not") from error
        if len(content) > max_bytes:
            raise OutboundError(OutboundKind.TOO_LARGE, f"more than {max_bytes} bytes when decompressed")
        if not member.eof:
            raise OutboundError(OutboundKind.ENCODING, "truncated gzip body")
        body = member.unused_data.lstrip(b"\0")  # RFC 1952 has no padding, but some writers add zeros
    return bytes(content)


def _etag(response: aiohttp.ClientResponse) -> str:
    etag = response.headers.get("ETag", "")
    return etag if _ETAG.fullmatch(etag) else ""


def _max_age(response: aiohttp.ClientResponse) -> float | None:
    control = ",".join(response.headers.getall("Cache-Control", ()))
    if _NOT_STORED.search(control):
        return 0.0
    match = _MAX_AGE.search(control)
    if match is None:
        return None
    age = response.headers.get("Age", "0")
    return max(0.0, float(match[1]) - (float(age) if re.fullmatch(r"[0-9]{1,9}", age) else 0.0))


def _tls_detail(error: aiohttp.ClientError | OSError) -> str:
    cause = error.__cause__ if isinstance(error, aiohttp.ClientError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate verification failed: {cause.verify_message}"
    return "TLS handshake failed"


def _connect_detail(error: Exception) -> str:
    """The error text of the operating system; that of the library may quote content of the peer."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the name cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        return system_text(error.os_error)
    return system_text(error)
