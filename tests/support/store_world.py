"""Mirrors over the real stores, in which every call is a step that can be held back, and a store that forgets.

One turn of a mirror's following is one action. Redis is asked through its own scripts; SQLite writes a real file.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import redis

from sidecar.errors import Cause, Unavailable
from sidecar.identity.actor import ActorType
from sidecar.metrics import Metrics
from sidecar.store.base import GapError, Store
from sidecar.store.record import TokenKind, TokenRecord
from sidecar.store.redis.client import Command
from sidecar.store.redis.store import RedisStore
from sidecar.store.replica.mirror import Mirror
from sidecar.store.revocation_entry import RevocationEntry, Scope, entry_key, make_entry
from sidecar.store.sqlite.database import Database
from sidecar.store.sqlite.store import SqliteStore
from tests.support.memory_store import MemoryStore

START = 1_800_000_000.0
ISSUER = "https://idp.example.com"
_turn: contextvars.ContextVar["Turn | None"] = contextvars.ContextVar("turn", default=None)
_METRICS = Metrics()


class Turn:
    """An operation in progress whose calls are held: before each is sent, and before its answer arrives."""

    def __init__(self) -> None:
        self.pending: list[tuple[str, asyncio.Future[None]]] = []
        self.task: asyncio.Task[Any] | None = None

    async def stop(self, what: str) -> None:
        """Wait to be let go."""
        future = asyncio.get_running_loop().create_future()
        self.pending.append((what, future))
        await future

    @property
    def is_done(self) -> bool:
        """Whether the operation has an end."""
        assert self.task is not None
        return self.task.done()


class WorldClock:
    """The clock of one process: right but for ``skew``."""

    def __init__(self, world: "StoreWorld") -> None:
        self.world = world
        self.skew = 0.0

    def now(self) -> float:
        return self.world.time + self.skew

    def monotonic(self) -> float:
        return self.world.time

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(0)


class Backing(Protocol):
    """What is behind the stores of a world."""

    def open(self, world: "StoreWorld", index: int) -> Store:
        """The store as process ``index`` has it."""

    def save(self) -> None:
        """Remember the contents for :meth:`lose`."""

    def lose(self) -> None:
        """Go back to what was saved, as a crash or a failover does."""

    def wipe(self) -> None:
        """Come back empty."""

    def trim(self) -> None:
        """Forget the log."""


async def _step(world: "StoreWorld", index: int, name: str, work: Callable[[], Any]) -> Any:
    """``work`` as a step of the operation in progress, and nothing where the process is cut off."""
    turn = _turn.get()
    for what in ("ask", "answer"):
        if turn is not None:
            await turn.stop(f"{what} {name}")
        if index in world.cut:
            raise Unavailable(Cause.STORE_UNAVAILABLE, "cut off")
        if what == "ask":
            result = work()
            if asyncio.iscoroutine(result):
                result = await result
    return result


class RedisBacking:
    """A server, over a socket of its own; ``client`` is not asynchronous, so that a call is one step."""

    def __init__(self, client: "redis.Redis") -> None:
        self.client = client
        self.saved: list[tuple[bytes, bytes, int]] = []
        client.flushall()

    def open(self, world: "StoreWorld", index: int) -> Store:
        return RedisStore(_HeldKv(self.client, world, index), world.clocks[index])  # type: ignore[arg-type]

    def save(self) -> None:
        keys: Any = self.client.keys("*")
        self.saved = [(key, self.client.dump(key), max(self.client.pttl(key), 0)) for key in keys]  # type: ignore[misc]

    def lose(self) -> None:
        self.client.flushall()
        for key, value, left in self.saved:
            self.client.restore(key, left, value)

    def wipe(self) -> None:
        self.client.flushall()

    def trim(self) -> None:
        self.client.xtrim("w:log", maxlen=0, approximate=False)


class _HeldKv:
    """In place of :class:`sidecar.store.redis.client.RedisClient`."""

    def __init__(self, client: "redis.Redis", world: "StoreWorld", index: int) -> None:
        self._client, self._world, self._index = client, world, index

    def key(self, name: str) -> bytes:
        return f"w:{name}".encode()

    async def read(self, operation: str, *commands: Command) -> list[Any]:
        return list(await _step(self._world, self._index, operation, lambda: [self._run(item) for item in commands]))

    async def follow(self, operation: str, *commands: Command, block: float = 0.0) -> list[Any]:
        return await self.read(operation, *commands)

    async def write(self, operation: str, script: str, keys: Sequence[bytes], arguments: Sequence[str | bytes]) -> Any:
        return (await self.read(operation, ("EVAL", script, len(keys), *keys, *arguments)))[0]

    async def aclose(self) -> None:
        """Nothing is held."""

    def _run(self, command: Command) -> Any:
        return self._client.execute_command(*command)  # type: ignore[no-untyped-call] # the library has no types here


class MemoryBacking:
    """The store of the unit tests."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore(mark="", micros=lambda: time.time_ns() // 1000)
        self.saved = self.store.save()

    def open(self, world: "StoreWorld", index: int) -> Store:
        return HeldStore(self.store, world, index)

    def save(self) -> None:
        self.saved = self.store.save()

    def lose(self) -> None:
        self.store.lose(self.saved)

    def wipe(self) -> None:
        self.store.empty()

    def trim(self) -> None:
        self.store.trim()


class SqliteBacking:
    """One file that all processes have open; it loses nothing."""

    def __init__(self, databases: Sequence[Database]) -> None:
        self._databases = databases

    def open(self, world: "StoreWorld", index: int) -> Store:
        return HeldStore(SqliteStore(self._databases[index], world.clocks[index]), world, index)

    def save(self) -> None:
        """It loses nothing."""

    lose = wipe = trim = save


class HeldStore:
    """A store each of whose calls is a step."""

    def __init__(self, store: Store, world: "StoreWorld", index: int) -> None:
        self._store, self._world, self._index = store, world, index

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            held = _turn.set(None)  # what the store does in itself is no step
            try:
                return await getattr(self._store, name)(*arguments)
            finally:
                _turn.reset(held)

        async def step(*arguments: Any) -> Any:
            return await _step(self._world, self._index, name, lambda: call(*arguments))

        return step

    async def snapshot(self) -> Any:
        pieces = [piece async for piece in self._store.snapshot()]
        for piece in pieces:
            yield await _step(self._world, self._index, "snapshot", lambda piece=piece: piece)  # type: ignore[misc]


class StoreWorld:
    """Some processes and what they have been told. ``time`` stands still but for what moves it."""

    def __init__(self, backing: Backing, processes: int = 2) -> None:
        self.backing = backing
        self.time = START
        self.cut: set[int] = set()
        self.clocks = [WorldClock(self) for _ in range(processes)]
        self.stores = [backing.open(self, index) for index in range(processes)]
        self.mirrors = [self.mirror(index) for index in range(processes)]
        self.faults: list[BaseException] = []
        self._made = 0

    def mirror(self, index: int) -> Mirror:
        """A new process in the place of ``index``, which knows nothing."""
        mirror = Mirror(self.stores[index], self.clocks[index], _METRICS, self.clocks[index].wait)
        mirror.FOLLOW = 0.0
        return mirror

    async def begin(self) -> None:
        """Each replica has read everything, and the contents are saved."""
        await self.all_replicas_follow()
        self.backing.save()

    async def follow(self, index: int) -> None:
        """One turn of following, without its waits."""
        mirror = self.mirrors[index]
        try:
            if not mirror._position:
                await mirror._load()
            await mirror._catch_up()
        except (Unavailable, GapError) as error:
            mirror._log_state(error, first=False)
        except Exception as error:  # noqa: BLE001 - judged by the test
            self.faults.append(error)
            mirror._log_state(error, first=False)

    async def all_replicas_follow(self, rounds: int = 2) -> None:
        for _ in range(rounds):
            for index in range(len(self.mirrors)):
                await self.follow(index)

    async def converge(self, order: Sequence[int] | None = None, rounds: int = 5) -> None:
        """No replica is cut off any more, and each follows."""
        self.cut.clear()
        for _ in range(rounds):
            self.time += 1.5
            for index in order or range(len(self.mirrors)):
                await self.follow(index)

    # --- what is written

    def token(self, kind: TokenKind = TokenKind.BOT, actor_id: str = "bot", index: int = 0) -> TokenRecord:
        self._made += 1
        created = float(int(self.clocks[index].now()))
        return TokenRecord(
            f"t{self._made}", "h", "n", kind, actor_id, ActorType.SERVICE, created, expires_at=START + 30 * 86_400
        )

    def entry(
        self, ends: float | None = None, name: str = "s", scope: Scope = Scope.SUBJECT, index: int = 0
    ) -> RevocationEntry:
        """About ``name``, until ``ends`` seconds after the start; None: for ever."""
        return make_entry(
            scope,
            ISSUER,
            name,
            self.clocks[index].now(),
            issued_before=START if scope is Scope.SUBJECT else None,
            expires_at=None if ends is None else START + ends,
        )

    # --- operations that are held back

    def start(self, work: Coroutine[Any, Any, Any]) -> Turn:
        """Begin ``work``; it stands before its first call."""
        turn = Turn()
        context = contextvars.copy_context()
        context.run(_turn.set, turn)
        turn.task = asyncio.get_running_loop().create_task(work, context=context)
        turn.task.add_done_callback(lambda task: None if task.cancelled() else task.exception())
        return turn

    async def settle(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)

    async def step(self, turn: Turn) -> None:
        """Let one call be sent, or one answer arrive."""
        await self.settle()
        if turn.pending:
            turn.pending.pop(0)[1].set_result(None)
        await self.settle()

    async def until(self, turn: Turn, what: str) -> None:
        """Go on until ``turn`` stands before ``what``."""
        await self.settle()
        while not turn.is_done and not (turn.pending and turn.pending[0][0] == what):
            await self.step(turn)
        assert not turn.is_done, what

    async def finish(self, turn: Turn) -> Any:
        """Go on to the end. Returns the task."""
        await self.settle()
        for _ in range(10_000):
            if turn.is_done:
                return turn.task
            await self.step(turn)
            await asyncio.sleep(0)
        raise AssertionError("it has no end")

    # --- what is judged by

    def refused_until(self, index: int, entry: RevocationEntry) -> float | None:
        """Until when after the start the tokens of ``entry`` are refused, infinite: for ever; None: they are not."""
        found = self.mirrors[index].revocations._entries.get(entry_key(entry.scope, entry.issuer, entry.name))
        if found is None:
            return None
        spans = [found] if isinstance(found, complex) else list(found.values())
        return max(span.imag for span in spans) - START

    def ends(self, entry: RevocationEntry | None = None) -> list[float | None]:
        """The same of every process."""
        return [self.refused_until(index, entry or self.entry()) for index in range(len(self.mirrors))]

    def standing(self, index: int) -> list[str]:
        """Ids of the tokens that stand for process ``index``."""
        return sorted(record.id for record in self.mirrors[index].records() if record.revoked_at is None)

    async def stored(self) -> tuple[list[str], dict[str, float | None]]:
        """Ids of the tokens that stand in the store, and until when entries do, by id."""
        tokens: list[str] = []
        entries: dict[str, float | None] = {}
        async for piece in self.backing.open(self, 0).snapshot():
            tokens += [record.id for record in piece.records if record.revoked_at is None]
            entries |= {entry.id: entry.expires_at for entry in piece.revocations}
        return sorted(tokens), entries
