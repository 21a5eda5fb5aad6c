"""What operators see of the browser login: ``check`` without a browser, and the list and the end of sessions."""

import asyncio
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.main import main
from tests.flow.test_login import API, provider_block, world_of
from tests.support.login_provider import Browser, LoginProvider

URL = "http://127.0.0.1:4180"


@pytest.fixture
def idp() -> Iterator[LoginProvider]:
    with LoginProvider() as provider:
        yield provider


def checked(folder: Path, idp: LoginProvider, name: str = "corp", **login: Any) -> tuple[int, Path]:
    document = {
        "server": {"publicUrl": URL, "trustedProxies": ["127.0.0.1/32"]},
        "store": {"url": f"sqlite:///{folder}/sidecar.db"},
        "authenticationConfiguration": {"providers": [provider_block(idp, name, **login)]},
    }
    path = folder / "sidecar.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    return main(["check", "--config", str(path)]), path


def test_check_prints_what_to_register_and_finds_nothing(
    tmp_path: Path, idp: LoginProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(tmp_path, idp)[0] == 0
    shown = capsys.readouterr()
    assert f"corp: redirect URI {URL}/oauth2/callback/corp" in shown.out
    assert f"corp: back-channel logout URL {URL}/oauth2/backchannel_logout" in shown.out
    assert "login" not in shown.err
    assert checked(tmp_path, idp, pushed="never")[0] == 0


@pytest.mark.parametrize("pushed", ["required", "never"])
def test_check_finds_a_wrong_secret(
    tmp_path: Path, idp: LoginProvider, capsys: pytest.CaptureFixture[str], pushed: str
) -> None:
    assert checked(tmp_path, idp, clientSecret="wrong", pushed=pushed)[0] == 1
    error = capsys.readouterr().err
    assert "invalid_client" in error
    assert "login.clientSecret" in error
    assert "wrong" not in error.replace("made-up", "")


def test_check_finds_a_redirect_uri_that_is_not_registered(
    tmp_path: Path, idp: LoginProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(tmp_path, idp, name="unregistered")[0] == 1
    assert f"{URL}/oauth2/callback/unregistered" in capsys.readouterr().err


def test_check_says_that_a_provider_is_down(
    tmp_path: Path, idp: LoginProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    idp.published = False
    assert checked(tmp_path, idp)[0] == 1
    assert "login at provider corp" in capsys.readouterr().err


async def test_sessions_are_listed_and_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with world_of(tmp_path) as world:
        alice = await world.login()
        world.idp.user = "bob"
        bob = await world.login()
        config = ["--config", str(tmp_path / "sidecar.yaml")]

        async def command(*words: str) -> list[str]:
            assert await asyncio.to_thread(main, ["sessions", *words, *config]) == 0
            return capsys.readouterr().out.splitlines()

        found = [json.loads(line) for line in await command("list", "--json")]
        assert [one["actor"]["id"] for one in found] == ["bob", "alice"]
        assert "alice" in (await command("list", "--actor", "alice"))[1]
        assert await command("end", "--actor", "alice") == ["Sessions ended: 1"]

        async def status(browser: Browser) -> int:
            return (await browser.send(world.url + "/", headers=API)).status

        async with asyncio.timeout(5):
            while await status(alice) == 200:
                await asyncio.sleep(0.02)
        assert await status(bob) == 200
        assert await command("end", found[0]["id"]) == ["Sessions ended: 1"]
        assert [json.loads(line)["actor"]["id"] for line in await command("list", "--json", "--all")] == [
            "bob",
            "alice",
        ]
        assert await asyncio.to_thread(main, ["sessions", "end", "s_unknown", *config]) == 1


def test_new_secret_is_long_enough_and_never_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    found = set()
    for _ in range(3):
        assert main(["login", "secret"]) == 0
        found.add(capsys.readouterr().out.strip())
    assert len(found) == 3
    assert all(len(secret) == 64 for secret in found)


async def test_session_is_listed_with_the_end_that_applies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with world_of(tmp_path) as world:
        await world.login()
    path = tmp_path / "sidecar.yaml"
    document = json.loads(path.read_text())
    document["login"] = {"session": {"maxAge": "10m", "idle": "5m"}}
    path.write_text(json.dumps(document), encoding="utf-8")
    assert await asyncio.to_thread(main, ["sessions", "list", "--json", "--config", str(path)]) == 0
    (shown,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    began, ends, idle = (datetime.fromisoformat(shown[name]) for name in ("createdAt", "expiresAt", "idleUntil"))
    assert (ends - began).total_seconds() == pytest.approx(600)
    assert (idle - began).total_seconds() >= 299


async def test_cookie_is_explained_step_by_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = [{"path": "/admin/**", "require": {"groups": ["admins"]}}]
    async with world_of(tmp_path, rules=rules) as world:
        world.idp.gives_refresh_tokens = True
        secret = (await world.login()).cookies["sidecar_session"]
        config = ["--config", str(tmp_path / "sidecar.yaml")]

        async def explained(code: int, *words: str) -> str:
            assert await asyncio.to_thread(main, ["token", "explain", *words, *config]) == code
            return capsys.readouterr().out

        shown = await explained(0, "--cookie", secret)
        assert secret not in shown
        for part in ("its record is s_", "in force since", "at corp, authenticated at", 'USER "alice"', "accepted"):
            assert part in shown, shown
        assert "the provider is asked again from" in shown
        assert "verdict    allowed" in await explained(0, "--cookie", secret, "--path", "/x")
        assert "requires the group admins" in await explained(1, "--cookie", secret, "--path", "/admin/x")
        assert "session_unknown" in await explained(1, "--cookie", "A" * 43)
        assert "not the value of a session cookie" in await explained(1, "--cookie", "x")
        assert world.idp.refreshes == 0
        assert await asyncio.to_thread(main, ["sessions", "end", "--actor", "alice", *config]) == 0
        assert "session_ended (session_revoked)" in await explained(1, "--cookie", secret)
