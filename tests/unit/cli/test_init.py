"""``sidecar init``: the files that it writes, its questions on a terminal, and what it refuses."""

import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from sidecar.cli import proxy_files
from sidecar.cli.main import main
from sidecar.config.load import load
from tests.support.identity_provider import IdentityProvider
from tests.support.loopback_server import LoopbackServer

UPSTREAM = "http://127.0.0.1:8585"


@pytest.fixture(name="folder", autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(name="idp")
def _idp() -> Iterator[IdentityProvider]:
    with IdentityProvider() as idp:
        yield idp


def written(folder: Path) -> Any:
    """What ``sidecar.yaml`` says."""
    return yaml.safe_load((folder / "sidecar.yaml").read_text(encoding="utf-8"))


def run(*arguments: str, code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Run it without a terminal; returns all output."""
    assert main(["init", *arguments]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return out + err


def test_the_configuration_is_one_that_check_accepts(
    idp: IdentityProvider, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the keys of the issuer fetched, and no upstream running."""
    run("--issuer", idp.issuer, "--audience", "meta", "--upstream", UPSTREAM, code=0, capsys=capsys)
    first, *_ = (folder / "sidecar.yaml").read_text(encoding="utf-8").splitlines()
    assert first == "# yaml-language-server: $schema=sidecar.schema.json"
    (provider,) = written(folder)["authenticationConfiguration"]["providers"]
    assert (provider["issuer"], provider["audiences"]) == (idp.issuer, ["meta"])
    assert main(["check", "--offline", "--config", "sidecar.yaml"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_nothing_is_overwritten(idp: IdentityProvider, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the configuration nor the proxy's file; then nothing else is written, either."""
    arguments = ("--issuer", idp.issuer, "--audience", "meta", "--upstream", UPSTREAM, "--proxy", "caddy")
    (folder / "Caddyfile").write_text("mine", encoding="utf-8")
    said = run(*arguments, code=2, capsys=capsys)
    assert "Caddyfile exists and is not overwritten" in said
    assert [path.name for path in folder.iterdir()] == ["Caddyfile"]
    (folder / "Caddyfile").unlink()
    (folder / "sidecar.yaml").symlink_to("/nowhere")
    assert "sidecar.yaml exists" in run(*arguments, code=2, capsys=capsys)


def test_a_file_that_appears_meanwhile_is_kept_and_the_others_are_removed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files are written or none."""
    monkeypatch.setattr("sidecar.cli.init._require_absent", lambda _folder, _names: None)
    (folder / "Caddyfile").write_text("mine", encoding="utf-8")
    arguments = ("--issuer", "https://idp.example.com", "--audience", "meta", "--upstream", UPSTREAM, "--offline")
    assert "Caddyfile cannot be written" in run(*arguments, "--proxy", "caddy", code=2, capsys=capsys)
    assert [path.name for path in folder.iterdir()] == ["Caddyfile"]
    assert (folder / "Caddyfile").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("missing", ["--issuer", "--audience", "--upstream"])
def test_without_a_terminal_a_missing_option_is_named(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is asked, nothing is written."""
    given = {"--issuer": "https://idp.example.com", "--audience": "meta", "--upstream": UPSTREAM}
    arguments = [word for name, value in given.items() if name != missing for word in (name, value)]
    said = run(*arguments, "--offline", code=2, capsys=capsys)
    assert f"{missing} is missing" in said
    assert not Path("sidecar.yaml").exists()


def test_an_issuer_without_keys_is_said_and_nothing_is_written(
    idp: IdentityProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the provider and how to go on."""
    idp.published = False
    arguments = ("--issuer", idp.issuer, "--audience", "meta", "--upstream", UPSTREAM)
    said = run(*arguments, code=1, capsys=capsys)
    assert "provider idp" in said
    assert "--offline" in said
    assert not Path("sidecar.yaml").exists()
    run(*arguments, "--offline", code=0, capsys=capsys)


def test_the_discovery_document_decides_about_the_final_slash(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only about that: any other difference is an error."""
    documents: dict[str, Any] = {}

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        found = documents.get(request.path)
        return web.json_response(found, status=404 if found is None else 200)

    with LoopbackServer(answer) as server, IdentityProvider() as keys:
        documents["/.well-known/openid-configuration"] = {
            "issuer": f"{server.url}/",
            "jwks_uri": f"{keys.issuer}/jwks",
        }
        arguments = ("--audience", "meta", "--upstream", UPSTREAM)
        said = run("--issuer", server.url, *arguments, code=0, capsys=capsys)
        assert f"Issuer {server.url}/, as its discovery document says" in said
        assert written(folder)["authenticationConfiguration"]["providers"][0]["issuer"] == f"{server.url}/"
        (folder / "sidecar.yaml").unlink()
        documents["/.well-known/openid-configuration"]["issuer"] = f"{server.url}/other"
        assert "issuer mismatch" in run("--issuer", server.url, *arguments, code=1, capsys=capsys)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--issuer", "https://login.microsoftonline.com/common/v2.0"), "tokens of every tenant"),
        (("--issuer", "https://idp/<tenant>"), "placeholder"),
        (("--issuer", "not a url"), "authenticationConfiguration.providers[0].issuer"),
        (("--upstream", "ftp://x"), "upstream.url"),
        (("--listen", "everywhere"), "server.listen"),
        (("--name", "a b"), "providers[0].name"),
        (("--claim", "a..b"), "jwtPrincipalClaims"),
        (("--store", "mysql://x"), "store.url"),
        (("--any-audience",), "exclude each other"),
        (("--dir", "/nowhere/at/all"), "is not a folder"),
        (("--drop", "github_org"), "no effect without --from"),
        (("--proxy", "nginx", "--upstream", "https://x:1"), "http://host:port"),
        (("--proxy", "nginx", "--listen", "unix:/run/s"), "unix:/run/s"),
    ],
)
def test_bad_values_are_named(arguments: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, the setting or option, no traceback, no file."""
    usual = ["--issuer", "https://idp.example.com", "--audience", "meta", "--upstream", UPSTREAM, "--offline"]
    said = run(*usual, *arguments, code=2, capsys=capsys)
    assert part in said, said
    assert "/tmp" not in said.replace(str(Path.cwd()), "")
    assert not Path("sidecar.yaml").exists()


def test_text_that_looks_like_a_placeholder_stays_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``${`` in a value is not replaced by a variable."""
    run(
        *("--issuer", "https://idp.example.com", "--audience", "a${HOME}b", "--upstream", UPSTREAM, "--offline"),
        code=0,
        capsys=capsys,
    )
    (provider,) = load([str(folder / "sidecar.yaml")], {"HOME": "/root"}).providers
    assert provider.audiences == {"a${HOME}b"}


def test_the_store_is_in_the_state_directory_of_a_service(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise beside the configuration."""
    run(
        *("--issuer", "https://idp.example.com", "--audience", "a", "--upstream", UPSTREAM, "--offline"),
        code=0,
        capsys=capsys,
    )
    for environment, place in (({}, str(folder)), ({"STATE_DIRECTORY": "/var/lib/x"}, "/var/lib/x")):
        settings = load([str(folder / "sidecar.yaml")], environment).settings
        assert settings.store.url.reveal() == f"sqlite:///{place}/sidecar.db"


@pytest.mark.parametrize("proxy", proxy_files.PROXIES)
def test_the_proxys_addresses_are_those_that_were_named(proxy: str) -> None:
    """Each shipped address is replaced, also where a port is written apart."""
    texts = [file.text for file in proxy_files.proxy_files(proxy, "127.0.0.1:14180", "http://10.1.2.3:9000")]
    joined = "".join(texts)
    for port, absent in (("14180", ":4180"), ("9000", ":8585")):
        assert port in joined
        assert absent not in joined
        assert f"port_value: {absent[1:]}" not in joined


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sidecar", "init", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            start_new_session=True,
        )
        os.close(slave)
        self.screen = ""

    def wait_for(self, text: str) -> None:
        """Read until ``text`` is on the screen."""
        deadline = time.monotonic() + 30
        while text not in self.screen:
            assert time.monotonic() < deadline, self.screen
            self.screen += os.read(self._master, 4096).decode()

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def ended(self) -> int:
        """Its exit code."""
        code = self._process.wait(30)
        os.close(self._master)
        return code


def test_on_a_terminal_it_asks_for_what_is_missing(idp: IdentityProvider, folder: Path) -> None:
    """An empty answer is asked again."""
    terminal = Terminal(folder)
    terminal.wait_for("Issuer URL of the identity provider")
    terminal.type(f"{idp.issuer}\n")
    terminal.wait_for("Audience of the tokens")
    terminal.type("\n")
    terminal.type("meta\n")
    terminal.wait_for("URL of the server to protect")
    terminal.type(f"{UPSTREAM}\n")
    terminal.wait_for("Next: sidecar check")
    assert terminal.ended() == 0
    assert terminal.screen.count("Audience of the tokens") == 2
    assert written(folder)["upstream"] == {"url": UPSTREAM}


@pytest.mark.parametrize("keys", ["\x04", "\n\n\n"])
def test_no_answer_ends_it(keys: str, folder: Path) -> None:
    """End of input, or three empty answers."""
    terminal = Terminal(folder, "--audience", "x", "--upstream", UPSTREAM)
    terminal.wait_for("Issuer URL")
    terminal.type(keys)
    terminal.wait_for("use --issuer instead")
    assert terminal.ended() == 2
    assert not (folder / "sidecar.yaml").exists()


def test_ctrl_c_ends_it_without_a_traceback(folder: Path) -> None:
    """As every command."""
    terminal = Terminal(folder)
    terminal.wait_for("Issuer URL")
    terminal._process.send_signal(2)
    assert terminal.ended() == 130
    assert "Traceback" not in terminal.screen
