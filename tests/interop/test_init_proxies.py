"""``sidecar init --proxy``: its two files, as written, make a working installation with the real proxy."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from sidecar.cli.proxy_files import PROXIES, file_names
from tests.support.echo_upstream import Received, echo_upstream
from tests.support.http_client import answers, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.ports import answers_on, free_port
from tests.support.process import running
from tests.support.proxies import running_nginx

TOOLS = {"nginx": "nginx-debian"}


def command_of(proxy: str, binary: Path, folder: Path) -> Sequence[object]:
    """How the proxy is started with the files in ``folder``."""
    return {
        "envoy": [binary, "-c", folder / "envoy.yaml", "--concurrency", "1", "--disable-hot-restart"],
        "caddy": [binary, "run", "--config", folder / "Caddyfile", "--adapter", "caddyfile"],
        "traefik": [binary, f"--configFile={folder / 'traefik.yaml'}"],
    }[proxy]


def check(proxy: str, url: str, idp: IdentityProvider) -> None:
    """A caller passes with its identity, and not without a token."""
    headers = [("Authorization", f"Bearer {idp.mint()}"), ("X-Auth-Request-User", "intruder")]
    reply = request(f"{url}/x", headers=headers)
    assert reply.status == 200, (proxy, reply)
    assert Received.of(reply.json()).all("X-Auth-Request-User") == ["alice"]
    assert request(f"{url}/x").status == 401


@pytest.mark.parametrize("proxy", PROXIES)
def test_the_written_files_work_together(
    proxy: str, require_tool: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the ports differ from what is written: those of the proxy and of the operations listener."""
    binary = require_tool(TOOLS.get(proxy, proxy))
    public, admin, port = (f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}", free_port())
    monkeypatch.chdir(tmp_path)  # Traefik finds its second file there
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    with IdentityProvider() as idp, echo_upstream() as upstream:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "sidecar", "init", "--issuer", idp.issuer, "--audience", AUDIENCE),
                *("--upstream", upstream.url, "--listen", public, "--proxy", proxy),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for name in file_names(proxy):
            path = tmp_path / name
            text = path.read_text(encoding="utf-8")
            for shown, here in (("listen 8080", f"listen 127.0.0.1:{port}"), ("http://:8080", f"http://127.0.0.1:{port}"),
                                ("address: :8080", f"address: 127.0.0.1:{port}"),
                                ("port_value: 8080", f"port_value: {port}")):  # fmt: skip
                text = text.replace(shown, here)
            path.write_text(text, encoding="utf-8")
        more = tmp_path / "more.yaml"
        more.write_text(yaml.safe_dump({"server": {"adminListen": admin, "drainDelay": "0s"}}), encoding="utf-8")
        with running(
            [sys.executable, "-m", "sidecar", "serve", "--config", tmp_path / "sidecar.yaml", "--config", more],
            log=tmp_path / "sidecar.log",
            ready=lambda: answers(f"http://{admin}/readyz", 200),
            within=90.0,
        ):
            url = f"http://127.0.0.1:{port}"
            if proxy == "nginx":
                (tmp_path / file_names(proxy)[0]).rename(tmp_path / "site.conf")
                with running_nginx(binary, tmp_path, port):
                    check(proxy, url, idp)
                return
            with running(
                command_of(proxy, binary, tmp_path),
                log=tmp_path / "proxy.log",
                ready=lambda: answers_on(port) and answers(url) and not answers(url, 404),
            ):
                check(proxy, url, idp)
