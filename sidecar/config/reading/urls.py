"""Validates URLs of the configuration as text, without resolving names."""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from sidecar.hosts import IPAddress, is_loopback

_DEFAULT_PORTS = {"http": 80, "https": 443}
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "instance-data"})
_METADATA_ADDRESSES = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "fd00:ec2::254")))
_ODD_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?")


def split_url(url: str) -> SplitResult | None:
    """The parts of an ``http`` or ``https`` URL with a host and a valid port; None for anything else."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in _DEFAULT_PORTS and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts if sound and re.fullmatch(r"[!-~]+", url) and "\\" not in url else None


def origin(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port, the latter always a number; None when ``url`` is not an http(s) URL."""
    parts = split_url(url)
    if parts is None:
        return None
    return parts.scheme, str(parts.hostname).rstrip("."), parts.port or _DEFAULT_PORTS[parts.scheme]


def upstream_base_path(url: str) -> str:
    """The path of ``upstream.url`` without a final slash, which is prepended to the path of every request."""
    parts = split_url(url)
    return "" if parts is None else parts.path.rstrip("/")


def address_of(url: str) -> tuple[object, ...]:
    """A normalised http(s) URL, equal for equivalent spellings; other text unchanged."""
    parts, where = split_url(url), origin(url)
    return (url,) if parts is None or where is None else (*where, parts.path or "/", parts.query)


def is_file(url: str) -> bool:
    """Whether ``url`` is a ``file:`` URL of this machine (RFC 8089)."""
    return url[:5].lower() == "file:"


def file_path(url: str) -> str:
    """The path that a ``file:`` URL names; empty when it is not ``file:/path`` or ``file:///path``."""
    rest = url[5:]
    path = rest[2:] if rest.startswith("///") else rest
    sound = path.startswith("/") and not path.startswith("//") and not path.endswith("/") and "\0" not in path
    return path if is_file(url) and sound else ""


def fault_of_control_url(url: str, *, allow_insecure: bool) -> str:
    """Why keys must not be fetched from ``url``; empty when they may."""
    parts = split_url(url)
    if parts is None:
        return "must be an http or https URL"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or password"
    if parts.fragment:
        return "must not hold a fragment (#)"
    host = str(parts.hostname)
    if leads_inside(host):
        return "names a link-local or metadata address, from which keys are never fetched"
    if parts.scheme == "http" and not is_loopback(host) and not allow_insecure:
        return (
            "is http on another host: anyone on the network path can replace the keys; use https, or "
            "allowInsecureUrls: true"
        )
    return ""


def fault_of_key_url(url: str, *, allow_insecure: bool) -> str:
    """Why keys must not be read from ``url``, which may also name a file; empty when they may."""
    if is_file(url):
        return "" if file_path(url) else "must be file:/path, with the absolute path of a file"
    return fault_of_control_url(url, allow_insecure=allow_insecure)


def _address(host: str) -> IPAddress | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def leads_inside(host: str) -> bool:
    """Whether ``host`` is a literal link-local, multicast, unspecified or metadata address, or names such a service."""
    address = _address(host)
    if address is None:
        # resolvers read 2852039166 and 0xa9fea9fe as 169.254.169.254; no operator needs such spellings
        return host.rstrip(".") in _METADATA_NAMES or _ODD_NUMBER.fullmatch(host) is not None
    return address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA_ADDRESSES
