"""Passwords against a real directory: search and bind, groups, TLS, and names that try to be filters."""

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.authn.authenticators.ldap import Ldap
from sidecar.authn.base import Abstained, Accepted, Outcome, Rejected
from sidecar.concurrency import settled
from sidecar.errors import Cause, Misconfigured, Unavailable
from tests.support.certificates import certificate
from tests.support.directory import ADMIN, ADMIN_PASSWORD, BASE, SlapdDirectory, prepared_slapd
from tests.support.hand_clock import HandClock
from tests.support.jwks_server import eventually
from tests.support.members import asked, basic, options_of, surroundings


@pytest.fixture(name="directory", scope="module")
def _directory(
    require_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SlapdDirectory]:
    directory = prepared_slapd(require_tool("slapd"), tmp_path_factory.mktemp("slapd"))
    with directory.running():
        yield directory


@pytest.fixture(name="make")
async def _make(directory: SlapdDirectory) -> AsyncIterator[Any]:
    made: list[Ldap] = []

    def make(clock: HandClock | None = None, **options: Any) -> Ldap:
        written = {
            "url": directory.tls_url,
            "caFile": str(directory.ca_file),
            "bindDn": ADMIN,
            "bindPassword": ADMIN_PASSWORD,
            "userBase": f"ou=people,{BASE}",
            "groupBase": f"ou=groups,{BASE}",
            "failuresPerUser": 100,
            **options,
        }
        made.append(Ldap(options_of(Ldap, written), surroundings("people", clock)))
        return made[-1]

    yield make
    for member in made:
        await member.stop()


async def ask(member: Ldap, user: str, password: str) -> Outcome:
    return await settled(member.authenticate(asked(basic(user, password))))


def cause(outcome: Outcome) -> Cause:
    assert isinstance(outcome, Rejected)
    return outcome.failure.cause


@pytest.mark.parametrize("secure", [True, False])
async def test_a_right_password_makes_the_actor_with_groups(make: Any, directory: SlapdDirectory, secure: bool) -> None:
    """By ldaps, and by ldap with StartTLS."""
    outcome = await ask(make(url=directory.tls_url if secure else directory.url), "alice", "opensesame")
    assert isinstance(outcome, Accepted)
    actor = outcome.actor
    assert (actor.id, actor.email, actor.groups) == ("alice", "alice@example.com", ("admins", "editors"))
    assert (actor.provider, actor.issuer) == ("people", "urn:auth-sidecar:people")


async def test_a_name_with_special_characters_finds_its_groups(make: Any) -> None:
    """The entry's own name goes into the filter for groups escaped."""
    outcome = await ask(make(), "bob", "hunter2")
    assert isinstance(outcome, Accepted)
    assert outcome.actor.groups == ("editors",)


async def test_wrong_passwords_and_reserved_names_are_refused(make: Any) -> None:
    member = make()
    assert cause(await ask(member, "alice", "wrong")) is Cause.CREDENTIALS_WRONG
    assert cause(await ask(member, "guest", "g")) is Cause.RESERVED_NAME
    assert cause(await ask(member, "alice", "")) is Cause.CREDENTIALS_MALFORMED


@pytest.mark.parametrize(
    "user",
    [
        "*",
        "a*",
        "alice)(uid=*",
        "*)(|(uid=*",
        "alice)(!(sn=x)",
        "\\2a",
        "alice\\",
        "(alice)",
        "ali\u0301ce",
        "unknown",
        "x" * 900,
    ],
)
async def test_a_name_is_never_a_filter(make: Any, user: str) -> None:
    """Only an exact name finds a user."""
    assert isinstance(await ask(make(), user, "opensesame"), Abstained)


async def test_two_entries_are_no_user(make: Any) -> None:
    assert isinstance(await ask(make(userFilter="(sn={user})"), "twin", "hunter2"), Abstained)


async def test_a_good_pair_is_remembered_and_connections_are_kept(make: Any) -> None:
    clock = HandClock()
    member, view = make(clock), asked(basic("alice", "opensesame"))
    accepted = await settled(member.authenticate(view))
    assert member.recall(view) is accepted
    assert member.recall(asked(basic("alice", "other"))) is None
    assert member._directory._idle.qsize() == 1
    clock.advance(61)
    assert member.recall(view) is None


async def test_a_connection_that_the_directory_has_closed_is_replaced(make: Any) -> None:
    member = make()
    await ask(member, "alice", "opensesame")
    kept = member._directory._idle.get_nowait()
    kept.socket.shutdown(socket.SHUT_RDWR)
    member._directory._idle.put_nowait(kept)
    assert isinstance(await ask(member, "bob", "hunter2"), Accepted)


async def test_guessing_is_throttled(make: Any) -> None:
    member = make(failuresPerUser=2)
    for guess in ("a", "b"):
        await ask(member, "alice", guess)
    with pytest.raises(Unavailable) as caught:
        await ask(member, "ALICE", "c")
    assert caught.value.cause is Cause.THROTTLED


async def test_guessing_is_throttled_for_the_user_under_all_spellings(make: Any) -> None:
    """A directory finds a user by many spellings, and each would have a count of its own."""
    member = make(failuresPerUser=2)
    for spelled in ("alice", " alice"):
        assert cause(await ask(member, spelled, "wrong")) is Cause.CREDENTIALS_WRONG
    with pytest.raises(Unavailable) as caught:
        await ask(member, "alice ", "wrong")
    assert caught.value.cause is Cause.THROTTLED
    assert isinstance(await ask(member, "bob", "hunter2"), Accepted)


@pytest.mark.parametrize("secure", [True, False])
async def test_a_certificate_of_others_is_not_accepted(
    make: Any, directory: SlapdDirectory, tmp_path: Path, secure: bool
) -> None:
    """Neither one of another authority nor one for another name; nothing is said on such a connection."""
    other = tmp_path / "other.pem"
    other.write_bytes(certificate()[0])
    url = directory.tls_url if secure else directory.url
    for options in ({"caFile": str(other)}, {"url": url.replace("127.0.0.1", "localhost")}):
        with pytest.raises(Unavailable) as caught:
            await ask(make(**{"url": url, **options}), "alice", "opensesame")
        assert caught.value.cause is Cause.DIRECTORY_UNAVAILABLE


@pytest.mark.parametrize(
    "options", [{"bindPassword": "wrong"}, {"bindDn": "", "bindPassword": None}, {"userBase": "dc=else"}]
)
async def test_a_directory_that_does_not_let_us_search_is_broken(make: Any, options: dict[str, Any]) -> None:
    """503, never a refusal: the password was not checked."""
    with pytest.raises(Unavailable):
        await ask(make(**options), "alice", "opensesame")
    assert (await make(**options).check())[0]


async def test_a_directory_that_does_not_answer_is_broken(make: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        member = make(url=f"ldaps://127.0.0.1:{silent.getsockname()[1]}", within="200ms")
        with pytest.raises(Unavailable):
            await ask(member, "alice", "opensesame")
        await eventually(lambda: member.unavailable_reason)
    assert await make().check() == []


async def test_a_directory_is_asked_as_soon_as_it_is_there(
    make: Any, require_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """The library itself would refuse for seconds to try a server again."""
    directory = prepared_slapd(require_tool("slapd"), tmp_path)
    member = make(url=directory.tls_url, caFile=str(directory.ca_file))
    with pytest.raises(Unavailable):
        await ask(member, "alice", "opensesame")
    with directory.running():
        assert isinstance(await ask(member, "alice", "opensesame"), Accepted)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"url": "ldap://directory.example", "tls": "none"}, "loopback"),
        ({"bindPassword": None}, "or neither"),
        ({"caFile": "/does/not/exist"}, "caFile"),
    ],
)
async def test_options_that_cannot_be_used(make: Any, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(Misconfigured, match=expected):
        make(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://x"},
        {"url": "ldap://u:p@x"},
        {"userFilter": "uid={user}"},
        {"userFilter": "(uid=*)"},
        {"nameAttribute": "u)(id"},
    ],
)
def test_options_that_make_no_sense(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"must|match"):
        options_of(Ldap, {"url": "ldaps://x", "userBase": "dc=x", **options})
