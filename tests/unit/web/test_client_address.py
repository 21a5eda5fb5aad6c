"""The caller's address behind proxies: what the caller wrote itself never counts."""

import pytest

from sidecar.web.client_address import client_address
from sidecar.web.server import TrustedPeers

PEERS = TrustedPeers(["10.0.0.0/8", "unix", "fd00::/8"])


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        ([], "10.0.0.9"),
        (["203.0.113.7"], "203.0.113.7"),
        (["1.1.1.1, 203.0.113.7, 10.0.0.1"], "203.0.113.7"),
        (["1.1.1.1", "203.0.113.7", "10.0.0.1"], "203.0.113.7"),
        (["203.0.113.7:4711"], "203.0.113.7"),
        (["[2001:db8::1]:4711, fd00::5"], "2001:db8::1"),
        (["::ffff:203.0.113.7, ::ffff:10.0.0.1"], "203.0.113.7"),
        (["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        (["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
        (["1.1.1.1, <script>"], "10.0.0.9"),
        ([", ".join(["1.1.1.1", *["10.0.0.2"] * 20])], "10.0.0.2"),
    ],
)
def test_rightmost_untrusted_entry_is_the_caller(lines: list[str], address: str) -> None:
    """At most 20 entries are read; where one is no address, the hop that added it counts."""
    assert client_address("10.0.0.9", lines, PEERS, trusted=True) == address


def test_untrusted_peer_is_the_caller_whatever_it_says() -> None:
    assert client_address("203.0.113.9", ["1.1.1.1"], PEERS, trusted=False) == "203.0.113.9"
