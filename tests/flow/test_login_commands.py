"""What operators see of the browser login: ``check`` without a browser, and the list and the end of sessions."""

import json
from collections.abc import Iterator
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
    import asyncio

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
