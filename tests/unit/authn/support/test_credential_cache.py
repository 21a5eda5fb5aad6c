"""The memory of credentials that are no tokens."""

from dataclasses import replace

from sidecar.authn.base import Accepted
from sidecar.authn.support.credential_cache import CredentialCache
from sidecar.identity.actor import Actor, ActorType
from tests.support.hand_clock import HandClock

ANN = Actor(ActorType.USER, "ann")


def test_memory_is_bounded_whatever_the_number() -> None:
    """A directory may put a caller into a thousand groups; the least recently used leave first."""
    clock = HandClock()
    many = Accepted(replace(ANN, groups=tuple(f"group-{number}" for number in range(1000))))
    memory = CredentialCache(clock, max_bytes=4 * many.memory())
    digests = [memory.digest(str(number)) for number in range(10)]
    for digest in digests:
        memory.put(digest, many, 60)
        assert memory.get(digests[0]) is many or digest not in digests[:3]
    assert [memory.get(digest) is many for digest in digests] == [True, *[False] * 6, *[True] * 3]
    memory.put(digests[9], many, 60)
    assert memory.get(digests[8]) is many, "replacing one takes no more"
    clock.advance(61)
    assert [memory.get(digest) for digest in digests] == [None] * 10
    for digest in digests[:4]:
        memory.put(digest, many, 60)
    assert all(memory.get(digest) is many for digest in digests[:4]), "what has ended takes nothing"
