"""Two processes write while their Redis crashes, fails over, freezes or is emptied: nothing acknowledged is lost.

Each fault comes again and again. ``LEDGER_SECONDS=120`` makes each schedule take two minutes.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sidecar.clock import SystemClock
from sidecar.config.settings import StoreSettings
from sidecar.errors import Unavailable
from sidecar.identity.actor import ActorType
from sidecar.metrics import Metrics
from sidecar.secrets.value import Secret
from sidecar.store.base import Batch
from sidecar.store.record import TokenKind, TokenRecord
from sidecar.store.redis.client import RedisClient
from sidecar.store.redis.store import RedisStore
from sidecar.store.replica.mirror import Mirror
from sidecar.store.revocation_entry import Scope, make_entry
from tests.support.redis_servers import RedisServer, running, watched

SECONDS = float(os.environ.get("LEDGER_SECONDS", "20"))
PATIENCE = 60.0
ISSUER = "https://idp.example.com"


@dataclass(slots=True)
class Ledger:
    """What was acknowledged last of each thing; what was not answered is struck out."""

    denied: dict[str, bool] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    standing: dict[str, str] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    writes: int = 0
    unanswered: int = 0

    def missing(self, mirror: Mirror) -> list[str]:
        """What ``mirror`` does not know."""
        wrong = [
            f"{name} is {'not ' if wanted else ''}denied"
            for name, wanted in self.denied.items()
            if mirror.revocations.has(entry(name)) is not wanted
        ]
        for token_id in self.ended | self.replaced:
            record = mirror.record(token_id)
            if record is None or record.revoked_at is None:
                wrong.append(f"{token_id} stands")
        for token_id in self.standing.values():
            record = mirror.record(token_id)
            if record is None or record.revoked_at is not None:
                wrong.append(f"{token_id} does not stand")
        return wrong


def entry(name: str):  # type: ignore[no-untyped-def]
    return make_entry(Scope.TOKEN, ISSUER, name, time.time())


def bot(name: str, token_id: str) -> TokenRecord:
    return TokenRecord(token_id, "h", "n", TokenKind.BOT, name, ActorType.SERVICE, float(int(time.time())))


async def keep_writing(number: int, mirrors: list[Mirror], ledger: Ledger, over: asyncio.Event) -> None:
    """One writer after another thing: denies it, takes it off, mints for a bot, ends the token."""
    chance = random.Random(number)
    round_ = 0
    while not over.is_set():
        round_ += 1
        name = f"w{number}r{round_}"
        last = ""
        ledger.writes += 1
        try:
            for step in range(chance.randint(1, 4)):
                mirror = chance.choice(mirrors)
                wanted = step % 2 == 0
                ledger.denied.pop(name, None)
                await mirror.write(
                    Batch(
                        add_entries=[entry(name)] if wanted else [], remove_entries=[] if wanted else [entry(name).id]
                    )
                )
                ledger.denied[name] = wanted
            for step in range(chance.randint(1, 3)):
                token_id = f"{name}t{step}"
                ledger.standing.pop(name, None)
                await chance.choice(mirrors).write(Batch(add=[bot(name, token_id)]))
                if last:
                    ledger.replaced.add(last)
                ledger.standing[name] = last = token_id
            if chance.random() < 0.5:
                ledger.standing.pop(name, None)
                await chance.choice(mirrors).write(Batch(revoke=[(last, time.time())]))
                ledger.ended.add(last)
        except Unavailable:
            # it may have happened or not, so nothing can be said of it, nor of what it may have replaced
            ledger.unanswered += 1
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.005)


class Relay:
    """A way to a server that can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._is_open = True
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Relay"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.cut()
            server.close()

    def cut(self) -> None:
        """Nothing gets through any more."""
        self._is_open = False
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    def mend(self) -> None:
        """Everything gets through again."""
        self._is_open = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._is_open:
            writer.close()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


async def judge(urls: list[str], fault: Callable[[], Awaitable[None]]) -> None:
    """Writers write through processes at ``urls``, ``fault`` comes again and again, and then everything is there."""
    async with AsyncExitStack() as stack:
        mirrors = []
        for url in urls:
            metrics, clock = Metrics(), SystemClock()
            store = RedisStore(RedisClient(StoreSettings(url=Secret(url)), metrics, clock), clock)
            stack.push_async_callback(store.aclose)
            mirrors.append(Mirror(store, clock, metrics))
            await mirrors[-1].start()
            stack.push_async_callback(mirrors[-1].aclose)
            assert await mirrors[-1].wait_first_load(PATIENCE)
        ledger, over = Ledger(), asyncio.Event()
        writers = [asyncio.create_task(keep_writing(number, mirrors, ledger, over)) for number in range(4)]
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            await asyncio.sleep(2.0)
            await fault()
        over.set()
        await asyncio.gather(*writers)
        # a last write, after which every process has read everything there was
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and any(ledger.missing(mirror) for mirror in mirrors):
            await asyncio.sleep(0.2)
        assert [ledger.missing(mirror)[:5] for mirror in mirrors] == [[], []]
        late = Mirror(mirrors[0]._store, SystemClock(), Metrics())
        await late.start()
        assert await late.wait_first_load(PATIENCE)
        assert ledger.missing(late)[:5] == [], "the store has it too"
        await late.aclose()
        assert ledger.writes > 20


pytestmark = pytest.mark.heavy


async def test_crash_that_loses_the_last_second(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """appendfsync everysec and a power cut: the file ends where it ended a second before."""
    with running(RedisServer(require_tool("redis-server"), tmp_path / "redis", ["appendonly yes"])) as server:

        def file() -> Path:
            return max((tmp_path / "redis" / "appendonlydir").glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)

        async def fault() -> None:
            size = file().stat().st_size
            await asyncio.sleep(1.0)
            server.kill()
            os.truncate(file(), size)
            await asyncio.to_thread(server.start)

        await judge([f"redis://127.0.0.1:{server.port}"] * 2, fault)


async def test_server_that_comes_back_empty(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    with running(RedisServer(require_tool("redis-server"), tmp_path / "redis", ['save ""'])) as server:

        async def fault() -> None:
            server.kill()
            await asyncio.to_thread(server.start)

        await judge([f"redis://127.0.0.1:{server.port}"] * 2, fault)


async def test_failover_without_wait_replicas(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """The replica was frozen when the master answered its last writes."""
    with watched(require_tool("redis-server"), tmp_path, 1) as group:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in group.sentinels)

        async def fault() -> None:
            master = await asyncio.to_thread(group.master)
            other = next(server for server in group.servers if server is not master)
            other.signal(signal.SIGSTOP)
            await asyncio.sleep(0.3)
            master.kill()
            other.signal(signal.SIGCONT)
            while (await asyncio.to_thread(group.master)) is master:
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.0)
            await asyncio.to_thread(master.start)
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                with contextlib.suppress(Exception):
                    if (await asyncio.to_thread(master.ask, "INFO", "replication")).get("master_link_status") == "up":
                        break
                await asyncio.sleep(0.2)
            await asyncio.sleep(3.0)

        await judge([f"redis+sentinel://{hosts}/main/0"] * 2, fault)


async def test_server_that_freezes(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    with running(RedisServer(require_tool("redis-server"), tmp_path / "redis", ["appendonly yes"])) as server:

        async def fault() -> None:
            server.signal(signal.SIGSTOP)
            await asyncio.sleep(3.0)
            server.signal(signal.SIGCONT)

        await judge([f"redis://127.0.0.1:{server.port}"] * 2, fault)


async def test_partition_of_one_process_while_the_server_is_emptied(
    require_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    with ExitStack() as servers:
        server = servers.enter_context(running(RedisServer(require_tool("redis-server"), tmp_path / "r", ['save ""'])))
        async with Relay(server.port).listening() as relay:
            turn = 0

            async def fault() -> None:
                nonlocal turn
                turn += 1
                relay.cut()
                await asyncio.sleep(0.5)
                if turn % 2:
                    server.ask("FLUSHALL")
                await asyncio.sleep(1.5)
                relay.mend()

            await judge([f"redis://127.0.0.1:{server.port}", f"redis://127.0.0.1:{relay.port}"], fault)
