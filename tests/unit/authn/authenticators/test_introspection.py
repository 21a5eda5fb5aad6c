"""Opaque tokens and the server that knows them: what is asked, believed and remembered."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, unquote_plus

import pytest
from aiohttp import web

from sidecar.authn.authenticators.introspection import Introspection
from sidecar.authn.base import Abstained, Accepted, Outcome, Rejected
from sidecar.concurrency import settled
from sidecar.config.providers import Provider
from sidecar.errors import Cause, Misconfigured, Unavailable
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.claim_path import ClaimPath
from sidecar.outbound import ControlClient
from sidecar.store.replica.revocation_list import RevocationList, revocation_keys
from sidecar.store.revocation_entry import Scope, make_entry
from tests.support.forge import ISSUER, claims, token
from tests.support.hand_clock import HandClock
from tests.support.jwks_server import eventually
from tests.support.loopback_server import LoopbackServer
from tests.support.members import POLICY, asked, options_of, surroundings

NOW = 1_800_000_000
ACTIVE = {"active": True, "sub": "sam", "iss": ISSUER, "aud": ["meta"], "exp": NOW + 600, "token_type": "Bearer"}


class Server:
    """An introspection endpoint that answers whatever a test wants, and what it was sent."""

    def __init__(self) -> None:
        self.answer: Any = ACTIVE
        self.status = 200
        self.asked: list[Mapping[str, list[str]]] = []
        self.authorization = ""

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(parse_qs((await request.read()).decode()))
        self.authorization = request.headers.get("Authorization", "")
        if isinstance(self.answer, bytes):
            return web.Response(body=self.answer, status=self.status)
        return web.json_response(self.answer, status=self.status)


@pytest.fixture(name="server")
def _server() -> Server:
    return Server()


@pytest.fixture(name="url")
def _url(server: Server) -> Iterator[str]:
    with LoopbackServer(server) as running:
        yield f"{running.url}/introspect"


@pytest.fixture(name="clock")
def _clock() -> HandClock:
    return HandClock(float(NOW))


@pytest.fixture(name="make")
async def _make(url: str, clock: HandClock) -> AsyncIterator[Any]:
    client = ControlClient()
    made: list[Introspection] = []
    provider = Provider("corp", ISSUER, audiences=frozenset({"meta"}), algorithms=frozenset({"RS256"}))

    def make(**options: Any) -> Introspection:
        written = {"provider": "corp", "url": url, "clientId": "side:car", "clientSecret": "s3cr€t:%", **options}
        around = surroundings("opaque", clock, client=client, providers={"corp": provider}, policies={"corp": POLICY})
        made.append(Introspection(options_of(Introspection, written), around))
        return made[-1]

    yield make
    for member in made:
        await member.stop()
    await client.aclose()


def cause(outcome: Outcome) -> Cause:
    assert isinstance(outcome, Rejected)
    return outcome.failure.cause


async def test_an_active_token_makes_the_actor(make: Any, server: Server) -> None:
    outcome = await settled(make().authenticate(asked("Bearer opaque-token")))
    assert isinstance(outcome, Accepted)
    assert (outcome.actor.id, outcome.actor.issuer) == ("sam", ISSUER)
    assert server.asked == [{"token": ["opaque-token"], "token_type_hint": ["access_token"]}]


async def test_client_authentication_follows_the_standard(make: Any, server: Server) -> None:
    """RFC 6749 section 2.3.1: id and secret are form-encoded before they are joined."""
    await settled(make().authenticate(asked("Bearer opaque")))
    pair = base64.b64decode(server.authorization.removeprefix("Basic ")).decode()
    assert [unquote_plus(part) for part in pair.split(":")] == ["side:car", "s3cr€t:%"]
    await settled(make(authMethod="client_secret_post").authenticate(asked("Bearer opaque")))
    assert server.asked[-1]["client_secret"] == ["s3cr€t:%"]
    assert server.authorization == ""


async def test_an_inactive_token_is_for_others_and_in_the_end_refused(make: Any, server: Server) -> None:
    server.answer = {"active": False, "sub": "sam"}
    outcome = await settled(make().authenticate(asked("Bearer opaque")))
    assert isinstance(outcome, Abstained)
    assert outcome.hint
    assert outcome.hint.cause is Cause.INACTIVE


@pytest.mark.parametrize(
    "answer",
    [{"active": "true"}, {"active": 1}, {"active": None}, {}, {**ACTIVE, "active": "false"}, [], "active", b"{", b""],
)
async def test_an_answer_that_does_not_say_active_is_no_answer(make: Any, server: Server, answer: Any) -> None:
    server.answer = answer
    member = make()
    with pytest.raises(Unavailable):
        await settled(member.authenticate(asked("Bearer opaque")))
    await eventually(lambda: member.unavailable_reason)


@pytest.mark.parametrize("status", [401, 403, 404, 302, 500])
async def test_a_server_that_does_not_answer_is_a_broken_one(make: Any, server: Server, status: int) -> None:
    server.status = status
    member = make()
    with pytest.raises(Unavailable) as caught:
        await settled(member.authenticate(asked("Bearer opaque")))
    assert caught.value.cause is Cause.INTROSPECTION_UNAVAILABLE
    await eventually(lambda: f"status {status}" in member.unavailable_reason)
    server.status, server.answer = 200, {"active": False}
    await eventually(lambda: not member.unavailable_reason)
    assert {question["token"][0] for question in server.asked[1:]} == {"auth-sidecar-check"}


async def test_one_token_that_the_server_does_not_answer_for_is_no_problem_of_all(make: Any, server: Server) -> None:
    """Otherwise one slow token could block all callers."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        server.asked.append(parse_qs((await request.read()).decode()))
        asked_about = server.asked[-1]["token"][0]
        return web.json_response({"active": False}, status=500 if asked_about == "odd" else 200)

    with LoopbackServer(answer) as running:
        member = make(url=running.url)
        with pytest.raises(Unavailable):
            await settled(member.authenticate(asked("Bearer odd")))
        await member._probe._task
        assert [question["token"] for question in server.asked] == [["odd"], ["auth-sidecar-check"]]
        assert member.unavailable_reason == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"aud": "other"}, Cause.AUDIENCE),
        ({"aud": ...}, Cause.AUDIENCE),
        ({"iss": "https://evil.example"}, Cause.ISSUER),
        ({"iss": None}, Cause.CLAIM_TYPE),
        ({"exp": NOW - 60}, Cause.EXPIRED),
        ({"exp": "soon"}, Cause.CLAIM_TYPE),
        ({"nbf": NOW + 60}, Cause.NOT_YET_VALID),
        ({"sub": 7}, Cause.CLAIM_TYPE),
        ({"sub": ...}, Cause.PRINCIPAL_MISSING),
        ({"sub": "guest"}, Cause.RESERVED_NAME),
        ({"cnf": {"jkt": "x"}}, Cause.PROOF_OF_POSSESSION),
        ({"token_type": "DPoP"}, Cause.TOKEN_TYPE),
        ({"token_type": "refresh_token"}, Cause.TOKEN_TYPE),
    ],
)
async def test_active_is_not_enough(make: Any, server: Server, changes: dict[str, Any], expected: Cause) -> None:
    """What the server says about the token is judged as a JWT's claims are."""
    server.answer = {name: value for name, value in {**ACTIVE, **changes}.items() if value is not ...}
    assert cause(await settled(make().authenticate(asked("Bearer opaque")))) is expected


async def test_it_is_remembered_no_longer_than_it_lives(make: Any, server: Server, clock: HandClock) -> None:
    member, view = make(), asked("Bearer opaque")
    assert member.recall(view) is None
    await settled(member.authenticate(view))
    clock.advance(59)
    assert member.recall(view)
    clock.advance(1)
    assert member.recall(view) is None
    server.answer = {**ACTIVE, "exp": int(clock.now()) + 5}
    await settled(member.authenticate(view))
    clock.advance(5)
    assert member.recall(view) is None


async def test_many_who_wait_ask_once(make: Any, server: Server) -> None:
    member = make()
    outcomes = await asyncio.gather(*(member.authenticate(asked("Bearer opaque")) for _ in range(20)))
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert len(server.asked) == 1


async def test_jwts_are_not_asked_about_unless_told(make: Any, server: Server) -> None:
    mine, other = token(claims()), token(claims(iss="https://other.example"))
    assert isinstance(await settled(make().authenticate(asked(f"Bearer {mine}"))), Abstained)
    assert isinstance(await settled(make(jwts=True).authenticate(asked(f"Bearer {other}"))), Abstained)
    assert not server.asked
    assert isinstance(await settled(make(jwts=True).authenticate(asked(f"Bearer {mine}"))), Accepted)


async def test_a_jwt_that_the_server_calls_inactive_is_refused(make: Any, server: Server) -> None:
    """The members after it would find its signature good: asking would be in vain."""
    server.answer = {"active": False}
    outcome = await settled(make(jwts=True).authenticate(asked(f"Bearer {token(claims())}")))
    assert isinstance(outcome, Rejected)
    assert outcome.failure.cause is Cause.INACTIVE


@pytest.mark.parametrize(("presented", "token_id"), [({"jti": "t1"}, "t1"), ({"jti": ...}, "")], ids=["jti", "digest"])
async def test_the_revocation_list_knows_a_jwt_by_its_claims(
    make: Any, server: Server, presented: dict[str, Any], token_id: str
) -> None:
    """RFC 7662 leaves it to the server whether it tells ``jti``; an entry of the token holds all the same."""
    text = token(claims(**presented))
    outcome = await settled(make(jwts=True).authenticate(asked(f"Bearer {text}")))
    assert isinstance(outcome, Accepted)
    assert outcome.revocation_keys
    digest = sha256(text.rpartition(".")[0].encode()).hexdigest()
    expected = revocation_keys(Actor(ActorType.USER, "sam", issuer=ISSUER, subject="sam", token_id=token_id), digest)
    assert outcome.revocation_keys.references == expected.references
    assert outcome.revocation_keys.issued_at == claims()["iat"]


@pytest.mark.parametrize("value", ["two words", "a\tb", "naïve", "a&token=b", "x" * 20_000, "", "eyJhbGciOi.x.y"])
async def test_what_is_no_token_is_not_sent(make: Any, server: Server, value: str) -> None:
    assert isinstance(await settled(make().authenticate(asked(f"Bearer {value}"))), Abstained)
    assert not server.asked


async def test_the_check_asks_about_a_made_up_token(make: Any, server: Server) -> None:
    server.answer = {"active": False}
    assert await make().check() == []
    server.answer = ACTIVE
    assert "does not exist" in (await make().check())[0]
    server.status = 401
    assert "status 401" in (await make().check())[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"provider": "crop"}, "known: corp"), ({"url": "http://idp.example/i"}, "plain http")],
)
async def test_options_that_cannot_be_used(make: Any, options: dict[str, str], expected: str) -> None:
    with pytest.raises(Misconfigured, match=expected):
        make(**options)


@pytest.mark.parametrize(
    ("answer", "subject"),
    [
        ({"sub": "s-1", "username": "sam", "client_id": "ui"}, "s-1"),
        ({"sub": ..., "username": "sam", "client_id": "ui"}, "sam"),
        ({"sub": ..., "preferred_username": "sam", "client_id": "ui"}, "ui"),
    ],
)
async def test_a_subject_can_be_denied_that_the_answer_does_not_call_so(
    clock: HandClock, url: str, server: Server, answer: dict[str, Any], subject: str
) -> None:
    """Its bearer has no identity key all the same: a client named like a user's ``sub`` is not that user."""
    server.answer = {name: value for name, value in {**ACTIVE, **answer}.items() if value is not ...}
    policy = replace(POLICY, principal_claims=tuple(map(ClaimPath, ("username", "preferred_username", "sub"))))
    provider = Provider("corp", ISSUER, audiences=frozenset({"meta"}))
    client = ControlClient()
    around = surroundings("opaque", clock, client=client, providers={"corp": provider}, policies={"corp": policy})
    written = {"provider": "corp", "url": url, "clientId": "side", "clientSecret": "s"}
    member = Introspection(options_of(Introspection, written), around)
    outcome = await settled(member.authenticate(asked("Bearer opaque")))
    await member.stop()
    await client.aclose()
    assert isinstance(outcome, Accepted)
    assert outcome.actor.subject == server.answer.get("sub", "")
    assert outcome.revocation_keys
    entries = RevocationList()
    entries.add(make_entry(Scope.SUBJECT, ISSUER, subject, NOW, issued_before=NOW))
    assert entries.match(outcome.revocation_keys, NOW) is Scope.SUBJECT


async def test_refused_token_is_asked_about_once_a_minute(make: Any, server: Server, clock: HandClock) -> None:
    """Whether it is not active, or active and not for us; then once more, because it may have become good."""
    for answer, expected in (({"active": False}, Abstained), ({**ACTIVE, "aud": ["other"]}, Rejected)):
        member = make()
        server.asked.clear()
        server.answer = answer
        for _ in range(200):
            assert isinstance(await settled(member.authenticate(asked("Bearer made-up"))), expected)
        assert len(server.asked) == 1
        server.answer = ACTIVE
        clock.advance(59)
        assert isinstance(await settled(member.authenticate(asked("Bearer made-up"))), expected)
        clock.advance(1)
        assert isinstance(await settled(member.authenticate(asked("Bearer made-up"))), Accepted)


async def test_made_up_tokens_are_twenty_questions_a_second(make: Any, server: Server, clock: HandClock) -> None:
    """Beyond that the member is broken for them, without having asked; it is not unready for that."""
    member = make()
    server.answer = {"active": False}
    throttled: list[Unavailable] = []
    for second in range(3):
        for number in range(100):
            try:
                outcome = await settled(member.authenticate(asked(f"Bearer made-up-{second}-{number}")))
                assert isinstance(outcome, Abstained)
            except Unavailable as failure:
                throttled.append(failure)
        clock.advance(1)
    assert (len(server.asked), len(throttled)) == (60, 240)
    assert {(failure.cause, failure.retry_after) for failure in throttled} == {(Cause.THROTTLED, 1)}
    assert not member.unavailable_reason


async def test_unanswered_questions_count_too(make: Any, server: Server) -> None:
    """Or a server that is away would be asked all the more."""
    member = make()
    server.status = 500
    for number in range(60):
        with pytest.raises(Unavailable):
            await settled(member.authenticate(asked(f"Bearer made-up-{number}")))
    assert len([question for question in server.asked if question["token"] != ["auth-sidecar-check"]]) == 20


async def test_a_flood_does_not_lock_out_callers_accepted_before(make: Any, server: Server, clock: HandClock) -> None:
    """Nor do good tokens count against each other, however many are new."""
    member = make()
    good = [f"Bearer good-{number}" for number in range(50)]
    for text in good:
        assert isinstance(await settled(member.authenticate(asked(text))), Accepted)
    clock.advance(61)
    server.answer = {"active": False}
    for number in range(30):
        with contextlib.suppress(Unavailable):
            await settled(member.authenticate(asked(f"Bearer made-up-{number}")))
    server.answer = ACTIVE
    for text in good:
        assert member.recall(asked(text)) is None
        assert isinstance(await settled(member.authenticate(asked(text))), Accepted)


async def test_token_that_is_good_no_more_is_unknown_again(make: Any, server: Server, clock: HandClock) -> None:
    """Its bearer is no better than any other then."""
    member = make()
    assert isinstance(await settled(member.authenticate(asked("Bearer once"))), Accepted)
    server.answer = {"active": False}
    clock.advance(61)
    assert isinstance(await settled(member.authenticate(asked("Bearer once"))), Abstained)
    clock.advance(61)
    for number in range(20):
        await settled(member.authenticate(asked(f"Bearer made-up-{number}")))
    with pytest.raises(Unavailable):
        await settled(member.authenticate(asked("Bearer once")))
