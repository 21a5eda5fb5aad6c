"""Who is the guest, and on which paths a guest is never allowed."""

from dataclasses import replace
from typing import Any

import pytest

from sidecar.access.decide import Allow, Decider, Verdict
from sidecar.access.guests import GuestPolicy
from sidecar.access.rules import Rules
from sidecar.authn.base import ABSTAINED, Authenticator, AuthenticatorProtocol, Outcome, Rejected
from sidecar.authn.chain import Chain
from sidecar.authn.guest import GuestOptions
from sidecar.concurrency import settled
from sidecar.config.settings import RuleSettings
from sidecar.errors import Cause, Reason, Refused, Unavailable
from sidecar.identity.request import RequestContext
from sidecar.metrics import Metrics
from tests.support.members import asked, surroundings

RULES = [
    {"path": "/open/**", "access": "public"},
    {"path": "/lobby/**", "access": "guest"},
    {"path": "/staff/**", "access": "authenticated"},
    {"path": "/admins/**", "require": {"groups": ["admins"]}},
]


class Tells(Authenticator):
    """Gives one outcome for every credential."""

    def __init__(self, outcome: Outcome | Unavailable) -> None:
        super().__init__(None, surroundings("tells"))
        self.outcome = outcome

    async def authenticate(self, view: RequestContext) -> Outcome:
        if isinstance(self.outcome, Unavailable):
            raise self.outcome
        return self.outcome


def decider(
    *authenticators: AuthenticatorProtocol, skippable: tuple[str, ...] = (), written: Any = RULES, **options: Any
) -> Decider:
    rules = Rules(RuleSettings.model_validate(rule) for rule in written)
    chain = Chain(authenticators, (), Metrics(), skippable=skippable)
    guests = GuestPolicy(GuestOptions.model_validate(options), "guest")
    return Decider(rules, chain, deadline=5.0, public_preflight=False, guests=guests)


async def who(of: Decider, view: RequestContext) -> str:
    """Id of the Actor, ``none``, or the reason of the refusal."""
    verdict: Verdict = await settled(of.decide(view))
    if isinstance(verdict, Allow):
        return verdict.accepted.actor.id if verdict.accepted else "none"
    return verdict.failure.reason.value


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/anything", "guest"),
        ("/lobby/x", "guest"),
        ("/open/x", "none"),
        ("/staff/x", "token_missing"),
        ("/admins/x", "token_missing"),
        # two readings: the stricter one holds
        ("/lobby//x", "token_missing"),
        ("/lobby/a%2fb", "token_missing"),
        ("/lobby/x;a=b", "token_missing"),
        (None, "token_missing"),
    ],
)
async def test_nothing_presented(target: str | None, expected: str) -> None:
    assert await who(decider(), asked(target=target)) == expected


async def test_a_written_rule_keeps_the_guest_out_by_whatever_spelling() -> None:
    """Neither a final slash nor a method in a header makes a path one that no rule was written for."""
    of = decider(
        written=[{"path": "/desk"}, {"path": "/tool", "methods": ["DELETE"]}, {"path": "/open", "access": "public"}]
    )
    assert await who(of, asked(target="/elsewhere/")) == "guest"
    assert await who(of, asked(target="/open/")) == "guest"
    for target in ("/desk", "/desk/", "/desk;x/", "/desk%2f"):
        assert await who(of, asked(target=target)) == "token_missing"
    assert await who(of, asked(target="/tool")) == "guest"
    assert await who(of, replace(asked(target="/tool"), other_methods=("DELETE",))) == "token_missing"
    limited = decider(written=[], methods=["GET"])
    assert await who(limited, asked(target="/x")) == "guest"
    assert await who(limited, replace(asked(target="/x"), other_methods=("POST",))) == "token_missing"


async def test_a_limit_by_path_and_method() -> None:
    of = decider(paths=["/docs/**"], methods=["GET", "HEAD"], guestUser="Visitor")
    assert await who(of, asked(target="/docs/a")) == "visitor"
    assert await who(of, asked(target="/docs/a", method="POST")) == "token_missing"
    assert await who(of, asked(target="/docsy")) == "token_missing"
    assert await who(of, asked(target="/lobby/x")) == "none"


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (ABSTAINED, "token_malformed"),
        (Rejected(Refused(Reason.TOKEN_EXPIRED, Cause.EXPIRED)), "token_expired"),
        (Unavailable(Cause.KEYS_UNAVAILABLE), "unavailable"),
    ],
)
@pytest.mark.parametrize("skippable", [(), ("tells",)])
@pytest.mark.parametrize("target", ["/anything", "/lobby/x"])
async def test_a_credential_that_does_not_pass_is_never_the_guest(
    outcome: Any, expected: str, skippable: tuple[str, ...], target: str
) -> None:
    of = decider(Tells(outcome), skippable=skippable)
    assert await who(of, asked("Bearer something", target=target)) == expected
    assert await who(of, asked("Bearer a", "Bearer b", target=target)) == "credentials_ambiguous"


async def test_guest_credentials_do_not_exist() -> None:
    """DataHub's literal credential of the guest is none here."""
    assert await who(decider(), asked("Basic guest", target="/lobby/x")) == "credentials_invalid"
