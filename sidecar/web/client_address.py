"""Who a request comes from, behind proxies that each add the address they saw to ``X-Forwarded-For``."""

import ipaddress
import re
from collections.abc import Sequence

from sidecar.web.server import TrustedPeers

_MAX_ENTRIES = 20
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|(\d+\.\d+\.\d+\.\d+):\d{1,5}")


def client_address(peer: str, lines: Sequence[str], peers: TrustedPeers, *, trusted: bool) -> str:
    """The rightmost address in ``lines`` of ``X-Forwarded-For`` that is no trusted proxy's.

    What stands left of it is the caller's own text. ``peer`` is the address of the connection, which counts where it is
    not ``trusted`` or says nothing. Where an entry is no address, the hop that added it counts.
    """
    nearest = peer
    if not trusted:
        return nearest
    entries = [entry.strip(" \t") for line in lines for entry in line.split(",")]
    for entry in reversed(entries[-_MAX_ENTRIES:]):
        match = _WITH_PORT.fullmatch(entry)
        try:
            address = ipaddress.ip_address(match[1] or match[2] if match else entry)
            nearest = str(getattr(address, "ipv4_mapped", None) or address)
        except ValueError:
            return nearest
        if not peers.trusts((nearest, 0)):
            return nearest
    return nearest
