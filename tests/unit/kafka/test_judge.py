"""The decision on a batch of records."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from sidecar.access.rules import Requirement
from sidecar.authn.base import Accepted
from sidecar.clock import CheckedClock
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.request import Credential, Scheme
from sidecar.kafka import judge as judge_module
from sidecar.kafka.judge import Judge, RecordClock, RecordRules
from sidecar.kafka.records import Record, RecordOrigin, headers_unreadable
from tests.support.hand_clock import HandClock

ALICE = Accepted(Actor(ActorType.USER, "alice", groups=("writers",)))
ALL = RecordRules(None, allows=True)


def record(value: str = "t", *, timestamp: float = 0.0, broker: bool = False, unreadable: Any = None) -> Record:
    credential = Credential(Scheme.BEARER, value, "Bearer")
    return Record(RecordOrigin("in", 0, 0), None, None, int(timestamp * 1000), broker, [], credential, unreadable)


def judge(authenticate: Any, rules: RecordRules = ALL, clock: CheckedClock | None = None, max_lag: float = 60) -> Judge:
    return Judge(authenticate, rules, clock or CheckedClock(HandClock()), max_lag=max_lag)


async def test_verdicts_are_in_the_order_of_the_records() -> None:
    """Whether they had to be waited for or not."""

    async def later(seconds: float, outcome: Accepted | Failed) -> Accepted | Failed:
        await asyncio.sleep(seconds)
        return outcome

    refused = Refused(Reason.TOKEN_INVALID)

    def authenticate(credential: Credential) -> Accepted | Failed | Awaitable[Accepted | Failed]:
        if credential.value == "now":
            return ALICE
        return later(0.02, refused) if credential.value == "slow" else later(0.0, ALICE)

    found = await judge(authenticate).decide([record(value) for value in ("slow", "now", "soon", "now", "slow")])
    assert [one.failure for one in found] == [refused, None, None, None, refused]


async def test_what_cannot_be_decided_in_time_is_not_refused(monkeypatch: Any) -> None:
    """It is undecided, so that the partition stops."""
    monkeypatch.setattr(judge_module, "_BATCH_TIMEOUT", 0.05)

    async def never() -> Accepted:
        await asyncio.Event().wait()
        return ALICE

    found = await judge(lambda _: never()).decide([record() for _ in range(40)])
    assert {type(one.failure) for one in found} == {Unavailable}
    assert {one.failure.cause for one in found if one.failure} == {Cause.DEADLINE}


async def test_unreadable_headers_are_refused_without_asking() -> None:
    found = await judge(lambda _: ALICE).decide([record(unreadable=headers_unreadable())])
    assert found[0].failure is not None
    assert found[0].failure.reason is Reason.REQUEST_INVALID


async def test_rules_decide_on_accepted_actors() -> None:
    """The Actor of a refused record is known, its record is not accepted."""
    writers = Requirement(frozenset({"writers"}), frozenset(), frozenset(), frozenset(), admin=False)
    admins = Requirement(frozenset(), frozenset(), frozenset(), frozenset(), admin=True)
    for rules, cause in (
        (ALL, None),
        (RecordRules(None, allows=False), Cause.RULE),
        (RecordRules((writers,), allows=False), None),
        (RecordRules((writers, admins), allows=False), Cause.RULE_ADMIN),
    ):
        (found,) = await judge(lambda _: ALICE, rules).decide([record()])
        assert found.actor is ALICE.actor
        assert (found.failure and found.failure.cause) == cause


async def test_the_time_of_a_record_counts_only_if_the_broker_has_set_it_lately() -> None:
    """Also for a decision that continues after waiting, and never for the next record."""
    hand = HandClock()
    clock = CheckedClock(hand)
    of_record, now = RecordClock(clock), hand.now()
    seen: list[float] = []

    def authenticate(credential: Credential) -> Any:
        async def wait() -> Accepted:
            await asyncio.sleep(0)
            seen.append(of_record.latest())
            assert of_record.earliest() == of_record.latest()
            return ALICE

        if credential.value == "wait":
            return wait()
        seen.append(of_record.latest())
        return ALICE

    records = [
        record(timestamp=now - 30, broker=True),
        record(timestamp=now - 30, broker=False),
        record(timestamp=now - 61, broker=True),
        record(timestamp=now + 5, broker=True),
    ]
    await judge(authenticate, clock=clock).decide(records)
    assert [round(one - now) for one in seen] == [-30, 0, 0, 0]
    seen.clear()
    await judge(authenticate, clock=clock).decide(
        [
            record("wait", timestamp=now - 10, broker=True),
            record("wait", timestamp=now - 20, broker=True),
            record("wait"),
        ]
    )
    assert [round(one - now) for one in seen] == [-10, -20, 0]
    assert of_record.latest() == now
