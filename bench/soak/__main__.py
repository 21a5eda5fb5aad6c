"""``python -m bench.soak --minutes 10``. Exit code 0: no wrong verdict, no unhandled error, constant memory."""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from bench.processes import BenchError
from bench.soak.traffic import Crowd, Traffic
from bench.soak.verdicts import Ledger
from bench.soak.world import KEY_REFRESH, RESPONSE_SECONDS, World

MOST_GROWTH = 16e6
"""Maximum growth of memory from the second to the last quarter, in bytes."""
_REVOKE_SECONDS = 0.5
_BETWEEN_FAULTS = 2.0


async def again(act: Callable[[], Awaitable[None]]) -> None:
    """Until cancelled."""
    while True:
        await act()


async def revoke(world: World, session: ClientSession, crowd: Crowd, ledger: Ledger) -> None:
    """Revoke one token after the other. A revocation counts once it succeeded; a failed one is retried."""
    url = f"http://{world.address}/oauth2/revocations"
    headers = {"Authorization": f"Bearer {crowd.root.token}"}
    while True:
        person = random.choice(crowd.doomed)
        started = time.time()
        person.ending = min(person.ending, started)
        status = 0
        while status != 201:
            asked = time.time()
            async with session.post(url, json={"token": person.token}, headers=headers) as answer:
                status = answer.status
                await answer.read()
            ledger.counts["revoke", status] += 1
            if status != 201 and not (status == 503 and world.faults.overlap("store", asked, time.time())):
                ledger.blame("revoke", f"{status} while the store was well")
            await asyncio.sleep(0 if status == 201 else _REVOKE_SECONDS)
        person.ended = min(person.ended, time.time())
        await asyncio.sleep(_REVOKE_SECONDS)


async def rotate(world: World) -> None:
    """Rotate keys: a new key is published long enough before it signs."""
    while True:
        await asyncio.sleep(10)
        world.provider.issuer.publish_next()
        published = time.time()
        while time.time() < published + 3 * KEY_REFRESH:
            await asyncio.sleep(0.5)
            if world.faults.overlap("provider", time.time(), time.time()):
                published = time.time()
        world.provider.issuer.sign_with_next()


async def fail(world: World) -> None:
    """Inject one fault after the other, then several concurrently."""
    while True:
        for fault, seconds in (
            # first: its thousand connections need memory once, and growth is measured from the second quarter on
            (world.bodies_announced, 4.0),
            (world.service_killed, 1.0),
            (world.provider_down, 3.0),
            (world.redis_stalled, 2.0),
            (world.service_stalled, RESPONSE_SECONDS + 1),
            (world.provider_stalled, 3.0),
            (world.redis_killed, 1.0),
        ):
            await asyncio.sleep(_BETWEEN_FAULTS)
            async with fault():
                await asyncio.sleep(seconds)
        await asyncio.sleep(_BETWEEN_FAULTS)
        async with world.provider_down(), world.redis_killed(), world.service_killed():
            await asyncio.sleep(1.0)


async def watch(world: World, sizes: list[int]) -> None:
    """Record the sidecar's memory every second. Raises BenchError if it has exited."""
    while True:
        if not world.sidecar.is_running():
            raise BenchError(f"the sidecar exited:\n{world.sidecar.output()[-3000:]}")
        sizes.append(world.sidecar.resident_bytes())
        await asyncio.sleep(1)


async def soak(minutes: float, folder: Path, stack: ExitStack) -> bool:
    """Run everything for this time and print the results. Returns whether they are as expected."""
    world = World(folder, stack)
    await world.start()
    ledger, sizes = Ledger(world.faults), list[int]()
    crowd = Crowd(world.provider.issuer)
    async with ClientSession(
        connector=TCPConnector(limit=0), timeout=ClientTimeout(total=30), cookie_jar=DummyCookieJar()
    ) as session:
        traffic = Traffic(world.address, session, crowd, ledger)
        acts = [again(act) for act, number in traffic.kinds().items() for _ in range(number)]
        tasks = [
            asyncio.create_task(act)
            for act in (*acts, revoke(world, session, crowd, ledger), rotate(world), fail(world), watch(world, sizes))
        ]
        done, _ = await asyncio.wait(tasks, timeout=60 * minutes, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
    await world.provider.stop()
    return report(world, ledger, sizes)


def report(world: World, ledger: Ledger, sizes: list[int]) -> bool:
    """Print the results. Returns whether they are as expected."""
    for (traffic, status), number in sorted(ledger.counts.items()):
        print(f"  {traffic:<18} {status or 'no answer':>9} {number:>9,}")
    faults = [fault.name for fault in world.faults.seen]
    print("faults injected: " + ", ".join(f"{name} {faults.count(name)}" for name in sorted(set(faults))))
    quarter = max(1, len(sizes) // 4)
    before, after = (statistics.median(part) for part in (sizes[quarter : 2 * quarter] or sizes, sizes[-quarter:]))
    print(f"memory: {before / 1e6:.1f} MB in the second quarter, {after / 1e6:.1f} MB in the last")
    complaints = [line for line in world.sidecar.output().splitlines() if '"level":"error"' in line or "Trace" in line]
    for line in (*ledger.told, *complaints[:10]):
        print(f"WRONG {line}")
    print(f"{sum(ledger.counts.values()):,} answers, {ledger.wrong.total():,} wrong, {len(complaints)} faults logged")
    return not ledger.wrong and not complaints and after - before < MOST_GROWTH


def main() -> int:
    """Exit code 0: as expected; 1: not, or a program did not start."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="duration (default 10)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="auth-sidecar-soak-") as folder, ExitStack() as stack:
        try:
            return 0 if asyncio.run(soak(options.minutes, Path(folder), stack)) else 1
        except BenchError as failure:
            print(failure, file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
