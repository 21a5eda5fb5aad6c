"""Own tokens: OpenMetadata's shape, on record before they are seen, judged by their record afterwards."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.settings import AuthorizerConfiguration, JwtTokenConfiguration
from sidecar.errors import Cause, Reason, Refused, Unavailable
from sidecar.identity.actor import ActorType
from sidecar.keys.signing import SigningKey
from sidecar.metrics import Metrics
from sidecar.store.record import Owner, TokenKind, hash_token
from sidecar.store.replica.mirror import Mirror
from sidecar.store.sqlite.database import Database
from sidecar.store.sqlite.store import SqliteStore
from sidecar.tokens.issued.lifetime import parse_lifetime
from sidecar.tokens.issued.mint import Minted, Minter, TokenRequest
from sidecar.tokens.issued.records import IssuedIdentity, IssuedTokens
from sidecar.tokens.jwt.compact import parse
from sidecar.tokens.jwt.policy import issued_policy, issued_validation
from sidecar.tokens.jwt.verify import VerifiedClaims, verify
from tests.support import forge
from tests.support.hand_clock import HandClock
from tests.support.members import unclaimed

CONFIGURATION = JwtTokenConfiguration(jwtissuer="meta.example.com", audience="meta")
AUTHORIZER = AuthorizerConfiguration(admin_principals=("admin", "corp/sam"), principal_domain="Example.com")
SIGNING = SigningKey("own1", "RS256", forge.RSA)
VERIFICATION = forge.public(forge.RSA, "RS256", kid="own1")


class Own:
    """A minter and a judge over one store."""

    def __init__(self, database: Database) -> None:
        self.clock = HandClock()
        self.metrics = Metrics()
        self.store = SqliteStore(database, self.clock)
        self.mirror = Mirror(self.store, self.clock, self.metrics, self.clock.wait)
        self.minter = self.minter_of("meta")

    def minter_of(self, audience: str, domain: str = "Example.com") -> Minter:
        return Minter(
            lambda: SIGNING,
            lambda batch: self.store.write(batch),
            unclaimed,
            self.clock,
            self.metrics,
            issuer=CONFIGURATION.jwtissuer,
            audience=audience,
            principal_domain=domain,
        )

    async def mint(self, **changes: Any) -> Minted:
        values = {
            "name": "nightly",
            "kind": TokenKind.BOT,
            "actor_id": "Ingest",
            "actor_type": ActorType.SERVICE,
            "lifetime": 3600.0,
            **changes,
        }
        return await self.minter.mint(TokenRequest(**values))

    def verified(self, token: str) -> VerifiedClaims:
        return verify(parse(token, 16_384), (VERIFICATION,), issued_validation(CONFIGURATION), self.clock.now())

    async def identify(self, token: str, *, require_record: bool = True) -> IssuedIdentity:
        policy = issued_policy(("email", "preferred_username", "sub"), AUTHORIZER, "jwt", ["home"])
        judge = IssuedTokens(self.mirror, policy, require_record=require_record)
        return await judge.identify(self.verified(token), token)

    async def cause_of(self, token: str, *, require_record: bool = True) -> Cause:
        with pytest.raises(Refused) as refusal:
            await self.identify(token, require_record=require_record)
        is_revoked = refusal.value.cause is Cause.RECORD_REVOKED
        assert refusal.value.reason is (Reason.TOKEN_REVOKED if is_revoked else Reason.TOKEN_INVALID)
        return refusal.value.cause


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Own]:
    database = await Database.open(tmp_path / "s.db", Metrics())
    yield Own(database)
    await database.aclose()


def claims_of(token: str) -> dict[str, Any]:
    return parse(token, 16_384).claims


async def test_bot_token_has_openmetadatas_shape(own: Own) -> None:
    minted = await own.mint(roles=("IngestionBotRole",))
    assert parse(minted.token, 16_384).header == {"alg": "RS256", "kid": "own1", "typ": "JWT"}
    assert claims_of(minted.token) == {
        "iss": "meta.example.com",
        "sub": "ingest",
        "email": "ingest@example.com",
        "isBot": True,
        "tokenType": "BOT",
        "roles": ["IngestionBotRole"],
        "username": "ingest",
        "preferred_username": "ingest",
        "iat": own.clock.now(),
        "exp": own.clock.now() + 3600,
        "jti": minted.record.id,
        "aud": "meta",
    }


@pytest.mark.parametrize(("kind", "expected"), [("personal", "PERSONAL_ACCESS"), ("session", "OM_USER")])
async def test_other_kinds(own: Own, kind: str, expected: str) -> None:
    claims = claims_of((await own.mint(kind=TokenKind(kind), email="Sam@x.com")).token)
    assert (claims["isBot"], claims["tokenType"], claims["email"]) == (False, expected, "Sam@x.com")


async def test_what_is_not_configured_is_absent(own: Own) -> None:
    """OpenMetadata's tokens have no ``aud``; without a domain there is no e-mail; endless ones have no ``exp``."""
    own.minter = own.minter_of("", domain="")
    minted = await own.mint(lifetime=None)
    assert not {"aud", "email", "exp"} & claims_of(minted.token).keys()
    assert minted.record.expires_at is None


async def test_record_holds_a_digest_and_not_the_token(own: Own, tmp_path: Path) -> None:
    minted = await own.mint(description="for the night", allow_impersonation=True, is_admin=True)
    record = await own.store.record(minted.record.id)
    assert record == minted.record
    assert record is not None
    assert record.token_hash == hash_token(minted.token)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert minted.token.rpartition(".")[2].encode() not in stored


async def test_no_token_without_its_record(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(record: object) -> None:
        raise Unavailable(Cause.STORE_UNAVAILABLE)

    monkeypatch.setattr(own.store, "write", down)
    with pytest.raises(Unavailable):
        await own.mint()
    assert own.metrics.registry.get_sample_value("sidecar_tokens_issued_total", {"kind": "bot"}) in {None, 0}


async def test_actor_that_no_token_could_carry(own: Own) -> None:
    with pytest.raises(Refused):
        await own.mint(actor_id="in gest")


async def test_issued_tokens_are_counted(own: Own) -> None:
    await own.mint()
    assert own.metrics.registry.get_sample_value("sidecar_tokens_issued_total", {"kind": "bot"}) == 1


async def test_minting_leaves_an_audit_line_without_the_token(own: Own, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "sidecar.audit"):
        minted = await own.mint()
    (line,) = caplog.records
    assert line.__dict__["token_id"] == minted.record.id
    assert minted.token.rpartition(".")[2] not in str(line.__dict__)


async def test_actor_comes_from_the_record(own: Own) -> None:
    minted = await own.mint(actor_id="Admin", roles=("r",), is_admin=True, allow_impersonation=True)
    identity = await own.identify(minted.token)
    actor = identity.actor
    assert identity.record is not None
    assert identity.record.id == minted.record.id == actor.token_id
    assert (actor.type, actor.id, actor.provider, actor.subject) == (ActorType.SERVICE, "admin", "own", "admin")
    assert (actor.is_bot, actor.is_admin, actor.may_impersonate) == (True, True, True)
    assert (actor.roles, actor.email, actor.domain) == (("r",), "admin@example.com", "example.com")
    assert actor.expires_at == minted.record.expires_at


async def test_record_and_not_the_name_decides_about_admin(own: Own) -> None:
    minted = await own.mint(actor_id="admin", kind=TokenKind.PERSONAL, allow_impersonation=True)
    actor = (await own.identify(minted.token)).actor
    assert (actor.id, actor.is_admin, actor.may_impersonate) == ("admin", False, False)


async def test_admins_token_is_admin_only_while_its_owner_is_named(own: Own) -> None:
    """Who is taken off ``adminPrincipals`` keeps no power in a token minted before."""
    dropped = await own.mint(actor_id="chief", kind=TokenKind.PERSONAL, is_admin=True)
    assert not (await own.identify(dropped.token)).actor.is_admin
    named = await own.mint(actor_id="admin", kind=TokenKind.PERSONAL, is_admin=True)
    assert (await own.identify(named.token)).actor.is_admin
    for provider, is_admin in (("corp", True), ("other", False), ("home", False)):
        owner = Owner("https://idp.example.com", provider, "s-1", "sam")
        minted = await own.mint(actor_id="sam", kind=TokenKind.PERSONAL, is_admin=True, owner=owner)
        assert (await own.identify(minted.token)).actor.is_admin is is_admin


async def test_admins_token_is_admin_only_while_its_provider_may_name_admins(own: Own) -> None:
    """A bare name counts only if no other issuer can assign it, as for the provider's own tokens."""
    for provider, kind, is_admin in (
        ("home", TokenKind.PERSONAL, True),
        ("corp", TokenKind.PERSONAL, False),
        ("corp", TokenKind.BOT, True),
    ):
        owner = Owner("https://idp", provider, "s-1", "admin")
        minted = await own.mint(actor_id="admin", kind=kind, is_admin=True, owner=owner)
        assert (await own.identify(minted.token)).actor.is_admin is is_admin


async def test_replaced_bot_token_is_refused(own: Own) -> None:
    old, new = await own.mint(), await own.mint()
    assert await own.cause_of(old.token) is Cause.RECORD_REVOKED
    assert (await own.identify(new.token)).actor.id == "ingest"


async def test_token_that_is_not_on_record_is_refused_and_not_called_revoked(own: Own) -> None:
    for jti in ("unknown", "", ...):
        token = forged(jti=jti)
        assert await own.cause_of(token) is Cause.NOT_ON_RECORD


async def test_another_token_under_a_recorded_id_is_refused(own: Own) -> None:
    """Another holder of the key cannot use the id of an active token."""
    minted = await own.mint()
    token = forged(jti=minted.record.id)
    for require_record in (True, False):
        assert await own.cause_of(token, require_record=require_record) is Cause.RECORD_MISMATCH


async def test_without_required_records_claims_name_the_actor(own: Own) -> None:
    identity = await own.identify(forged(isBot=True, jti=...), require_record=False)
    assert identity.record is None
    assert (identity.actor.id, identity.actor.is_bot, identity.actor.is_admin) == ("sam", True, False)
    assert (await own.identify(forged(sub="admin"), require_record=False)).actor.is_admin


async def test_without_required_records_a_revoked_one_still_counts(own: Own) -> None:
    old = await own.mint()
    await own.mint()
    assert await own.cause_of(old.token, require_record=False) is Cause.RECORD_REVOKED


async def test_endless_own_token_is_accepted_when_on_record(own: Own) -> None:
    minted = await own.mint(lifetime=None)
    own.clock.advance(10 * 365 * 86_400)
    assert (await own.identify(minted.token)).actor.expires_at is None


async def test_own_token_needs_the_configured_audience(own: Own) -> None:
    own.minter = own.minter_of("")
    minted = await own.mint()
    with pytest.raises(Refused) as refusal:
        own.verified(minted.token)
    assert refusal.value.cause is Cause.AUDIENCE


def forged(**changes: Any) -> str:
    """A token with a true signature of the own key that the minter has not made."""
    claims = forge.claims(iss="meta.example.com", aud="meta", **changes)
    return forge.token(json.dumps(claims), forge.header(kid="own1"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("OneHour", 3600),
        ("1", 86_400),
        ("7", 7 * 86_400),
        ("30", 30 * 86_400),
        ("60", 60 * 86_400),
        ("90", 90 * 86_400),
        ("365", 365 * 86_400),
        ("P30D", 30 * 86_400),
        ("PT15M", 900),
        ("P1DT12H", 129_600),
        ("P2W", 14 * 86_400),
        ("P1Y", 365 * 86_400),
        ("P1MT1M", 30 * 86_400 + 60),
        ("pt1.5s", 1.5),
        ("ONE_HOUR", 3600),
        ("ONE_DAY", 86_400),
        ("ONE_WEEK", 7 * 86_400),
        ("ONE_MONTH", 30 * 86_400),
        ("THREE_MONTHS", 90 * 86_400),
        ("SIX_MONTHS", 180 * 86_400),
        ("ONE_YEAR", 365 * 86_400),
        ("NO_EXPIRY", None),
        ("Unlimited", None),
    ],
)
def test_expiry(text: str, seconds: float | None) -> None:
    assert parse_lifetime(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "1.5",
        "P",
        "PT",
        "PT0S",
        "PT0.5S",
        "P101Y",
        "30d",
        "unlimited",
        "forever",
        "36501",
        "9" * 9,
        "\u0663",
    ],
)
def test_expiry_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_lifetime(text)
