"""Record headers: which carry the credential, which are removed, which are kept."""

import pytest

from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.request import Scheme
from sidecar.kafka.records import (
    Header,
    HeaderReader,
    Record,
    RecordOrigin,
    actor_headers,
    dead_letter_headers,
    size_of,
)

ORIGIN = RecordOrigin("in", 2, 17)


def reader(credential: str = "authorization") -> HeaderReader:
    return HeaderReader(credential, lambda name: name == "remote-user")


@pytest.mark.parametrize("name", ["authorization", "Authorization", "AUTHORIZATION"])
def test_the_credential_is_read_in_every_spelling(name: str) -> None:
    credential, kept = reader().split([("a", b"1"), (name, b"Bearer x.y.z"), ("b", None)])
    assert (credential.scheme, credential.value) == (Scheme.BEARER, "x.y.z")
    assert kept == [("a", b"1"), ("b", None)]


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [
        ([], Scheme.NOTHING),
        ([("authorization", None)], Scheme.NOTHING),
        ([("authorization", b"")], Scheme.NOTHING),
        ([("authorization", b"Basic YTpi")], Scheme.OTHER),
        ([("authorization", b"Bearer a"), ("authorization", b"Bearer a")], Scheme.SEVERAL),
        ([("authorization", b"Bearer a"), ("AUTHORIZATION", None)], Scheme.SEVERAL),
        ([("authorization", b"Bearer \xff\x00")], Scheme.BEARER),
    ],
)
def test_what_counts_as_a_credential(headers: list[Header], scheme: Scheme) -> None:
    """One line of the header is a credential, whatever is in it; two are ambiguous."""
    credential, kept = reader().split(headers)
    assert (credential.scheme, kept) == (scheme, [])


@pytest.mark.parametrize(
    "name",
    [
        "X-Auth-Actor-Urn", "x-auth-actor-urn", "X_AUTH_ACTOR_URN", "X.Auth.Origin", "x-auth-anything",
        "X-DataHub-Actor", "x_datahub_actor", "Authorization", "proxy-authorization", "Cookie", "Remote_User",
        "X-Auth-Assertion",
    ],
)  # fmt: skip
def test_claimed_identities_are_removed(name: str) -> None:
    """In every spelling that some consumer could take for the header; with another header of the credential too."""
    assert reader("x-token").split([(name, b"root")])[1] == []


def test_another_header_may_have_the_credential() -> None:
    credential, kept = reader("x-token").split([("X_Token", b"Bearer t"), ("authorization", b"Bearer other")])
    assert (credential.value, kept) == ("t", [])


def test_without_a_credential_header_none_is_read() -> None:
    credential, kept = reader("").split([("authorization", b"Bearer t"), ("", b"empty name")])
    assert (credential.scheme, kept) == (Scheme.NOTHING, [("", b"empty name")])


def test_memory_for_names_is_bounded() -> None:
    """Clients choose the names."""
    one = reader()
    for number in range(5000):
        one.split([(f"n{number}", b"")])
    assert len(one._uses) <= 1000
    assert one.split([("authorization", b"Bearer t"), ("n1", b"")])[1] == [("n1", b"")]


def test_headers_of_the_actor_are_ascii() -> None:
    """A name or a token id cannot bring line breaks or other bytes into them."""
    actor = Actor(ActorType.USER, "jürgen", issuer="https://idp", token_id="a\nb%")
    assert actor_headers(actor) == [
        ("X-Auth-Actor-Urn", b"urn:li:corpuser:j%C3%BCrgen"),
        ("X-Auth-Actor-Type", b"USER"),
        ("X-Auth-Issuer", b"https://idp"),
        ("X-Auth-Token-Id", b"a%0Ab%25"),
    ]


def test_a_dead_letter_has_nothing_of_the_record() -> None:
    failure = Refused(Reason.TOKEN_INVALID, Cause.SIGNATURE, "detail is for the log")
    found = dict(dead_letter_headers(ORIGIN, failure, "id", "now"))
    assert found == {
        "reason": b"token_invalid", "cause": b"signature", "requestId": b"id", "origin": b"in/2/17", "at": b"now",
    }  # fmt: skip


def test_the_size_counts_everything() -> None:
    """Never less than what the broker counts."""
    credential, kept = reader().split([])
    record = Record(ORIGIN, b"k" * 10, b"v" * 100, 0, False, kept, credential)
    assert size_of(record, [("name", b"x" * 50), ("ä", None)]) >= 10 + 100 + 4 + 50 + 2
