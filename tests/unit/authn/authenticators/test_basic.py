"""Basic credentials against files of users: who passes, what is refused, and what guessing costs."""

import asyncio
import base64
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from argon2 import PasswordHasher

from sidecar.authn.authenticators.basic import Basic
from sidecar.authn.base import Abstained, Accepted, Outcome, Rejected
from sidecar.authn.support.password_file import PasswordFileError, read_htpasswd, read_user_props
from sidecar.concurrency import settled
from sidecar.errors import Cause, Misconfigured, Unavailable
from tests.support.hand_clock import HandClock
from tests.support.members import asked, basic, options_of, surroundings


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


@pytest.fixture(name="clock")
def _clock() -> HandClock:
    return HandClock()


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    argon2 = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("hunter2")
    apache = hashed("sesame:with colon").replace("$2b$", "$2y$")
    path.write_text(f"# people\n\nAlice:{hashed('opensesame')}\nbob:{apache}\ncarol:{argon2}\nguest:{hashed('g')}\n")
    return path


@pytest.fixture(name="member")
async def _member(path: Path, clock: HandClock) -> AsyncIterator[Basic]:
    options = options_of(Basic, {"htpasswd": str(path), "failuresPerUser": 3, "failures": 6})
    member = Basic(options, surroundings("people", clock))
    await member.start()
    yield member
    await member.stop()


def cause(outcome: Outcome) -> Cause:
    assert isinstance(outcome, Rejected)
    return outcome.failure.cause


@pytest.mark.parametrize(
    ("user", "password", "expected"),
    [("Alice", "opensesame", "alice"), ("bob", "sesame:with colon", "bob"), ("carol", "hunter2", "carol")],
)
async def test_a_right_password_makes_the_actor(member: Basic, user: str, password: str, expected: str) -> None:
    """bcrypt of every spelling and argon2; a colon belongs to the password."""
    outcome = await settled(member.authenticate(asked(basic(user, password))))
    assert isinstance(outcome, Accepted)
    assert (outcome.actor.id, outcome.actor.provider) == (expected, "people")
    assert (outcome.actor.issuer, outcome.actor.subject) == ("urn:auth-sidecar:people", user)


async def test_a_wrong_password_is_refused(member: Basic) -> None:
    assert cause(await settled(member.authenticate(asked(basic("Alice", "x"))))) is Cause.CREDENTIALS_WRONG
    assert cause(await settled(member.authenticate(asked(basic("Alice", "o" * 100))))) is Cause.CREDENTIALS_WRONG


async def test_a_stranger_is_for_the_members_after_it_and_costs_the_same(member: Basic) -> None:
    """The time of a response does not show which names exist."""
    compared: list[str] = []
    file = member._file
    assert file

    def stranger(password: str) -> bool:
        compared.append(password)
        return file.dummy_hash(password)

    member._file = type(file)(file.users, stranger)
    outcome = await settled(member.authenticate(asked(basic("mallory", "opensesame"))))
    assert isinstance(outcome, Abstained)
    assert outcome.hint
    assert compared == ["opensesame"]


@pytest.mark.parametrize(
    "value",
    [
        "Basic !!!",
        "Basic QWxpY2U",
        f"Basic {base64.b64encode(b'Alice').decode()}",
        basic("", "opensesame"),
        basic("Alice", ""),
        basic("Alice", "open\0sesame"),
        basic("Al\nice", "opensesame"),
        basic("Alice", b"\xff\xfe"),
        basic("Alice", "x" * 5000),
        "Basic",
    ],
)
async def test_what_cannot_be_read_is_refused_without_comparing(member: Basic, value: str) -> None:
    assert cause(await settled(member.authenticate(asked(value)))) in {Cause.CREDENTIALS_MALFORMED, Cause.TOKEN_SIZE}
    assert member.recall(asked(value)) is None


@pytest.mark.parametrize("value", ["Basic Alice:opensesame", "Bearer abc", "Digest abc"])
async def test_other_forms_are_not_its_business(member: Basic, value: str) -> None:
    """A value with a colon is DataHub's raw form."""
    assert isinstance(await settled(member.authenticate(asked(value))), Abstained)


async def test_a_reserved_name_does_not_pass(member: Basic) -> None:
    assert cause(await settled(member.authenticate(asked(basic("guest", "g"))))) is Cause.RESERVED_NAME


async def test_a_good_pair_is_remembered_for_a_while(member: Basic, clock: HandClock) -> None:
    view = asked(basic("Alice", "opensesame"))
    assert member.recall(view) is None
    accepted = await settled(member.authenticate(view))
    assert member.recall(view) is accepted
    assert member.recall(asked(basic("Alice", "opensesame2"))) is None
    clock.advance(61)
    assert member.recall(view) is None


async def test_guessing_is_throttled_for_the_user(member: Basic, clock: HandClock) -> None:
    """Three wrong ones in a minute; who was let in before still is, and a minute later all is as before."""
    good = asked(basic("Alice", "opensesame"))
    await settled(member.authenticate(good))
    for guess in "abc":
        assert isinstance(await settled(member.authenticate(asked(basic("Alice", guess)))), Rejected)
    with pytest.raises(Unavailable) as caught:
        await settled(member.authenticate(asked(basic("Alice", "d"))))
    assert caught.value.cause is Cause.THROTTLED
    assert 0 < caught.value.retry_after <= 61
    assert member.recall(good)
    assert isinstance(await settled(member.authenticate(asked(basic("bob", "sesame:with colon")))), Accepted)
    clock.advance(61)
    assert isinstance(await settled(member.authenticate(good)), Accepted)


async def test_guessing_is_throttled_in_all(member: Basic) -> None:
    for number in range(6):
        await settled(member.authenticate(asked(basic(f"user{number}", "x"))))
    with pytest.raises(Unavailable):
        await settled(member.authenticate(asked(basic("bob", "sesame:with colon"))))


async def test_many_guesses_at_once_do_not_outrun_the_count(member: Basic) -> None:
    views = [asked(basic("Alice", f"guess{number}")) for number in range(10)]
    outcomes = await asyncio.gather(*(settled(member.authenticate(view)) for view in views), return_exceptions=True)
    assert sum(isinstance(outcome, Rejected) for outcome in outcomes) == 3


async def test_the_same_pair_at_once_is_compared_once(member: Basic) -> None:
    calls: list[str] = []
    release = threading.Event()

    def slow(password: str) -> bool:
        calls.append(password)
        return release.wait(10)

    file = member._file
    assert file
    users = {"Alice": type(file.users["Alice"])(slow)}
    member._file = type(file)(users, slow)
    asking = [asyncio.create_task(settled(member.authenticate(asked(basic("Alice", "p"))))) for _ in range(20)]
    while not calls:
        await asyncio.sleep(0)
    asking[0].cancel()
    release.set()
    outcomes = await asyncio.gather(*asking[1:])
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert len(calls) == 1


async def test_a_changed_file_counts_at_once(member: Basic, path: Path) -> None:
    """A user removed from the file is not served from the cache; an unusable file changes nothing and is reported."""
    view = asked(basic("Alice", "opensesame"))
    await settled(member.authenticate(view))
    path.write_text("Alice:nonsense\n")
    await member.poll()
    assert "line 1 is neither" in member.degraded_reason
    assert member.recall(view)
    path.write_text(f"bob:{hashed('new')}\n")
    await member.poll()
    assert member.degraded_reason == ""
    assert member.recall(view) is None
    assert isinstance(await settled(member.authenticate(view)), Abstained)


async def test_a_file_that_can_be_read_again_is_although_it_looks_the_same(
    member: Basic, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rights given back, or a share that answers again, leave no trace on the file."""
    path.write_text(f"bob:{hashed('new')}\n")
    with monkeypatch.context() as away:
        away.setattr(Path, "open", _refuse)
        await member.poll()
        assert "Permission denied" in member.degraded_reason
        assert member.unavailable_reason == ""  # the users are as before
    await member.poll()
    assert member.degraded_reason == ""
    assert isinstance(await settled(member.authenticate(asked(basic("bob", "new")))), Accepted)


def _refuse(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (read_htpasswd, "", "contains no user"),
        (read_htpasswd, "alice", "line 1 is not of the form user and password"),
        (read_htpasswd, "\na:$apr1$x$y", "line 2 is neither bcrypt"),
        (read_htpasswd, "a:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "line 1 is neither bcrypt"),
        (read_htpasswd, f"a:{hashed('x').replace('$04$', '$31$')}", "the cost of its hash"),
        (read_htpasswd, "a:$argon2id$v=19$m=9999999,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2g", "the cost of its hash"),
        (read_htpasswd, f"a:{hashed('x')}\nA:{hashed('y')}", "lines 1 and 2 map to the same Actor"),
        (read_htpasswd, f"a:{hashed('x')}\na@b.c:{hashed('y')}", "lines 1 and 2 map to the same Actor"),
        (read_user_props, "datahub:datahub", "published default user"),
        (read_user_props, "a: OBF:1abc", "contains a hashed password"),
        (read_user_props, "a: ,admin", "line 1 has no password"),
    ],
    ids=map(str, range(11)),  # the hashes are made anew in every process
)
def test_files_that_cannot_be_used(read: Callable[..., Any], text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(text)
    more = {"allow_published": False} if read is read_user_props else {}
    with pytest.raises(PasswordFileError, match=expected) as caught:
        read(path, **more)
    assert "apr1" not in str(caught.value)


async def test_the_content_of_a_file_as_a_secret(path: Path, clock: HandClock) -> None:
    """The same users, and nothing of it in a text."""
    member = Basic(options_of(Basic, {"htpasswdSecret": path.read_text()}), surroundings("people", clock))
    await member.start()
    assert isinstance(await settled(member.authenticate(asked(basic("Alice", "opensesame")))), Accepted)
    assert isinstance(await settled(member.authenticate(asked(basic("Alice", "wrong")))), Rejected)
    await member.stop()
    assert "htpasswdSecret" in Basic.describe(member.options)
    broken = Basic(options_of(Basic, {"htpasswdSecret": "alice:plain-password"}), surroundings("people", clock))
    assert await broken.check() == ["htpasswdSecret line 1 is neither bcrypt (htpasswd -B) nor argon2"]
    with pytest.raises(Misconfigured, match="htpasswdSecret line 1") as caught:
        await broken.start()
    assert "plain-password" not in str(caught.value)


async def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    member = Basic(options_of(Basic, {"htpasswd": str(tmp_path / "none")}), surroundings())
    assert "No such file" in (await member.check())[0]
    with pytest.raises(Misconfigured, match="No such file"):
        await member.start()


async def test_user_props_are_read_with_their_roles_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "user.props"
    path.write_text("! DataHub's users\nalice: opensesame, editor, viewer\nbob=x\n")
    member = Basic(options_of(Basic, {"userProps": str(path)}), surroundings())
    await member.start()
    try:
        assert "plain-text" in caplog.text
        outcome = await settled(member.authenticate(asked(basic("alice", "opensesame"))))
        assert isinstance(outcome, Accepted)
        assert isinstance(await settled(member.authenticate(asked(basic("bob", "y")))), Rejected)
    finally:
        await member.stop()
    assert read_user_props(path, allow_published=False).users["alice"].roles == ("editor", "viewer")


@pytest.mark.parametrize("options", [{}, {"htpasswd": "/a", "userProps": "/b"}])
def test_one_file_is_named(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="one of them"):
        options_of(Basic, options)


def test_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    """Its reader could not be ended, nor the process."""
    os.mkfifo(tmp_path / "users")
    with pytest.raises(PasswordFileError, match="is a pipe"):
        read_htpasswd(tmp_path / "users")
