"""A provider's keys over real sockets: refreshed, shared, kept, withdrawn, and never wanted from a dead issuer."""

import asyncio
import json
import logging
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.providers import Provider
from sidecar.keys.jwks_cache import ProviderKeys
from tests.support.jwks_server import (
    body,
    document,
    ec_key,
    endless,
    eventually,
    held,
    jwk,
    rsa_key,
    status,
)
from tests.support.key_world import A, B, World, kids, unavailable

REFRESH_AT = 600 * 0.825
"""Seconds until a set without Cache-Control is fetched anew, with the middle of chance."""
COOLDOWN = 10.0


def next_fetch(world: World, keys: ProviderKeys) -> float:
    """Seconds until the only URL is fetched in the background."""
    (source,) = keys._configured_urls
    return source.refresher.due - world.clock.monotonic()


def was_asked_after(world: World, before: int) -> bool:
    return world.asked > before


def has_failed(world: World, times: int) -> bool:
    return world.outcomes().get("status", 0) >= times


# --- fetching in the background


async def test_start_needs_no_issuer_and_keys_arrive_by_themselves(world: World) -> None:
    gate = asyncio.Event()
    world.server.answers["/jwks"] = held(document({"keys": [A]}), gate)
    keys = await world.keys()
    assert keys.candidates("a", "RS256") == ()
    assert not keys.status().attempted
    gate.set()
    await eventually(lambda: keys.candidates("a", "RS256"))
    assert keys.status().usable
    assert keys.status().problem == ""


async def test_known_kid_never_fetches(world: World) -> None:
    keys = await world.fetched()
    for _ in range(100):
        assert kids(keys.candidates("a", "RS256")) == ["a"]
        assert kids(await keys.refetch("a", "RS256")) == ["a"]
        world.clock.advance(0.01)
    assert world.asked == 1


async def test_set_is_refreshed_ahead_of_expiry(world: World) -> None:
    keys = await world.fetched()
    world.server.publish(A, B)
    assert next_fetch(world, keys) == REFRESH_AT
    world.clock.advance(REFRESH_AT)
    await eventually(lambda: keys.candidates("b", "RS256"))
    assert world.asked == 2


@pytest.mark.parametrize(
    ("control", "lifetime"),
    [
        ("max-age=3600", 3600.0),
        ("max-age=0", 60.0),
        ("max-age=5", 60.0),
        ("no-store", 60.0),
        ("max-age=99999999", 86400.0),
        ("public", 600.0),
    ],
)
async def test_cache_control_is_honoured_within_bounds(world: World, control: str, lifetime: float) -> None:
    world.server.publish(A, Cache_Control=control)
    keys = await world.fetched()
    assert next_fetch(world, keys) == pytest.approx(lifetime * 0.825)


async def test_shorter_refresh_than_the_bound_is_obeyed(world: World) -> None:
    world.server.publish(A, Cache_Control="max-age=1")
    keys = await world.fetched(refresh="5s")
    assert next_fetch(world, keys) == pytest.approx(5 * 0.825)


async def test_keys_are_refreshed_before_they_would_be_too_old(world: World) -> None:
    """Whatever lifetime the answer claims."""
    world.server.publish(A, Cache_Control="max-age=86400")
    keys = await world.fetched(max_stale="5m")
    for _ in range(10):
        before = world.asked
        world.clock.advance(299)
        await eventually(partial(was_asked_after, world, before))
        await eventually(lambda: keys.status().age == 0)
        assert keys.candidates("a", "RS256")


async def test_unchanged_set_is_confirmed_without_a_body(world: World) -> None:
    world.server.publish(A, ETag='"1"')
    keys = await world.fetched()
    (before,) = keys.candidates("a", "RS256")
    world.clock.advance(REFRESH_AT + 60)
    await eventually(lambda: world.outcomes().get("not_modified"))
    assert keys.candidates("a", "RS256") == (before,)
    assert keys.status().age == 0


async def test_background_work_outlives_a_fault_of_our_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = await world.fetched()
    with monkeypatch.context() as patched:
        patched.setattr("sidecar.keys.url_keys.parse_key_set", lambda *_, **__: 1 / 0)
        world.clock.advance(600)
        await eventually(lambda: world.outcomes().get("internal"))
    world.clock.advance(60)
    await eventually(lambda: keys.status().problem == "")


# --- unknown key ids


async def test_rotated_key_is_found_at_once(world: World) -> None:
    """The fetch of the start does not count against the cool-down."""
    keys = await world.fetched()
    world.server.publish(A, B)
    assert kids(await keys.refetch("b", "RS256")) == ["b"]
    assert world.asked == 2


async def test_ten_thousand_bogus_kids_cost_one_fetch_per_cooldown(world: World) -> None:
    keys = await world.fetched()
    for round_ in range(3):
        results = await asyncio.gather(*(keys.refetch(f"bogus-{number}", "RS256") for number in range(10_000)))
        assert set(results) == {()}
        assert world.asked == 2 + round_
        world.clock.advance(COOLDOWN - 0.1)
        assert await keys.refetch("one-more", "RS256") == ()
        assert world.asked == 2 + round_
        world.clock.advance(0.2)


async def test_many_waiters_share_one_fetch(world: World) -> None:
    keys = await world.fetched()
    gate = asyncio.Event()
    world.server.answers["/jwks"] = held(document({"keys": [A, B]}), gate)
    waiting = [asyncio.create_task(keys.refetch("b", "RS256")) for _ in range(200)]
    await eventually(lambda: world.asked == 2)
    gate.set()
    assert {kids(found)[0] for found in await asyncio.gather(*waiting)} == {"b"}
    assert world.asked == 2


async def test_first_requests_wait_for_the_fetch_of_the_start(world: World) -> None:
    gate = asyncio.Event()
    world.server.answers["/jwks"] = held(document({"keys": [A]}), gate)
    keys = await world.keys()
    waiting = asyncio.gather(*(keys.refetch("a", "RS256") for _ in range(50)))
    await eventually(lambda: world.asked == 1)
    gate.set()
    assert all(kids(found) == ["a"] for found in await waiting)
    assert world.asked == 1


async def test_waiter_who_leaves_does_not_take_the_fetch_along(world: World) -> None:
    keys = await world.fetched()
    gate = asyncio.Event()
    world.server.answers["/jwks"] = held(document({"keys": [A, B]}), gate)
    first = asyncio.create_task(keys.refetch("b", "RS256"))
    await eventually(lambda: world.asked == 2)
    others = [asyncio.create_task(keys.refetch("b", "RS256")) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    gate.set()
    assert [kids(found) for found in await asyncio.gather(*others)] == [["b"]] * 5
    assert world.asked == 2


async def test_key_of_another_algorithm_is_no_candidate(world: World) -> None:
    world.server.publish(jwk(ec_key(), "a"), jwk(rsa_key(), "r", alg="RS256"))
    keys = await world.fetched()
    assert keys.candidates("a", "RS256") == keys.candidates("r", "PS256") == ()
    assert await keys.refetch("a", "RS256") == ()


# --- withdrawn keys


async def test_withdrawn_key_dies_for_good_and_an_unchanged_one_stays_the_same(world: World) -> None:
    world.server.publish(A, B)
    keys = await world.fetched()
    (a,), (b,) = keys.candidates("a", "RS256"), keys.candidates("b", "RS256")
    world.server.publish(A)
    world.clock.advance(600)
    await eventually(lambda: not b.live)
    assert keys.candidates("b", "RS256") == ()
    assert keys.candidates("a", "RS256") == (a,)
    assert a.live
    world.server.publish(A, B)
    assert kids(await keys.refetch("b", "RS256")) == ["b"]
    assert not b.live


async def test_set_that_lists_no_key_any_more_withdraws_all(world: World) -> None:
    """It is the issuer's own word, not an outage: nothing verifies until it lists a key again."""
    keys = await world.fetched()
    (a,) = keys.candidates("a", "RS256")
    world.server.publish()
    world.clock.advance(600)
    await eventually(lambda: not a.live)
    await unavailable(keys.refetch("a", "RS256"))
    assert "no usable key" in keys.status().problem


async def test_other_key_under_the_same_kid_replaces_the_old(world: World) -> None:
    keys = await world.fetched()
    (old,) = keys.candidates("a", "RS256")
    world.server.publish(jwk(rsa_key(1), "a"))
    world.clock.advance(600)
    await eventually(lambda: not old.live)
    (new,) = keys.candidates("a", "RS256")
    assert new.fingerprint == rsa_key(1).thumbprint()


# --- outages


async def test_outage_is_served_from_the_last_good_copy_and_then_ends_in_503(world: World) -> None:
    keys = await world.fetched(max_stale="1h")
    (a,) = keys.candidates("a", "RS256")
    world.server.answers["/jwks"] = status(500)
    world.clock.advance(3599)
    await eventually(lambda: world.outcomes().get("status"))
    assert keys.candidates("a", "RS256") == (a,)
    assert await keys.refetch("unknown", "RS256") == ()
    world.clock.advance(2)
    assert keys.candidates("a", "RS256") == ()
    assert not a.live
    error = await unavailable(keys.refetch("a", "RS256"))
    assert 1 <= error.retry_after <= 60
    assert not keys.status().usable
    world.server.publish(A)
    world.clock.advance(COOLDOWN)
    assert kids(await keys.refetch("a", "RS256")) == ["a"]


async def test_too_old_keys_are_dropped_without_requests(world: World) -> None:
    keys = await world.fetched(max_stale="1h")
    (a,) = keys.candidates("a", "RS256")
    world.server.answers["/jwks"] = status(500)
    world.clock.advance(3700)
    await eventually(lambda: not a.live)


async def test_issuer_that_was_never_there_is_503_without_a_fetch_for_every_request(world: World) -> None:
    world.server.answers["/jwks"] = status(503)
    keys = await world.fetched()
    for _ in range(100):
        await unavailable(keys.refetch("a", "RS256"))
    assert world.asked == 2


async def test_keys_come_back_by_themselves_after_an_outage(world: World) -> None:
    world.server.answers["/jwks"] = status(503)
    keys = await world.fetched()
    world.server.publish(A)
    world.clock.advance(60)
    await eventually(lambda: keys.candidates("a", "RS256"))


async def test_one_dead_url_hurts_only_its_own_tokens(world: World) -> None:
    world.server.publish(A, path="/healthy")
    world.server.answers["/dead"] = status(500)
    keys = await world.fetched(world.server.url("/healthy"), world.server.url("/dead"))
    assert kids(keys.candidates("a", "RS256")) == ["a"]
    await unavailable(keys.refetch("only-on-the-dead-one", "RS256"))
    assert keys.status().usable
    assert "/dead" in keys.status().problem
    world.server.publish(B, path="/dead")
    world.clock.advance(COOLDOWN)
    assert kids(await keys.refetch("b", "RS256")) == ["b"]
    assert await keys.refetch("nowhere", "RS256") == ()


async def test_hanging_url_does_not_hold_up_known_keys(world: World) -> None:
    world.server.publish(A, path="/healthy")
    world.server.answers["/hanging"] = held(document({}), asyncio.Event())
    keys = await world.keys(world.server.url("/healthy"), world.server.url("/hanging"), timeout="50ms")
    await eventually(lambda: keys.candidates("a", "RS256"))
    await unavailable(keys.refetch("b", "RS256"))
    assert world.outcomes()["timeout"] >= 1


HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "garbage": (lambda: body(b"<html>no keys here</html>"), "not_json"),
    "other JSON": (lambda: document({"issuer": "x"}), "not_json"),
    "oversized": (lambda: body(b" " * 600_000), "too_large"),
    "endless": (endless, "too_large"),
    "slow": (lambda: held(document({"keys": [B]}), asyncio.Event()), "timeout"),
    "redirecting": (lambda: status(302, Location="/other"), "redirect"),
    "compressed": (lambda: body(b"x", Content_Encoding="gzip"), "encoding"),
    "too many keys": (lambda: document({"keys": [B] * 257}), "useless"),
    "failing": (lambda: status(500), "status"),
}


@pytest.mark.parametrize(("answer", "outcome"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_answer_changes_nothing_and_is_counted(
    world: World, answer: Callable[[], Any], outcome: str
) -> None:
    world.server.publish(B, path="/other")
    keys = await world.fetched(timeout="100ms")
    (a,) = keys.candidates("a", "RS256")
    world.server.answers["/jwks"] = answer()
    world.clock.advance(600)
    await eventually(lambda: world.outcomes().get(outcome))
    assert keys.candidates("a", "RS256") == (a,)
    assert a.live
    assert keys.candidates("b", "RS256") == ()
    assert keys.status().problem


async def test_unusable_entries_do_not_hide_the_good_one(world: World) -> None:
    """Symmetric, private, weak, empty: OpenMetadata without a key publishes the last."""
    oct_key = {"kty": "oct", "kid": "o", "k": "AAAA"}
    private = {**rsa_key(1).as_dict(private=True), "kid": "p"}
    weak = {"kty": "RSA", "kid": "w", "n": "_" * 171, "e": "AQAB"}
    world.server.publish(oct_key, private, weak, {}, A)
    keys = await world.fetched()
    assert keys.status().keys == 1
    for kid in ("o", "p", "w"):
        assert await keys.refetch(kid, "RS256") == ()
    assert kids(keys.candidates("a", "RS256")) == ["a"]


async def test_set_of_unsafe_keys_alone_is_a_definite_no(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Its tokens are refused, not waited for; what is wrong stands in the log and in the report."""
    world.server.publish({"kty": "RSA", "kid": "w", "n": "_" * 171, "e": "AQAB"})
    keys = await world.fetched()
    assert await keys.refetch("w", "RS256") == ()
    assert not keys.status().usable
    assert "no usable key (1 weak)" in keys.status().problem
    lines = [vars(record) for record in caplog.records]
    assert [line["skipped"] for line in lines if line.get("event") == "unsafe_keys_skipped"] == [{"weak": 1}]


async def test_set_without_a_key_for_the_accepted_algorithms_is_a_problem(world: World) -> None:
    """Also beside a set that has one: each URL answers for itself."""
    world.server.publish(jwk(ec_key(), "e"), path="/ec")
    urls = (world.server.url(), world.server.url("/ec"))
    keys = await world.provider(
        Provider("corp", "https://idp.example.com", key_urls=urls, algorithms=frozenset({"RS256"}))
    )
    await eventually(lambda: keys.status().attempted)
    problem = keys.status().problem
    assert problem.startswith(f"{urls[1]}: no key fits the accepted algorithms")
    assert "RS256" in problem
    assert "ES256" in problem


async def test_openmetadata_server_without_a_key_is_unavailable(world: World) -> None:
    world.server.publish({})
    keys = await world.fetched()
    await unavailable(keys.refetch("Gb389a", "RS256"))


@pytest.mark.parametrize("url", ["https://169.254.169.254/jwks", "http://192.0.2.1/jwks", "https://[fe80::1]/jwks"])
async def test_refused_address_is_never_asked(world: World, url: str) -> None:
    keys = await world.fetched(url)
    await unavailable(keys.refetch("a", "RS256"))
    assert world.outcomes().keys() <= {"address_refused", "url_refused"}


# --- the copy on disk


async def test_restart_during_an_outage_verifies_from_disk(world: World, tmp_path: Path) -> None:
    world.server.publish(A, jwk(ec_key(), "e"), jwk(rsa_key(1), "p", alg="PS256"))
    first = await world.fetched(cache_dir=tmp_path / "keys")
    await first.aclose()
    world.server.answers["/jwks"] = status(500)
    world.clock.advance(7200)
    second = await world.keys(cache_dir=tmp_path / "keys")
    assert kids(second.candidates("a", "RS256")) == ["a"]
    assert kids(second.candidates("e", "ES256")) == ["e"]
    assert second.candidates("p", "RS256") == ()
    assert second.status().age == 7200
    await eventually(lambda: second.status().attempted)
    assert second.candidates("a", "RS256")
    world.clock.advance(86400 - 7200 + 1)
    assert second.candidates("a", "RS256") == ()


async def test_copy_on_disk_is_private_and_holds_public_members_only(world: World, tmp_path: Path) -> None:
    world.server.publish(A | {"x5u": "https://x.example", "note": "n"})
    await world.fetched(cache_dir=tmp_path / "keys")
    (copy,) = (tmp_path / "keys").iterdir()
    assert re.fullmatch(r"[0-9a-f]{64}\.json", copy.name)
    assert copy.stat().st_mode & 0o777 == 0o600
    (entry,) = json.loads(copy.read_text())["content"]["keys"]
    assert entry.keys() == {"kty", "n", "e", "kid", "use"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: b"",
        lambda record: b"[]",
        lambda record: json.dumps({**record, "keptAt": record["keptAt"] - 90_000}).encode(),
        lambda record: json.dumps({**record, "keptAt": record["keptAt"] + 90_000}).encode(),
        lambda record: json.dumps({**record, "keptAt": "now"}).encode(),
        lambda record: json.dumps({**record, "subject": "https://other.example"}).encode(),
        lambda record: json.dumps({**record, "content": []}).encode(),
        lambda record: json.dumps({**record, "content": {"keys": "x"}}).encode(),
        lambda record: json.dumps({**record, "content": {"keys": [rsa_key().as_dict(private=True)]}}).encode(),
    ],
    ids=["empty", "list", "too old", "of the future", "no time", "of another URL", "no content", "no keys", "private"],
)
async def test_spoilt_copy_on_disk_is_not_used(
    world: World, tmp_path: Path, spoil: Callable[[dict[str, Any]], bytes]
) -> None:
    first = await world.fetched(cache_dir=tmp_path)
    await first.aclose()
    (copy,) = tmp_path.iterdir()
    copy.write_bytes(spoil(json.loads(copy.read_text())))
    world.server.answers["/jwks"] = status(500)
    second = await world.keys(cache_dir=tmp_path)
    assert second.candidates("a", "RS256") == ()
    assert second.candidates(None, "RS256") == ()


async def test_key_withdrawn_by_a_fetch_is_gone_from_disk_too(world: World, tmp_path: Path) -> None:
    first = await world.fetched(cache_dir=tmp_path)
    world.server.publish(B)
    await first.refetch("b", "RS256")
    await first.aclose()
    world.server.answers["/jwks"] = status(500)
    second = await world.keys(cache_dir=tmp_path)
    assert second.candidates("a", "RS256") == ()
    assert kids(second.candidates("b", "RS256")) == ["b"]


async def test_unwritable_folder_is_one_warning(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    keys = await world.fetched(cache_dir=tmp_path / "file" / "keys")
    for _ in range(3):
        world.clock.advance(600)
        await eventually(lambda: keys.status().age == 0)
    assert keys.candidates("a", "RS256")
    assert len([record for record in caplog.records if vars(record).get("event") == "key_cache_write_failed"]) == 1


# --- what operators see


async def test_metrics_tell_fetches_keys_and_age(world: World) -> None:
    def read(name: str) -> float | None:
        return world.metrics.registry.get_sample_value(name, {"provider": "corp"})

    world.server.answers["/jwks"] = status(500)
    keys = await world.fetched()
    assert read("sidecar_jwks_keys") == 0
    assert math.isnan(read("sidecar_jwks_age_seconds") or 0)
    world.server.publish(A, B)
    await keys.refetch("a", "RS256")
    world.clock.advance(30)
    assert read("sidecar_jwks_keys") == 2
    assert read("sidecar_jwks_age_seconds") == 30
    assert world.outcomes() == {"status": 1, "ok": 1}


async def test_outage_is_logged_when_it_begins_and_ends_not_in_between(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sidecar.keys")
    keys = await world.fetched()
    world.server.answers["/jwks"] = status(500)
    for number in range(1, 6):
        world.clock.advance(700)
        await eventually(partial(has_failed, world, number))
    world.server.publish(A)
    world.clock.advance(100)
    await eventually(lambda: keys.status().problem == "")
    await eventually(lambda: len(caplog.records) >= 2)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_closing_ends_a_fetch_in_progress(world: World) -> None:
    world.server.answers["/jwks"] = held(document({}), asyncio.Event())
    keys = await world.keys()
    await eventually(lambda: world.asked == 1)
    await asyncio.wait_for(keys.aclose(), 2)
