"""What is denied, for how long, and which own tokens end with it."""

import logging
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.settings import StoreSettings
from sidecar.errors import Reason, Refused, Unavailable
from sidecar.identity.actor import ActorType
from sidecar.metrics import Metrics
from sidecar.secrets.value import Secret
from sidecar.store.open import open_store
from sidecar.store.record import Owner, TokenKind, TokenRecord
from sidecar.store.revocation_entry import Scope
from sidecar.store.timestamps import format_rfc3339
from sidecar.tokens.jwt.compact import parse as parse_jwt
from sidecar.tokens.revocation.retention import IssuerBounds, RetentionPolicy
from sidecar.tokens.revocation.service import (
    RevocationService,
    describe_added,
    describe_entry,
    for_token,
    parse_request,
)
from sidecar.tokens.submitted import SubmittedToken, submitted_from_jwt
from tests.support import forge
from tests.support.hand_clock import HandClock
from tests.support.memory_store import MemoryStore

OWN = "meta.example.com"
CORP = "https://corp.example.com"
OPEN = "https://open.example.com"
DAY = 86_400.0
RULE = RetentionPolicy(
    {CORP: IssuerBounds(DAY, 30), OPEN: IssuerBounds(None, 60), OWN: IssuerBounds(None, 0)},
    lambda issuer: (issuer.removesuffix("/"),),
)
NOW = HandClock().now()


def parse(text: str, longest: int) -> SubmittedToken:
    return submitted_from_jwt(parse_jwt(text, longest))


class World:
    """A revocation list over a store in memory."""

    def __init__(self, rule: RetentionPolicy = RULE, *, verbatim: bool = False) -> None:
        self.store = MemoryStore()
        self.clock = HandClock()
        self.list = RevocationService(self.store, self.store.write, self.clock, rule, own_issuer=OWN, verbatim=verbatim)

    async def deny(self, **document: Any) -> dict[str, Any]:
        (added,) = await self.list.add([parse_request(document)], by="USER:root")
        return describe_entry(added.entry)

    def record(self, token_id: str, **changes: Any) -> None:
        values = {
            "id": token_id,
            "token_hash": "h",
            "name": token_id,
            "kind": TokenKind.PERSONAL,
            "actor_id": "sam",
            "actor_type": ActorType.USER,
            "created_at": NOW - 10,
            "expires_at": NOW + DAY,
            "owner": Owner(CORP, "corp", "s-1", "sam"),
            **changes,
        }
        self.store.all_records[token_id] = TokenRecord(**values)

    @property
    def ended(self) -> set[str]:
        return {record.id for record in self.store.all_records.values() if record.revoked_at is not None}


@pytest.fixture
def world() -> World:
    return World()


def at(seconds: float) -> str:
    return str(format_rfc3339(seconds))


@pytest.mark.parametrize(
    ("document", "end"),
    [
        ({"issuer": CORP, "jti": "j"}, NOW + DAY + 60),
        ({"issuer": CORP, "subject": "s"}, NOW + DAY + 30),
        ({"issuer": CORP, "subject": "s", "issuedBefore": at(NOW - 100)}, NOW - 100 + DAY + 30),
        ({"issuer": CORP, "issuedBefore": at(NOW + 50)}, NOW + 50 + DAY + 30),
        ({"issuer": OPEN, "jti": "j"}, None),
        ({"issuer": "https://unknown.example.com", "subject": "s"}, None),
        ({"actor": {"type": "USER", "id": "sam"}}, None),
        ({"issuer": OPEN, "jti": "j", "expiresAt": at(NOW + 5)}, NOW + 5),
        ({"issuer": CORP, "jti": "j", "expiresAt": at(NOW + 2 * DAY)}, NOW + 2 * DAY),
    ],
)
async def test_entry_lasts_as_long_as_what_it_concerns(
    world: World, document: dict[str, Any], end: float | None
) -> None:
    """The longest life of the issuer's tokens and its tolerance, from the cut-off on; unknown is for ever."""
    assert (await world.deny(**document))["expiresAt"] == (None if end is None else at(end))


async def test_actor_entry_lasts_as_long_as_every_issuers_tokens() -> None:
    world = World(RetentionPolicy({CORP: IssuerBounds(DAY, 30), "b": IssuerBounds(2 * DAY, 5)}))
    assert (await world.deny(actor={"type": "USER", "id": "sam"}))["expiresAt"] == at(NOW + 2 * DAY + 5)
    assert (await World(RetentionPolicy()).deny(actor={"type": "USER", "id": "sam"}))["expiresAt"] is None


async def test_entry_about_a_token_lasts_until_its_exp_and_the_tolerance(world: World) -> None:
    token = parse(forge.token(forge.claims(iss=OPEN, jti="j", exp=NOW + 100)), 16_384)
    wish = for_token(parse_request({"token": "t"}), token)
    (added,) = await world.list.add([wish], by="x")
    entry = added.entry
    assert (entry.scope, entry.issuer, entry.name, entry.expires_at) == (Scope.TOKEN, OPEN, "j", NOW + 160)
    early = for_token(parse_request({"token": "t", "expiresAt": at(NOW + 99)}), token)
    with pytest.raises(Refused):
        await world.list.add([early], by="x")
    exact = for_token(parse_request({"token": "t", "expiresAt": at(NOW + 100)}), token)
    assert (await world.list.add([exact], by="x"))[0].entry.expires_at == NOW + 160


@pytest.mark.parametrize("jti", [..., ""])
async def test_token_without_id_is_denied_by_its_digest(jti: Any) -> None:
    token = parse(forge.token(forge.claims(jti=jti)), 16_384)
    wish = for_token(parse_request({"token": "t"}), token)
    assert (wish.scope, len(wish.name)) == (Scope.DIGEST, 64)


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": CORP, "jti": "j", "expiresAt": at(NOW + 60)},
        {"issuer": CORP, "subject": "s", "expiresAt": at(NOW + DAY)},
        {"issuer": OPEN, "jti": "j", "expiresAt": at(NOW - 1)},
    ],
)
async def test_entry_that_would_end_too_early_is_refused(world: World, document: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        await world.deny(**document)
    assert caught.value.reason is Reason.REQUEST_INVALID
    assert world.store.batches == []


async def test_all_entries_or_none(world: World) -> None:
    wishes = [
        parse_request({"issuer": OPEN, "jti": "a"}),
        parse_request({"issuer": OPEN, "jti": "b", "expiresAt": at(NOW - 5)}),
    ]
    with pytest.raises(Refused):
        await world.list.add(wishes, by="x")
    assert world.store.all_entries == {}


async def test_issuers_are_denied_in_the_spelling_of_their_tokens(world: World) -> None:
    assert (await world.deny(issuer=CORP + "/", subject="s"))["issuer"] == CORP
    assert (await world.list.page(CORP + "/", "", 10)).total == 1


async def test_repeated_revocation_is_one_entry(world: World) -> None:
    first = await world.deny(issuer=OPEN, jti="j")
    world.clock.advance(5)
    assert (await world.deny(issuer=OPEN, jti="j"))["id"] == first["id"]
    earlier = await world.deny(issuer=OPEN, subject="s", issuedBefore=at(NOW - 50))
    later = await world.deny(issuer=OPEN, subject="s", issuedBefore=at(NOW - 20))
    assert earlier["id"] != later["id"]
    assert len(world.store.all_entries) == 3


async def test_own_token_ends_on_record(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sidecar.audit")
    world.record("t1")
    entry = await world.deny(issuer=OWN, jti="t1", reason="lost")
    assert world.ended == {"t1"}
    assert entry["expiresAt"] == at(NOW + DAY)
    assert len(world.store.batches) == 1
    assert {line.__dict__["event"] for line in caplog.records} == {"token_revoked", "revocation_added"}
    assert all(line.__dict__["by"] == "USER:root" for line in caplog.records)


@pytest.mark.parametrize(
    ("document", "ended"),
    [
        ({"issuer": CORP, "subject": "s-1"}, {"hers", "late"}),
        ({"issuer": CORP, "subject": "s-1", "issuedBefore": at(NOW - 5)}, {"hers"}),
        ({"issuer": CORP, "issuedBefore": at(NOW)}, {"hers", "late", "other", "bot"}),
        ({"issuer": CORP, "subject": "s-1", "issuedBefore": at(0.0)}, set()),
        ({"issuer": OWN, "issuedBefore": at(0.0)}, set()),
        ({"issuer": OWN, "subject": "ingest"}, {"bot"}),
        ({"issuer": OWN, "issuedBefore": at(NOW)}, {"hers", "late", "other", "bot", "made"}),
        ({"actor": {"type": "USER", "id": "sam"}}, {"hers", "late"}),
        ({"actor": {"type": "USER", "id": "Sam"}}, {"hers", "late"}),
        ({"actor": {"type": "SERVICE", "id": "sam"}}, set()),
        ({"issuer": CORP, "subject": "unknown"}, set()),
        ({"issuer": CORP, "jti": "hers"}, set()),
    ],
)
async def test_cut_off_ends_the_own_tokens_of_that_origin(
    world: World, document: dict[str, Any], ended: set[str]
) -> None:
    """They live longer than the issuer's tokens, and so would outlive the entry."""
    world.record("hers", expires_at=None)
    world.record("late", created_at=NOW - 1)
    world.record("other", owner=Owner(CORP, "corp", "s-2", "eve"), actor_id="eve")
    world.record("bot", kind=TokenKind.BOT, actor_type=ActorType.SERVICE, actor_id="ingest", owner=Owner(CORP))
    world.record("made", owner=Owner(), actor_id="max")
    await world.deny(**document)
    assert world.ended == ended


async def test_token_minted_while_the_cut_off_was_written_ends_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = world.store.write

    async def slow(batch: Any) -> None:
        await write(batch)
        if batch.add_entries:
            world.record("meanwhile")

    world.list = RevocationService(world.store, slow, world.clock, RULE, own_issuer=OWN)
    await world.deny(issuer=CORP, subject="s-1")
    assert world.ended == {"meanwhile"}


async def test_more_than_a_page_of_records_ends(world: World) -> None:
    for number in range(1201):
        world.record(f"t{number}")
    await world.deny(issuer=CORP, subject="s-1")
    assert len(world.ended) == 1201


@pytest.mark.parametrize(
    ("issuer", "near"),
    [(CORP + "/", CORP), (CORP.upper(), CORP), ("https://crop.example.com", CORP), ("https://far.off", "")],
)
async def test_issuer_that_nothing_has_is_refused_and_the_near_one_is_named(issuer: str, near: str) -> None:
    """The entry would end nothing, and who has left would stay in."""
    world = World()

    async def others() -> set[str]:
        return {"https://owner.example.com"}

    strict = RetentionPolicy({CORP: IssuerBounds(DAY, 30)})
    world.list = RevocationService(
        world.store, world.store.write, world.clock, strict, own_issuer=OWN, other_issuers=others
    )
    with pytest.raises(Refused) as caught:
        await world.deny(issuer=issuer, subject="s")
    assert f'has the issuer "{issuer}"' in caught.value.message
    assert (f'Did you mean "{near}"?' in caught.value.message) is bool(near)
    assert world.store.batches == []
    for known in ({"issuer": CORP}, {"issuer": "https://owner.example.com"}, {"issuer": issuer, "unknownIssuer": True}):
        await world.deny(**known, subject="s")
    assert len(world.store.all_entries) == 3


async def test_entry_says_how_many_own_tokens_it_has_ended(world: World) -> None:
    for number in range(3):
        world.record(f"t{number}")
    world.record("bot", kind=TokenKind.BOT, actor_type=ActorType.SERVICE, actor_id="ingest", owner=Owner())
    wishes = [{"issuer": OWN, "jti": "bot"}, {"issuer": CORP, "subject": "s-1"}, {"issuer": CORP, "subject": "none"}]
    added = await world.list.add([parse_request(wish) for wish in wishes], by="x")
    assert [entry.ended_tokens for entry in added] == [1, 3, 0]
    assert describe_added(added[1])["matches"] == {"own": 3, "foreign": "unknown"}


@pytest.mark.parametrize("about", [{"issuer": CORP}, {"issuer": CORP, "subject": "s-1"}])
async def test_a_cut_off_may_be_now(world: World, about: dict[str, str]) -> None:
    assert (await world.deny(**about, issuedBefore="now"))["issuedBefore"] == at(NOW)


async def test_sqlite_lists_miss_nothing_while_the_same_file_is_imported_again(tmp_path: Path) -> None:
    clock = HandClock()
    store = await open_store(StoreSettings(url=Secret(f"sqlite:///{tmp_path}/s.db")), Metrics(), clock)
    try:
        entries = RevocationService(store, store.write, clock, RULE, own_issuer=OWN)
        wishes = [parse_request({"issuer": OPEN, "jti": str(number)}) for number in range(500)]
        ids = {added.entry.id for added in await entries.add(wishes, by="x")}
        seen: set[str] = set()
        after, written = "", 0
        while True:
            clock.advance(0.01)
            page = await entries.page(None, after, 100)
            seen |= {entry.id for entry in page.entries}
            clock.advance(0.01)
            await entries.add(wishes[written : written + 200], by="x")
            written += 200
            after = page.after
            if not after:
                break
        assert seen == ids
    finally:
        await store.aclose()


async def test_entry_is_removed_once(world: World) -> None:
    entry = await world.deny(issuer=OPEN, jti="j")
    await world.list.remove(entry["id"], by="x")
    assert (await world.list.page(None, "", 10)).total == 0
    with pytest.raises(Refused) as caught:
        await world.list.remove(entry["id"], by="x")
    assert caught.value.reason is Reason.NOT_FOUND


async def test_without_a_store_nothing_is_denied(world: World) -> None:
    world.store.away = True
    with pytest.raises(Unavailable):
        await world.deny(issuer=OPEN, jti="j")
    with pytest.raises(Unavailable):
        await world.list.remove("x", by="x")


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "token",
        {},
        {"reason": "x"},
        {"issuer": OPEN},
        {"jti": "j"},
        {"issuer": OPEN, "jti": "j", "subject": "s"},
        {"issuer": OPEN, "jti": "j", "issuedBefore": at(NOW)},
        {"token": "t", "issuer": OPEN},
        {"issuer": OPEN, "jti": "j", "color": "red"},
        {"issuer": "", "jti": "j"},
        {"issuer": OPEN, "jti": 5},
        {"issuer": OPEN, "jti": ""},
        {"issuer": OPEN, "subject": ""},
        {"issuer": OPEN, "subject": None},
        {"issuer": OPEN, "jti": "j" * 2049},
        {"issuer": OPEN, "jti": "j", "reason": 1},
        {"issuer": OPEN, "jti": "j", "reason": "r" * 513},
        {"issuer": OPEN, "jti": "j", "expiresAt": 5},
        {"issuer": OPEN, "jti": "j", "expiresAt": "now"},
        {"issuer": OPEN, "jti": "j", "unknownIssuer": "yes"},
        {"issuer": OPEN, "issuedBefore": "2026-11-21"},
        {"issuer": OPEN, "issuedBefore": "2026-11-21T00:00:00"},
        {"issuer": OPEN, "issuedBefore": "2026-13-21T00:00:00Z"},
        {"issuer": OPEN, "issuedBefore": ""},
        {"actor": "sam"},
        {"actor": {"type": "USER"}},
        {"actor": {"type": "ROOT", "id": "sam"}},
        {"actor": {"type": "USER", "id": ""}},
        {"actor": {"type": "USER", "id": "(x)sam@example.com"}},
        {"actor": {"type": ["USER"], "id": "sam"}},
        {"actor": {"type": "USER", "id": "sam"}, "issuer": OPEN},
    ],
)
def test_what_is_no_entry(document: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_request(document)


async def test_issuers_that_are_not_configured_are_considered() -> None:
    """Where unbound issuers are accepted, their tokens are so as long as that provider's settings say."""
    token = parse(forge.token({**forge.claims(), "iss": "https://unknown.example", "exp": int(NOW) + 100}), 16_384)
    rule = RetentionPolicy({CORP: IssuerBounds(DAY, 30)}, unbound=IssuerBounds(None, 60))
    world = World(rule)
    (added,) = await world.list.add([for_token(parse_request({"token": "t"}), token)], by="USER:root")
    assert added.entry.expires_at == int(NOW) + 160
    assert (await world.deny(actor={"type": "USER", "id": "sam"}))["expiresAt"] is None


async def test_every_spelling_is_denied_while_the_exact_one_is_not_known() -> None:
    world = World(
        RetentionPolicy({CORP: IssuerBounds(DAY), f"{CORP}/": IssuerBounds(DAY)}, lambda _: (CORP, f"{CORP}/"))
    )
    shown = await world.deny(issuer=CORP, subject="s-1")
    assert shown["issuer"] == CORP
    assert {entry.issuer for entry in world.store.all_entries.values()} == {CORP, f"{CORP}/"}


async def test_bearer_of_a_revoked_token_rewrites_nothing(world: World) -> None:
    """Who revoked it and why stays on the list, however often its thief asks for its end."""
    token = parse(forge.token(forge.claims(iss=OPEN, jti="j", exp=NOW + 100)), 16_384)
    await world.list.add([for_token(parse_request({"token": "t", "reason": "stolen"}), token)], by="USER:root")
    await world.list.revoke_token(token, by="bearer")
    (entry,) = world.store.all_entries.values()
    assert (entry.reason, entry.created_by, len(world.store.batches)) == ("stolen", "USER:root", 1)
    await world.list.remove(entry.id, by="USER:root")
    await world.list.revoke_token(token, by="bearer")
    assert [entry.created_by for entry in world.store.all_entries.values()] == ["bearer"]


async def test_an_actors_entry_is_kept_if_a_credential_never_expires() -> None:
    """A password does not expire: if the entry ended with the last token, the Actor would be accepted again."""
    bounds = {CORP: IssuerBounds(DAY, 30)}
    actor = {"type": "USER", "id": "sam"}
    assert (await World(RetentionPolicy(bounds)).deny(actor=actor))["expiresAt"] == at(NOW + DAY + 30)
    assert (await World(RetentionPolicy(bounds, has_never_expiring=True)).deny(actor=actor))["expiresAt"] is None
    entry = await World(RetentionPolicy(bounds, has_never_expiring=True)).deny(issuer=CORP, subject="s")
    assert entry["expiresAt"] == at(NOW + DAY + 30)


@pytest.mark.parametrize("named", ["sam@corp.test", "SAM@Corp.test", "sam"])
async def test_records_of_people_who_are_called_by_addresses_end_with_the_actor(named: str) -> None:
    """In any letters, and by the part before the ``@``; another person's stay."""
    world = World(verbatim=True)
    for token_id, actor_id in (("1", "Sam@Corp.test"), ("2", "sam@corp.test"), ("3", "pat@corp.test"), ("4", "Samuel")):
        world.record(token_id, actor_id=actor_id)
    entry = await world.deny(actor={"type": "USER", "id": named})
    assert entry["actor"]["id"] == named.lower()
    assert world.ended == {"1", "2"}
