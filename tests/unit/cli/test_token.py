"""``sidecar token``: mints on the store, shows without believing, explains with the server's own verdict."""

import io
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.explain import explain
from sidecar.cli.main import main
from sidecar.config.load import Loaded, load
from sidecar.keys.key_files import generate, write_pair
from sidecar.tokens.jwt.compact import parse
from tests.support import forge
from tests.support.jwks_server import JwksServer, jwk

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def key_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    write_pair(folder, generate("RS256"))
    return folder


@pytest.fixture
def config(tmp_path: Path, key_folder: Path) -> Path:
    path = tmp_path / "sidecar.yaml"
    path.write_text(
        json.dumps(
            {
                "jwtTokenConfiguration": {
                    "rsapublicKeyFilePath": str(key_folder / "public_key.der"),
                    "rsaprivateKeyFilePath": str(key_folder / "private_key.der"),
                    "jwtissuer": "meta.example.com",
                    "keyId": "own1",
                },
                "authorizerConfiguration": {"adminPrincipals": ["admin"], "principalDomain": "example.com"},
                "store": {"url": f"sqlite:///{tmp_path}/s.db"},
            }
        )
    )
    return path


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(action: str, *arguments: str) -> tuple[int, str, str]:
        configured = () if action == "inspect" else ("--config", str(config))
        if action == "create" and "--kind" not in arguments:
            configured = (*configured, "--kind", "bot")
        code = main(["token", action, *configured, *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def minted(run: Run, *arguments: str) -> str:
    code, out, _ = run("create", *arguments)
    assert code == 0
    return out.strip()


def test_create_prints_the_token_alone_and_its_record_beside(run: Run) -> None:
    code, out, err = run("create", "--name", "Ingest", "--roles", "a", "b", "--description", "nightly")
    assert code == 0
    claims = parse(out.removesuffix("\n"), 16_384).claims
    audited, record = map(json.loads, err.splitlines())
    assert (audited["event"], audited["by"], audited["token_id"]) == ("token_minted", "command line", record["id"])
    assert (claims["sub"], claims["isBot"], claims["roles"]) == ("ingest", True, ["a", "b"])
    assert claims["exp"] - claims["iat"] == 30 * 86_400
    assert (record["id"], record["name"], record["description"]) == (claims["jti"], "Ingest", "nightly")
    assert record["actor"] == {"type": "SERVICE", "id": "ingest"}


def test_create_as_json(run: Run) -> None:
    arguments = ("--kind", "personal", "--actor-id", "sam", "--expiry", "PT15M")
    code, out, err = run("create", "--name", "laptop", *arguments, "--json")
    printed = json.loads(out)
    assert (code, json.loads(err)["event"]) == (0, "token_minted")
    assert printed["record"]["actor"] == {"type": "USER", "id": "sam"}
    assert parse(printed["token"], 16_384).claims["jti"] == printed["record"]["id"]


@pytest.mark.parametrize("name", ["anonymous", "Guest", "__datahub_system"])
def test_reserved_names_are_rejected(run: Run, name: str) -> None:
    """As in the API: such a token would be the guest or DataHub's system client for the upstream."""
    code, out, err = run("create", "--name", name)
    assert (code, out) == (1, "")
    assert "name is reserved" in err
    assert run("create", "--name", "x", "--actor-id", name)[0] == 1


def test_no_token_outlives_the_longest_life(run: Run, config: Path) -> None:
    """Neither a new one nor one from before."""
    month = minted(run, "--name", "x", "--expiry", "30")
    config.write_text(json.dumps({**json.loads(config.read_text()), "tokens": {"maxLifetime": "7d"}}))
    code, out, err = run("create", "--name", "x", "--expiry", "8")
    assert (code, out) == (1, "")
    assert "tokens.maxLifetime" in err
    assert run("explain", minted(run, "--name", "y", "--expiry", "7"))[0] == 0
    code, out, _ = run("explain", month)
    assert (code, "rejected: lifetime" in out) == (1, True)


def test_created_token_is_accepted(run: Run) -> None:
    code, out, _ = run("explain", minted(run, "--name", "ingest"))
    assert code == 0
    assert 'SERVICE "ingest" (bot)\n' in out
    assert out.endswith("verdict    accepted\n")


def test_name_among_the_admins_is_admin(run: Run) -> None:
    _, out, _ = run("explain", minted(run, "--name", "x", "--actor-id", "Admin", "--replace-person"))
    assert '"admin" (bot, admin)' in out


def test_new_token_of_a_bot_ends_the_old_one(run: Run) -> None:
    old = minted(run, "--name", "ingest")
    minted(run, "--name", "ingest")
    code, out, _ = run("explain", old)
    assert code == 1
    assert "record     rejected: record_revoked\n" in out
    assert out.endswith("verdict    rejected: token_revoked\n")


def test_token_whose_record_is_gone_is_refused(run: Run, tmp_path: Path) -> None:
    token = minted(run, "--name", "ingest")
    connection = sqlite3.connect(tmp_path / "s.db")
    connection.execute("DELETE FROM token_records")
    connection.commit()
    connection.close()
    code, out, _ = run("explain", token)
    assert code == 1
    assert "rejected: not_on_record" in out


def test_endless_token_needs_leave(run: Run, config: Path) -> None:
    code, out, err = run("create", "--name", "x", "--expiry", "Unlimited")
    assert (code, out) == (2, "")
    assert "tokens.allowNeverExpiring" in err
    config.write_text(json.dumps({**json.loads(config.read_text()), "tokens": {"allowNeverExpiring": True}}))
    token = minted(run, "--name", "x", "--expiry", "Unlimited")
    assert "exp" not in parse(token, 16_384).claims
    code, out, _ = run("explain", token)
    assert code == 0
    assert "never expires" in out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--name", ""),
        ("--name", "a\nb"),
        ("--name", "x", "--expiry", "0"),
        ("--name", "x", "--expiry", "soon"),
        ("--name", "x", "--kind", "root"),
        ("--name", "x", "--format", "jwt"),
        ("--name", "x", "--description", "\x1b[2J"),
    ],
)
def test_usage(run: Run, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("create", *arguments)
    assert stop.value.code == 2


def test_actor_that_no_token_could_carry(run: Run) -> None:
    code, out, err = run("create", "--name", "my bot")
    assert (code, out) == (1, "")
    assert "principal_invalid" in err


def test_without_signing_keys_the_message_names_the_fix(run: Run, config: Path) -> None:
    config.write_text(f"store: {{url: 'sqlite:///{config.parent}/s.db'}}")
    code, out, err = run("create", "--name", "x")
    assert (code, out) == (2, "")
    assert "sidecar keys generate" in err


def test_without_a_store_there_is_no_token(run: Run, config: Path) -> None:
    config.write_text(config.read_text().replace("/s.db", "/none/s.db"))
    code, out, err = run("create", "--name", "x")
    assert (code, out) == (2, "")
    assert "store.url" in err


def test_inspect_needs_neither_configuration_nor_trust(run: Run) -> None:
    token = forge.token(forge.claims(sub="\x1b[2J\u00e9"), forge.header(alg="none", crit=["x"]))
    code, out, err = run("inspect", token)
    assert code == 0
    assert json.loads(out) == {
        "header": forge.header(alg="none", crit=["x"]),
        "claims": forge.claims(sub="\x1b[2J\u00e9"),
    }
    assert out.isascii()
    assert "\x1b" not in out
    assert "not verified" in err


@pytest.mark.parametrize("text", ["", "abc", "a.b.c", "..", forge.token("[]"), forge.token('{"a":1,"a":2}')])
def test_inspect_of_what_is_no_token(run: Run, text: str) -> None:
    code, out, err = run("inspect", text)
    assert (code, out) == (1, "")
    assert "token_malformed" in err


def test_token_from_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(forge.token() + "\n"))
    code, out, _ = run("inspect", "-")
    assert code == 0
    assert json.loads(out)["claims"]["sub"] == "sam"


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("nonsense", "form       rejected: not_a_jwt"),
        (forge.token(header_=forge.header(crit=["x"])), "form       rejected: critical_header"),
        (forge.token(), "issuer     rejected: issuer"),
        (
            forge.token(forge.claims(iss="meta.example.com"), forge.header(kid="Gb389a-9f76-gdjs-a92j-0242bk94356")),
            "published  rejected",
        ),
        (
            forge.token(forge.claims(iss="meta.example.com")),
            'keys       rejected: unknown_kid; kid is "k1"; the issuer publishes no such key',
        ),
        (
            forge.token(forge.claims(iss="meta.example.com"), forge.header(kid="own1")),
            "signature  rejected: signature",
        ),
        (
            forge.token(forge.claims(iss="meta.example.com"), forge.header(alg="HS256")),
            'algorithm  rejected: algorithm; alg is "HS256"; keys of issuers are asymmetric',
        ),
    ],
)
def test_explain_names_the_step_that_refuses(run: Run, token: str, expected: str) -> None:
    code, out, _ = run("explain", token)
    assert code == 1
    assert expected in out
    assert out.splitlines()[-1].startswith("verdict    rejected: ")


RULES = [
    {"path": "/crew/**", "require": {"groups": ["crew"]}},
    {"path": "/staff", "methods": ["GET"], "require": {"groups": ["staff"]}},
    {"path": "/**", "access": "public"},
]


def _provider(url: str, tmp_path: Path, **changes: Any) -> Loaded:
    provider = {"name": "corp", "issuer": forge.ISSUER, "publicKeyUrls": [url], "audiences": ["meta"], **changes}
    path = tmp_path / "provider.yaml"
    path.write_text(
        json.dumps(
            {
                "authenticationConfiguration": {"providers": [provider]},
                "store": {"url": f"sqlite:///{tmp_path}/s.db"},
                "keys": {"timeout": "2s"},
                "rules": RULES,
            }
        )
    )
    return load([str(path)], {})


def _current(**changes: Any) -> str:
    now = int(time.time())
    return forge.token(forge.claims(iat=now - 5, exp=now + 600, **changes))


async def test_explain_asks_the_provider_for_its_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with JwksServer() as server:
        server.publish(jwk(forge.RSA, "k1"))
        loaded = _provider(server.url(), tmp_path)
        assert await explain(_current(), loaded) == 0
        out = capsys.readouterr().out
        assert f'issuer     "{forge.ISSUER}" is corp' in out
        assert 'principal  USER "sam"' in out
        assert await explain(_current(aud="other"), loaded) == 1
        out = capsys.readouterr().out
        assert 'claims     rejected: audience; aud is "other"; expected: "meta"; {"aud": "other"' in out
        assert 'audiences ["meta"]' in out
        assert await explain(_current(sub="anonymous"), loaded) == 1
        assert "principal  rejected: reserved_name" in capsys.readouterr().out


async def test_explain_tells_the_expected_lifetime_and_claims(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with JwksServer() as server:
        server.publish(jwk(forge.RSA, "k1"))
        loaded = _provider(server.url(), tmp_path, maxTokenLifetime="1m", requiredClaims={"azp": ["ui"]})
        assert await explain(_current(azp="ui"), loaded) == 1
        out = capsys.readouterr().out
        assert "rejected: lifetime" in out
        assert "maximum lifetime 60 s" in out
        assert await explain(_current(), loaded) == 1
        out = capsys.readouterr().out
        assert 'rejected: required_claim; azp is not one of "ui"; ' in out
        assert 'azp one of ["ui"]' in out


async def test_explain_of_a_token_that_cannot_be_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = _provider("http://127.0.0.1:9/jwks", tmp_path)
    assert await explain(_current(), loaded) == 1
    out = capsys.readouterr().out
    assert "keys       no decision possible: keys_unavailable" in out
    assert out.endswith("verdict    no decision possible: unavailable\n")


def test_a_token_of_no_kind_is_not_minted(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bot token reserves its name, so ``--kind`` is required."""
    with pytest.raises(SystemExit) as ended:
        main(["token", "create", "--config", str(config), "--name", "bob"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "--kind bot" in told
    assert "--kind personal" in told


def test_a_person_is_not_made_a_bot_by_accident(run: Run) -> None:
    minted(run, "--name", "laptop", "--kind", "personal", "--actor-id", "bob")
    code, out, err = run("create", "--name", "Bob")
    assert (code, out) == (1, "")
    assert "bob is a person with issued tokens" in err
    assert "--replace-person" in err
    assert run("create", "--name", "admin")[0] == 1
    minted(run, "--name", "bob", "--replace-person")
    minted(run, "--name", "bob")
    code, _, err = run("create", "--name", "laptop", "--kind", "personal", "--actor-id", "BOB")
    assert (code, "The actor is a bot" in err) == (1, True)


def test_names_of_bots_are_listed_registered_and_released(
    run: Run, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def bots(*arguments: str) -> tuple[int, str, str]:
        code = main(["bots", arguments[0], "--config", str(config), *arguments[1:]])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    token = minted(run, "--name", "Ingest")
    assert bots("register", "nightly")[0] == 0
    listed = [json.loads(line)["name"] for line in bots("list", "--json")[1].splitlines()]
    assert sorted(listed) == ["ingest", "nightly"]
    assert "nightly" in bots("list")[1]
    code, _, err = bots("release", "INGEST")
    assert (code, "valid tokens" in err) == (1, True)
    assert run("revoke", parse(token, 16_384).claims["jti"])[0] == 0
    assert bots("release", "INGEST")[:2] == (0, "")
    assert bots("release", "ingest")[0] == 1
    assert bots("release", "never")[0] == 1
    assert bots("register", "admin")[0] == 1
    assert bots("register", "admin", "--replace-person")[0] == 0
    assert bots("register", "guest")[0] == 1
    assert [line.split()[0] for line in bots("list")[1].splitlines()[1:]] == ["admin", "nightly"]
    assert '"ingest"' not in run("list", "--json", "--active")[1]
    assert "nightly" not in run("list")[1]


async def test_explain_goes_on_through_the_rules_to_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with JwksServer() as server:
        server.publish(jwk(forge.RSA, "k1"))
        loaded = _provider(server.url(), tmp_path, groupsClaim="groups")
        token = f"Bearer {_current(groups=['crew'], email='sam@example.com')}"

        async def asked(method: str, path: str) -> tuple[int, list[str]]:
            code = await explain(token, loaded, method=method, path=path)
            return code, capsys.readouterr().out.splitlines()

        code, lines = await asked("GET", "/crew/x?y=1")
        assert code == 0
        assert 'groups     ["crew"]' in lines
        assert "admin      no" in lines
        assert lines[-2:] == ["rule       rules[0] /crew/**: authenticated", "verdict    allowed"]
        code, lines = await asked("GET", "/staff")
        assert code == 1
        assert lines[-2] == "rule       rules[1] /staff: authenticated"
        assert lines[-1] == (
            'verdict    rejected: forbidden (rule_groups) requires the group staff; the caller has the groups "crew"'
        )
        assert (await asked("POST", "/staff"))[1][-2:] == ["rule       rules[2] /**: public", "verdict    allowed"]
        code, lines = await asked("GET", "/a/%2e%2e/%zz")
        assert code == 1
        assert lines[-1].startswith("verdict    rejected: request_invalid (path_ambiguous)")


async def test_explain_shows_times_as_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with JwksServer() as server:
        server.publish(jwk(forge.RSA, "k1"))
        loaded = _provider(server.url(), tmp_path)
        assert await explain(forge.token(forge.claims(iat=1_700_000_000, exp=1_700_000_600)), loaded) == 1
        assert '"exp": "2023-11-14T22:23:20Z"' in capsys.readouterr().out
