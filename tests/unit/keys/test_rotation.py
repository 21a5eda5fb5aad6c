"""Own keys are published before they sign, stay while their tokens live, and survive two who rotate at once."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.main import main
from sidecar.config.settings import JwtTokenConfiguration
from sidecar.keys.key_folder import ListedKey, read_folder
from sidecar.keys.rotation import RotationError, RotationResult, remove, remove_obsolete, retire, rotate
from sidecar.keys.signing import SigningKeys

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
AHEAD = 330.0


def _never(key: ListedKey) -> bool:
    return False


def rotated(folder: Path, minutes: float = 0, is_over: Callable[[ListedKey], bool] = _never) -> RotationResult:
    return rotate(
        folder, NOW + timedelta(minutes=minutes), publish_lead_time=AHEAD, algorithm="ES256", is_obsolete=is_over
    )


def states(folder: Path) -> list[str]:
    return [key.state for key in read_folder(folder)]


def test_first_rotation_makes_a_signing_key_and_the_next_one(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    rotated(folder)
    assert states(folder) == ["active", "next"]
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.pem")} == {0o600}
    assert len(json.loads(SigningKeys(JwtTokenConfiguration(key_dir=str(folder))).public_key_set()[0])["keys"]) == 2


def test_key_signs_only_after_it_has_been_published_for_long_enough(tmp_path: Path) -> None:
    rotated(tmp_path)
    signing, waiting = read_folder(tmp_path)
    for minutes in (0, 5):
        change = rotated(tmp_path, minutes)
        assert change.steps == ()
        assert waiting.kid in change.note
    assert rotated(tmp_path, 6).steps
    keys = read_folder(tmp_path)
    assert [(key.state, key.kid) for key in keys[:2]] == [("active", waiting.kid), ("retired", signing.kid)]
    assert keys[1].retired_at == NOW + timedelta(minutes=6)
    assert keys[2].state == "next"


def test_running_sidecar_takes_the_new_key_up_and_keeps_the_old(tmp_path: Path) -> None:
    rotated(tmp_path)
    own = SigningKeys(JwtTokenConfiguration(key_dir=str(tmp_path)))
    old = own.signing
    rotated(tmp_path, 6)
    own.reload()
    assert own.signing.kid != old.kid
    (kept,) = own.candidates(old.kid, "ES256")
    assert kept.live


def test_retired_key_stays_until_no_token_needs_it(tmp_path: Path) -> None:
    rotated(tmp_path)
    rotated(tmp_path, 6)
    retired = next(key for key in read_folder(tmp_path) if key.state == "retired")
    assert remove_obsolete(tmp_path, _never).steps == ()
    assert remove_obsolete(tmp_path, lambda key: True).steps
    assert states(tmp_path) == ["active", "next"]
    assert not (tmp_path / f"{retired.kid}.pem").exists()
    rotated(tmp_path, 12)
    rotated(tmp_path, 18, is_over=lambda key: True)
    assert states(tmp_path) == ["active", "retired", "next"]


def test_retiring_and_removing_by_hand(tmp_path: Path) -> None:
    rotated(tmp_path)
    signing, waiting = read_folder(tmp_path)
    for change in (partial(retire, tmp_path, signing.kid, NOW), partial(remove, tmp_path, signing.kid)):
        with pytest.raises(RotationError, match="rotate first"):
            change()
    with pytest.raises(RotationError, match="no key with that id"):
        retire(tmp_path, "none", NOW)
    retire(tmp_path, waiting.kid, NOW)
    assert retire(tmp_path, waiting.kid, NOW).steps == ()
    assert states(tmp_path) == ["active", "retired"]
    remove(tmp_path, waiting.kid)
    assert [key.kid for key in read_folder(tmp_path)] == [signing.kid]
    assert {path.name for path in tmp_path.glob("*.pem")} == {f"{signing.kid}.pem"}


def test_type_stays_unless_another_is_asked_for(tmp_path: Path) -> None:
    rotated(tmp_path)
    rotate(tmp_path, NOW + timedelta(minutes=6), publish_lead_time=AHEAD, algorithm=None, is_obsolete=_never)
    assert type(read_folder(tmp_path)[2].public) is type(read_folder(tmp_path)[0].public)


def test_rotations_are_serialized(tmp_path: Path) -> None:
    rotated(tmp_path)
    with (tmp_path / ".lock").open("wb") as lock, ThreadPoolExecutor() as threads:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threads.submit(rotated, tmp_path, 6)
        assert not wait([waiting], timeout=0.3).done
        assert states(tmp_path) == ["active", "next"]
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert waiting.result(30).steps


def test_two_who_rotate_at_once_do_it_once(tmp_path: Path) -> None:
    rotated(tmp_path)
    program = (
        "import sys; from datetime import datetime; from pathlib import Path; from sidecar.keys.rotation import rotate;"
        "rotate(Path(sys.argv[1]), datetime.fromisoformat(sys.argv[2]), publish_lead_time=330, algorithm='ES256',"
        " is_obsolete=lambda key: False)"
    )
    later = (NOW + timedelta(minutes=6)).isoformat()
    command = [sys.executable, "-c", program, str(tmp_path), later]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    running = [subprocess.Popen(command, env=environment) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    assert states(tmp_path) == ["active", "retired", "next"]
    assert len(list(tmp_path.glob("*.pem"))) == 3


def test_read_only_folder_says_how_to_rotate_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rotated(tmp_path)
    before = (tmp_path / "keys.yaml").read_bytes()

    def read_only(*_: Any, **__: Any) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("sidecar.keys.rotation.os.open", read_only)
    with pytest.raises(RotationError, match="mounted Secret"):
        rotated(tmp_path, 6)
    assert (tmp_path / "keys.yaml").read_bytes() == before


# --- the commands


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    config = tmp_path / "sidecar.yaml"
    rotated(tmp_path / "keys")
    document = {
        "store": {"url": f"sqlite:///{tmp_path}/s.db"},
        "jwtTokenConfiguration": {"keyDir": str(tmp_path / "keys"), "jwtissuer": "meta"},
    }
    config.write_text(json.dumps(document))

    def call(*words: str) -> tuple[int, str, str]:
        code = main([*words[:2], "--config", str(config), *words[2:]])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def listed(run: Callable[..., tuple[int, str, str]]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(run("keys", "list", "--json")[1])
    return entries


def test_key_that_a_token_on_record_needs_is_kept(run: Callable[..., tuple[int, str, str]]) -> None:
    _, token, _ = run("token", "create", "--kind", "bot", "--name", "ingest", "--expiry", "7")
    code, out, _ = run("keys", "rotate", "--publish-lead-time", "0s")
    assert code == 0
    assert "signs from now on" in out
    old = next(entry["kid"] for entry in listed(run) if entry["state"] == "retired")
    _, out, _ = run("keys", "retire", "--retain", "0s")
    assert out == "nothing changed\n"
    assert run("token", "explain", token.strip())[0] == 0
    (record,) = [json.loads(line) for line in run("token", "list", "--json")[1].splitlines()]
    run("token", "revoke", record["id"])
    _, out, _ = run("keys", "retire")
    assert out == "nothing changed\n"
    _, out, _ = run("keys", "retire", "--retain", "0s")
    assert out.startswith(f"{old} is removed")


def test_keys_are_listed_in_order(run: Callable[..., tuple[int, str, str]]) -> None:
    assert [(entry["state"], entry["signs"]) for entry in listed(run)] == [("active", True), ("next", False)]
    _, out, _ = run("keys", "list")
    assert out.splitlines()[0].split() == ["KID", "STATE", "TYPE", "SIGNS", "SINCE", "RETIRED"]


def test_unknown_key_is_one_sentence(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run("keys", "retire", "none")
    assert (code, out, err.count("\n")) == (1, "", 1)


def test_without_a_folder_the_setting_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "sidecar.yaml"
    config.write_text(f"store: {{url: 'sqlite:///{tmp_path}/s.db'}}")
    assert main(["keys", "rotate", "--config", str(config)]) == 2
    assert "keyDir" in capsys.readouterr().err
