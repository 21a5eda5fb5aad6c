"""Literal host names: which address a host spells, and whether it is this machine. Names are not resolved."""

import ipaddress
import re
import socket

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def literal_address(host: str) -> IPAddress | None:
    """The address that ``host`` (no port, no brackets) spells; None for a name.

    Accepts an IPv6 zone, and the forms of ``inet_aton``, which resolvers accept too: 2852039166, 0xa9fea9fe,
    169.254.43518.
    """
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host)) if re.fullmatch(r"[0-9a-fA-FxX.]+", host) else None
    except OSError:
        return None


def is_loopback(host: str) -> bool:
    """Whether ``host`` (no port, no brackets) is ``localhost`` or spells a loopback address, also as mapped IPv4."""
    address = literal_address(host)
    if address is None:
        return host.lower() == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
