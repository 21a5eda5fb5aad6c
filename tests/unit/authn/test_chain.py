"""Order, who decides, what a broken member does, and that its faults stay its own."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from sidecar.authn.base import ABSTAINED, Abstained, Accepted, Authenticator, Outcome, Rejected
from sidecar.authn.chain import Chain, Denied
from sidecar.authn.isolation import IsolatedAuthenticator
from sidecar.authn.support.credential_cache import CredentialCache
from sidecar.concurrency import settled
from sidecar.errors import Cause, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.request import RequestContext
from sidecar.metrics import Metrics
from tests.support.hand_clock import HandClock
from tests.support.members import asked, surroundings

REFUSAL = Refused(Reason.TOKEN_INVALID, Cause.SIGNATURE)
BEARER = asked("Bearer opaque")


def accepted(name: str = "alice") -> Accepted:
    return Accepted(Actor(ActorType.USER, name, provider="says it", authenticator="says it"))


class Does(Authenticator):
    """A member that does one thing."""

    def __init__(self, what: Callable[[], Awaitable[Any] | Any], name: str = "one") -> None:
        super().__init__(None, surroundings(name))
        self.what = what
        self.asked = 0

    async def authenticate(self, view: RequestContext) -> Outcome:
        self.asked += 1
        outcome = self.what()
        answer: Outcome = await outcome if isinstance(outcome, Awaitable) else outcome
        return answer


def raises(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def guarded(what: Callable[[], Any], name: str = "one", timeout: float = 5.0) -> IsolatedAuthenticator:
    return IsolatedAuthenticator(Does(what, name), timeout=timeout, provider=name)


def chain(*members: Any, skippable: tuple[str, ...] = (), metrics: Metrics | None = None) -> Chain:
    return Chain(members, (), metrics or Metrics(), skippable=skippable)


async def failure(of: Chain) -> Any:
    verdict = await settled(of.authenticate(BEARER))
    assert isinstance(verdict, Denied)
    return verdict.failure


async def test_the_first_that_recognises_the_credential_decides() -> None:
    last = Does(accepted, "last")
    asks = chain(Does(lambda: ABSTAINED), Does(lambda: Rejected(REFUSAL), "two"), last)
    verdict = await settled(asks.authenticate(BEARER))
    assert isinstance(verdict, Denied)
    assert verdict.failure is REFUSAL
    assert verdict.authenticator == "two"
    assert not last.asked


async def test_an_unrecognised_credential_is_refused_with_the_last_hint() -> None:
    assert await failure(chain(Does(lambda: Abstained(REFUSAL)), Does(lambda: ABSTAINED, "two"))) is REFUSAL


@pytest.mark.parametrize("error", [RuntimeError("x"), TimeoutError(), SystemExit(1), asyncio.CancelledError()])
async def test_a_member_that_raises_is_broken(error: BaseException) -> None:
    """503 for what it had to decide, whatever it raises; the process lives."""
    metrics = Metrics()
    failed = await failure(chain(guarded(raises(error)), metrics=metrics))
    assert isinstance(failed, Unavailable)
    assert failed.cause is Cause.MEMBER_BROKEN
    assert metrics.authentications.child("one", "", "broken", "member_broken").value == 1


NONSENSE: Any = None


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        True,
        "alice",
        Accepted,
        Accepted(NONSENSE),
        Rejected(NONSENSE),
        Abstained(cast("Any", "not mine")),
        Rejected(cast("Any", RuntimeError())),
    ],
    ids=map(str, range(8)),
)
async def test_a_member_that_answers_nonsense_is_broken(nonsense: object) -> None:
    assert (await failure(chain(guarded(lambda: nonsense)))).cause is Cause.MEMBER_BROKEN
    member = Does(accepted)
    member.recall = lambda _: nonsense  # type: ignore[method-assign,assignment,return-value] # what a plugin may do
    assert IsolatedAuthenticator(member, timeout=1.0).recall(BEARER) is None


async def test_a_member_that_hangs_is_broken_even_when_it_ignores_being_cancelled() -> None:
    free = asyncio.Event()

    async def stubborn() -> Outcome:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue
        return accepted()

    failed = await failure(chain(guarded(stubborn, timeout=0.02)))
    assert failed.cause is Cause.MEMBER_BROKEN
    free.set()


async def test_what_hangs_is_not_asked_without_end() -> None:
    """A member that never comes back must not collect tasks for ever."""
    free = asyncio.Event()

    async def stubborn() -> Outcome:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue
        return ABSTAINED

    member = Does(stubborn)
    guard = IsolatedAuthenticator(member, timeout=0.001)
    for _ in range(70):
        with pytest.raises(Unavailable):
            await settled(guard.authenticate(BEARER))
    assert member.asked == 64
    free.set()


async def test_a_refusal_that_is_raised_is_a_refusal() -> None:
    assert await failure(chain(guarded(raises(REFUSAL)))) is REFUSAL


async def test_a_broken_member_ends_the_request() -> None:
    after = Does(accepted, "after")
    assert isinstance(await failure(chain(guarded(raises(OSError())), after)), Unavailable)
    assert not after.asked


async def test_a_skippable_broken_member_lets_those_after_it_decide() -> None:
    asks = chain(guarded(raises(OSError())), Does(accepted, "after"), skippable=("one",))
    verdict = await settled(asks.authenticate(BEARER))
    assert isinstance(verdict, Accepted)


async def test_a_skipped_member_might_have_known_the_credential() -> None:
    """If no later authenticator recognises the credential, it is not rejected as bad."""
    failed = await failure(chain(guarded(raises(OSError())), Does(lambda: ABSTAINED, "after"), skippable=("one",)))
    assert isinstance(failed, Unavailable)


class Remembers(Does):
    """A member with a memory."""

    def __init__(self, what: Callable[[], Awaitable[Any] | Any], name: str, clock: HandClock) -> None:
        super().__init__(what, name)
        self.memory = CredentialCache(clock)

    def recall(self, view: RequestContext) -> Accepted | None:
        return self.memory.get(self.memory.digest(view.credential.value))

    async def authenticate(self, view: RequestContext) -> Outcome:
        outcome = await super().authenticate(view)
        if isinstance(outcome, Accepted):
            self.memory.put(self.memory.digest(view.credential.value), outcome, 600.0)
        return outcome


async def test_what_is_accepted_past_a_broken_member_is_recalled_for_a_moment_only() -> None:
    """Once it is back the broken one is asked: it may know the credential to be a bad one."""
    clock = HandClock()
    first = Does(raises(OSError()))
    after = Remembers(accepted, "after", clock)
    of = Chain((IsolatedAuthenticator(first, timeout=5.0), after), (), Metrics(), skippable=("one",), clock=clock)
    assert isinstance(await settled(of.authenticate(BEARER)), Accepted)
    assert isinstance(after.recall(BEARER), Accepted)
    clock.advance(5)
    assert after.recall(BEARER) is None
    first.what = lambda: Rejected(REFUSAL)
    assert await failure(of) is REFUSAL


async def test_what_has_to_be_asked_again_sooner_is() -> None:
    clock = HandClock()
    brief = accepted()
    brief.revalidate_at = clock.now() + 1
    after = Remembers(lambda: brief, "after", clock)
    of = Chain((guarded(raises(OSError())), after), (), Metrics(), skippable=("one",), clock=clock)
    await settled(of.authenticate(BEARER))
    clock.advance(1)
    assert after.recall(BEARER) is None


async def test_a_plugin_behind_a_skippable_member_is_asked_each_time() -> None:
    """Its own cache cannot be bounded here."""
    plugin = Remembers(accepted, "plugin", HandClock())
    assert isinstance(await settled(plugin.authenticate(BEARER)), Accepted)
    assert IsolatedAuthenticator(plugin, timeout=1.0).recall(BEARER)
    assert IsolatedAuthenticator(plugin, timeout=1.0, recalls=False).recall(BEARER) is None


async def test_who_vouches_is_named_by_the_chain() -> None:
    """Both names label metrics; a plugin does not choose them."""
    verdict = await settled(chain(guarded(accepted)).authenticate(BEARER))
    assert isinstance(verdict, Accepted)
    assert (verdict.actor.authenticator, verdict.actor.provider) == ("one", "one")


async def test_a_memory_that_fails_is_no_memory() -> None:
    member = Does(accepted)
    member.recall = lambda view: raises(RuntimeError())()  # type: ignore[method-assign] # what a plugin may do
    assert IsolatedAuthenticator(member, timeout=1.0).recall(BEARER) is None


@pytest.mark.parametrize("error", [SystemExit(), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_a_memory_cannot_end_the_process_or_the_request(error: BaseException) -> None:
    member = Does(accepted)
    member.recall = lambda view: raises(error)()  # type: ignore[method-assign] # what a plugin may do
    assert IsolatedAuthenticator(member, timeout=1.0).recall(BEARER) is None


class _Dead:
    live = False


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"expires_at": 1.0}, Cause.EXPIRED),
        ({"not_before": 1e12}, Cause.NOT_YET_VALID),
        ({"key": _Dead()}, Cause.KEY_UNUSABLE),
        ({"expires_at": "never"}, Cause.MEMBER_BROKEN),
    ],
)
async def test_what_a_plugin_accepts_is_refused_when_it_is_not_valid_now(changes: dict[str, Any], cause: Cause) -> None:
    def outdated() -> Accepted:
        return Accepted(Actor(ActorType.USER, "alice"), **changes)

    assert (await failure(chain(guarded(outdated)))).cause is cause
    member = Does(outdated)
    member.recall = lambda view: outdated()  # type: ignore[method-assign] # what a plugin may do
    assert IsolatedAuthenticator(member, timeout=1.0).recall(BEARER) is None


async def test_a_future_that_requests_share_survives_the_end_of_one() -> None:
    shared: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    member = Does(accepted)
    member.authenticate = lambda view: shared  # type: ignore[method-assign, assignment, return-value]
    isolated = IsolatedAuthenticator(member, timeout=5.0)
    first, second = (asyncio.create_task(settled(isolated.authenticate(BEARER))) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait({first})
    shared.set_result(accepted())
    assert isinstance(await second, Accepted)


async def test_every_credential_header_counts() -> None:
    """Authorization and the headers that members declare: one written rule for all of them."""
    both = Chain((), (), Metrics(), headers=("X-Api-Key",))
    assert both.count_credentials(asked()) == 0
    assert both.count_credentials(asked(**{"x-api-key": "k"})) == 1
    assert both.count_credentials(asked("Bearer t", **{"X-API-KEY": "k"})) == 2
    assert chain().count_credentials(asked("Bearer t", **{"X-API-KEY": "k"})) == 1
    assert chain().count_credentials(asked("Bearer t", "Bearer u")) == 2
