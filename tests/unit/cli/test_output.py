"""Commands whose standard output does not take what they print: nothing is lost, and one sentence says why."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.identity_provider import IdentityProvider
from tests.support.managed_sidecar import ISSUER, write_configuration

Run = Callable[..., subprocess.CompletedProcess[str]]


def command(*words: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    done = [sys.executable, "-m", "sidecar", *words]
    return subprocess.run(done, text=True, timeout=60, check=False, **{"stderr": subprocess.PIPE, **streams})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    with IdentityProvider() as idp:
        config = str(write_configuration(tmp_path, idp))

    def call(*words: str, **streams: Any) -> subprocess.CompletedProcess[str]:
        return command(*words[:2], "--config", config, *words[2:], **streams)

    return call


def full(run: Run, *words: str) -> subprocess.CompletedProcess[str]:
    with open("/dev/full", "w") as stdout:
        return run(*words, stdout=stdout)


def without_reader(run: Run, *words: str) -> subprocess.CompletedProcess[str]:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return run(*words, stdout=writer)
    finally:
        os.close(writer)


def closed(run: Run, *words: str) -> subprocess.CompletedProcess[str]:
    return run(*words, preexec_fn=lambda: os.close(1))


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that is no audit line."""
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    return line


@pytest.mark.parametrize(("output", "form"), [(full, ()), (full, ("--json",)), (without_reader, ()), (closed, ())])
def test_token_that_could_not_be_printed_ends(
    run: Run, output: Callable[..., subprocess.CompletedProcess[str]], form: tuple[str, ...]
) -> None:
    """The text is stored nowhere: a record that stands would belong to a token that may be in other hands."""
    said = complaint(output(run, "token", "create", "--name", "ingest", "--kind", "bot", *form))
    records = [json.loads(line) for line in run("token", "list", "--json", stdout=subprocess.PIPE).stdout.splitlines()]
    assert len(records) == 1
    assert records[0]["revokedAt"] is not None
    assert said.startswith("standard output cannot be written: ")
    assert said.endswith(f"; the token {records[0]['id']} was revoked")


def test_token_whose_record_cannot_be_shown_stands(run: Run) -> None:
    with open("/dev/full", "w") as stderr:
        made = run("token", "create", "--name", "ingest", "--kind", "bot", stdout=subprocess.PIPE, stderr=stderr)
    assert made.returncode == 0
    assert made.stdout.count(".") == 2
    (record,) = run("token", "list", "--active", "--json", stdout=subprocess.PIPE).stdout.splitlines()
    assert json.loads(record)["name"] == "ingest"


def test_keys_whose_configuration_could_not_be_printed_are_removed(tmp_path: Path) -> None:
    def generate(*words: str, **streams: Any) -> subprocess.CompletedProcess[str]:
        return command("keys", "generate", "--dir", str(tmp_path / "made"), *words, **streams)

    assert complaint(full(generate)).endswith("; the key files were removed again")
    assert list((tmp_path / "made").iterdir()) == []
    assert generate(stdout=subprocess.PIPE).returncode == 0


def test_lists_without_a_reader_end_quietly(run: Run) -> None:
    run("revocations", "add", "--issuer", ISSUER, "--jti", "x", stdout=subprocess.DEVNULL)
    for words in (("revocations", "list"), ("token", "list")):
        done = without_reader(run, *words)
        assert (done.returncode, done.stderr) == (1, ""), words
    done = full(run, "revocations", "list", "--json")
    assert complaint(done) == "standard output cannot be written: No space left on device"
    assert complaint(full(command, "--help")) == "standard output cannot be written: No space left on device"


@pytest.mark.parametrize(
    ("words", "code"),
    [(("check", "--offline"), 0), (("config", "show", "--nonsense"), 2), (("health", "127.0.0.1:1"), 1)],
)
def test_standard_error_that_cannot_be_written_changes_no_exit_code(
    tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    """A script that runs the command in a container without room for its log must not take a warning for an error."""
    config = tmp_path / "c.yaml"
    config.write_text(f"store: {{url: 'sqlite:///{tmp_path}/s.db'}}\n", encoding="utf-8")
    environ = {**os.environ, "SIDECAR_CONFIG": str(config)}
    with open("/dev/full", "w") as stderr:
        done = command(*words, stdout=subprocess.PIPE, stderr=stderr, env=environ)
    assert done.returncode == code
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert command(*words, stdout=subprocess.PIPE, stderr=writer, env=environ).returncode == code
    finally:
        os.close(writer)
