"""Durations, sizes and addresses as people write them."""

import math

import pytest
from pydantic import ValidationError

from sidecar.config.reading.units import (
    parse_duration,
    parse_listen_address,
    parse_network,
    parse_size,
    parse_web_origin,
)
from sidecar.config.settings import KeyFetchSettings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), (1.5, 1.5), ("250ms", 0.25), ("30s", 30), ("1h30m", 5400), ("7d", 604800), ("2w", 1209600),
     ("PT30M", 1800), ("P1DT12H", 129600), ("p1w", 604800), (" 5s ", 5)],
)  # fmt: skip
def test_durations(text: object, seconds: float) -> None:
    """In seconds."""
    assert math.isclose(parse_duration(text), seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "5 minutes", "P1M", "P1Y", "P", "1e3", "nan", True, None])
def test_no_durations(text: object) -> None:
    """Months and years have no fixed length."""
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)


def test_a_duration_is_finite() -> None:
    """An endless number of digits is not an endless time."""
    with pytest.raises(ValidationError):
        KeyFetchSettings.model_validate({"timeout": "9" * 400})


def test_sizes() -> None:
    """In bytes; k is 1000, Ki is 1024."""
    assert [parse_size(text) for text in ("4096", "512KiB", "1mb", "2 GiB", 7)] == [4096, 524288, 10**6, 2**31, 7]
    for text in ("", "-1", "1.5MB", "1TB", True):
        with pytest.raises(ValueError, match="must be a size"):
            parse_size(text)


def test_addresses() -> None:
    """Host and port, a bracketed IPv6 host and port, or a socket; kept as text."""
    for text in ("127.0.0.1:0", "localhost:65535", "[::1]:4180", "unix:/run/x.sock"):
        assert parse_listen_address(text) == text
    for text in ("4180", ":4180", "h:", "h:65536", "::1:4180", "[x]:1", "a b:1", "h/x:1", "h:-1", "h:\uff11"):
        with pytest.raises(ValueError, match=r"must be host:port|needs brackets") as caught:
            parse_listen_address(text)
        assert text not in str(caught.value)


def test_networks() -> None:
    """A refused one is not repeated."""
    for text in ("10.0.0.0/8", "10.1.2.3", "10.1.2.3/32", "::1", "fd00::/8", "unix"):
        assert parse_network(text) == text
    with pytest.raises(ValueError, match="must be an address") as caught:
        parse_network("hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "network"), [("10.0.0.5/8", "10.0.0.0/8"), ("fd00::1/64", "fd00::/64"), ("127.0.0.1/24", "127.0.0.0/24")]
)
def test_an_address_inside_a_network_trusts_neither(text: str, network: str) -> None:
    """Who writes 10.0.0.5/8 means one of two things, and one of them trusts sixteen million callers."""
    with pytest.raises(ValueError, match=f"write {network} for the network, or {text.partition('/')[0]} for") as caught:
        parse_network(text)
    assert network in str(caught.value)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://a.example", "https://a.example"),
        ("HTTPS://A.example:443", "https://a.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://a:443", "http://a:443"),
        ("https://[::1]:80", "https://[::1]:80"),
    ],
)
def test_origins_as_browsers_write_them(text: str, origin: str) -> None:
    assert parse_web_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    ["", "null", "*", "a.example", "https://", "https://a/", "https://a/x", "https://u@a", "ws://a", "https://*.a"],
)
def test_no_origins(text: str) -> None:
    """No wildcard: every host of a page below the domain could open WebSockets with the identity of visitors."""
    with pytest.raises(ValueError, match="must be an origin"):
        parse_web_origin(text)
