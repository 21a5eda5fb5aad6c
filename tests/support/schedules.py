"""Random schedules of writes, losses and late answers over a :class:`StoreWorld`, and what must hold afterwards.

``python -m tests.support.schedules --number 100000`` runs many; a failing one is printed, shortened, with its seed.
"""

import argparse
import asyncio
import logging
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis

from sidecar.errors import Unavailable
from sidecar.metrics import Metrics
from sidecar.store.base import Batch
from sidecar.store.record import TokenKind
from sidecar.store.sqlite.database import Database
from tests.support import tools
from tests.support.store_world import (
    START,
    Backing,
    MemoryBacking,
    RedisBacking,
    SqliteBacking,
    StoreWorld,
    Turn,
)

Action = tuple[Any, ...]
NAMES = ("x", "y")
BOTS = ("bot",)
LIFETIMES = (1000.0, 5000.0, None)


@dataclass(slots=True)
class Done:
    """One write: when it began and when it was acknowledged, counted in steps, and what it says."""

    kind: str
    about: str
    value: float | None
    began: int
    acknowledged: int | None = None


@dataclass(slots=True)
class Ledger:
    """What was asked and what was acknowledged."""

    now: int = 0
    writes: list[Done] = field(default_factory=list)

    def begin(self, kind: str, about: str, value: float | None = None) -> Done:
        self.now += 1
        self.writes.append(Done(kind, about, value, self.now))
        return self.writes[-1]

    def end(self, done: Done) -> None:
        self.now += 1
        done.acknowledged = self.now

    def latest(self, kinds: tuple[str, ...], about: str) -> list[Done]:
        """The writes about one thing that no other one, acknowledged or not, came wholly after an acknowledged one."""
        writes = [done for done in self.writes if done.kind in kinds and done.about == about]
        return [
            done
            for done in writes
            if not any(
                other.acknowledged is not None and done.acknowledged is not None and done.acknowledged < other.began
                for other in writes
            )
        ]

    def is_certain(self, kinds: tuple[str, ...], about: str) -> bool:
        """Whether any write about it was acknowledged."""
        return any(done.acknowledged is not None for done in self.writes if done.kind in kinds and done.about == about)


def draw(chance: random.Random, processes: int, *, losses: bool) -> list[Action]:
    """A schedule: actions in order. ``losses``: the store may forget."""
    actions: list[tuple[float, Callable[[], Action]]] = [
        (3, lambda: ("deny", some(), chance.choice(NAMES), chance.choice(LIFETIMES))),
        (2, lambda: ("remove", some(), chance.choice(NAMES))),
        (2, lambda: ("mint", some(), chance.choice(BOTS))),
        (1, lambda: ("personal", some())),
        (2, lambda: ("end", some(), chance.randint(1, 4))),
        (7, lambda: ("follow", some())),
        (2, lambda: ("hold", chance.choice(("deny", "remove", "mint", "follow")), some(), chance.randint(1, 5))),
        (3, lambda: ("step", chance.randint(0, 3), chance.randint(1, 3))),
        (1, lambda: ("finish", chance.randint(0, 3))),
        (1, lambda: ("cut", some())),
        (1, lambda: ("heal", some())),
        (1, lambda: ("forget position", some())),
        (0.5, lambda: ("skew", some(), chance.choice((0.0, 30.0, -30.0, 7200.0, -7200.0)))),
        (0.5, lambda: ("later", chance.choice((5.0, 300.0)))),
    ]
    if losses:
        actions += [
            (2, lambda: ("save",)),
            (2, lambda: ("lose",)),
            (1, lambda: ("wipe",)),
            (0.5, lambda: ("trim",)),
        ]

    def some() -> int:
        return chance.randrange(processes)

    weights = [weight for weight, _ in actions]
    return [make() for _, make in chance.choices(actions, weights, k=chance.randint(3, 14))]


class Runner:
    """Does what a schedule says."""

    def __init__(self, backing: Backing, processes: int) -> None:
        self.world = StoreWorld(backing, processes)
        self.ledger = Ledger()
        self.turns: list[Turn] = []
        self.following: dict[int, Turn] = {}
        self.tokens: list[tuple[str, str]] = []
        self.problems: list[str] = []

    async def run(self, schedule: list[Action]) -> list[str]:
        """What was wrong; nothing: all was right."""
        world = self.world
        await world.begin()
        for action in schedule:
            await self._act(action)
        for turn in self.turns:
            await world.finish(turn)
        for clock in world.clocks:
            clock.skew = 0.0
        order = list(range(len(world.mirrors)))
        await world.converge(order[::-1] if len(schedule) % 2 else order, rounds=6)
        self.problems += [f"fault: {fault!r}" for fault in world.faults]
        await self._judge()
        return self.problems

    async def _act(self, action: Action) -> None:
        world = self.world
        match action:
            case ("follow", index) | ("hold", "follow", index, _) if self._follows(index):
                """A process follows the store once at a time."""
            case ("follow", index):
                await world.follow(index)
                self._check_fresh(index)
            case ("hold", "follow", index, steps):
                await self._hold(world.follow(index), steps)
                self.following[index] = self.turns[-1]
            case ("hold", kind, index, steps):
                name = {"deny": NAMES[0], "remove": NAMES[0], "mint": BOTS[0]}[kind]
                extra = (LIFETIMES[steps % 3],) if kind == "deny" else ()
                await self._hold(self._write((kind, index, name, *extra)), steps)
            case ("step", number, steps) if number < len(self.turns):
                for _ in range(steps):
                    await world.step(self.turns[number])
            case ("finish", number) if number < len(self.turns):
                await world.finish(self.turns[number])
            case ("cut", index):
                world.cut.add(index)
            case ("heal", index):
                world.cut.discard(index)
            case ("forget position", index):
                world.mirrors[index]._position = ""
            case ("skew", index, seconds):
                world.clocks[index].skew = seconds
            case ("later", seconds):
                world.time += seconds
            case ("save",):
                world.backing.save()
            case ("lose",):
                world.backing.lose()
            case ("wipe",):
                world.backing.wipe()
            case ("trim",):
                world.backing.trim()
            case ("deny" | "remove" | "mint" | "personal" | "end", *_):
                await self._write(action)

    def _follows(self, index: int) -> bool:
        turn = self.following.get(index)
        return turn is not None and not turn.is_done

    async def _hold(self, work: Any, steps: int) -> None:
        turn = self.world.start(work)
        self.turns.append(turn)
        for _ in range(steps):
            await self.world.step(turn)

    async def _write(self, action: Action) -> None:
        world, ledger = self.world, self.ledger
        match action:
            case ("deny", index, name, lifetime):
                done = ledger.begin("deny", name, inf if lifetime is None else lifetime)
                batch = Batch(add_entries=[world.entry(lifetime, name, index=index)])
            case ("remove", index, name):
                done = ledger.begin("remove", name)
                batch = Batch(remove_entries=[world.entry(None, name).id])
            case ("mint", index, name):
                record = world.token(TokenKind.BOT, name, index)
                self.tokens.append((record.id, name))
                done = ledger.begin("mint", name)
                done.kind = f"mint {record.id}"
                batch = Batch(add=[record])
            case ("personal", index):
                record = world.token(TokenKind.PERSONAL, "sam", index)
                self.tokens.append((record.id, ""))
                done = ledger.begin(f"mint {record.id}", "")
                batch = Batch(add=[record])
            case ("end", index, number) if 0 < number <= len(self.tokens):
                token_id = self.tokens[-number][0]
                done = ledger.begin("end", token_id)
                batch = Batch(revoke=[(token_id, world.clocks[index].now())])
            case _:
                return
        try:
            await world.mirrors[index].write(batch)
        except Unavailable:
            return
        ledger.end(done)

    def _check_fresh(self, index: int) -> None:
        """A process that calls itself fresh has what the store has; asked of the store without a step."""
        world = self.world
        mirror = world.mirrors[index]
        if index in world.cut or mirror.age > 0 or any(not turn.is_done for turn in self.turns):
            return
        there = self._peek()
        for name in NAMES:
            entry = world.entry(None, name)
            if entry.id in there:
                here = world.refused_until(index, entry)
                if here != there[entry.id] and mirror._position:
                    self.problems.append(f"process {index} is fresh with {name} until {here}, not {there[entry.id]}")

    def _peek(self) -> dict[str, float]:
        backing = self.world.backing
        if not isinstance(backing, MemoryBacking):
            return {}
        return {
            entry.id: inf if entry.expires_at is None else entry.expires_at - START
            for entry in backing.store.all_entries.values()
        }

    async def _judge(self) -> None:
        world, ledger = self.world, self.ledger
        tokens, entries = await world.stored()
        for name in NAMES:
            entry = world.entry(None, name)
            seen = world.ends(entry)
            stored: float | None = None
            if entry.id in entries:
                ends = entries[entry.id]
                stored = inf if ends is None else ends - START
            latest = ledger.latest(("deny", "remove"), name)
            right: set[float | None] = {done.value for done in latest}
            if not ledger.is_certain(("deny", "remove"), name):
                right.add(None)
            if len({*seen, stored}) != 1:
                self.problems.append(f"{name}: processes differ: {seen}, stored {stored}")
            elif not {*seen} <= right:
                self.problems.append(f"{name}: until {seen[0]}, right would be one of {right}")
        views = [world.standing(index) for index in range(len(world.mirrors))]
        if any(view != tokens for view in views):
            self.problems.append(f"tokens: processes differ: {views}, stored {tokens}")
        ended = {done.about for done in ledger.writes if done.kind == "end" and done.acknowledged is not None}
        maybe = {done.about for done in ledger.writes if done.kind == "end"}
        standing = set(tokens).union(*views)
        if standing & ended:
            self.problems.append(f"tokens that have ended stand: {standing & ended}")
        for bot in BOTS:
            mints = tuple(f"mint {token_id}" for token_id, name in self.tokens if name == bot)
            last = {done.kind.removeprefix("mint ") for done in ledger.latest(mints, bot)}
            its = {token_id for token_id, name in self.tokens if name == bot} & standing
            if not its <= last or len(its) > 1:
                self.problems.append(f"{bot}: {its} stand, of those minted last, {last}, only one may")
            if ledger.is_certain(mints, bot) and not its and not last & maybe:
                self.problems.append(f"{bot}: no token stands, one of {last} should")
        for token_id, name in self.tokens:
            acknowledged = any(
                done.kind == f"mint {token_id}" and done.acknowledged is not None for done in ledger.writes
            )
            if not name and acknowledged and token_id not in maybe | standing:
                self.problems.append(f"{token_id} does not stand, and was not ended")


@contextmanager
def redis_client(program: Path) -> Iterator["redis.Redis"]:
    """A server of its own for one test, which keeps nothing on disk."""
    with TemporaryDirectory(prefix="auth-sidecar-test-") as folder:
        socket = f"{folder}/socket"
        command = [str(program), "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = redis.Redis(unix_socket_path=socket)
        try:
            until = time.monotonic() + 20
            while True:
                try:
                    client.ping()
                    break
                except redis.RedisError:
                    assert time.monotonic() < until
                    time.sleep(0.02)
            yield client
        finally:
            client.close()
            server.kill()
            server.wait(10)


async def attempt(make: Callable[[], Backing], schedule: list[Action], processes: int) -> list[str]:
    """What is wrong after ``schedule``."""
    try:
        return await Runner(make(), processes).run(schedule)
    except Exception as error:  # noqa: BLE001 - as wrong as anything
        return [f"{type(error).__name__}: {error}"]


async def search(
    make: Callable[[], Backing], seeds: range, *, losses: bool = True, until: float = inf
) -> tuple[int, str]:
    """Run the schedules of ``seeds``. Returns how many were run, and the first bad one, as short as it gets."""
    number = 0
    for seed in seeds:
        if time.monotonic() > until:
            break
        number += 1
        chance = random.Random(seed)
        processes = chance.choice((2, 2, 3))
        schedule = draw(chance, processes, losses=losses)
        problems = await attempt(make, schedule, processes)
        if problems:
            schedule, problems = await _shortened(make, schedule, processes, problems)
            steps = "\n".join(f"    {action}" for action in schedule)
            return number, f"seed {seed}, {processes} processes:\n{steps}\n" + "\n".join(problems)
    return number, ""


async def _shortened(
    make: Callable[[], Backing], schedule: list[Action], processes: int, problems: list[str]
) -> tuple[list[Action], list[str]]:
    shorter = True
    while shorter:
        shorter = False
        for position in range(len(schedule)):
            rest = schedule[:position] + schedule[position + 1 :]
            found = await attempt(make, rest, processes)
            if found:
                schedule, problems, shorter = rest, found, True
                break
    return schedule, problems


async def sqlite_search(folder: Path, seeds: range) -> tuple[int, str]:
    """The same over files in ``folder``, which lose nothing; each schedule has its own names in one file."""
    number = 0
    for seed in seeds:
        databases = [await Database.open(folder / f"{seed}.db", Metrics()) for _ in range(3)]
        done, found = await search(lambda: SqliteBacking(databases), range(seed, seed + 1), losses=False)  # noqa: B023
        for database in databases:
            await database.aclose()
        (folder / f"{seed}.db").unlink()
        number += done
        if found:
            return number, found
    return number, ""


def main() -> int:
    """Exit code 0: every schedule was right."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.schedules", description=__doc__)
    parser.add_argument("--number", type=int, default=100_000, help="how many (default 100,000)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--store", choices=["redis", "memory", "sqlite"], default="redis")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    seeds = range(options.first, options.first + options.number)
    started = time.monotonic()
    if options.store == "memory":
        number, found = asyncio.run(search(MemoryBacking, seeds))
    elif options.store == "sqlite":
        with TemporaryDirectory(prefix="auth-sidecar-test-") as folder:
            number, found = asyncio.run(sqlite_search(Path(folder), seeds))
    else:
        program = tools.find("redis-server")
        assert program is not None, tools.missing_text("redis-server")
        with redis_client(program) as client:
            number, found = asyncio.run(search(lambda: RedisBacking(client), seeds))
    sys.stdout.write(found or f"{number} schedules, all right, in {time.monotonic() - started:.0f} s\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
