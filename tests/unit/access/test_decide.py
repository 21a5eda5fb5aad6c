"""The one decision, with authenticators that return fixed outcomes."""

import asyncio
from typing import Any

import pytest
from multidict import CIMultiDict

from sidecar.access.conditions import read_conditions
from sidecar.access.decide import Allow, Decider, Deny
from sidecar.access.rules import Rules
from sidecar.authn.base import ABSTAINED, Abstained, Accepted, AuthenticatorProtocol, Outcome, Rejected
from sidecar.authn.chain import Chain
from sidecar.budget import Budget
from sidecar.concurrency import settled
from sidecar.config.settings import RuleSettings
from sidecar.errors import Cause, Failed, Reason, Refused, Unavailable
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.request import RequestContext, read_credential
from sidecar.metrics import Metrics

ALICE = Actor(ActorType.USER, "alice", groups=("dev",), provider="corp", authenticator="told")
RULES = (
    {"path": "/public", "access": "public"},
    {"path": "/guest", "access": "guest"},
    {"path": "/admin", "require": {"groups": ["admins"]}},
)


class Told:
    """An authenticator that says what the credential's value tells it to."""

    name = "told"

    def __init__(self) -> None:
        self.known: Accepted | None = None
        self.asked = 0

    def recall(self, view: RequestContext) -> Accepted | None:
        return self.known

    async def authenticate(self, view: RequestContext) -> Outcome:
        self.asked += 1
        match view.credential.value:
            case "good":
                return accepted()
            case "bad":
                return Rejected(Refused(Reason.TOKEN_INVALID, Cause.SIGNATURE), "corp")
            case "broken":
                raise Unavailable(Cause.KEYS_UNAVAILABLE)
            case "slow":
                await asyncio.Event().wait()
            case "other":
                return Abstained(Refused(Reason.TOKEN_INVALID, Cause.ISSUER))
        return ABSTAINED


class Gate:
    """A gate that can be shut."""

    failure: Failed | None = None

    def check(self, accepted: Accepted) -> Failed | None:
        return self.failure


def accepted() -> Accepted:
    return Accepted(ALICE, key=None)  # type: ignore[arg-type] # no gate here looks at the key


def view(target: str | None, *authorization: str, method: str = "GET", **more: Any) -> RequestContext:
    headers: CIMultiDict[str] = CIMultiDict([("Authorization", line) for line in authorization])
    return RequestContext(method, target, headers, read_credential(headers), **more)


def decider(
    *members: AuthenticatorProtocol,
    gate: Gate | None = None,
    deadline: float = 5.0,
    preflight: bool = False,
    undecided: Budget | None = None,
) -> Decider:
    chain = Chain(members or (Told(),), (gate,) if gate else (), Metrics())
    rules = Rules(RuleSettings.model_validate(rule) for rule in RULES)
    return Decider(rules, chain, deadline=deadline, public_preflight=preflight, undecided=undecided)


async def reason(of: Decider, asked: RequestContext) -> str:
    verdict = await settled(of.decide(asked))
    return verdict.failure.reason.value if isinstance(verdict, Deny) else "allow"


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        ((), "token_missing"),
        (("",), "token_missing"),
        (("Bearer good",), "allow"),
        (("bEaReR   good",), "allow"),
        (("Bearer bad",), "token_invalid"),
        (("Bearer broken",), "unavailable"),
        (("Bearer other",), "token_invalid"),
        (("Bearer",), "token_malformed"),
        (("Bearer unheard",), "token_malformed"),
        (("Negotiate unheard",), "credentials_invalid"),
        (("Bearer good", "Bearer good"), "credentials_ambiguous"),
    ],
)
@pytest.mark.parametrize("target", ["/", None])
async def test_authenticated_paths(target: str | None, authorization: tuple[str, ...], expected: str) -> None:
    """Accept, reject, abstain and broken end differently; nothing but acceptance passes."""
    assert await reason(decider(), view(target, *authorization)) == expected


@pytest.mark.parametrize("authorization", [(), ("Bearer bad",), ("Bearer broken",), ("X y",), ("Bearer a", "Bearer b")])
async def test_public_paths_are_never_refused(authorization: tuple[str, ...]) -> None:
    """A bad, missing, repeated or uncheckable credential gives no Actor, and no refusal."""
    verdict = await settled(decider().decide(view("/public", *authorization)))
    assert verdict == Allow(None, withholds_credentials=bool(authorization))


async def test_public_paths_still_identify() -> None:
    verdict = await settled(decider().decide(view("/public", "Bearer good")))
    assert isinstance(verdict, Allow)
    assert verdict.accepted is not None
    assert verdict.accepted.actor is ALICE


async def test_guest_means_nothing_was_presented() -> None:
    """A bad credential never slides on to guest."""
    assert await reason(decider(), view("/guest")) == "allow"
    assert await reason(decider(), view("/guest", "Bearer bad")) == "token_invalid"
    assert await reason(decider(), view("/guest", "Bearer broken")) == "unavailable"
    assert await reason(decider(), view("/guest", "Bearer")) == "token_malformed"


async def test_requirements_are_about_the_caller() -> None:
    denied = await settled(decider().decide(view("/admin", "Bearer good")))
    assert isinstance(denied, Deny)
    assert (denied.failure.reason, denied.failure.status) == (Reason.FORBIDDEN, 403)
    assert denied.failure.cause is Cause.RULE_GROUPS
    assert denied.failure.message == "Forbidden: this requires the group admins"


@pytest.mark.parametrize("method", ["DELETE", "PUT"])
async def test_the_method_that_a_header_names_is_judged_too(method: str) -> None:
    """The stricter verdict of both methods counts, whichever of them is written in the request line."""
    rules = Rules([RuleSettings(path="/**", methods=("GET",), access="public")])
    asked = Decider(rules, Chain((Told(),), (), Metrics()), deadline=5.0, public_preflight=True)
    assert await reason(asked, view("/x")) == "allow"
    assert await reason(asked, view("/x", other_methods=(method,))) == "token_missing"
    assert await reason(asked, view("/x", method=method, other_methods=("GET",))) == "token_missing"


async def test_conditions_of_the_question_join_the_rules() -> None:
    """On a public path too, where a caller without credentials is then asked for them."""
    conditions = read_conditions("?allowed_groups=dev")
    assert await reason(decider(), view("/public", "Bearer good", conditions=conditions)) == "allow"
    assert await reason(decider(), view("/public", conditions=conditions)) == "token_missing"
    assert await reason(decider(), view("/guest", conditions=conditions)) == "token_missing"
    assert await reason(decider(), view(None, "Bearer good", conditions=conditions)) == "allow"
    others = read_conditions("?allowed_groups=ops")
    assert await reason(decider(), view("/public", "Bearer good", conditions=others)) == "forbidden"
    assert await reason(decider(), view("/admin", "Bearer good", conditions=conditions)) == "forbidden"


async def test_without_a_known_target_no_rule_is_read() -> None:
    assert await reason(decider(), view(None, "Bearer good")) == "allow"
    assert await reason(decider(), view(None)) == "token_missing"


async def test_first_authenticator_that_recognises_decides() -> None:
    """A rejection ends the chain; an abstention passes to the next authenticator."""
    first, second = Told(), Told()
    assert await reason(decider(first, second), view("/", "Bearer bad")) == "token_invalid"
    assert (first.asked, second.asked) == (1, 0)
    assert await reason(decider(first, second), view("/", "Bearer unheard")) == "token_malformed"
    assert second.asked == 1


async def test_gates_are_asked_for_known_credentials_too() -> None:
    """A cached fact is no verdict."""
    member, gate = Told(), Gate()
    asked = decider(member, gate=gate)
    member.known = accepted()
    assert await reason(asked, view("/", "Bearer x")) == "allow"
    gate.failure = Refused(Reason.TOKEN_REVOKED)
    assert await reason(asked, view("/", "Bearer x")) == "token_revoked"
    member.known = None
    assert await reason(asked, view("/", "Bearer good")) == "token_revoked"


async def test_a_decision_has_a_deadline() -> None:
    denied = await settled(decider(deadline=0.01).decide(view("/", "Bearer slow")))
    assert isinstance(denied, Deny)
    assert denied.failure.cause is Cause.DEADLINE
    assert denied.failure.status == 503


class Prompt(Told):
    """One that can tell a good credential without waiting."""

    def authenticate_at_once(self, view: RequestContext) -> Accepted | Abstained | None:
        return accepted() if view.credential.value == "good" else None


async def test_so_many_may_wait_for_a_verdict_and_who_need_not_wait_is_not_refused_for_it() -> None:
    budget = Budget(2)
    judge = decider(Prompt(), undecided=budget)
    waiting = [asyncio.create_task(settled(judge.decide(view("/", "Bearer slow")))) for _ in range(2)]
    await asyncio.sleep(0)
    assert budget.is_full
    for credential, expected in (("good", "allow"), ("bad", "token_invalid"), ("slow", "unavailable")):
        assert await reason(judge, view("/", f"Bearer {credential}")) == expected
    denied = await settled(judge.decide(view("/", "Bearer slow")))
    assert isinstance(denied, Deny)
    assert isinstance(denied.failure, Unavailable)
    assert (denied.failure.cause, denied.failure.retry_after) == (Cause.OVERLOAD, 1)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert budget.taken == 0
    assert await reason(judge, view("/", "Bearer bad")) == "token_invalid"


async def test_preflights_pass_only_where_configured() -> None:
    asked = view("/", method="OPTIONS", preflight=True)
    assert await reason(decider(preflight=True), asked) == "allow"
    assert await reason(decider(), asked) == "token_missing"
    assert await reason(decider(preflight=True), view("/", method="OPTIONS")) == "token_missing"


async def test_paths_that_must_not_be_read_are_refused_before_the_chain_runs() -> None:
    member = Told()
    with pytest.raises(Refused):
        await settled(decider(member).decide(view("/public/../admin", "Bearer good")))
    assert member.asked == 0
