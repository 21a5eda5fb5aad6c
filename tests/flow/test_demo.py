"""The demonstration does what it prints, line by line, with the real command and the real curl."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

_END = "Ctrl-C ends it"
_SECONDS = 60


@dataclass
class Demo:
    process: "subprocess.Popen[str]"
    port: int
    text: str

    def curl_lines(self) -> dict[str, str]:
        """What each line shows (the comment above it, its status first) and the line."""
        lines = self.text.splitlines()
        pairs = pairwise(lines)
        return {shows[2:]: line for shows, line in pairs if re.match(r"# \d{3} ", shows) and line.startswith("curl ")}

    def folder(self) -> Path:
        found = re.search(r"^Its configuration: (.+)$", self.text, re.MULTILINE)
        assert found
        return Path(found[1]).parent


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sidecar", "demo", *arguments]


def _two_free_ports() -> int:
    """A port that is free together with the next one."""
    for _ in range(100):
        with socket.create_server(("127.0.0.1", 0)) as first:
            port: int = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except (OSError, OverflowError):
                continue
            return port
    raise AssertionError("no two free ports")


def _run(line: str) -> str:
    """Standard output of a printed line; line ends become plain ones."""
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=20, check=True)
    return done.stdout


def _answer(line: str) -> tuple[int, dict[str, object]]:
    """Status and JSON body of a printed ``curl -i`` line."""
    head, _, body = _run(line).partition("\n\n")
    return int(head.split(" ")[1]), json.loads(body)


@pytest.fixture(scope="module")
def demo(require_tool: Callable[[str], Path]) -> Iterator[Demo]:
    require_tool("curl")
    port = _two_free_ports()
    process = subprocess.Popen(_command("--port", str(port)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    give_up = threading.Timer(_SECONDS, process.kill)
    give_up.start()
    assert process.stdout is not None
    assert process.stderr is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(_END):
            break
    give_up.cancel()
    try:
        assert lines, process.stderr.read()
        yield Demo(process, port, "".join(lines))
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
        process.stderr.close()


def test_every_printed_line_answers_as_its_comment_says(demo: Demo) -> None:
    lines = demo.curl_lines()
    assert len(lines) >= 8
    assert {shows.split(" ")[0] for shows in lines} == {"200", "401", "403"}
    answered = {shows: _answer(line)[0] for shows, line in lines.items()}
    assert answered == {shows: int(shows.split(" ")[0]) for shows in lines}


def test_the_service_behind_is_told_who_asks(demo: Demo) -> None:
    lines = demo.curl_lines()

    def user(word: str) -> object:
        body = _answer(next(line for shows, line in lines.items() if word in shows))[1]
        identity = body["identity"]
        return identity["X-Auth-Request-User"] if isinstance(identity, dict) else identity

    assert user("whose token acme issued") == "alice"
    assert user("boris") == "globex/boris"
    assert user("a bot") == "ingestion-bot"
    assert user("public path") == "nobody"


@pytest.mark.parametrize(
    ("shows", "reason"),
    [
        ("no token", "token_missing"),
        ("expired token", "token_expired"),
        ("foreign token", "token_invalid"),
        ("forged token", "token_invalid"),
        ("alice is not in it", "forbidden"),
    ],
)
def test_refusals_name_their_reason(demo: Demo, shows: str, reason: str) -> None:
    line = next(line for text, line in demo.curl_lines().items() if shows in text)
    assert _answer(line)[1]["reason"] == reason


def test_identity_headers_of_the_caller_do_not_reach_the_service(demo: Demo) -> None:
    line = next(line for text, line in demo.curl_lines().items() if "whose token acme issued" in text)
    spoofed = f"{line} -H 'X-Auth-Request-User: root' -H 'x_auth_request_user: root'"
    assert "root" not in json.dumps(_answer(spoofed)[1])


def test_fresh_tokens_of_the_provider_are_accepted(demo: Demo) -> None:
    line = next(line for line in demo.text.splitlines() if line.endswith("/acme/token"))
    token = json.loads(_run(line))["access_token"]
    status, _ = _answer(f"curl -i -H 'Authorization: Bearer {token}' http://127.0.0.1:{demo.port}/hello")
    assert status == 200


def test_another_bot_token_works_at_once(demo: Demo) -> None:
    """The record is written by another process; the running sidecar learns of it without a restart."""
    line = next(line for line in demo.text.splitlines() if " token create " in line)
    arguments = shlex.split(line)
    token = _run(shlex.join([sys.executable, "-m", "sidecar", *arguments[arguments.index("token") :]])).strip()
    status, _ = _answer(f"curl -i -H 'Authorization: Bearer {token}' http://127.0.0.1:{demo.port}/hello")
    assert status == 200


def test_a_taken_port_is_one_sentence_and_exit_code_1(demo: Demo) -> None:
    done = subprocess.run(_command("--port", str(demo.port)), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert f"port {demo.port} cannot be used" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_impossible_port_is_a_usage_error() -> None:
    done = subprocess.run(_command("--port", "65535"), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2


def test_ctrl_c_ends_it_and_leaves_nothing_behind(demo: Demo) -> None:
    """Last of this file: the demonstration is over afterwards."""
    folder = demo.folder()
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0
    os.kill(demo.process.pid, signal.SIGINT)
    assert demo.process.wait(20) == 0
    assert not folder.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", demo.port), timeout=2)
