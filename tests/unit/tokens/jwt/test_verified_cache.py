"""The memory of verified tokens holds facts that are asked again on every hit."""

import gc
import tracemalloc
from dataclasses import dataclass, field

import pytest

from sidecar.authn.base import Accepted
from sidecar.dataplane.identity_headers import IdentityHeaders
from sidecar.identity.actor import Actor, ActorType
from sidecar.keys.keyset import VerificationKey
from sidecar.metrics import Metrics
from sidecar.store.replica.revocation_list import revocation_keys
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from tests.support import forge


@dataclass
class Entry:
    key: VerificationKey = field(default_factory=lambda: forge.public(forge.RSA, "RS256"))
    not_before: float | None = None
    expires_at: float | None = None
    revalidate_at: float | None = None
    size: int = 1
    weight: int = 0

    def memory(self) -> int:
        return self.size


def cache(size: int = 3) -> VerifiedCache[Entry]:
    return VerifiedCache(size, Metrics())


def test_remembers_by_the_whole_text() -> None:
    memory, entry = cache(), Entry()
    memory.put("a.b.c", entry, memory.generation)
    assert memory.get("a.b.c", 0) is entry
    assert memory.get("a.b.d", 0) is None
    assert memory.get("a.b.c ", 0) is None


def test_expired_entry_is_forgotten() -> None:
    memory = cache()
    memory.put("t", Entry(expires_at=100), 0)
    assert memory.get("t", 99.9) is not None
    assert memory.get("t", 100) is None
    assert len(memory) == 0


def test_entry_that_has_to_be_asked_about_again_is_forgotten() -> None:
    memory = cache()
    memory.put("t", Entry(expires_at=200, revalidate_at=100), 0)
    assert memory.get("t", 99.9) is not None
    assert memory.get("t", 100) is None


def test_entry_does_not_count_before_its_time() -> None:
    """The system clock may be set back."""
    memory = cache()
    memory.put("t", Entry(not_before=100), 0)
    assert memory.get("t", 99) is None
    assert memory.get("t", 100) is not None


def test_withdrawn_key_takes_its_tokens_with_it() -> None:
    memory, entry = cache(), Entry()
    memory.put("t", entry, 0)
    entry.key.live = False
    assert memory.get("t", 0) is None
    entry.key.live = True
    assert memory.get("t", 0) is None


def test_least_recently_used_leaves_first() -> None:
    memory = cache(3)
    for name in "abc":
        memory.put(name, Entry(), 0)
    memory.get("a", 0)
    memory.put("d", Entry(), 0)
    assert [name for name in "abcd" if memory.get(name, 0)] == ["a", "c", "d"]
    assert len(memory) == 3


def test_put_again_replaces_and_takes_no_further_room() -> None:
    memory, newer = cache(2), Entry()
    for entry in (Entry(), newer):
        memory.put("a", entry, 0)
    memory.put("b", Entry(), 0)
    assert memory.get("a", 0) is newer


def test_put_again_counts_as_use() -> None:
    memory = cache(2)
    for name in "abac":
        memory.put(name, Entry(), 0)
    assert [name for name in "abc" if memory.get(name, 0)] == ["a", "c"]


def test_nothing_judged_under_an_old_policy_is_remembered() -> None:
    memory = cache()
    memory.put("old", Entry(), memory.generation)
    begun = memory.generation
    memory.advance_generation()
    memory.put("late", Entry(), begun)
    assert memory.get("old", 0) is None
    assert memory.get("late", 0) is None


def test_no_size_means_no_memory() -> None:
    memory = cache(0)
    memory.put("t", Entry(), 0)
    assert memory.get("t", 0) is None


def test_any_text_may_be_asked_for() -> None:
    assert cache().get("\ud800", 0) is None


def test_counts_hits_misses_and_entries() -> None:
    metrics = Metrics()
    memory: VerifiedCache[Entry] = VerifiedCache(3, metrics)
    memory.put("a", Entry(), 0)
    for name in "aab":
        memory.get(name, 0)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("sidecar_token_cache_lookups_total", result="hit") == 2
    assert value("sidecar_token_cache_lookups_total", result="miss") == 0  # who verifies tells
    memory.count_miss()
    assert value("sidecar_token_cache_lookups_total", result="miss") == 1
    assert value("sidecar_token_cache_entries") == 1


def test_memory_is_bounded_whatever_the_number() -> None:
    """The least recently used leave until the rest fits."""
    metrics = Metrics()
    memory: VerifiedCache[Entry] = VerifiedCache(100, metrics, max_bytes=1000)
    for name in "abcdefghij":
        memory.put(name, Entry(size=100), 0)
    assert memory.get("a", 0) is not None
    memory.put("large", Entry(size=450), 0)
    assert [name for name in "abcdefghij" if memory.get(name, 0)] == ["a", "g", "h", "i", "j"]
    assert metrics.registry.get_sample_value("sidecar_token_cache_bytes") == 950


def test_memory_of_what_leaves_is_given_back() -> None:
    """Whichever way it leaves: replaced, ended, withdrawn, forgotten."""
    metrics = Metrics()
    memory: VerifiedCache[Entry] = VerifiedCache(2, metrics, max_bytes=1000)

    def counted() -> float | None:
        return metrics.registry.get_sample_value("sidecar_token_cache_bytes")

    memory.put("a", Entry(size=100, expires_at=10), 0)
    memory.put("a", Entry(size=150, expires_at=10), 0)
    assert counted() == 150
    memory.put("b", Entry(size=20), 0)
    memory.put("c", Entry(size=30), 0)
    assert counted() == 50
    memory.put("a", Entry(size=100, expires_at=10), 0)
    assert (memory.get("a", 10), counted()) == (None, 30)
    memory.advance_generation()
    assert counted() == 0


def test_what_would_push_all_others_out_is_not_remembered() -> None:
    memory: VerifiedCache[Entry] = VerifiedCache(100, Metrics(), max_bytes=1000)
    memory.put("a", Entry(size=10), 0)
    memory.put("large", Entry(size=501), 0)
    assert memory.get("large", 0) is None
    assert memory.get("a", 0) is not None


@pytest.mark.parametrize("groups", [0, 5, 60, 300, 1000])
def test_what_is_counted_is_no_less_than_what_is_taken(groups: int) -> None:
    """Of a caller in many groups, with the headers that are kept for it; and not much more."""
    made = IdentityHeaders(
        strip=(), max_bytes=3072, max_total_bytes=8192, assertion=None, credential=None, metrics=Metrics()
    )

    def accepted(number: int) -> Accepted:
        names = [f"{number * 7919 + group:08x}-0000-4000-8000-000000000000" for group in range(groups)]
        actor = Actor(
            ActorType.USER,
            f"user-{number}",
            issuer=forge.ISSUER,
            subject=f"subject-{number}",
            email=f"user-{number}@example.com",
            groups=tuple(names),
            token_id=f"token-{number}",
        )
        return Accepted(actor, revocation_keys=revocation_keys(actor))

    number = 50
    made.forward_block(accepted(0))
    kept: list[Accepted] = []
    gc.collect()
    tracemalloc.start()
    try:
        kept.extend(accepted(index) for index in range(number))
        for one in kept:
            made.forward_block(one)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] / number
    finally:
        tracemalloc.stop()
    assert taken <= kept[0].memory() <= 2 * taken + 2560
