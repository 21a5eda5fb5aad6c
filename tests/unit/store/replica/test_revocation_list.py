"""What an entry concerns, until when, and that it goes as it came, however many there are of a thing."""

import random
from dataclasses import replace
from operator import attrgetter
from typing import Any

import pytest

from sidecar.identity.actor import Actor, ActorType
from sidecar.store.record import Owner
from sidecar.store.replica.compressed_log import _BLOCK
from sidecar.store.replica.revocation_list import RevocationList, revocation_keys
from sidecar.store.revocation_entry import RevocationEntry, Scope, make_entry, parse_entry_id

NOW = 1_800_000_000.0
ISSUER = "https://idp.example.com"
SAM = Actor(ActorType.USER, "sam", issuer=ISSUER, subject="raw-sam", token_id="j1", issued_at=NOW - 60)


def entry(scope: Scope = Scope.TOKEN, issuer: str = ISSUER, name: str = "j1", **more: Any) -> RevocationEntry:
    if scope not in (Scope.TOKEN, Scope.DIGEST):
        more.setdefault("issued_before", NOW)
    return make_entry(scope, issuer, name, NOW, **more)


def listed(*entries: RevocationEntry) -> RevocationList:
    made = RevocationList()
    for item in entries:
        assert made.add(item)
    return made


@pytest.mark.parametrize(
    "entry",
    [
        entry(),
        entry(Scope.SUBJECT, name="raw-sam"),
        entry(Scope.ISSUER, name=""),
        entry(Scope.ACTOR, "", "USER:sam"),
    ],
    ids=lambda entry: entry.scope.value,
)
def test_token_is_found_by_whatever_denies_it(entry: RevocationEntry) -> None:
    assert listed(entry).match(revocation_keys(SAM), NOW) is entry.scope


@pytest.mark.parametrize(
    "entry",
    [
        entry(name="j2"),
        entry(issuer="https://other.example.com"),
        entry(Scope.DIGEST, name="j1"),
        entry(Scope.SUBJECT, name="sam"),
        entry(Scope.SUBJECT, "https://other.example.com", "raw-sam"),
        entry(Scope.ISSUER, "https://other.example.com", ""),
        entry(Scope.ACTOR, "", "SERVICE:sam"),
        entry(Scope.ACTOR, "", "USER:samuel"),
        entry(issuer=ISSUER + "j", name="1"),
    ],
    ids=lambda entry: f"{entry.scope}-{entry.issuer}-{entry.name}",
)
def test_entry_of_something_else_concerns_no_token(entry: RevocationEntry) -> None:
    assert listed(entry).match(revocation_keys(SAM), NOW) is None


def test_token_without_jti_is_known_by_its_digest() -> None:
    nameless = replace(SAM, token_id="")
    assert listed(entry(Scope.DIGEST, name="ab")).match(revocation_keys(nameless, "ab"), NOW) is Scope.DIGEST
    assert listed(entry(Scope.DIGEST, name="ab")).match(revocation_keys(nameless, "cd"), NOW) is None
    assert listed(entry(name="")).match(revocation_keys(nameless, "ab"), NOW) is None


@pytest.mark.parametrize(
    ("issued_at", "recorded_at", "is_denied"),
    [(NOW - 0.1, None, True), (NOW, None, False), (NOW + 1, None, False), (None, None, True), (None, NOW, False),
     (None, NOW - 1, True), (NOW, NOW - 1, False)],
)  # fmt: skip
def test_cut_off_ends_what_was_issued_before_and_what_does_not_say(
    issued_at: float | None, recorded_at: float | None, is_denied: bool
) -> None:
    facts = revocation_keys(replace(SAM, issued_at=issued_at), recorded_at=recorded_at)
    found = listed(entry(Scope.SUBJECT, name="raw-sam")).match(facts, NOW)
    assert found is (Scope.SUBJECT if is_denied else None)


def test_what_ends_an_origin_ends_the_own_tokens_of_its_people() -> None:
    own = Actor(ActorType.USER, "sam", issuer="us", subject="sam", token_id="1", issued_at=NOW - 1)
    facts = revocation_keys(own, owner=Owner(ISSUER, "corp", "raw-sam", "sam"))
    assert listed(entry(Scope.SUBJECT, name="raw-sam")).match(facts, NOW) is Scope.SUBJECT
    assert listed(entry(Scope.ISSUER, name="")).match(facts, NOW) is Scope.ISSUER
    assert listed(entry(Scope.SUBJECT, name="kim")).match(facts, NOW) is None
    assert listed(entry(Scope.ISSUER, "us", "")).match(facts, NOW) is Scope.ISSUER


def test_entry_ends_at_its_expiry_or_at_most_a_minute_later_and_is_then_forgotten() -> None:
    entries = listed(
        entry(expires_at=NOW + 10), entry(Scope.SUBJECT, name="raw-sam", expires_at=NOW + 5), entry(name="j9")
    )
    facts = revocation_keys(SAM)
    assert entries.match(facts, NOW + 9.9) is Scope.TOKEN
    assert entries.match(facts, NOW + 70) is None
    assert len(entries) == 3
    entries.prune(NOW + 70, 100)
    assert len(entries) == 1
    assert entries.endless == 1


def test_pruning_is_bounded_and_goes_on_where_it_stopped() -> None:
    entries = listed(*(entry(name=f"j{number}", expires_at=NOW + number) for number in range(100)))
    entries.prune(NOW + 200, 30)
    assert len(entries) == 70
    entries.prune(NOW + 200, 100)
    assert len(entries) == 0
    assert not entries._entries
    assert not entries._shared


def test_repeated_entry_is_one_entry_with_the_later_end() -> None:
    entries = listed(entry(expires_at=NOW + 60), entry(expires_at=NOW + 7200))
    assert len(entries) == 1
    entries.prune(NOW + 120, 10)
    assert entries.match(revocation_keys(SAM), NOW + 120) is Scope.TOKEN


def test_forgiving_one_of_several_cut_offs_leaves_the_others() -> None:
    early = entry(Scope.SUBJECT, name="raw-sam", issued_before=NOW - 30)
    late = entry(Scope.SUBJECT, name="raw-sam", issued_before=NOW)
    entries = listed(early, late)
    assert len(entries) == 2
    assert entries.discard(late.id)
    assert entries.match(revocation_keys(SAM), NOW) is Scope.SUBJECT
    assert entries.match(revocation_keys(replace(SAM, issued_at=NOW - 10)), NOW) is None
    assert entries.discard(early.id)
    assert not entries.discard(early.id)
    assert entries.match(revocation_keys(SAM), NOW) is None
    assert len(entries) == 0


def test_ids_of_any_form_are_good() -> None:
    """An entry may have been written by hand."""
    named, other = replace(entry(), id="by hand"), replace(entry(), id="ab" * 20)
    entries = listed(named, other, entry())
    assert len(entries) == 3
    for item in (entry(), named):
        assert entries.has(item)
        assert entries.discard(item.id)
        assert not entries.has(item)
        assert entries.match(revocation_keys(SAM), NOW) is Scope.TOKEN
    assert entries.discard(other.id)
    assert entries.match(revocation_keys(SAM), NOW) is None
    assert not entries._entries
    assert not entries._strange_ids


def test_same_strange_id_about_something_else_replaces_it() -> None:
    entries = listed(replace(entry(), id="x"), replace(entry(name="j2"), id="x"))
    assert len(entries) == 1
    assert entries.match(revocation_keys(SAM), NOW) is None


@pytest.mark.parametrize("text", ["", "x", "ab", "ab" * 15 + "zz", "ab" * 20])
def test_custom_id_is_distinguished_from_a_derived_one(text: str) -> None:
    assert parse_entry_id(text) is None
    assert not listed(entry()).discard(text)


def test_id_tells_the_cut_off() -> None:
    assert parse_entry_id(entry().id) == (bytes.fromhex(entry().id), None)
    about = parse_entry_id(entry(Scope.SUBJECT, issued_before=NOW + 0.123).id)
    assert about is not None
    assert about[1] == NOW + 0.123


@pytest.mark.parametrize("time", [float("nan"), float("inf"), float("-inf")])
def test_times_that_are_none_are_refused(time: float) -> None:
    entries = RevocationList()
    assert not entries.add(replace(entry(), expires_at=time))
    assert not entries.add(replace(entry(Scope.SUBJECT), issued_before=time))
    assert len(entries) == 0


def test_version_changes_whenever_more_may_be_refused() -> None:
    entries = RevocationList()
    assert entries.version == 0
    entries.add(entry())
    first = entries.version
    entries.add(entry())
    assert entries.version == first, "nothing was learned"
    entries.add(entry(expires_at=NOW + 60))
    assert entries.version != first
    assert entries.version not in (0, listed(entry()).version)


def test_everything_can_be_listed_in_full_again() -> None:
    """More than a compressed block of them, removed and replaced ones left out, whatever text they hold."""
    full = [
        entry(name=f"j{number}", expires_at=NOW + 60 + number, reason="lost \ud800", created_by="\u00e9")
        for number in range(_BLOCK + 5)
    ]
    cut_off = entry(Scope.SUBJECT, name="raw-sam", issued_before=NOW - 0.5)
    strange = replace(entry(name="s"), id="strange")
    entries = listed(*full, cut_off, strange)
    entries.discard(full[0].id)
    longer = replace(full[1], expires_at=NOW + 9000)
    entries.add(longer)
    told = {item.id: item for item in entries.active(NOW + 62.5)}
    assert set(told.values()) == {longer, *full[3:], cut_off, strange}


def test_versions_are_listed_again_in_any_order_of_arrival() -> None:
    """A snapshot is not in the order of versions; of one id, the later entry comes later."""
    versions = list(range(1_800_000_000_000_000, 1_800_000_000_000_000 + 3 * _BLOCK, 3))
    random.Random(1).shuffle(versions)
    full = [replace(entry(name=f"j{number}"), version=version) for number, version in enumerate(versions)]
    first, last = min(full, key=attrgetter("version")), max(full, key=attrgetter("version"))
    again = replace(full[0], reason="again", version=last.version + 1)
    entries = listed(*full[:-1], again, full[-1], replace(first, version=first.version - 1))
    told: dict[str, list[tuple[int, str]]] = {}
    for item in entries.active(NOW):
        told.setdefault(item.id, []).append((item.version, item.reason))
    assert told.pop(again.id)[-1] == (again.version, "again")
    assert told.pop(first.id)[-1] == (first.version - 1, first.reason), "added last, it is the one that counts"
    wanted = {item.id: [(item.version, item.reason)] for item in full}
    assert told == {name: known for name, known in wanted.items() if name not in (again.id, first.id)}


def test_originals_of_what_has_ended_leave_the_memory() -> None:
    entries = listed(*(entry(name=f"j{number}", expires_at=NOW + 60) for number in range(_BLOCK)))
    assert len(entries._archive) == _BLOCK
    entries.prune(NOW + 120, 10_000)
    assert len(entries._archive) == 0


def test_list_tells_when_it_is_mostly_waste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.store.replica.revocation_list._MAX_WASTE", 10)
    entries = listed(entry())
    for _ in range(11):
        assert not entries.is_wasteful
        entries.discard(entry().id)
        entries.add(entry())
    entries.discard(entry().id)
    assert entries.is_wasteful
