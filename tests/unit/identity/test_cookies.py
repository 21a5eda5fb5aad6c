"""Our cookies are found by name alone, and nothing of them is left for the upstream."""

import pytest
from multidict import CIMultiDict

from sidecar.identity.cookies import OwnCookies

OURS = OwnCookies("__Host-s", ("__Host-l",))


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        ("a=b", "a=b"),
        ("__Host-s=x", ""),
        ("a=b; __Host-s=x; c=d", "a=b; c=d"),
        ("__Host-s=x; a=b", "a=b"),
        ("__Host-s=x;__Host-l=y;a=b", "a=b"),
        ("\t__Host-s =x; a=b", "a=b"),
        ("__Host-s; a=b", "a=b"),
        ("a__Host-s=b", "a__Host-s=b"),
        ('a="1; __Host-s=x"; b=2', 'a="1; b=2'),
        ("a=__Host-s", "a=__Host-s"),
    ],
)
def test_rest_of_the_header_has_none_of_ours(line: str, rest: str) -> None:
    assert OURS.rest(line) == rest


def test_every_value_is_found() -> None:
    headers = CIMultiDict([("Cookie", "a=b; __Host-s=1"), ("Cookie", "__Host-s=2;__Host-l=3")])
    assert OURS.values(headers) == ["1", "2"]
    assert OURS.values(headers, "__Host-l") == ["3"]
    assert OURS.values(CIMultiDict([("Cookie", "x__Host-s=1; __Host-sx=2")])) == []


@pytest.mark.parametrize(
    ("line", "is_ours"), [("__Host-s=x; Path=/", True), (" __Host-s =x", True), ("s=__Host-s", False)]
)
def test_upstream_that_sets_one_of_ours_is_recognised(line: str, is_ours: bool) -> None:
    assert OURS.names_ours(line) is is_ours
