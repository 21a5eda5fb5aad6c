"""The demonstration does what it prints, line by line, with the real command and the real curl."""

import html
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.login_provider import NAVIGATION, Browser
from tests.support.ports import free_ports

_END = "Press Ctrl-C to stop"
_SECONDS = 60


@dataclass
class Demo:
    process: "subprocess.Popen[str]"
    port: int
    text: str

    def lines(self) -> dict[str, str]:
        """What each line shows (the comment above it, its status first) and the line."""
        pairs = pairwise(self.text.splitlines())
        return {shows[2:]: line for shows, line in pairs if shows.startswith("# ")}

    def curl_lines(self) -> dict[str, str]:
        """Those that announce a status."""
        return {shows: line for shows, line in self.lines().items() if re.match(r"\d{3} ", shows)}

    def line(self, shows: str) -> str:
        """The one line that is said to show this."""
        (found,) = [line for text, line in self.lines().items() if shows in text]
        return found

    def run(self, line: str) -> str:
        """Standard output of a printed line, in the folder that is printed first; line ends become plain ones."""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=self.folder(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in {0, 1}, done.stderr  # 1: ``token explain`` says so of a refused token
        return done.stdout

    def answer(self, line: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON body of a printed ``curl -i`` line."""
        head, _, body = self.run(line).partition("\n\n")
        return int(head.split(" ")[1]), json.loads(body or "{}")

    def folder(self) -> Path:
        found = re.search(r"^cd (.+)$", self.text, re.MULTILINE)
        assert found
        return Path(found[1])


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sidecar", "demo", *arguments]


@pytest.fixture(scope="module")
def demo(require_tool: Callable[[str], Path]) -> Iterator[Demo]:
    require_tool("curl")
    port = free_ports(4)
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
    """In the printed order; only the state of carol differs afterwards."""
    lines = demo.curl_lines()
    assert len(lines) >= 15
    assert {shows.split(" ")[0] for shows in lines} == {"200", "201", "401", "403"}
    answered = {shows: demo.answer(line)[0] for shows, line in lines.items()}
    assert answered == {shows: int(shows.split(" ")[0]) for shows in lines}


def test_the_upstream_receives_the_identity(demo: Demo) -> None:
    def user(shows: str) -> object:
        identity = demo.answer(demo.line(shows))[1]["identity"]
        return identity["X-Auth-Request-User"] if isinstance(identity, dict) else identity

    assert user("alice, with a token of acme") == "alice"
    assert user("boris") == "globex/boris"
    assert user("a bot, with") == "ingestion-bot"
    assert user("alice sends a forged header") == "alice"
    assert user("public path") == "none"


async def test_person_logs_in_by_clicking(demo: Demo) -> None:
    """The sign-in page, the button of a user, the page that was asked for, and out again."""
    browser, url = Browser(), f"http://127.0.0.1:{demo.port}"
    page = await browser.get(f"{url}/hello?a=b")
    link = re.search(r'href="([^"]*provider=acme[^"]*)"', page.body.decode())
    assert (page.status, bool(link)) == (401, True)
    assert link
    form = await browser.get(url + html.unescape(link[1]))
    assert b'value="alice"' in form.body
    kind = ("Content-Type", "application/x-www-form-urlencoded")
    back = await browser.send(browser.seen[-1], "POST", headers=[kind], body=b"user=alice")
    reply = (await browser.get(back.all("Location")[0])).json()
    assert (reply["path"], reply["identity"]["X-Auth-Request-User"]) == ("/hello?a=b", "alice")
    own = [(name, "same-origin" if name == "Sec-Fetch-Site" else value) for name, value in NAVIGATION]
    assert (await browser.get(f"{url}/oauth2/sign_out", headers=own)).status == 200
    assert browser.seen[-1] == f"{url}/oauth2/signed_out"
    assert (await browser.send(f"{url}/hello")).status == 401


@pytest.mark.parametrize(
    ("shows", "reason"),
    [
        ("no token", "token_missing"),
        ("expired token", "token_expired"),
        ("foreign token", "token_invalid"),
        ("forged token", "token_invalid"),
        ("alice is not a member", "forbidden"),
    ],
)
def test_refusals_name_their_reason(demo: Demo, shows: str, reason: str) -> None:
    assert demo.answer(demo.line(shows))[1]["reason"] == reason


def test_the_answer_to_a_proxy_has_the_identity_in_its_headers(demo: Demo) -> None:
    assert "\nX-Auth-Request-User: alice\n" in demo.run(demo.line("the identity of alice"))


def test_fresh_tokens_of_the_provider_are_accepted(demo: Demo) -> None:
    """The front page has people use the demonstration's issuers for a sidecar of their own."""
    (acme,) = re.findall(r"http://127\.0\.0\.1:\d+/acme(?=\s)", demo.text)
    token = json.loads(demo.run(f"curl -s -d grant_type=password -d username=alice {acme}/token"))["access_token"]
    status, _ = demo.answer(f"curl -i -H 'Authorization: Bearer {token}' http://127.0.0.1:{demo.port}/hello")
    assert status == 200


def test_another_bot_token_works_at_once(demo: Demo) -> None:
    """The record is written by another process; the running sidecar learns of it without a restart."""
    token = demo.run(demo.line("mint a token on the command line")).strip()
    status, _ = demo.answer(f"curl -i -H 'Authorization: Bearer {token}' http://127.0.0.1:{demo.port}/hello")
    assert status == 200


def test_what_it_says_of_itself(demo: Demo) -> None:
    """Why a token is refused, what was counted, whether all is well, and the log."""
    assert "unknown_kid" in demo.run(demo.line("why was it rejected?"))
    demo.answer(demo.line("an expired token"))
    assert 'reason="expired"' in demo.run(demo.line("authentication results"))
    assert json.loads(demo.run(demo.line("readiness")))["ready"] is True
    assert all(json.loads(line)["logger"] for line in demo.run(demo.line("log lines:")).splitlines())


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
