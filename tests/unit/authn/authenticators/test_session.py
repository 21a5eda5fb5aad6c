"""What a session is worth under the configuration in use."""

from dataclasses import replace

import pytest

from sidecar.authn.authenticators.session import SessionAuthenticator, SessionPolicy
from sidecar.authn.base import Accepted
from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import PrincipalPolicy
from sidecar.metrics import Metrics
from sidecar.sessions.cross_site import CrossSiteGuard
from sidecar.sessions.service import Session
from sidecar.store.replica.revocation_list import RevocationList
from sidecar.store.revocation_entry import Scope, make_entry
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from tests.support.hand_clock import HandClock
from tests.support.memory_store import MemoryStore
from tests.unit.sessions.test_service import ALICE, CONTENT, secret, sessions_of

PRINCIPAL = PrincipalPolicy("corp", (ClaimPath("preferred_username"),))
POLICY = SessionPolicy(PRINCIPAL, lambda issuer: issuer == "https://idp")
AHEAD = 28.0


def authenticator(policy: SessionPolicy = POLICY) -> SessionAuthenticator:
    clock = HandClock()
    sessions, _ = sessions_of(MemoryStore(), clock)
    cache = VerifiedCache[Accepted](10, Metrics())
    return SessionAuthenticator(sessions, {"corp": policy}, CrossSiteGuard(frozenset()), cache, clock)


async def session_of(clock: HandClock, *, ahead: float = 0.0) -> Session:
    """A session that begins now, of a provider whose clock is ``ahead``."""
    sessions, _ = sessions_of(MemoryStore(), clock)
    await sessions.create(secret(1), replace(CONTENT, issued_at=clock.now() + ahead, sid="idp-1"), ALICE)
    return await sessions.find(secret(1))


async def test_person_is_accepted_until_the_end_of_the_session() -> None:
    session = replace(await session_of(HandClock()), expires_at=5.0)
    accepted = authenticator().accepted(session)
    assert (accepted.expires_at, accepted.actor.expires_at, accepted.actor.id) == (5.0, 5.0, "alice")


@pytest.mark.parametrize(
    ("policy", "cause"),
    [
        (replace(POLICY, is_issuer=lambda issuer: issuer == "https://other"), Cause.ISSUER),
        (
            replace(POLICY, required_claims=((ClaimPath("preferred_username"), frozenset({"bob"})),)),
            Cause.REQUIRED_CLAIM,
        ),
        (replace(POLICY, required_claims=((ClaimPath("groups"), frozenset({"g"})),)), Cause.REQUIRED_CLAIM),
    ],
)
async def test_session_that_could_not_begin_now_has_ended(policy: SessionPolicy, cause: Cause) -> None:
    session = await session_of(HandClock())
    with pytest.raises(Refused) as caught:
        authenticator(policy).accepted(session)
    assert (caught.value.reason, caught.value.cause) == (Reason.SESSION_ENDED, cause)


@pytest.mark.parametrize(
    ("scope", "issuer", "name"),
    [(Scope.SUBJECT, "https://idp", "a-1"), (Scope.ISSUER, "https://idp", ""), (Scope.ACTOR, "", "USER:alice")],
)
async def test_revocation_ends_sessions_of_a_provider_whose_clock_is_ahead(
    scope: Scope, issuer: str, name: str
) -> None:
    clock = HandClock()
    keys = authenticator().accepted(await session_of(clock, ahead=AHEAD)).revocation_keys
    assert keys is not None
    for cut_off, found in ((clock.now(), None), (clock.now() + 0.5, scope)):
        entries = RevocationList()
        entries.add(make_entry(scope, issuer, name, clock.now(), issued_before=cut_off))
        assert entries.match(keys, clock.now() + 1) is found


async def test_logout_at_the_provider_is_compared_by_its_clock() -> None:
    clock = HandClock()
    keys = authenticator().accepted(await session_of(clock, ahead=AHEAD)).revocation_keys
    assert keys is not None
    for cut_off, found in ((AHEAD, None), (AHEAD + 1, Scope.SUBJECT_SESSIONS)):
        entries = RevocationList()
        entries.add(
            make_entry(Scope.SUBJECT_SESSIONS, "https://idp", "a-1", clock.now(), issued_before=clock.now() + cut_off)
        )
        assert entries.match(keys, clock.now() + 1) is found
