"""Issued tokens in DataHub's format: a minted token is accepted while its record is active, for every Actor."""

from typing import Any

import pytest

from sidecar.errors import Reason, Refused
from sidecar.identity.actor import ActorType
from sidecar.keys.signing import SigningKey
from sidecar.metrics import Metrics
from sidecar.store.base import Batch
from sidecar.store.record import TokenKind, TokenRecord
from sidecar.tokens.datahub import DataHubSecrets, Version, datahub_hash, verify_datahub
from sidecar.tokens.issued.mint import Minted, Minter, TokenRequest
from sidecar.tokens.jwt.compact import parse
from tests.support.datahub import KEY, SALT
from tests.support.hand_clock import HandClock
from tests.support.members import unclaimed

SECRETS = DataHubSecrets(KEY, SALT)


def _no_own_keys() -> SigningKey:
    raise AssertionError("DataHub's tokens need no own keys")


async def mint(
    clock: HandClock, *, datahub: DataHubSecrets | None = SECRETS, issuer: str = "us", **more: Any
) -> Minted:
    written: list[TokenRecord] = []

    async def write(batch: Batch) -> None:
        written.extend(batch.add)

    minter = Minter(
        _no_own_keys,
        write,
        unclaimed,
        clock,
        Metrics(),
        issuer=issuer,
        audience="x",
        principal_domain="",
        datahub=datahub,
    )
    values = {"name": "n", "kind": TokenKind.PERSONAL, "actor_id": "sam", "actor_type": ActorType.USER}
    minted = await minter.mint(TokenRequest(**{**values, "lifetime": 60.0, "format": "datahub", **more}))
    assert written == [minted.record]
    return minted


@pytest.mark.parametrize(
    ("kind", "datahubs", "version"),
    [
        (TokenKind.SESSION, "SESSION", Version.STATELESS),
        (TokenKind.PERSONAL, "PERSONAL", Version.STATEFUL),
        (TokenKind.BOT, "SERVICE_ACCOUNT", Version.STATEFUL),
    ],
)
async def test_each_kind_has_its_counterpart(kind: TokenKind, datahubs: str, version: Version) -> None:
    clock = HandClock()
    minted = await mint(clock, kind=kind)
    found = verify_datahub(parse(minted.token, 16_384), KEY, clock.now())
    assert (found.kind, found.version, found.actor_id) == (datahubs, version, "sam")
    verified = found.verified
    assert (verified.issuer, verified.token_id) == ("us", minted.record.id)
    assert (verified.issued_at, verified.expires_at) == (clock.now(), clock.now() + 60)


async def test_record_keeps_what_datahubs_store_would() -> None:
    record = (minted := await mint(HandClock(), lifetime=None, actor_type=ActorType.SERVICE)).record
    assert (record.format, record.token_hash) == ("datahub", datahub_hash(minted.token, SALT))
    assert (record.actor_type, record.expires_at) == (ActorType.SERVICE, None)


@pytest.mark.parametrize("missing", [{"datahub": None}, {"issuer": ""}])
async def test_without_secrets_or_issuer_none_is_minted(missing: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        await mint(HandClock(), **missing)
    assert caught.value.reason is Reason.CONFLICT
    assert "code" not in caught.value.message
