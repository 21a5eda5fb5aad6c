"""``sidecar check`` and ``sidecar config``: what is printed, and which exit code follows."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from joserfc.jwk import ECKey, RSAKey

from sidecar.cli.main import main
from sidecar.cli.options import add_config_option, config_paths
from sidecar.keys.key_files import generate, write_pair
from tests.support.loopback_server import LoopbackServer
from tests.support.ports import free_port

PUBLIC_SERVER_AUTH = "/api/v1/system/config/auth"


class Service:
    """Answers JSON documents by path; anything else is 404."""

    def __init__(self) -> None:
        self.documents: dict[str, Mapping[str, Any]] = {}
        self.methods: set[str] = set()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.methods.add(request.method)
        document = self.documents.get(request.path)
        return web.json_response(document, status=200 if document is not None else 404)


@pytest.fixture(name="service")
def _service() -> Service:
    return Service()


@pytest.fixture(name="url")
def _url(service: Service) -> Iterator[str]:
    with LoopbackServer(service.answer) as server:
        yield server.url


@pytest.fixture(name="folder", autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDECAR_CONFIG", raising=False)
    return tmp_path


@pytest.fixture(name="check")
def _check(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(configuration: Mapping[str, Any], *options: str) -> tuple[int, str]:
        store = {"url": f"sqlite:///{Path.cwd()}/sidecar.db"}
        Path("c.yaml").write_text(yaml.safe_dump({"store": store, **configuration}), encoding="utf-8")
        code = main(["check", "--config", "c.yaml", *options])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def listed(issuer: str, **more: Any) -> dict[str, Any]:
    provider = {"name": "corp", "issuer": issuer, "audiences": ["om"], **more}
    return {"authenticationConfiguration": {"providers": [provider]}}


def offer_keys(service: Service, url: str, key: RSAKey | ECKey | None = None) -> None:
    key = key or RSAKey.generate_key(2048, {"kid": "1"}, auto_kid=False)
    service.documents["/.well-known/openid-configuration"] = {"issuer": url, "jwks_uri": f"{url}/keys"}
    service.documents["/keys"] = {"keys": [key.as_dict(private=False)]}


def test_all_is_well(check: Any, service: Service, url: str) -> None:
    """Exit code 0; only GET was used."""
    offer_keys(service, url)
    code, text = check({**listed(url), "upstream": {"url": url}})
    assert (code, "error" in text) == (0, False), text
    assert "Configuration OK; all dependencies reachable." in text
    assert service.methods == {"GET"}


def test_an_unreachable_issuer_is_exit_1(check: Any) -> None:
    """With its reason; offline it is not checked."""
    configuration = listed(f"http://127.0.0.1:{free_port()}")
    code, text = check(configuration)
    assert code == 1
    assert "error: provider corp: discovery" in text
    code, text = check(configuration, "--offline")
    assert code == 0


def test_a_useless_key_set_is_exit_1(check: Any, service: Service, url: str) -> None:
    """No keys, or none for the accepted algorithms."""
    offer_keys(service, url)
    service.documents["/keys"] = {"keys": []}
    assert check(listed(url))[0] == 1
    offer_keys(service, url, ECKey.generate_key("P-256", {"kid": "1"}, auto_kid=False))
    code, text = check(listed(url, algorithms=["RS256"]))
    assert code == 1
    assert "no key fits the accepted algorithms" in text
    assert check(listed(url, algorithms=["ES256"]))[0] == 0


def test_a_key_url_that_verifies_no_token_is_exit_1(check: Any, service: Service, url: str) -> None:
    """Although the other one does: the message has the URLs of both issuers and the fix; offline it is a warning."""
    offer_keys(service, url)
    service.documents["/partners"] = service.documents["/keys"]
    flat: dict[str, Any] = {
        "authority": url,
        "clientId": "om",
        "publicKeyUrls": [f"{url}/keys", f"{url}/partners"],
    }
    code, text = check({"authenticationConfiguration": flat})
    assert code == 1
    assert f"error: provider default: {url}/partners: verifies no token: the discovery document of {url} names" in text
    assert f"set {{url: {url}/partners, issuer: " in text
    code, text = check({"authenticationConfiguration": flat}, "--offline")
    assert code == 0
    assert "at most one of these verifies tokens" in text
    flat["publicKeyUrls"] = [f"{url}/keys", {"url": f"{url}/partners", "issuer": "https://partners"}]
    assert check({"authenticationConfiguration": flat})[0] == 0


def test_a_file_of_keys_that_is_missing_is_exit_2(check: Any, tmp_path: Path) -> None:
    """As it is an error of the start."""
    code, text = check(listed("https://a", publicKeyUrls=[f"file:{tmp_path}/keys.json"]))
    assert code == 2
    assert f"file:{tmp_path}/keys.json: unreadable: cannot be read: No such file" in text


def test_a_missing_file_of_keys_of_a_client_names_its_setting(check: Any, tmp_path: Path) -> None:
    client = {"id": "etl", "jwks": f"file:{tmp_path}/keys.json", "as": {"bot": "ingestion"}}
    issuer = "http://127.0.0.1:4180"
    code, text = check(
        {
            "server": {"publicUrl": issuer},
            "jwtTokenConfiguration": {"keyDir": str(tmp_path), "jwtissuer": f"{issuer}/oauth2"},
            "tokenEndpoint": {"enabled": True, "audiences": ["meta"], "clients": [client]},
        }
    )
    assert code == 2
    assert f"tokenEndpoint.clients.jwks: file:{tmp_path}/keys.json: unreadable: cannot be read: No such file" in text


def test_an_unreachable_service_is_exit_1(check: Any, service: Service, url: str) -> None:
    """The upstream, over TCP and over a socket."""
    offer_keys(service, url)
    for upstream, why in (
        (f"http://127.0.0.1:{free_port()}", "connection refused"),
        ("unix:/nowhere.sock", "no such file or directory"),
        ("http://absent.invalid:80", "the name cannot be resolved"),
    ):
        code, text = check({**listed(url), "upstream": {"url": upstream}})
        assert code == 1
        assert f"error: upstream: {upstream} cannot be reached: {why}; check that it runs" in text


def test_a_provider_that_cannot_be_asked_is_said_with_url_and_mend(check: Any, service: Service, url: str) -> None:
    offer_keys(service, url)
    document = "/.well-known/openid-configuration"
    service.documents[f"/other{document}"] = {"issuer": f"{url}/other/", "jwks_uri": f"{url}/keys"}
    refused = f"http://127.0.0.1:{free_port()}"
    for issuer, said in (
        (refused, "connect: connection refused; check host and port"),
        (f"{url}/absent", "status: status 404; check the URL, such as the realm"),
        (f"{url}/other", f'configured "{url}/other", discovery document says "{url}/other/"; set issuer to'),
        (url.replace("http:", "https:"), "tls: TLS handshake failed; set outbound.caFile"),
    ):
        code, text = check(listed(issuer))
        assert code == 1
        assert f"error: provider corp: discovery document {issuer}{document}: " in text
        assert said in text


def test_an_unreachable_collector_is_exit_1(check: Any, service: Service, url: str) -> None:
    offer_keys(service, url)
    endpoint = f"http://127.0.0.1:{free_port()}"
    code, text = check({**listed(url), "tracing": {"endpoint": endpoint}})
    assert code == 1
    assert f"error: tracing: {endpoint} cannot be reached: connection refused" in text
    assert check({**listed(url), "tracing": {"endpoint": url}})[0] == 0


def test_tracing_without_its_library_is_exit_2(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sidecar.web.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    code, text = check({**listed("http://127.0.0.1:1"), "tracing": {"endpoint": "http://127.0.0.1:1"}})
    assert code == 2
    assert "needs the extra otel" in text


def test_a_faulty_configuration_is_exit_2(check: Any) -> None:
    """With every problem, and without network access."""
    code, text = check({"server": {"workrs": 1, "workers": "x"}, "upstream": {"url": "http://127.0.0.1:1"}})
    assert code == 2
    assert "did you mean workers?" in text
    assert "must be a whole number" in text
    assert "cannot be reached" not in text


def own_keys(folder: Path) -> dict[str, Any]:
    paths = write_pair(folder, generate("RS256"))
    return {
        "jwtTokenConfiguration": {
            "rsapublicKeyFilePath": str(paths["public_key.der"]),
            "rsaprivateKeyFilePath": str(paths["private_key.der"]),
            "jwtissuer": "mine",
        }
    }


def test_own_keys_and_their_store_are_looked_at(check: Any, folder: Path) -> None:
    """A missing key file is a fault of the configuration, a missing folder an unusable store; neither is made."""
    store = folder / "store" / "sidecar.db"
    configuration = {**own_keys(folder), "store": {"url": f"sqlite:///{store}"}}
    code, text = check(configuration)
    assert code == 1
    assert "store: the folder" in text
    store.parent.mkdir()
    assert check(configuration)[0] == 0
    assert not store.exists()
    store.write_text("not a database")
    assert "is not an SQLite file" in check(configuration)[1]
    configuration["jwtTokenConfiguration"]["rsapublicKeyFilePath"] = "/nowhere.der"
    assert check(configuration)[0] == 2


def test_differences_to_an_openmetadata_server_are_reported(check: Any, service: Service, url: str) -> None:
    """What its database says beats its file: each differing key is a warning that shows no value."""
    offer_keys(service, url)
    service.documents[PUBLIC_SERVER_AUTH] = {
        "publicKeyUrls": [f"{url}/keys"],
        "authority": url,
        "clientId": "hunter2",
        "jwtPrincipalClaims": ["sub"],
        "jwtPrincipalClaimsMapping": [],
        "tokenValidationAlgorithm": "RS256",
    }
    service.documents["/api/v1/system/config/authorizer"] = {
        "adminPrincipals": ["bob", "alice"],
        "principalDomain": "EXAMPLE.com",
        "enforcePrincipalDomain": True,
    }
    flat = {"authority": url, "publicKeyUrls": [f"{url}/keys"], "clientId": "om"}
    authorizer = {"adminPrincipals": ["alice", "bob"], "principalDomain": "example.com"}
    code, text = check(
        {"authenticationConfiguration": flat, "authorizerConfiguration": authorizer, "upstream": {"url": url}}
    )
    assert code == 0
    told = {line.split(": ")[1] for line in text.splitlines() if "differs from the setting" in line}
    assert told == {
        "authenticationConfiguration.clientId",
        "authenticationConfiguration.jwtPrincipalClaims",
        "authorizerConfiguration.enforcePrincipalDomain",
    }
    assert "hunter2" not in text


def test_own_bots_before_an_openmetadata_server(check: Any, service: Service, url: str, folder: Path) -> None:
    """With passthrough it will not know them; with openmetadata the algorithm must be the server's."""
    service.documents[PUBLIC_SERVER_AUTH] = {"publicKeyUrls": [], "tokenValidationAlgorithm": "RS512"}
    configuration = {**own_keys(folder), "store": {"url": f"sqlite:///{folder}/sidecar.db"}}
    code, text = check({**configuration, "upstream": {"url": url}})
    assert code == 0
    assert "the server rejects bot tokens minted here" in text
    upstream = {"url": url, "credentials": "openmetadata"}
    code, text = check({**configuration, "upstream": upstream})
    assert code == 1
    assert "but the tokenValidationAlgorithm of the server is RS512" in text
    assert check({**configuration, "upstream": {**upstream, "tokenValidationAlgorithm": "RS512"}})[0] == 0


def test_config_show_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """Both print what a program can read; a faulty file is exit 2."""
    Path("c.yaml").write_text("server: {realm: mine}\nstore: {password: hunter2}\n", encoding="utf-8")
    assert main(["config", "show", "--config", "c.yaml"]) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["server"]["realm"] == "mine"
    assert "hunter2" not in shown
    assert main(["config", "schema"]) == 0
    assert "authenticationConfiguration" in json.loads(capsys.readouterr().out)["properties"]
    assert main(["config", "show", "--config", "none.yaml"]) == 2
    assert "No such file" in capsys.readouterr().err


def test_where_the_configuration_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """--config as often as you like, else SIDECAR_CONFIG, else nothing: the defaults."""
    parser = argparse.ArgumentParser()
    add_config_option(parser)
    assert config_paths(parser.parse_args([])) == ()
    monkeypatch.setenv("SIDECAR_CONFIG", "e.yaml")
    assert config_paths(parser.parse_args([])) == ("e.yaml",)
    assert config_paths(parser.parse_args(["--config", "a", "--config", "b"])) == ("a", "b")


@pytest.mark.parametrize(("timeout", "warned"), [("2400ms", False), ("2500ms", True)])
def test_timeouts_that_exceed_the_deadline_are_reported(check: Any, folder: Path, timeout: str, warned: bool) -> None:
    """Two hanging authenticators would use up the deadline, so that later ones are never tried."""
    users = folder / "user.props"
    users.write_text("alice: opensesame\n")
    member = {"type": "basic", "onError": "continue", "timeout": timeout, "configs": {"userProps": str(users)}}
    chain = [member, {**member, "name": "more"}, {"type": "jwt"}]
    code, text = check({"authentication": {"authenticators": chain}}, "--offline")
    assert (code, "but server.checkDeadline is 5 s" in text) == (0, warned), text


def test_no_command_is_answered_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "revocations" in capsys.readouterr().out


def test_every_command_tells_warnings_from_errors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed start lists no warnings: they do not prevent it."""
    (folder / "c.yaml").write_text("server: {lisen: x}\n")
    assert main(["token", "list", "--config", "c.yaml"]) == 2
    kinds = {line.partition(":")[0] for line in capsys.readouterr().err.splitlines()}
    assert kinds == {"error", "warning"}


def test_base_paths_are_printed(check: Any) -> None:
    """Where a preset's paths are, and what the upstream is asked for."""
    rules = [{"preset": "openmetadata", "basePath": "/om/"}, {"preset": "datahub"}]
    code, text = check({**listed("http://127.0.0.1:1"), "rules": rules}, "--offline")
    assert (code, text.count("its paths are below")) == (0, 1)
    assert "Preset openmetadata: its paths are below /om; nothing outside that is public." in text
    code, text = check({**listed("http://127.0.0.1:1"), "upstream": {"url": "http://127.0.0.1:1/om"}}, "--offline")
    assert "Forwarded to the upstream: /om followed by the requested path" in text


def test_findings_have_ids_and_exit_codes(check: Any) -> None:
    """A warning changes no exit code, an error makes it 2; the id stands behind the sentence."""
    code, text = check(
        {**listed("http://127.0.0.1:1"), "rules": [{"path": "/a", "require": {"admin": True}}]}, "--offline"
    )
    assert code == 0
    assert "[rule-letter-case]" in text
    code, text = check({"upstream": {"url": "http://127.0.0.1:1/a?b"}}, "--offline")
    assert code == 2
    assert "[upstream-url]" in text


def test_names_of_the_server_are_printed(check: Any, folder: Path) -> None:
    """The names that callers must not have are printed before a caller is rejected for one."""
    pair = generate("RS256")
    write_pair(folder, pair)
    own = {
        "rsapublicKeyFilePath": str(folder / "public_key.der"),
        "rsaprivateKeyFilePath": str(folder / "private_key.der"),
        "jwtissuer": "meta.example.com",
        "keyId": "own1",
    }
    upstream = {"credentials": "openmetadata", "serverBots": ["Nightly"]}
    code, out = check({"upstream": upstream, "jwtTokenConfiguration": own}, "--offline")
    assert code == 0, out
    assert "rejected for all issuers but our own: hellopipelinesbot, nightly, *-bot, *applicationbot, *appbot" in out
    assert "Names of the upstream" not in check({"jwtTokenConfiguration": own}, "--offline")[1]


def test_json_has_summary_problems_and_exit_code(check: Any, service: Service, url: str) -> None:
    """One document on standard output and nothing on standard error, whatever the result."""
    offer_keys(service, url)
    forwards = {"upstream": {"url": url, "credentials": "none"}}
    code, said = check({**listed(url), **forwards}, "--json")
    found = json.loads(said)
    assert (code, found["exitCode"], found["result"]) == (0, 0, "ok")
    assert found["summary"][0] == "Authentication chain (in order):"
    assert found["summary"][-1] == "Configuration OK; all dependencies reachable."

    code, said = check({**listed(f"{url}/nowhere"), **forwards}, "--json")
    found = json.loads(said)
    assert (code, found["exitCode"], found["result"]) == (1, 1, "dependency_failed")
    assert [(one["level"], one["setting"]) for one in found["problems"] if one["level"] == "error"] == [
        ("error", "provider corp")
    ]

    code, said = check({"upstream": {"url": "ftp://x"}, "servr": {}}, "--json")
    found = json.loads(said)
    assert (code, found["exitCode"], found["result"]) == (2, 2, "invalid")
    errors = {one["setting"]: one for one in found["problems"] if one["level"] == "error"}
    assert errors["upstream.url"]["id"] == "upstream-url"
    assert (errors["servr"]["file"], errors["servr"]["line"]) == ("c.yaml", 1)
    assert "did you mean server?" in errors["servr"]["message"]


def test_through_a_proxy_that_checks_nothing(check: Any, service: Service, url: str) -> None:
    keys = RSAKey.generate_key(2048, {"kid": "k", "use": "sig"}).as_dict(private=False)
    service.documents = {"/jwks": {"keys": [keys]}, "/a": {"hello": "world"}}
    code, said = check(listed(url, publicKeyUrls=[f"{url}/jwks"]), "--through", f"{url}/a")
    assert code == 1
    assert f"error: --through: GET {url}/a without credentials gets 200 application/json" in said
    assert "[through-unchecked]" in said
    assert service.methods == {"GET"}


@pytest.mark.parametrize(
    "address", ["proxy.example/a", "ftp://proxy.example/", "http://u:p@proxy.example/", "http://h/../a"]
)
def test_through_needs_a_url_that_can_be_asked_for(check: Any, address: str) -> None:
    code, said = check({}, "--through", address)
    assert code == 2
    assert f"error: --through: '{address}': " in said


def test_through_a_proxy_that_does_not_run(check: Any) -> None:
    code, said = check({}, "--through", f"http://127.0.0.1:{free_port()}/a")
    assert code == 1
    assert "error: --through: no response from the proxy: " in said
