"""``sidecar revocations`` and the managing ``sidecar token`` commands: on the store, without a running sidecar."""

import contextlib
import io
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.main import main
from sidecar.tokens.jwt.compact import parse
from tests.support.identity_provider import IdentityProvider
from tests.support.managed_sidecar import ISSUER, write_configuration

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def idp() -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        yield provider


@pytest.fixture
def run(tmp_path: Path, idp: IdentityProvider, capsys: pytest.CaptureFixture[str]) -> Run:
    config = write_configuration(tmp_path, idp)

    def call(*words: str) -> tuple[int, str, str]:
        code = main([*words[:2], "--config", str(config), *words[2:]])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def entries(run: Run, *arguments: str) -> list[dict[str, Any]]:
    code, out, _ = run("revocations", "list", "--json", *arguments)
    assert code == 0
    return [json.loads(line) for line in out.splitlines()]


def minted(run: Run, *arguments: str) -> tuple[str, str]:
    _, out, _ = run("token", "create", "--kind", "bot", *arguments)
    return out.strip(), parse(out.strip(), 16_384).claims["jti"]


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (("--issuer", "i", "--jti", "j"), {"issuer": "i", "jti": "j"}),
        (("--issuer", "i", "--subject", "s"), {"issuer": "i", "subject": "s"}),
        (
            ("--issuer", "i", "--subject", "s", "--issued-before", "2026-01-01T00:00:00Z", "--reason", "gone"),
            {"issuer": "i", "subject": "s", "issuedBefore": "2026-01-01T00:00:00.000Z", "reason": "gone"},
        ),
        (
            ("--issuer", "i", "--jti", "j", "--expires-at", "2099-01-01T00:00:00Z"),
            {"jti": "j", "expiresAt": "2099-01-01T00:00:00.000Z"},
        ),
    ],
)
def test_entry_is_added_listed_and_removed(run: Run, arguments: tuple[str, ...], about: dict[str, str]) -> None:
    code, out, err = run("revocations", "add", *arguments, "--unknown-issuer")
    made = json.loads(out)
    assert made.pop("matches") == {"own": 0, "foreign": "unknown"}
    assert "0 own tokens on record revoked" in err
    assert code == 0
    assert made.items() >= about.items()
    assert made["createdBy"] == "command line"
    assert entries(run) == [made]
    assert entries(run, "--issuer", "other") == []
    code, out, err = run("revocations", "remove", made["id"])
    assert (code, out) == (0, "")
    assert (json.loads(err)["event"], json.loads(err)["by"]) == ("revocation_removed", "command line")
    assert entries(run) == []
    code, _, err = run("revocations", "remove", made["id"])
    assert code == 1
    assert "not_found" in err


def test_table_of_entries_cannot_steer_a_terminal(run: Run) -> None:
    run("revocations", "add", "--unknown-issuer", "--issuer", "i", "--jti", "\x1b[2J", "--reason", "r" * 80)
    code, out, _ = run("revocations", "list")
    assert code == 0
    assert "ID" in out.splitlines()[0]
    assert "\x1b" not in out
    assert "r" * 57 + "..." in out


def test_genuine_token_is_denied(run: Run, idp: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    token = idp.mint()
    code, out, _ = run("revocations", "add", "--token", token)
    assert code == 0
    assert json.loads(out)["jti"] == parse(token, 16_384).claims["jti"]
    code, out, _ = run("token", "explain", token)
    assert code == 1
    assert out.endswith("verdict    rejected: token_revoked (denied)\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(token + "\n"))
    assert run("revocations", "add", "--token", "-")[0] == 0
    assert len(entries(run)) == 1


def test_token_that_is_not_genuine_is_not_denied(run: Run, idp: IdentityProvider) -> None:
    for token in ("nonsense", idp.mint(lifetime=-600), idp.mint()[:-6] + "AAAAAA"):
        code, out, err = run("revocations", "add", "--token", token)
        assert (code, out) == (1, "")
        assert token not in err
    assert entries(run) == []


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--issuer", "i"),
        ("--jti", "j"),
        ("--token", "t", "--issuer", "i"),
        ("--issuer", "i", "--jti", "j", "--issued-before", "2026-01-01T00:00:00Z"),
        ("--issuer", "i", "--subject", "s", "--issued-before", "yesterday"),
        ("--issuer", "i", "--jti", "j", "--expires-at", "2020-01-01T00:00:00Z"),
    ],
)
def test_entry_that_makes_no_sense(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run("revocations", "add", *arguments)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1


def test_import_takes_lines_and_names_the_bad_ones(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"issuer": "i", "jti": str(number)}) for number in range(2500)]
    bad = ["{", '{"issuer":"i"}', '{"token":"t"}', '{"issuer":"i","jti":"old","expiresAt":"2020-01-01T00:00:00Z"}']
    file = tmp_path / "entries.jsonl"
    file.write_text("\n".join([*lines[:10], *bad, "", *lines[10:]]))
    code, out, err = run("revocations", "import", "--unknown-issuer", str(file))
    assert code == 1
    assert out == "2500 entries imported, 4 rejected\n"
    named = {line.partition(":")[0] for line in err.splitlines() if not line.startswith("{")}
    assert named == {"line 11", "line 12", "line 13", "line 14"}
    assert len(entries(run)) == 2500
    standard_input = io.TextIOWrapper(io.BytesIO("\n".join(lines).encode()))
    monkeypatch.setattr("sys.stdin", standard_input)
    code, out, err = run("revocations", "import", "--unknown-issuer", "-")
    assert (code, out) == (0, "2500 entries imported, 0 rejected\n")
    (audited,) = map(json.loads, err.splitlines())
    assert (audited["event"], audited["taken"], audited["refused"]) == ("revocations_imported", 2500, 0)
    assert len(entries(run)) == 2500
    code, _, err = run("revocations", "import", str(tmp_path / "none"))
    assert code == 1
    assert "cannot be read" in err


def test_import_refuses_issuers_that_nothing_has_line_by_line(run: Run, idp: IdentityProvider, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"issuer": idp.issuer, "jti": "a"}, {"issuer": idp.issuer + "/", "jti": "b"}]
    lines.append({"issuer": "i", "jti": "c", "unknownIssuer": True})
    file = tmp_path / "entries.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    code, out, err = run("revocations", "import", str(file))
    assert (code, out) == (1, "2 entries imported, 1 rejected\n")
    assert f'Did you mean "{idp.issuer}"' in err.splitlines()[0]
    assert {entry["jti"] for entry in entries(run)} == {"a", "c"}


def test_import_shows_its_progress_on_a_terminal_only(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "entries.jsonl"
    file.write_text("\n".join(json.dumps({"issuer": "i", "jti": str(number)}) for number in range(1500)))
    for is_terminal in (True, False):
        monkeypatch.setattr(type(sys.stderr), "isatty", lambda _, is_terminal=is_terminal: is_terminal)
        _, _, err = run("revocations", "import", "--unknown-issuer", str(file))
        assert ("\r1000 entries imported\r1500 entries imported\n" in err) is is_terminal


def test_entry_about_a_person_ends_the_own_tokens(run: Run) -> None:
    minted(run, "--name", "laptop", "--kind", "personal", "--actor-id", "sam")
    for actor in ("sam", "GOD:sam", ":sam"):
        with pytest.raises(SystemExit):
            run("revocations", "add", "--actor", actor)
    code, out, err = run("revocations", "add", "--actor", "USER:sam", "--issued-before", "2100-01-01T00:00:00Z")
    assert (code, json.loads(out)["matches"]) == (0, {"own": 1, "foreign": "unknown"})
    assert "1 own token on record revoked" in err
    code, out, _ = run("revocations", "add", "--issuer", ISSUER, "--issued-before", "now")
    assert (code, json.loads(out)["matches"]["own"]) == (0, 0)


def test_issuer_of_an_owner_on_record_is_known(tmp_path: Path, run: Run) -> None:
    """Its provider may have been removed in an emergency."""
    code, out, err = run("revocations", "add", "--issuer", "https://gone.example.com", "--subject", "s")
    assert (code, out) == (1, "")
    assert "--unknown-issuer" in err
    minted(run, "--name", "laptop", "--kind", "personal", "--actor-id", "sam")
    with contextlib.closing(sqlite3.connect(tmp_path / "sidecar.db", isolation_level=None)) as store:
        store.execute("UPDATE token_records SET owner_issuer = 'https://gone.example.com', owner_subject = 's'")
    code, out, _ = run("revocations", "add", "--issuer", "https://gone.example.com", "--subject", "s")
    assert code == 0


def test_tokens_are_listed_shown_and_revoked(run: Run) -> None:
    token, token_id = minted(run, "--name", "ingest")
    _, other = minted(run, "--name", "laptop", "--kind", "personal", "--actor-id", "sam")
    _, out, _ = run("token", "list")
    assert {line.split()[0] for line in out.splitlines()} == {"ID", other, token_id}
    _, out, _ = run("token", "list", "--json", "--actor", "sam", "--kind", "personal")
    assert [json.loads(line)["id"] for line in out.splitlines()] == [other]
    code, out, err = run("token", "revoke", token_id)
    assert (code, out, json.loads(err)["event"]) == (0, "", "token_revoked")
    _, out, _ = run("token", "show", token_id)
    ended = json.loads(out)["revokedAt"]
    assert ended is not None
    assert run("token", "revoke", token_id) == (0, "", "")
    assert json.loads(run("token", "show", token_id)[1])["revokedAt"] == ended
    assert run("token", "explain", token)[0] == 1
    _, out, _ = run("token", "list", "--active", "--json")
    assert [json.loads(line)["id"] for line in out.splitlines()] == [other]


@pytest.mark.parametrize("action", ["show", "revoke"])
def test_token_that_is_not_on_record(run: Run, action: str) -> None:
    code, out, err = run("token", action, "none")
    assert (code, out) == (1, "")
    assert "not_found" in err


def test_own_token_denied_by_its_id_ends_on_record(run: Run) -> None:
    _, token_id = minted(run, "--name", "ingest")
    assert run("revocations", "add", "--issuer", ISSUER, "--jti", token_id)[0] == 0
    assert json.loads(run("token", "show", token_id)[1])["revokedAt"] is not None


def test_issuer_is_denied_in_every_spelling_that_is_accepted(
    tmp_path: Path, idp: IdentityProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without discovery it is unknown whether ``iss`` of the tokens of ``authority`` ends with a slash."""
    flat = {"authority": "https://idp.example.com", "clientId": "meta", "publicKeyUrls": []}
    config = str(write_configuration(tmp_path, idp, authenticationConfiguration=flat))
    named = ("--issuer", "https://idp.example.com/", "--subject", "s")
    assert main(["revocations", "add", "--config", config, *named]) == 0
    capsys.readouterr()
    assert main(["revocations", "list", "--config", config, "--json"]) == 0
    shown = {json.loads(line)["issuer"] for line in capsys.readouterr().out.splitlines()}
    assert shown == {"https://idp.example.com", "https://idp.example.com/"}
