"""The bounded mapping: what it evicts, and when."""

from sidecar.lru import BoundedLru


def keys(entries: BoundedLru[str, int], names: str) -> str:
    return "".join(name for name in names if name in entries)


def test_the_least_recently_used_entry_is_evicted() -> None:
    entries: BoundedLru[str, int] = BoundedLru(3)
    for number, name in enumerate("abc"):
        entries.put(name, number)
    assert entries.get("a") == 0  # no use
    entries.touch("b")
    entries.put("d", 3)
    assert keys(entries, "abcd") == "bcd"
    entries.put("b", 9)
    entries.put("e", 4)
    assert (keys(entries, "bcde"), entries.get("b"), entries.get("c")) == ("bde", 9, None)


def test_entries_are_bounded_by_their_weight() -> None:
    """A replaced or removed entry no longer counts."""
    entries: BoundedLru[str, int] = BoundedLru(100, 10, lambda value: value)
    entries.put("a", 4)
    entries.put("b", 4)
    entries.put("a", 6)
    assert (keys(entries, "ab"), entries.weight) == ("ab", 10)
    entries.put("c", 1)
    assert (keys(entries, "abc"), entries.weight) == ("ac", 7)
    entries.discard("a")
    entries.discard("missing")
    assert (len(entries), entries.weight, list(entries.values())) == (1, 1, [1])
    entries.put("d", 11)  # heavier than all that may be stored
    assert (len(entries), entries.weight) == (0, 0)
    entries.put("e", 5)
    entries.clear()
    assert (len(entries), entries.weight) == (0, 0)
