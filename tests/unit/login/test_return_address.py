"""No address leads a browser elsewhere, whatever a browser makes of it."""

import pytest

from sidecar.login.return_address import ReturnAddresses

OWN = "https://good.example.com"
ADDRESSES = ReturnAddresses(frozenset({"https://app.example.com:8443"}), OWN, "/oauth2")

HOSTILE = [
    # scheme-relative
    "//evil.example", "///evil.example", "////evil.example", "https:evil.example", "https:/evil.example",
    "http:////evil.example", "//evil.example/", "//evil.example\\@good.example.com",
    # backslashes
    "/\\evil.example", "\\/evil.example", "\\\\evil.example", "/\\/evil.example", "http:\\\\evil.example",
    "https://evil.example\\@good.example.com/", "/./\\evil.example", "/../\\evil.example", "/%5cevil.example",
    "/%5Cevil.example", "/%255cevil.example", "/a?b=\\evil",
    # white space and controls
    "/\t/evil.example", "\t//evil.example", " //evil.example", "/ /evil.example", "/\n/evil.example",
    "/\r\nLocation: https://evil.example", "/\x00/evil.example", "/\x0b/evil.example", "/\x85/evil.example",
    "/\xa0/evil.example", "/\u2028/evil.example", "/%09/evil.example", "/%0d%0aSet-Cookie:a=b", "/%00", "/%0a//evil",
    "/%250d%250aa", "/\x7f/evil", "/%7f",
    # user information and look-alikes
    "https://good.example.com@evil.example", "https://good.example.com:x@evil.example", "https://good.example.com%40evil",
    "https://evil.example#good.example.com", "https://evil.example?good.example.com",
    "https://good.example.com.evil.example", "https://good.example.comevil.example", "https://evil.example/good.example.com",
    "https://good.example.com.", "https://xn--good-example.com", "/\uff0fevil.example", "https://good\u3002example.com",
    "https://evilgood.example.com", "https://GOOD.example.com@evil.example",
    # dot segments
    "/..//evil.example", "/.//evil.example", "/a/..//evil.example", "/a/../b", "/%2e%2e//evil.example", "/%2e/evil",
    "/a/%2e%2e/b", "/%252e%252e/b", "/..;/evil.example", "/.", "/..",
    # encoded slashes
    "/%2fevil.example", "/%2Fevil.example", "/%252fevil.example", "/%2f%2fevil.example",
    # other schemes
    "javascript:alert(1)", "java\tscript:alert(1)", "\x01javascript:alert(1)", "data:text/html,x", "vbscript:x",
    "blob:https://good.example.com/x", "view-source:https://good.example.com", "file:///etc/passwd", "ftp://good.example.com",
    # our own endpoints
    "/oauth2/sign_out", "/oauth2/start?rd=//evil.example", "/oauth2", "https://good.example.com/oauth2/sign_out",
    # numbers as hosts, other ports and schemes
    "https://2130706434", "https://0x7f000002/", "https://[::ffff:1.2.3.4]/", "https://good.example.com:444/",
    "http://good.example.com/", "https://app.example.com/", "https://app.example.com:8444/",
    # not an address, too long, broken escapes
    "", "relative", "?a=b", "#a", "/" + "a" * 2048, "/%", "/%zz", "/a?b=%", "/a#%",
]  # fmt: skip


@pytest.mark.parametrize("address", HOSTILE)
def test_hostile_address_becomes_the_home_page(address: str) -> None:
    assert ADDRESSES.checked(address) == "/"


@pytest.mark.parametrize(
    ("address", "result"),
    [
        (None, "/"),
        ("/deep/path?x=1&y=a%2Fb%20c#part", "/deep/path?x=1&y=a%2Fb%20c#part"),
        ("/a/?next=//other.example", "/a/?next=//other.example"),
        ("/oauth2ish", "/oauth2ish"),
        (f"{OWN}/a?b", "/a?b"),
        (f"{OWN}:443", "/"),
        ("https://app.example.com:8443/spa#/route", "https://app.example.com:8443/spa#/route"),
        ("/a%2Fb/%C3%A4", "/a%2Fb/%C3%A4"),
        ("/a//b", "/a//b"),
    ],
)
def test_good_address_stays_as_it_is(address: str | None, result: str) -> None:
    assert ADDRESSES.checked(address) == result


def test_there_are_more_than_the_known_tricks() -> None:
    assert len(set(HOSTILE)) >= 72
