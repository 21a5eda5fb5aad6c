"""What a long deny list costs one process: ``python -m bench.deny_list``. Memory, time to load, time of a look-up."""

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from joserfc.jwk import OKPKey

from sidecar.authn.base import Accepted
from sidecar.authn.gates import RevocationGate
from sidecar.clock import SystemClock
from sidecar.config.settings import StoreSettings
from sidecar.identity.actor import Actor, ActorType
from sidecar.keys.keyset import VerificationKey
from sidecar.metrics import Metrics
from sidecar.secrets.value import Secret
from sidecar.store.base import Batch
from sidecar.store.open import open_store
from sidecar.store.replica.mirror import Mirror
from sidecar.store.replica.revocation_list import revocation_keys
from sidecar.store.revocation_entry import RevocationEntry, Scope, make_entry

MOST_BYTES = 150e6
MOST_SECONDS = 15.0
MOST_LOOK_UP = 2e-6
ISSUER = "https://idp.example.com/realms/corp"
_PIECE = 10_000
_LOOK_UPS = 200_000


async def entries(count: int, scope: Scope, now: float) -> AsyncIterator[list[RevocationEntry]]:
    """``count`` entries in pieces, as a busy year of one identity provider would leave them."""
    for start in range(0, count, _PIECE):
        yield [
            make_entry(
                scope,
                ISSUER,
                str(uuid4()),
                now + number / 1000,
                issued_before=None if scope is Scope.TOKEN else now + number / 1000,
                expires_at=now + 3600 + number % 86400,
                reason="offboarding",
                created_by="USER:admin",
            )
            for number in range(start, min(start + _PIECE, count))
        ]


async def measure(count: int, scope: Scope, url: str) -> bool:
    """Fill the store at ``url`` (empty: a SQLite file of its own), read it as a process does at its start, and ask.

    Prints the figures. Whether all targets are met.
    """
    clock, metrics = SystemClock(), Metrics()
    with TemporaryDirectory(prefix="auth-sidecar-bench-") as folder:
        settings = StoreSettings(url=Secret(url or f"sqlite:///{folder}/store.db"))
        store = await open_store(settings, metrics, clock)
        async for piece in entries(count, scope, clock.now()):
            await store.write(Batch(add_entries=piece))
        gc.collect()
        before, started = _resident(), time.perf_counter()
        mirror = Mirror(store, clock, metrics)
        watch = asyncio.create_task(_longest_stall())
        await mirror.start()
        loaded = await mirror.wait_first_load(600)
        seconds = time.perf_counter() - started
        watch.cancel()
        stall = await watch
        gc.collect()
        size = _resident() - before
        if not loaded or len(mirror.revocations) != count:
            print("the mirror has not read everything", file=sys.stderr)
            return False
        look_up, gate = _look_up_seconds(mirror), _gate_seconds(mirror)
        await mirror.aclose()
        await store.aclose()
    print(f"{count:,} entries of scope {scope}")
    rows = (
        _row("memory", size / 1e6, "MB", MOST_BYTES / 1e6 if scope is Scope.TOKEN else None),
        _row("load", seconds, "s", MOST_SECONDS),
        _row("longest stall of the event loop meanwhile", stall * 1e3, "ms", None),
        _row("look-up", look_up * 1e6, "us", MOST_LOOK_UP * 1e6),
        _row("gate, token known to be clear", gate * 1e6, "us", None),
    )
    return all(rows)


def _row(name: str, value: float, unit: str, most: float | None) -> bool:
    met = most is None or value <= most
    target = "" if most is None else f"  [target {most:g} {unit}: {'met' if met else 'MISSED'}]"
    print(f"  {name:<42} {value:10.2f} {unit}{target}")
    return met


def _actor(token_id: str) -> Actor:
    return Actor(ActorType.USER, "sam", issuer=ISSUER, subject="sam", token_id=token_id, issued_at=0.0)


def _look_up_seconds(mirror: Mirror) -> float:
    entries, now = mirror.revocations, time.time()
    asked = [revocation_keys(_actor(f"j{number}")) for number in range(_LOOK_UPS)]
    started = time.perf_counter()
    for facts in asked:
        entries.match(facts, now)
    return (time.perf_counter() - started) / _LOOK_UPS


def _gate_seconds(mirror: Mirror) -> float:
    gate = RevocationGate(mirror, SystemClock(), max_staleness=600, deny_when_stale=True)
    key = VerificationKey("k", frozenset({"EdDSA"}), OKPKey.generate_key("Ed25519"))
    accepted = Accepted(_actor("j"), key)
    started = time.perf_counter()
    for _ in range(_LOOK_UPS):
        gate.check(accepted)
    return (time.perf_counter() - started) / _LOOK_UPS


async def _longest_stall() -> float:
    """How long others had to wait for the event loop until this was cancelled, at worst, in seconds."""
    longest, step = 0.0, 0.001
    try:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(step)
            longest = max(longest, time.perf_counter() - before - step)
    except asyncio.CancelledError:
        return longest


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096.0


def main() -> int:
    """Exit code 0: every target met; 1: one was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.deny_list", description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000, help="how many (default 1,000,000)")
    parser.add_argument("--scope", choices=["token", "subject"], default="token", help="what they are about")
    parser.add_argument("--store", default="", help="an empty store's URL instead of a SQLite file; it stays filled")
    options = parser.parse_args()
    return 0 if asyncio.run(measure(options.entries, Scope(options.scope), options.store)) else 1


if __name__ == "__main__":
    sys.exit(main())
