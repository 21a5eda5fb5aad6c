"""Which peers may speak for others."""

import pytest

from sidecar.web.server import TrustedPeers


@pytest.mark.parametrize(
    ("networks", "peername", "trusted"),
    [
        ((), ("127.0.0.1", 1), False),
        (("127.0.0.0/8",), ("127.0.0.1", 1), True),
        (("10.0.0.1",), ("10.0.0.1", 1), True),
        (("10.0.0.1",), ("10.0.0.10", 1), False),
        (("10.0.0.0/8",), ("::ffff:10.1.2.3", 1, 0, 0), True),
        (("::ffff:0:0/96",), ("::ffff:10.1.2.3", 1, 0, 0), True),
        (("fe80::/10",), ("fe80::1%eth0", 1, 0, 2), True),
        (("::1/128",), ("127.0.0.1", 1), False),
        (("0.0.0.0/0",), ("::1", 1, 0, 0), False),
        (("0.0.0.0/0",), ("not an address", 1), False),
        (("0.0.0.0/0", "::/0"), "", False),
        (("unix",), "", True),
        (("unix",), b"\0abstract", True),
        (("unix",), None, False),  # a peer that reset its connection before it was accepted: over TCP, any client
        (("unix",), ("127.0.0.1", 1), False),
    ],
)
def test_trust_is_by_the_sockets_peer(networks: tuple[str, ...], peername: object, trusted: bool) -> None:
    assert TrustedPeers(networks).trusts(peername) is trusted
