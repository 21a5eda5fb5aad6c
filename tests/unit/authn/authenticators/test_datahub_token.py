"""Who a DataHub token makes of its bearer, and which of them need a record here."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from multidict import CIMultiDict

from sidecar.authn.authenticators.datahub_token import (
    DataHubTokenAuthenticator,
    DataHubTokenPolicy,
    check_shared_secrets,
)
from sidecar.authn.authenticators.jwt import Issuer, JwtAuthenticator, ProviderPrincipalMapper
from sidecar.authn.base import Abstained, Accepted, AuthenticatorProtocol, Rejected
from sidecar.authn.chain import Chain, Denied
from sidecar.concurrency import settled
from sidecar.config.settings import AuthorizerConfiguration
from sidecar.errors import Cause, Misconfigured, Reason, Unavailable
from sidecar.identity.actor import ActorType
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import PrincipalPolicy
from sidecar.identity.request import RequestContext, read_credential
from sidecar.keys.keyset import VerificationKey
from sidecar.metrics import Metrics
from sidecar.secrets.value import Secret
from sidecar.store.record import Owner, TokenKind, TokenRecord
from sidecar.store.replica.revocation_list import RevocationList
from sidecar.store.revocation_entry import Scope, make_entry
from sidecar.tokens.datahub import datahub_hash
from sidecar.tokens.jwt.policy import admin_names
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.tokens.jwt.verify import ValidationPolicy
from tests.support import forge
from tests.support.datahub import KEY, NOW, PUBLISHED_KEY, PUBLISHED_SALT, SALT, token
from tests.support.hand_clock import HandClock

OWN_ISSUER = "open-metadata.org"
OWN = token(iss=OWN_ISSUER, actorId="ingest", jti="own-1", type="SERVICE_ACCOUNT")
RECORD = TokenRecord(
    "own-1",
    datahub_hash(OWN, SALT),
    "nightly",
    TokenKind.BOT,
    "ingest",
    ActorType.SERVICE,
    NOW - 600,
    format="datahub",
    roles=("writer",),
    is_admin=True,
    owner=Owner("https://idp.example.com", "corp", "0b1c", "alice"),
)


@dataclass
class Records:
    known: dict[str, TokenRecord] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    down: bool = False

    async def lookup(self, token_id: str) -> TokenRecord | None:
        self.asked.append(token_id)
        if self.down:
            raise Unavailable(Cause.STORE_UNAVAILABLE)
        return self.known.get(token_id)


def view(text: str, scheme: str = "Bearer") -> RequestContext:
    headers = CIMultiDict({"Authorization": f"{scheme} {text}"})
    return RequestContext("GET", "/", headers, read_credential(headers))


def authenticator(records: Records | None = None, **changes: Any) -> DataHubTokenAuthenticator:
    values = {"own_issuer": OWN_ISSUER, "reserved": frozenset({"anonymous", "__datahub_system"}), **changes}
    return DataHubTokenAuthenticator(
        DataHubTokenPolicy(KEY, SALT, records=records, **values),
        cache=VerifiedCache(10, Metrics()),
        clock=HandClock(NOW),
        max_token_bytes=16_384,
    )


async def accepted(text: str, records: Records | None = None, **changes: Any) -> Accepted:
    outcome = await settled(authenticator(records, **changes).authenticate(view(text)))
    assert isinstance(outcome, Accepted)
    return outcome


async def refusal(text: str, records: Records | None = None, **changes: Any) -> tuple[Reason, Cause]:
    outcome = await settled(authenticator(records, **changes).authenticate(view(text)))
    assert isinstance(outcome, Rejected)
    assert outcome.provider == "datahub"
    return outcome.failure.reason, outcome.failure.cause


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_token_that_datahub_minted_names_its_user(scheme: str) -> None:
    asked = view(token(actorId="Sam@x.com", type="SERVICE_ACCOUNT"), scheme)
    outcome = await settled(authenticator().authenticate(asked))
    assert isinstance(outcome, Accepted)
    actor = outcome.actor
    assert (actor.urn, actor.type, actor.provider) == ("urn:li:corpuser:Sam@x.com", ActorType.USER, "datahub")
    assert (actor.issuer, actor.token_id[-4:], actor.expires_at) == ("datahub-metadata-service", "0001", 4102444800)
    assert (outcome.expires_at, outcome.record_id, outcome.is_own) == (4102444800, None, False)


async def test_version_1_is_looked_up_nowhere_and_version_2_only_where_a_record_is_required() -> None:
    records = Records()
    session = token(type="SESSION", version="1")
    await accepted(session, records, require_record=True)
    await accepted(token(), records)
    assert records.asked == []
    assert await refusal(token(), records, require_record=True) == (Reason.TOKEN_INVALID, Cause.NOT_ON_RECORD)
    assert await refusal(token(), None, require_record=True) == (Reason.TOKEN_INVALID, Cause.NOT_ON_RECORD)
    assert await refusal(token(jti=...), records, require_record=True) == (Reason.TOKEN_INVALID, Cause.NOT_ON_RECORD)


@pytest.mark.parametrize("actor_id", ["anonymous", "__datahub_system"])
async def test_token_makes_no_caller_the_system_or_anonymous(actor_id: str) -> None:
    assert await refusal(token(actorId=actor_id)) == (Reason.PRINCIPAL_RESERVED, Cause.RESERVED_NAME)


async def test_admin_is_only_who_is_named_with_the_provider() -> None:
    names = frozenset({"datahub/root", "datahub", "sam"})
    assert (await accepted(token(actorId="root"), admin_names=names)).actor.is_admin
    for other in ("Root", "sam", "datahub"):
        assert not (await accepted(token(actorId=other), admin_names=names)).actor.is_admin


async def test_token_minted_here_is_who_its_record_says() -> None:
    outcome = await accepted(OWN, Records({"own-1": RECORD}), admin_names=frozenset({"ingest"}))
    actor = outcome.actor
    assert (actor.id, actor.type, actor.is_bot, actor.is_admin) == ("ingest", ActorType.SERVICE, True, True)
    assert not (await accepted(OWN, Records({"own-1": RECORD}))).actor.is_admin  # admin no more
    assert (actor.roles, actor.provider, actor.authenticator) == (("writer",), "own", "datahub")
    assert (outcome.record_id, outcome.is_own) == ("own-1", True)


async def test_entry_of_its_owner_concerns_a_token_minted_here() -> None:
    outcome = await accepted(OWN, Records({"own-1": RECORD}))
    assert outcome.revocation_keys is not None
    entries = RevocationList()
    entries.add(make_entry(Scope.SUBJECT, "https://idp.example.com", "0b1c", NOW, issued_before=NOW))
    assert entries.match(outcome.revocation_keys, NOW) is Scope.SUBJECT


async def test_token_without_jti_can_be_denied_by_its_digest() -> None:
    outcome = await accepted(token(jti=...))
    assert outcome.revocation_keys is not None
    assert Scope.DIGEST in {scope for scope, _, _ in outcome.revocation_keys.references}


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        (None, Cause.NOT_ON_RECORD),
        (replace(RECORD, revoked_at=NOW), Cause.RECORD_REVOKED),
        (replace(RECORD, token_hash=datahub_hash(OWN, Secret("another salt"))), Cause.RECORD_MISMATCH),
        (replace(RECORD, format="openmetadata"), Cause.RECORD_MISMATCH),
    ],
)
async def test_token_minted_here_needs_its_record_and_only_an_ended_one_is_called_revoked(
    record: TokenRecord | None, cause: Cause
) -> None:
    records = Records({"own-1": record} if record else {})
    reason = Reason.TOKEN_REVOKED if cause is Cause.RECORD_REVOKED else Reason.TOKEN_INVALID
    assert await refusal(OWN, records) == (reason, cause)


async def test_times_of_tokens_minted_here_have_a_tolerance_of_their_own() -> None:
    """DataHub's have none; those minted here may come from a replica whose clock is a little ahead."""
    changes: dict[str, Any] = {"iat": int(NOW) + 4, "nbf": int(NOW) + 4}
    ahead = token(iss=OWN_ISSUER, **changes)
    await accepted(ahead, Records(), require_own_record=False, own_early=5.0)
    assert await refusal(ahead, Records(), require_own_record=False) == (
        Reason.TOKEN_NOT_YET_VALID,
        Cause.NOT_YET_VALID,
    )
    assert (await refusal(token(**changes), Records(), own_early=5.0))[0] is Reason.TOKEN_NOT_YET_VALID


async def test_session_minted_here_needs_its_record_too() -> None:
    session = token(iss=OWN_ISSUER, type="SESSION", version="1")
    assert await refusal(session, Records()) == (Reason.TOKEN_INVALID, Cause.NOT_ON_RECORD)
    assert not (await accepted(session, Records(), require_own_record=False)).is_own


async def test_store_that_is_down_is_broken_not_refused() -> None:
    with pytest.raises(Unavailable):
        await settled(authenticator(Records(down=True)).authenticate(view(OWN)))


@pytest.mark.parametrize(
    "text",
    [
        forge.token(),
        forge.token(forge.claims(iss=OWN_ISSUER)),
        "not.a.jwt",
        "",
        token(iss="x", actorId=..., actorType=...),
    ],
)
async def test_other_tokens_are_for_others(text: str) -> None:
    assert isinstance(await settled(authenticator().authenticate(view(text))), Abstained)


async def test_other_schemes_are_for_others() -> None:
    assert isinstance(await settled(authenticator().authenticate(view(token(), "Basic"))), Abstained)


def jwt_authenticator(cache: VerifiedCache[Accepted]) -> JwtAuthenticator:
    """Knows the own issuer by a key of its own, and takes any issuer for a provider's."""

    class Keys:
        issuer = None

        def candidates(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
            return (forge.public(forge.RSA, "RS256"),)

        async def refetch(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
            return ()

    policy = PrincipalPolicy("corp", (ClaimPath("sub"),))
    corp = Issuer("corp", Keys(), ValidationPolicy(None, frozenset({"RS256"})), ProviderPrincipalMapper(policy, 0))
    return JwtAuthenticator(
        {OWN_ISSUER: corp}, unbound=corp, cache=cache, clock=HandClock(NOW), max_token_bytes=16_384, refuse=None
    )


@pytest.mark.parametrize("datahub_first", [True, False])
async def test_order_beside_other_jwts_makes_no_difference(datahub_first: bool) -> None:
    """Also where the DataHub token names an issuer of the other one, or that one accepts tokens of unlisted issuers."""
    metrics = Metrics()
    cache: VerifiedCache[Accepted] = VerifiedCache(10, metrics)
    members: list[AuthenticatorProtocol] = [
        DataHubTokenAuthenticator(
            DataHubTokenPolicy(KEY, SALT, own_issuer=OWN_ISSUER, records=Records({"own-1": RECORD})),
            cache=cache,
            clock=HandClock(NOW),
            max_token_bytes=16_384,
        ),
        jwt_authenticator(cache),
    ]
    chain = Chain(members if datahub_first else members[::-1], (), metrics)
    for text, actor_id in ((OWN, "ingest"), (token(iss=forge.ISSUER), "datahub"), (forge.token(), "sam")):
        first = await settled(chain.authenticate(view(text)))
        assert isinstance(first, Accepted)
        assert first.actor.id == actor_id
        assert chain.authenticate(view(text)) is first
    forged = await settled(chain.authenticate(view(token(iss=forge.ISSUER, key="x" * 40))))
    assert isinstance(forged, Denied)
    assert (forged.failure.cause, forged.authenticator) == (Cause.SIGNATURE, "datahub")


async def test_expired_token_is_forgotten_and_refused() -> None:
    clock, metrics = HandClock(NOW), Metrics()
    cache: VerifiedCache[Accepted] = VerifiedCache(10, metrics)
    member = DataHubTokenAuthenticator(DataHubTokenPolicy(KEY, SALT), cache=cache, clock=clock, max_token_bytes=16_384)
    text = token(exp=int(NOW) + 60)
    assert isinstance(await settled(member.authenticate(view(text))), Accepted)
    assert cache.get(text, clock.now()) is not None
    clock.advance(60)
    assert cache.get(text, clock.now()) is None
    outcome = await settled(member.authenticate(view(text)))
    assert isinstance(outcome, Rejected)
    assert outcome.failure.reason is Reason.TOKEN_EXPIRED


@pytest.mark.parametrize(
    ("key", "salt", "places"),
    [
        (PUBLISHED_KEY, "salt", ["x.signingKey"]),
        ("k" * 32, PUBLISHED_SALT, ["x.salt"]),
        ("k" * 31, "", ["x.salt", "x.signingKey"]),
    ],
)
def test_well_known_or_guessable_secrets_stop_the_start(key: str, salt: str, places: list[str]) -> None:
    with pytest.raises(Misconfigured) as caught:
        check_shared_secrets(Secret(key), Secret(salt), "x", allow_published=False)
    assert [problem.path for problem in caught.value.problems] == places
    assert key not in str(caught.value)


def test_published_secrets_are_for_demonstrations() -> None:
    check_shared_secrets(Secret(PUBLISHED_KEY), Secret(PUBLISHED_SALT), "x", allow_published=True)


@pytest.mark.parametrize(
    ("actor_id", "reserved"),
    [("corp/sam", True), ("Corp/sam", True), ("corp/", True), ("corps/sam", False), ("corp", False), ("CORP", False)],
)
async def test_no_datahub_user_is_a_providers(actor_id: str, reserved: bool) -> None:
    """With ``principalNamespace: provider`` a name belongs to that provider alone."""
    member = authenticator(namespaces=frozenset({"corp"}))
    outcome = await settled(member.authenticate(view(token(actorId=actor_id))))
    if reserved:
        assert isinstance(outcome, Rejected)
        assert outcome.failure.reason is Reason.PRINCIPAL_RESERVED
    else:
        assert isinstance(outcome, Accepted)


@pytest.mark.parametrize("actor_id", ["Anonymous", "__DATAHUB_system"])
async def test_reserved_names_are_rejected_in_any_letters(actor_id: str) -> None:
    outcome = await settled(authenticator().authenticate(view(token(actorId=actor_id))))
    assert isinstance(outcome, Rejected)
    assert outcome.failure.reason is Reason.PRINCIPAL_RESERVED


@pytest.mark.parametrize(("written", "admin"), [("datahub/Chief", "Chief"), ("datahub/chief", "chief")])
async def test_admin_is_the_very_user_that_is_named(written: str, admin: str) -> None:
    """The same id in other letters is another user of DataHub's."""
    names = admin_names(AuthorizerConfiguration.model_validate({"adminPrincipals": [written]}))
    member = authenticator(admin_names=names)
    for actor_id in ("Chief", "chief", "CHIEF"):
        outcome = await settled(member.authenticate(view(token(actorId=actor_id))))
        assert isinstance(outcome, Accepted)
        assert outcome.actor.is_admin is (actor_id == admin)


async def test_what_is_denied_is_denied_in_any_letters() -> None:
    """Entries are spelled in lower case, DataHub's users are not."""
    for spelled, named in (("Sam", "sam"), ("sam", "sam"), ("Ops/Sam", "ops/sam"), ("Ops/Sam", "Ops/sam")):
        outcome = await settled(authenticator().authenticate(view(token(actorId=spelled))))
        assert isinstance(outcome, Accepted)
        assert outcome.revocation_keys
        entries = RevocationList()
        entries.add(make_entry(Scope.ACTOR, "", f"USER:{named}", NOW, issued_before=NOW))
        assert entries.match(outcome.revocation_keys, NOW) is Scope.ACTOR


async def test_what_datahub_has_minted_is_passed_on_to_it_and_nothing_else_is() -> None:
    records = Records({"own-1": RECORD})
    for forwards_token in (True, False):
        member = authenticator(records, forwards_token=forwards_token)
        theirs, ours = await settled(member.authenticate(view(token()))), await settled(member.authenticate(view(OWN)))
        assert isinstance(theirs, Accepted)
        assert isinstance(ours, Accepted)
        assert theirs.forwarded_authorization == (f"Bearer {token()}" if forwards_token else "")
        assert ours.forwarded_authorization == ""
        assert token() not in repr(theirs)
