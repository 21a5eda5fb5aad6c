"""What is asked of every accepted credential on every use."""

from dataclasses import replace

import pytest

from sidecar.authn.base import Accepted
from sidecar.authn.gates import RecordGate
from sidecar.errors import Cause, Failed, Unavailable
from sidecar.identity.actor import Actor, ActorType
from sidecar.tokens.records import TokenKind, TokenRecord
from tests.support import forge

RECORD = TokenRecord("r1", "hash", "etl", TokenKind.BOT, "etl", ActorType.SERVICE, 0.0)


class Records:
    def __init__(self, record: TokenRecord | None = None, age: float = 0.0) -> None:
        self.record = record
        self.age = age

    def status(self, token_id: str) -> TokenRecord | None:
        return self.record if token_id == "r1" else None

    def is_bot_name(self, name: str) -> bool:
        return name == "etl"


def verdict(records: Records, accepted: Accepted, *, deny: bool = True) -> Failed | None:
    return RecordGate(records, max_staleness=600, deny_when_stale=deny).check(accepted)


def accepted(name: str = "ann", *, record_id: str | None = None, is_own: bool = False) -> Accepted:
    actor = Actor(ActorType.USER, name)
    return Accepted(actor, forge.public(forge.RSA, "RS256"), record_id=record_id, is_own=is_own)


OWN = accepted("etl", record_id="r1", is_own=True)


def test_a_standing_record_lets_its_token_pass() -> None:
    assert verdict(Records(RECORD), OWN) is None


@pytest.mark.parametrize(
    ("record", "cause"), [(None, Cause.NOT_ON_RECORD), (replace(RECORD, revoked_at=1.0), Cause.RECORD_REVOKED)]
)
def test_a_record_that_is_gone_or_revoked_ends_its_token(record: TokenRecord | None, cause: Cause) -> None:
    failure = verdict(Records(record), OWN)
    assert failure is not None
    assert (failure.status, failure.cause) == (401, cause)


def test_an_old_picture_is_broken_unless_configured_otherwise() -> None:
    stale = Records(RECORD, age=601)
    assert isinstance(verdict(stale, OWN), Unavailable)
    assert verdict(stale, OWN, deny=False) is None
    assert verdict(Records(RECORD, age=599), OWN) is None
    assert verdict(stale, accepted()) is None, "tokens without a record do not depend on it"


def test_revocation_counts_however_old_the_picture_is() -> None:
    failure = verdict(Records(replace(RECORD, revoked_at=1.0), age=601), OWN, deny=False)
    assert failure is not None
    assert failure.cause is Cause.RECORD_REVOKED


def test_nobody_elses_token_passes_under_a_bots_name() -> None:
    failure = verdict(Records(), accepted("etl"))
    assert failure is not None
    assert (failure.status, failure.cause) == (401, Cause.RESERVED_NAME)
    assert verdict(Records(), accepted("etl", is_own=True)) is None


def test_who_is_a_bot_must_be_known_before_anybody_passes_as_none() -> None:
    """Until the records have been read once, nobody can say whose names are taken."""
    never_read = Records(age=float("inf"))
    assert isinstance(verdict(never_read, accepted()), Unavailable)
    assert verdict(never_read, accepted(), deny=False) is None
    assert verdict(never_read, accepted(is_own=True)) is None
