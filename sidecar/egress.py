"""Selects the HTTP proxy for each outgoing request: once, by the URL alone.

A proxy knows the destination and can reject the connection. It must not be able to forge a response: only https uses a
proxy, by CONNECT, so that the sidecar verifies the certificate of the server. Requests to this machine, the upstream
and the cluster's API server are always direct, independent of the environment.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from sidecar.secrets.value import Secret

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_CLUSTER_NAMES = re.compile(r"kubernetes(\.default(\.svc(\..+)?)?)?")
_MAX_ENTRIES = 1000
_ADDRESS_RANGE = re.compile(r"[0-9.]+-[0-9.]+")
# What other programs accept in NO_PROXY, and how it is written here.
_ENTRY_MENDS = (
    (r"://", "write the host without the scheme"),
    (r"[\"']", "remove the quotes"),
    (r";", "separate entries with commas"),
    (r"<local>", "list the names of the local hosts"),
    (r"/\d+:\d+$|^\*:\d+$", "a port is only possible after a host or an address"),
    (r"^[0-9.]+-[0-9.]+$|^[0-9.]+\*", "write a network, such as 10.0.0.0/8"),
    (r".\*", "* is only possible at the beginning, as in *.example.com"),
    (r"[^ -~]", "write the name as it is resolved (xn--...)"),
)
VARIABLE = "HTTPS_PROXY"
EXCEPTIONS = "NO_PROXY"
FORM = "http://host:port or http://user:password@host:port"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. ``origin`` is the setting or variable that has it. Its credentials are never printed."""

    url: str
    user: str = ""
    password: Secret = field(default_factory=lambda: Secret(""))
    origin: str = "outbound.proxy"

    def __str__(self) -> str:
        return f"{self.url}{' (with credentials)' if self.user else ''}"


@dataclass(frozen=True, slots=True)
class Bypass:
    """One entry of ``NO_PROXY``: a host with its subdomains, a network or ``*``; optionally for one port."""

    host: str = ""
    with_itself: bool = True
    network: _Network | None = None
    port: int = 0

    def covers(self, host: str, port: int) -> bool:
        """Whether ``host`` (lower case, no brackets, no final dot) with ``port`` matches."""
        if self.port and port != self.port:
            return False
        if self.host == "*":
            return True
        if self.network is not None:
            try:
                address = ipaddress.ip_address(host)
            except ValueError:
                return False
            return address in self.network
        return (self.with_itself and host == self.host) or host.endswith(f".{self.host}")


@dataclass(frozen=True, slots=True)
class Route:
    """The route to one URL: through ``proxy``, or directly because of ``reason``."""

    proxy: Proxy | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Egress:
    """The proxy, and its exceptions. ``direct`` maps hosts that never use it to the reason."""

    proxy: Proxy | None = None
    exceptions: tuple[Bypass, ...] = ()
    direct: tuple[tuple[str, str], ...] = ()

    def route(self, url: str) -> Route:
        """The route to ``url``, by its text alone; a name may still resolve to this machine."""
        reason = self._why_direct(url)
        return Route(None if reason else self.proxy, reason)

    def _why_direct(self, url: str) -> str:
        if self.proxy is None:
            return "no proxy is configured"
        parts = urlsplit(url)
        host, port = plain_host(parts.hostname or ""), parts.port or 443
        found = [reason for known, reason in self.direct if host == known]
        if parts.scheme != "https":
            found.append("plain http never goes through a proxy")
        if is_local(host):
            found.append("loopback and link-local addresses are always direct")
        if _CLUSTER_NAMES.fullmatch(host):
            found.append("the cluster's API server is always direct")
        if any(bypass.covers(host, port) for bypass in self.exceptions):
            found.append(f"named in {EXCEPTIONS}")
        return found[0] if found else ""


NO_PROXY = Egress()


def plain_host(host: str) -> str:
    """``host`` normalised for comparison: lower case, no brackets, no zone, no final dot."""
    return host.strip("[]").partition("%")[0].rstrip(".").lower()


def is_local(host: str) -> bool:
    """Whether ``host`` is ``localhost`` or a literal loopback, link-local or unspecified address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_link_local or mapped.is_unspecified)


def read_proxy(text: str, origin: str) -> Proxy:
    """Parse the URL of a proxy; without a scheme it is http, as in curl. Raises ValueError without any part of it."""
    written = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(written)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"must be {FORM}") from None
    if port == 0:
        raise ValueError(f"must be {FORM}, with a port from 1 to 65535")
    if parts.scheme != "http":
        known = parts.scheme if re.fullmatch(r"[a-z0-9]{1,10}", parts.scheme) else "another scheme"
        raise ValueError(f"names a proxy of kind {known}, but only http is supported; write {FORM}")
    if not host or not re.fullmatch(r"[!-~]+", written) or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"must be {FORM}, with special characters percent-encoded")
    shown = f"[{host}]" if ":" in host else host
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if ":" in user:
        raise ValueError("has a user name with a colon, which Basic credentials cannot contain")
    return Proxy(f"http://{shown}:{port or 80}", user, Secret(password), origin)


def read_exceptions(text: str) -> tuple[Bypass, ...]:
    """The entries of ``NO_PROXY``, separated by commas or spaces. Raises ValueError with the first invalid one."""
    entries = [entry for entry in re.split(r"[,\s]+", text) if entry]
    if len(entries) > _MAX_ENTRIES:
        raise ValueError(f"has {len(entries)} entries, more than {_MAX_ENTRIES}")
    return tuple(_exception(entry.lower()) for entry in entries)


def _exception(entry: str) -> Bypass:
    if entry == "*":
        return Bypass("*")
    try:
        return Bypass(network=ipaddress.ip_network(entry, strict=False))
    except ValueError:
        pass
    if _ADDRESS_RANGE.fullmatch(entry):
        raise ValueError(_wrong_entry(entry))
    bracketed = re.fullmatch(r"\[([0-9a-f:.]+)\](?::([0-9]{1,5}))?", entry)
    if bracketed:
        host, port = bracketed[1], int(bracketed[2] or 0)
    else:
        name, colon, digits = entry.partition(":")
        if colon and not re.fullmatch(r"[0-9]{1,5}", digits):
            raise ValueError(_wrong_entry(entry))
        host, port = name, int(digits or 0)
    if port > 65535 or (bracketed is None and not re.fullmatch(r"(\*?\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", host)):
        raise ValueError(_wrong_entry(entry))
    try:
        return Bypass(network=ipaddress.ip_network(host), port=port)
    except ValueError:
        pass
    name = host.removeprefix("*").strip(".")
    return Bypass(name, with_itself=not host.startswith("*"), port=port)


def _wrong_entry(entry: str) -> str:
    shown = re.sub(r"[^!-~]", "?", entry)[:100]
    hint = next((f"; {mend}" for pattern, mend in _ENTRY_MENDS if re.search(pattern, entry)), "")
    allowed = "allowed are host name, .suffix, address, network (10.0.0.0/8), host:port and *"
    return f"has the invalid entry {shown}; {allowed}{hint}"


def read_egress(
    written: str, environ: Mapping[str, str], direct: Iterable[tuple[str, str]] = ()
) -> tuple[Egress, list[tuple[str, str]]]:
    """The routes for ``outbound.proxy`` (``environment``, ``none`` or a URL), and faults by setting or variable.

    ``direct``: hosts that never use a proxy, with the reason. ``NO_PROXY`` also applies if the proxy is a URL.
    Lower-case variables take precedence over upper-case ones, as in curl.
    """
    faults: list[tuple[str, str]] = []
    if written == "none":
        return NO_PROXY, faults
    if written != "environment" and "://" not in written:
        return NO_PROXY, [("outbound.proxy", f"must be environment, none or {FORM}")]
    origin, text = ("outbound.proxy", written) if written != "environment" else _variable(environ, VARIABLE)
    if not text:
        return NO_PROXY, faults
    exceptions_name, exceptions_text = _variable(environ, EXCEPTIONS)
    proxy: Proxy | None = None
    exceptions: tuple[Bypass, ...] = ()
    try:
        proxy = read_proxy(text, origin)
    except ValueError as error:
        faults.append((origin, str(error)))
    try:
        exceptions = read_exceptions(exceptions_text)
    except ValueError as error:
        faults.append((exceptions_name, str(error)))
    names = dict.fromkeys((plain_host(host), reason) for host, reason in direct if host)
    api = environ.get("KUBERNETES_SERVICE_HOST", "")
    if api:
        names[plain_host(api), "the cluster's API server is always direct"] = None
    return Egress(proxy, exceptions, tuple(names)), faults


def unread_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables by which other programs use a proxy, and this one does not."""
    found = (_variable(environ, name) for name in ("ALL_PROXY", "HTTP_PROXY"))
    return [name for name, text in found if text]


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    for spelling in (name.lower(), name):
        text = environ.get(spelling, "").strip()
        if text:
            return spelling, text
    return name, ""
