"""Settings whose values are in a secrets manager: start, refresh, reload, commands; and that no value is shown."""

import base64
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml

from tests.support.azure import CLIENT_SECRET, Azure, azure, never
from tests.support.http_client import request
from tests.support.sidecar_process import Sidecar, running_sidecar

ID = "om-introspection"
SECRET = "s3cr3t-of-the-introspection-client"
OTHER = "an0ther-s3cr3t-of-the-client"


@pytest.fixture(name="vault")
def _vault(tmp_path: Path) -> Iterator[Azure]:
    with azure(tmp_path) as world:
        world.put(ID, SECRET)
        yield world


def configuration(vault: Azure, **manager: Any) -> dict[str, Any]:
    """With an authenticator whose client secret, and a DataHub secret that is in the vault."""
    block = {"secretsManager": "azure-kv", "parameters": vault.parameters(), "timeout": "2s", **manager}
    return {
        "logging": {"level": "debug"},
        "secretsManagerConfiguration": block,
        "authentication": {"systemClientSecret": f"secret:{ID}"},
    }


def written(folder: Path, document: dict[str, Any]) -> Path:
    """A configuration file with a store of its own."""
    path = folder / "sidecar.yaml"
    listeners = {"listen": "127.0.0.1:0", "adminListen": "127.0.0.1:0"}
    store = {"url": f"sqlite:///{folder}/sidecar.db"}
    path.write_text(yaml.safe_dump({"server": listeners, "store": store, **document}), encoding="utf-8")
    return path


def run(*words: object, given: str = "", within: float = 150.0) -> subprocess.CompletedProcess[str]:
    """A command of the sidecar."""
    command = [sys.executable, "-m", "sidecar", *map(str, words)]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=within, check=False)


def status_of(sidecar: Sidecar, secret: str) -> int:
    """How a check with the system client's credential ends."""
    headers = (("Authorization", f"Basic __datahub_system:{secret}"),)
    return request(f"{sidecar.url}/oauth2/auth", "GET", headers=headers).status


def metric(sidecar: Sidecar, name: str) -> float:
    """The sum of the samples of ``name``."""
    text = request(f"{sidecar.admin_url}/metrics", "GET").body.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def wait_until(condition: Callable[[], bool], within: float = 60.0) -> None:
    """Poll ``condition``."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_value_is_read_refreshed_and_kept_while_the_vault_fails(vault: Azure, tmp_path: Path) -> None:
    """A new version is in force without a restart; an outage changes nothing and is visible."""
    with running_sidecar(tmp_path, configuration(vault, refresh="1s")) as sidecar:
        assert status_of(sidecar, SECRET) == 200
        assert status_of(sidecar, OTHER) == 401
        vault.put(ID, OTHER)
        wait_until(lambda: status_of(sidecar, OTHER) == 200)
        assert status_of(sidecar, SECRET) == 401
        vault.secrets[ID][-1].attributes["enabled"] = False
        wait_until(lambda: metric(sidecar, "sidecar_secrets_up") == 0)
        assert status_of(sidecar, OTHER) == 200
        report = request(f"{sidecar.admin_url}/readyz", "GET")
        assert report.status == 200
        part = report.json()["parts"]["secrets manager"]
        assert part["state"] == "degraded"
        assert f"Azure Key Vault: {ID}: disabled: status 403, SecretDisabled; the values read before" in part["text"]
        os.kill(sidecar.process.popen.pid, signal.SIGHUP)
        wait_until(lambda: '"outcome":"applied"' in sidecar.process.output.rpartition("secret_unreadable")[2])
        assert status_of(sidecar, OTHER) == 200
        vault.secrets[ID][-1].attributes["enabled"] = True
        wait_until(lambda: metric(sidecar, "sidecar_secrets_up") == 1)
        assert metric(sidecar, "sidecar_secrets_references") == 1
        assert metric(sidecar, 'sidecar_secrets_refreshes_total{outcome="changed"}') == 1
        assert metric(sidecar, 'sidecar_secrets_requests_total{operation="get",outcome="disabled"}') >= 1
    reads = [json.loads(line) for line in sidecar.process.output.splitlines() if '"secret_read"' in line]
    assert [(line["setting"], line["secret"]) for line in reads] == [("authentication.systemClientSecret", ID)] * 2


def test_a_value_that_its_setting_refuses_changes_nothing(vault: Azure, tmp_path: Path) -> None:
    """The reload is refused as a whole and says where; the value before stays in force."""
    vault.put("store-url", f"sqlite:///{tmp_path}/other.db")
    document = {**configuration(vault, refresh="1s"), "store": {"url": "secret:store-url"}}
    with running_sidecar(tmp_path, document) as sidecar:
        vault.put("store-url", "ftp://refused-value")
        vault.put(ID, OTHER)
        wait_until(lambda: '"outcome":"refused"' in sidecar.process.output)
        assert status_of(sidecar, SECRET) == 200
        assert status_of(sidecar, OTHER) == 401
        vault.put("store-url", f"sqlite:///{tmp_path}/other.db")
        wait_until(lambda: status_of(sidecar, OTHER) == 200)
    assert "store.url" in sidecar.process.output
    assert "refused-value" not in sidecar.process.output


def test_no_value_is_shown_anywhere(vault: Azure, tmp_path: Path) -> None:
    """At debug level, with workers: not in a log, metric, configuration, command line, environment or file.

    Neither values of settings, nor private keys, nor tokens of bots.
    """
    document = {**keys_in_vault(vault, refresh="1s"), "tokens": {"botTokensInVault": True}}
    document["server"] = {"workers": 2}
    path = written(tmp_path, document)
    outputs = [run("keys", "rotate", "--config", path), run("check", "--config", path)]
    private = json.loads(vault.value("openmetadata-sidecar-keys"))["keys"][0]["d"]
    with running_sidecar(tmp_path, document) as sidecar:
        assert status_of(sidecar, SECRET) == 200
        parts = request(f"{sidecar.admin_url}/readyz", "GET").json()["parts"]
        assert parts["secrets manager"] == {"state": "usable"}
        vault.put(ID, OTHER)
        wait_until(lambda: status_of(sidecar, OTHER) == 200)
        shown = [request(f"{sidecar.admin_url}/{path}", "GET").body for path in ("metrics", "config", "readyz")]
        assert b"systemClientSecret" in shown[1]
        pid = sidecar.process.popen.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert len(children) >= 2
        for process in (str(pid), *children):
            shown += [Path(f"/proc/{process}/{name}").read_bytes() for name in ("cmdline", "environ")]
        made = run("token", "create", "--config", sidecar.config, "--name", "etl", "--kind", "bot")
        token = made.stdout.strip()
        assert vault.value("openmetadata-bot-etl-config-jwttoken") == token
        check = request(f"{sidecar.url}/oauth2/auth", "GET", headers=(("Authorization", f"Bearer {token}"),))
        assert check.status == 200
        record = json.loads(made.stderr.splitlines()[-1])
        outputs += [run(*words, "--config", sidecar.config) for words in (("token", "list"), ("secrets", "list"))]
        outputs.append(run("token", "revoke", "--config", sidecar.config, record["id"]))
        shown += [made.stderr.encode(), *(request(f"{sidecar.admin_url}/{x}").body for x in ("metrics", "config"))]
    assert all(done.returncode == 0 for done in outputs), [done.stderr for done in outputs]
    shown += [text.encode() for done in outputs for text in (done.stdout, done.stderr)]
    shown.append(sidecar.process.output.encode())
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("sidecar.yaml", "azure.key")]
    shown += [path.read_bytes() for path in files]
    assert any(path.name == "sidecar.db" for path in files)
    for text in (SECRET, OTHER, "access-token-", private, token, token.rpartition(".")[2]):
        assert not any(text.encode() in content for content in shown), text
    assert not any(CLIENT_SECRET.encode() in content for content in shown)


def test_no_core_is_written(vault: Azure, tmp_path: Path) -> None:
    """The limit is zero in every process, and the memory is not readable for others."""
    document = configuration(vault)
    document["server"] = {"workers": 2}
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limit = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    with running_sidecar(tmp_path, document, under=("prlimit", f"--core={limit}")) as sidecar:
        pid = sidecar.process.popen.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in (str(pid), *children):
            (line,) = [x for x in Path(f"/proc/{process}/limits").read_text().splitlines() if "core file" in x]
            assert line.split()[4:6] == ["0", "0"]
        os.kill(int(children[0]), signal.SIGABRT)
        wait_until(lambda: "worker_exited" in sidecar.process.output)
    assert not list(tmp_path.glob("core*"))
    assert not list(Path.cwd().glob("core*"))


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda vault: vault.secrets.clear(), "absent: status 404, SecretNotFound; create it"),
        (lambda vault: vault.secrets[ID][-1].attributes.update(enabled=False), "SecretDisabled; enable its newest"),
        (lambda vault: vault.put(ID, "null"), "invalid: the value is empty, blank or null"),
        (lambda vault: vault.put(ID, "  "), "invalid: the value is empty, blank or null"),
        (lambda vault: setattr(vault, "resource", "https://management.azure.com"), "not for Key Vault"),
    ],
)
def test_a_definite_answer_ends_the_start_at_once(
    vault: Azure, tmp_path: Path, prepare: Callable[[Azure], object], expected: str
) -> None:
    """With the file, the line, the setting, the id, the cause and what to do."""
    prepare(vault)
    path = written(tmp_path, configuration(vault, startDeadline="50s"))
    done = run("serve", "--config", path)
    assert done.returncode == 1
    line = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: {path}:")
    assert f"authentication.systemClientSecret: secret:{ID} in Azure Key Vault: " in line
    assert expected in line


def test_a_refused_credential_ends_the_start_without_its_text(vault: Azure, tmp_path: Path) -> None:
    """The authority quotes the secret that it refuses."""
    block = {"parameters": vault.parameters(clientSecret="wrong-client-secret")}
    done = run("serve", "--config", written(tmp_path, configuration(vault, **block)))
    assert done.returncode == 1
    assert "unauthorized: the credential was refused (status 401, AADSTS7000215); check tenantId" in done.stderr
    assert "wrong-client-secret" not in done.stderr + done.stdout


def test_a_wrong_certificate_ends_the_start(vault: Azure, tmp_path: Path) -> None:
    """Nothing is sent over such a connection."""
    done = run("serve", "--config", written(tmp_path, configuration(vault, parameters=vault.parameters(caFile=""))))
    assert done.returncode == 1
    assert "tls: certificate verification failed" in done.stderr
    assert vault.requests == []


def test_a_passing_failure_is_retried_until_the_deadline(vault: Azure, tmp_path: Path) -> None:
    """And then ends the start as a definite one does."""
    vault.answer = never
    began = time.monotonic()
    done = run("serve", "--config", written(tmp_path, configuration(vault, startDeadline="4s", timeout="1s")))
    assert done.returncode == 1
    assert 3 < time.monotonic() - began < 30
    assert "timeout: no complete response within 1 s; check the network" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "secrets_read_failed" in line]) >= 1


def test_a_start_waits_for_the_vault(vault: Azure, tmp_path: Path) -> None:
    """It is ready as soon as the vault answers."""
    refusals = iter(range(2))

    async def busy(_: Any) -> Any:
        from aiohttp import web

        return web.json_response({}, status=503) if next(refusals, None) is not None else None

    vault.answer = busy
    with running_sidecar(tmp_path, configuration(vault)) as sidecar:
        assert status_of(sidecar, SECRET) == 200
    assert "secrets_read_failed" in sidecar.process.output


def test_check_reads_once_and_offline_reads_nothing(vault: Azure, tmp_path: Path) -> None:
    """Both name the settings; a failure is exit code 1."""
    path = written(tmp_path, configuration(vault))
    done = run("check", "--config", path)
    assert done.returncode == 0, done.stderr
    assert f"Secrets in Azure Key Vault (read):\n  authentication.systemClientSecret: secret:{ID}\n" in done.stdout
    vault.secrets.clear()
    assert run("check", "--config", path).returncode == 1
    vault.requests.clear()
    done = run("check", "--config", path, "--offline")
    assert done.returncode == 0, done.stderr
    assert "as far as it can be checked without the secrets manager" in done.stdout
    assert vault.requests == []


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a?x=1", "a b", "/openmetadata/x", "ä", "x" * 128])
def test_an_illegal_id_is_a_configuration_error(vault: Azure, tmp_path: Path, name: str) -> None:
    """Exit code 2, before anything is sent."""
    document = {**configuration(vault), "authentication": {"systemClientSecret": f"secret:{name}"}}
    for command in ("serve", "check"):
        done = run(command, "--config", written(tmp_path, document))
        assert done.returncode == 2
        assert "authentication.systemClientSecret: " in done.stderr
        assert "1 to 127 letters, digits and hyphens" in done.stderr
    assert vault.requests == []


def test_what_reaches_the_vault_cannot_be_in_it(vault: Azure, tmp_path: Path) -> None:
    """The credential of the vault, and the proxy."""
    document = configuration(vault, parameters=vault.parameters(clientSecret=f"secret:{ID}"))
    document["outbound"] = {"proxy": f"secret:{ID}"}
    done = run("check", "--config", written(tmp_path, document))
    assert done.returncode == 2
    for setting in ("secretsManagerConfiguration.parameters.clientSecret", "outbound.proxy"):
        assert f"{setting}: is needed to reach the secrets manager and cannot be in it" in done.stderr
    assert vault.requests == []


def test_a_value_that_looks_like_a_reference_is_the_value(vault: Azure, tmp_path: Path) -> None:
    """A writer of the vault reads no file of this machine."""
    vault.put(ID, "file:/etc/hostname")
    with running_sidecar(tmp_path, configuration(vault)) as sidecar:
        assert status_of(sidecar, "file:/etc/hostname") == 200


def test_a_reference_from_a_caller_is_named_and_not_looked_up(vault: Azure, tmp_path: Path) -> None:
    """It is a malformed token; the log has the cause, and not the id."""
    with running_sidecar(tmp_path, configuration(vault)) as sidecar:
        asked = len(vault.requests)
        headers = (("Authorization", f"Bearer secret:{ID}"),)
        reply = request(f"{sidecar.url}/oauth2/auth", "GET", headers=headers)
        assert reply.status == 401
        assert reply.json()["reason"] == "token_malformed"
        wait_until(lambda: "request_rejected" in sidecar.process.output)
        (line,) = [json.loads(x) for x in sidecar.process.output.splitlines() if "request_rejected" in x]
        assert line["cause"] == "unresolved_reference"
        assert ID not in json.dumps(line)
        assert len(vault.requests) == asked


def test_a_file_of_a_secret_is_watched(vault: Azure, tmp_path: Path) -> None:
    """As a CSI driver or an operator replaces it: with ``reloadOnChange`` its new content is in force."""
    file = tmp_path / "mounted"
    file.write_text(SECRET)
    document = {
        "server": {"reloadOnChange": True},
        "authentication": {"systemClientSecret": f"file:{file}"},
    }
    with running_sidecar(tmp_path, document) as sidecar:
        assert status_of(sidecar, SECRET) == 200
        replacement = tmp_path / "new"
        replacement.write_text(OTHER)
        replacement.rename(file)
        wait_until(lambda: status_of(sidecar, OTHER) == 200)


def test_commands(vault: Azure, tmp_path: Path) -> None:
    """``list`` shows no value, ``get`` the value alone, ``set`` needs a managed secrets manager."""
    path = written(tmp_path, configuration(vault))
    done = run("secrets", "list", "--config", path, "--json")
    assert done.returncode == 0, done.stderr
    entry = json.loads(done.stdout)
    assert (entry["setting"], entry["id"], entry["state"]) == ("authentication.systemClientSecret", ID, "ok")
    assert SECRET not in done.stdout + done.stderr
    done = run("secrets", "get", "--config", path, ID)
    assert done.stdout == f"{SECRET}\n"
    assert json.loads(done.stderr)["event"] == "secret_printed"
    done = run("secrets", "set", "--config", path, ID, given="new")
    assert done.returncode == 2
    assert "write managed-azure-kv to allow writing" in done.stderr
    path = written(tmp_path, configuration(vault, secretsManager="managed-azure-kv", tags=["team:data"]))
    done = run("secrets", "set", "--config", path, ID, given="new value\n")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "new value" not in done.stderr
    assert vault.value(ID) == "new value"
    assert vault.secrets[ID][-1].tags == {"team": "data"}
    done = run("secrets", "get", "--config", path, "absent")
    assert done.returncode == 1
    assert "absent: status 404, SecretNotFound; create it, or correct the id" in done.stderr
    for given in ("", " \n", "null"):
        assert run("secrets", "set", "--config", path, ID, given=given).returncode == 1
    vault.may_write = False
    done = run("secrets", "set", "--config", path, ID, given="x")
    assert done.returncode == 1
    assert "forbidden: status 403, ForbiddenByRbac" in done.stderr


def test_migrate(vault: Azure, tmp_path: Path) -> None:
    """Writes each secret once, prints the configuration to use, and changes nothing else."""
    (tmp_path / "salt").write_text("salt-in-a-file")
    tokens = {"signingKey": "literal-signing-key-of-the-test", "salt": f"file:{tmp_path}/salt"}
    document = configuration(vault, secretsManager="managed-azure-kv")
    document["authentication"]["tokenService"] = tokens
    path = written(tmp_path, document)
    before = path.read_bytes()
    done = run("secrets", "migrate", "--config", path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "2 to write, 0 already there" in done.stderr
    assert list(vault.secrets) == [ID]
    done = run("secrets", "migrate", "--config", path)
    assert "2 written, 0 already there" in done.stderr
    assert not {"literal-signing-key-of-the-test", "salt-in-a-file"} & set((done.stdout + done.stderr).split())
    printed = yaml.safe_load(done.stdout)["authentication"]["tokenService"]
    base = "openmetadata-sidecar-authentication-tokenservice"
    assert printed == {"signingKey": f"secret:{base}-signingkey", "salt": f"secret:{base}-salt"}
    assert vault.value(f"{base}-salt") == "salt-in-a-file"
    assert path.read_bytes() == before
    assert "0 written, 2 already there" in run("secrets", "migrate", "--config", path).stderr
    document["authentication"]["tokenService"] = printed
    assert run("check", "--config", written(tmp_path, document)).returncode == 0
    document["authentication"]["tokenService"] = {**tokens, "signingKey": "another-signing-key-of-the-test"}
    done = run("secrets", "migrate", "--config", written(tmp_path, document))
    assert done.returncode == 1
    assert f"{base}-signingkey exists with another value" in done.stderr


def test_migrate_moves_key_files_and_password_files(vault: Azure, tmp_path: Path) -> None:
    """The printed configuration accepts the same tokens and passwords without the files."""
    generated = run("keys", "generate", "--dir", tmp_path / "keys")
    assert generated.returncode == 0, generated.stderr
    hashed = bcrypt.hashpw(b"opensesame", bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text(f"alice:{hashed}\n")
    document = configuration(vault, secretsManager="managed-azure-kv", refresh="1s")
    pair = {name: f"{tmp_path}/keys/{name}_key.der" for name in ("private", "public")}
    document["jwtTokenConfiguration"] = {
        "jwtissuer": "meta.example.com",
        "rsaprivateKeyFilePath": pair["private"],
        "rsapublicKeyFilePath": pair["public"],
    }
    basic = {"type": "basic", "configs": {"htpasswd": str(tmp_path / "htpasswd")}}
    document["authentication"]["authenticators"] = [{"type": "jwt"}, basic]
    path = written(tmp_path, document)
    made = run("token", "create", "--config", path, "--name", "x", "--kind", "bot")
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    done = run("secrets", "migrate", "--config", path)
    assert done.returncode == 0, done.stderr
    assert "2 written, 0 already there" in done.stderr
    assert hashed not in done.stdout + done.stderr
    assert '"d"' not in done.stdout + done.stderr
    comments = [line for line in done.stdout.splitlines() if line.startswith("#")]
    base = "openmetadata-sidecar-authentication-authenticators-1-configs-htpasswdsecret"
    assert comments == [
        f"# authentication.authenticators[1].configs.htpasswdSecret: secret:{base}",
        "# remove jwtTokenConfiguration.rsaprivateKeyFilePath",
        "# remove jwtTokenConfiguration.rsapublicKeyFilePath",
        "# remove authentication.authenticators[1].configs.htpasswd",
    ]
    printed = yaml.safe_load(done.stdout)["jwtTokenConfiguration"]
    assert printed == {"keySecret": "secret:openmetadata-sidecar-keys"}
    assert "0 written, 2 already there" in run("secrets", "migrate", "--config", path).stderr
    document["jwtTokenConfiguration"] = {**printed, "jwtissuer": "meta.example.com"}
    basic["configs"] = {"htpasswdSecret": f"secret:{base}"}

    def status(header: str) -> int:
        return request(f"{sidecar.url}/oauth2/auth", "GET", headers=(("Authorization", header),)).status

    def password(text: str) -> str:
        return "Basic " + base64.b64encode(f"alice:{text}".encode()).decode()

    with running_sidecar(tmp_path, document) as sidecar:
        assert status(f"Bearer {token}") == 200
        assert [status(password("opensesame")), status(password("other"))] == [200, 401]
        vault.put(base, f"alice:{bcrypt.hashpw(b'other', bcrypt.gensalt(4)).decode()}")
        wait_until(lambda: status(password("other")) == 200)
        vault.put(base, "alice:not-a-hash")
        wait_until(lambda: '"outcome":"refused"' in sidecar.process.output)
        assert status(password("other")) == 200
    assert "not-a-hash" not in sidecar.process.output


def keys_in_vault(vault: Azure, **manager: Any) -> dict[str, Any]:
    """Own keys in the vault."""
    return {
        **configuration(vault, secretsManager="managed-azure-kv", **manager),
        "jwtTokenConfiguration": {"keySecret": "secret:openmetadata-sidecar-keys", "jwtissuer": "meta.example.com"},
    }


def test_own_keys_in_the_vault_are_made_shared_and_rotated(vault: Azure, tmp_path: Path) -> None:
    """From an empty vault: the first rotation makes them, a running sidecar uses later ones, no token is lost."""
    document = keys_in_vault(vault, refresh="1s")
    path = written(tmp_path, document)
    assert "create it: sidecar keys rotate" in run("check", "--config", path).stderr
    done = run("keys", "rotate", "--config", path)
    assert done.returncode == 0, done.stderr
    assert "it signs" in done.stdout
    assert '"d"' not in done.stdout + done.stderr
    rotate = ("keys", "rotate", "--config", path, "--publish-lead-time", "1s")
    with running_sidecar(tmp_path, document) as sidecar:

        def mint(name: str) -> str:
            made = run("token", "create", "--config", sidecar.config, "--name", name, "--kind", "bot")
            assert made.returncode == 0, made.stderr
            return made.stdout.strip()

        def published() -> list[str]:
            keys = json.loads(request(f"{sidecar.url}/oauth2/jwks", "GET").body)["keys"]
            assert not any("d" in key for key in keys)
            return [key["kid"] for key in keys]

        def status(token: str) -> int:
            return request(f"{sidecar.url}/oauth2/auth", "GET", headers=(("Authorization", f"Bearer {token}"),)).status

        first = mint("first")
        assert status(first) == 200
        before = published()
        time.sleep(1)
        done = run(*rotate)
        assert "signs from now on" in done.stdout, done.stderr
        wait_until(lambda: len(published()) == len(before) + 1)
        assert status(first) == 200
        second = mint("second")
        assert status(second) == 200
        kids = [json.loads(run("token", "inspect", token).stdout)["header"]["kid"] for token in (first, second)]
        assert kids == before[:2]
        listed = json.loads(run("keys", "list", "--config", path, "--json").stdout)
        assert [key["state"] for key in listed] == ["active", "retired", "next"]
        done = run("keys", "retire", "--config", path, kids[0], "--remove")
        assert done.returncode == 0, done.stderr
        wait_until(lambda: status(first) == 401)
        assert status(second) == 200


def test_a_key_set_that_cannot_be_used_changes_nothing(vault: Azure, tmp_path: Path) -> None:
    """A broken set is refused by the reload, and its keys are never printed."""
    document = keys_in_vault(vault, refresh="1s")
    path = written(tmp_path, document)
    assert run("keys", "rotate", "--config", path).returncode == 0
    with running_sidecar(tmp_path, document) as sidecar:
        good = request(f"{sidecar.url}/oauth2/jwks", "GET").body
        vault.put("openmetadata-sidecar-keys", '{"keys": [{"kid": "private-mark"}]}')
        wait_until(lambda: '"outcome":"refused"' in sidecar.process.output)
        assert request(f"{sidecar.url}/oauth2/jwks", "GET").body == good
        assert "jwtTokenConfiguration.keySecret" in sidecar.process.output
        done = run("keys", "rotate", "--config", path)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr


def test_keys_in_a_vault_that_is_only_read_are_not_rotated(vault: Azure, tmp_path: Path) -> None:
    document = keys_in_vault(vault)
    document["secretsManagerConfiguration"]["secretsManager"] = "azure-kv"
    done = run("keys", "rotate", "--config", written(tmp_path, document))
    assert done.returncode == 2
    assert "write managed-azure-kv to change keys there" in done.stderr
