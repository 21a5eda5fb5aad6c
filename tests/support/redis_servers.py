"""Real Redis servers on loopback: one, with replicas and sentinels, or a cluster; to be stopped, killed and started."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from tests.support.ports import free_port

START_TIMEOUT = 20.0


def wait_for(condition: Callable[[], bool], what: str, within: float = START_TIMEOUT) -> None:
    """Poll ``condition`` for at most ``within`` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not {what} within {within:g} s"
        time.sleep(0.02)


@dataclass(slots=True)
class RedisServer:
    """One process of ``program``. ``options`` are lines of its configuration; ``login`` are arguments of the client."""

    program: Path
    folder: Path
    options: Sequence[str] = ()
    login: dict[str, Any] = field(default_factory=dict)
    sentinel: bool = False
    port: int = field(default_factory=free_port)
    popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers and has read what is on its disk."""
        self.folder.mkdir(exist_ok=True)
        configuration = self.folder / "redis.conf"
        if not configuration.exists():  # sentinels and cluster nodes write into theirs
            own = [f"dir {self.folder}", "bind 127.0.0.1", *self.options]
            if not any(line.startswith("port ") for line in own):
                own.append(f"port {self.port}")
            configuration.write_text("\n".join(own) + "\n", encoding="utf-8")
        command = [str(self.program), str(configuration), *(["--sentinel"] if self.sentinel else [])]
        with (self.folder / "log").open("ab") as stream:
            self.popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
        wait_for(self._answers, f"ready: {(self.folder / 'log').read_text()[-2000:]}")

    def ask(self, *command: str | bytes | float) -> Any:
        """The server's answer."""
        with redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=5, **self.login) as client:
            return client.execute_command(*command)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.popen
        self.popen.send_signal(number)

    def kill(self) -> None:
        """As a crash does."""
        assert self.popen
        self.popen.kill()
        self.popen.wait(10)

    def stop(self) -> None:
        """End it, stopped or not."""
        if self.popen is not None and self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.kill()

    def _answers(self) -> bool:
        assert self.popen
        assert self.popen.poll() is None, (self.folder / "log").read_text()[-2000:]
        try:
            return bool(self.ask("PING"))
        except redis.RedisError:
            return False


@contextmanager
def running(server: RedisServer) -> Iterator[RedisServer]:
    """``server`` as long as the block lasts."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


@dataclass(slots=True)
class Watched:
    """A master with replicas, and the sentinels that watch them as the service ``main``."""

    servers: list[RedisServer]
    sentinels: list[RedisServer]

    def master(self) -> RedisServer:
        """Whom the first sentinel calls the master."""
        _, port = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
        return next(server for server in self.servers if server.port == int(port))


@contextmanager
def watched(program: Path, folder: Path, replicas: int) -> Iterator[Watched]:
    """A master, ``replicas`` and three sentinels, once they know each other."""
    with ExitStack() as stack:
        master = stack.enter_context(running(RedisServer(program, folder / "master", ["appendonly yes"])))
        followers = [
            stack.enter_context(
                running(
                    RedisServer(
                        program,
                        folder / f"replica{number}",
                        ["appendonly yes", f"replicaof 127.0.0.1 {master.port}", "repl-diskless-sync-delay 0"],
                    )
                )
            )
            for number in range(replicas)
        ]
        options = [
            f"sentinel monitor main 127.0.0.1 {master.port} 2",
            "sentinel down-after-milliseconds main 500",
            "sentinel failover-timeout main 3000",
        ]
        sentinels = [
            stack.enter_context(running(RedisServer(program, folder / f"sentinel{number}", options, sentinel=True)))
            for number in range(3)
        ]

        def acquainted() -> bool:
            views = [dict(_pairs(sentinel.ask("SENTINEL", "MASTER", "main"))) for sentinel in sentinels]
            return all(
                view[b"num-other-sentinels"] == b"2" and int(view[b"num-slaves"]) == replicas for view in views
            ) and all(follower.ask("INFO", "replication")["master_link_status"] == "up" for follower in followers)

        wait_for(acquainted, "acquainted")
        yield Watched([master, *followers], sentinels)


@contextmanager
def cluster(program: Path, folder: Path) -> Iterator[list[RedisServer]]:
    """Three nodes that share the slots."""
    with ExitStack() as stack:
        options = ["cluster-enabled yes", "cluster-node-timeout 2000"]
        nodes = [
            stack.enter_context(running(RedisServer(program, folder / f"node{number}", options))) for number in range(3)
        ]
        for number, node in enumerate(nodes):
            node.ask("CLUSTER", "ADDSLOTSRANGE", number * 5500, min(number * 5500 + 5499, 16383))
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number:
                node.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)

        def formed() -> bool:
            states = [node.ask("CLUSTER", "INFO") for node in nodes]
            return all(
                state["cluster_state"] == "ok" and state["cluster_known_nodes"] == "3" for state in map(_named, states)
            )

        wait_for(formed, "formed")
        yield nodes


def _pairs(answer: Any) -> Iterator[tuple[Any, Any]]:
    """A flat list of names and values, or what the client has made of it, as pairs of bytes."""
    if isinstance(answer, dict):
        answer = [part for pair in answer.items() for part in pair]
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in answer]
    return zip(parts[::2], parts[1::2], strict=True)


def _named(answer: Any) -> dict[str, str]:
    if isinstance(answer, dict):
        return answer
    text = answer.decode() if isinstance(answer, bytes) else answer
    return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
