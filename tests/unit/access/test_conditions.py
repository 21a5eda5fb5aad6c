"""The conditions in a check's query: understood to the letter, or refused."""

import pytest

from sidecar.access.conditions import read_conditions
from sidecar.errors import Cause, Refused
from sidecar.identity.actor import Actor, ActorType


def actor(*groups: str, email: str = "", in_token: bool = True, provider: str = "corp") -> Actor:
    return Actor(ActorType.USER, "a", provider=provider, email=email, email_in_token=in_token, groups=groups)


def passes(query: str, caller: Actor) -> bool:
    return all(condition.missing(caller) is None for condition in read_conditions(query))


def test_no_query_is_no_condition() -> None:
    assert read_conditions("") == ()


@pytest.mark.parametrize(
    ("query", "groups", "expected"),
    [
        ("?allowed_groups=a,b", ("b", "c"), True),
        ("?allowed_groups=a", ("A",), False),
        ("?allowed_groups=a", (), False),
        ("?allowed_groups=a%2Cb", ("a",), True),
        ("?allowed_groups=a%20b", ("a b",), True),
        ("?allowed_groups=a+b", ("a b",), True),
        ("?allowed_groups=a=b", ("a=b",), True),
        ("?allowed%5Fgroups=%C3%A9", ("é",), True),
    ],
)
def test_one_of_the_groups(query: str, groups: tuple[str, ...], expected: bool) -> None:
    assert passes(query, actor(*groups)) is expected


@pytest.mark.parametrize(
    ("allowed", "email", "expected"),
    [
        ("a.b", "x@a.b", True),
        ("A.b", "x@a.B", True),
        ("a.b", "x@c.a.b", False),
        ("a.b", "x@ca.b", False),
        ("a.b", "a.b", False),
        (".a.b", "x@c.a.b", True),
        ("*.a.b", "x@d.c.a.b", True),
        (".a.b", "x@a.b", False),
        ("*.a.b", "x@ca.b", False),
        ("*.a.b,a.b", "x@a.b", True),
        ("a.b", "", False),
    ],
)
def test_a_domain_is_exact_or_stands_for_what_is_below_it(allowed: str, email: str, expected: bool) -> None:
    assert passes(f"?allowed_email_domains={allowed}", actor(email=email)) is expected


def test_an_address_counts_only_as_it_stood_in_the_callers_own_token() -> None:
    """Neither one that was made up from a name, nor one that an own token may carry because it was."""
    for query in ("?allowed_emails=x@a.b,y@a.b", "?allowed_email_domains=a.b"):
        assert passes(query, actor(email="x@a.b"))
        assert not passes(query, actor(email="x@a.b", in_token=False))
        assert not passes(query, actor(email="x@a.b", provider="own"))
    assert passes("?allowed_emails=X@A.b", actor(email="x@a.b"))
    assert not passes("?allowed_emails=x@a.b", actor(email="z@a.b"))


def test_all_parameters_must_be_met() -> None:
    query = "?allowed_groups=g&allowed_email_domains=a.b&allowed_emails=x@a.b"
    assert passes(query, actor("g", email="x@a.b"))
    assert not passes(query, actor("h", email="x@a.b"))
    assert not passes(query, actor("g", email="y@a.b"))


def test_what_is_missing_is_named_but_never_who_has_it() -> None:
    (emails,), (domains,) = read_conditions("?allowed_emails=root@a.b"), read_conditions("?allowed_email_domains=*.a.b")
    without_email = actor()
    missing = emails.missing(without_email), domains.missing(without_email)
    assert [one and one.cause for one in missing] == [Cause.CONDITION_EMAILS, Cause.CONDITION_EMAIL_DOMAINS]
    assert "root" not in str(missing[0])
    assert "the domain *.a.b" in str(missing[1])


@pytest.mark.parametrize(
    "query",
    [
        "?", "?&", "?x", "?x=y", "?allowed_groups", "?allowed_groups=", "?allowed_groups=,", "?allowed_groups=a,",
        "?allowed_groups=,a", "?allowed_groups=a,,b", "?allowed_groups=%20", "?allowed_groups=a,%20b",
        "?allowed_groups=a%00", "?allowed_groups=a%0Ab", "?allowed_groups=%ff", "?allowed_groups=a%2",
        "?allowed_groups=%", "?allowed_groups=a&", "?&allowed_groups=a", "?allowed_groups=a&allowed_groups=b",
        "?allowed_groups=a;b", "?allowed_groups=a&allowed%5Fgroups=b", "?Allowed_groups=a", "?allowed_group=a",
        "?allowed_groups[]=a",
        "?allowed_groups=a&rd=/", "?allowed_emails=a", "?allowed_emails=@a.b", "?allowed_emails=a@",
        "?allowed_email_domains=*", "?allowed_email_domains=.", "?allowed_email_domains=*.",
        "?allowed_email_domains=a..b",
        "?allowed_email_domains=a.b.", "?allowed_email_domains=x@a.b", "?allowed_email_domains=*a.b",
        "?allowed_email_domains=a.*", "?allowed_email_domains=..a.b", "??allowed_groups=a",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(query: str) -> None:
    """Other parameters, none, the same twice, an empty list or member, what cannot be decoded: 400."""
    with pytest.raises(Refused) as refusal:
        read_conditions(query)
    assert (refusal.value.status, refusal.value.cause) == (400, Cause.CONDITION_INVALID)
