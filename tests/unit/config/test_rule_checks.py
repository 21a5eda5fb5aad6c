"""Findings about rules: other spellings that bypass a rule, and proxies that are not trusted."""

from pathlib import Path

import pytest
import yaml

from sidecar.config.load import load
from sidecar.errors import Problem


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def found(configuration: object, identifier: str) -> list[Problem]:
    Path("c.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    return [problem for problem in load(["c.yaml"], {}).warnings if problem.id == identifier]


REQUIRED = {"require": {"groups": ["admins"]}}
OPEN = {"path": "/**", "access": "public"}


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([{"path": "/admin/**", **REQUIRED}, OPEN], ["rules[0].path"]),
        ([{"path": "/admin"}, OPEN], ["rules[0].path"]),
        ([{"path": "/a/*/purge", "methods": ["POST"]}, OPEN], ["rules[0].path"]),
        ([{"path": "/admin", "methods": ["POST"]}, {**OPEN, "methods": ["GET"]}], []),
        ([{"path": "/admin"}, {**OPEN, "methods": ["GET"]}], ["rules[0].path"]),
        ([{"path": "/admin"}, {**OPEN, "methods": ["PUT"]}], ["rules[0].path"]),
        ([{"path": "/admin", **REQUIRED}], ["rules[0].path"]),
        ([{"path": "/admin", "access": "guest"}, OPEN], ["rules[0].path"]),
        ([{"path": "/admin"}], []),
        ([{"path": "/admin", **REQUIRED}, {"path": "/**", **REQUIRED}], []),
        ([{"path": "/admin", **REQUIRED}, {"path": "/ADMIN", **REQUIRED}], []),
        ([{"path": "/**", **REQUIRED}], []),
        ([{"path": "/*/1", **REQUIRED}, OPEN], []),
        ([OPEN], []),
        ([{"path": "/%c3%a9", **REQUIRED}, OPEN], []),
        ([{"path": "/settings"}, {"preset": "openmetadata"}], ["rules[0].path"]),
        ([{"path": "/api/x"}, {"preset": "openmetadata"}], []),
    ],
)
def test_letter_case_is_reported_where_it_weakens_a_rule(rules: object, told: list[str]) -> None:
    """A strict rule whose path gets less in other letters; the message shows which path and what it gets."""
    problems = found({"rules": rules}, "rule-letter-case")
    assert [problem.path for problem in problems] == told
    assert all("is case-sensitive: " in problem.message and not problem.fatal for problem in problems)


@pytest.mark.parametrize(
    ("path", "decoded"), [("/a%2Fb", "/a/b"), ("/a%5cb", "/a/b"), ("/a%3Bv/b", "/a/b"), ("/a%20b", "")]
)
def test_an_encoded_path_is_reported_where_the_decoded_path_is_less_protected(path: str, decoded: str) -> None:
    problems = found({"rules": [{"path": path, **REQUIRED}, OPEN]}, "rule-encoded")
    assert [problem.message.split(",")[0] for problem in problems] == (
        [f"matches the encoded path only: {decoded}"] if decoded else []
    )
    if decoded:
        both = [{"path": path, **REQUIRED}, {"path": decoded, **REQUIRED}, OPEN]
        assert not found({"rules": both}, "rule-encoded")


def test_a_final_slash_is_no_matter_for_a_warning() -> None:
    """It leads around no rule, so no rule for it is asked for."""
    Path("c.yaml").write_text(yaml.safe_dump({"rules": [{"path": "/1", **REQUIRED}]}), encoding="utf-8")
    assert not [problem for problem in load(["c.yaml"], {}).warnings if problem.path.startswith("rules")]


@pytest.mark.parametrize(
    ("server", "more", "told"),
    [
        ({"listen": "0.0.0.0:4180"}, {}, 1),
        ({"listen": "10.0.0.1:4180"}, {}, 1),
        ({"listen": "127.0.0.1:4180"}, {}, 0),
        ({"listen": "[::1]:4180"}, {}, 0),
        ({"listen": "unix:/run/s.sock"}, {}, 0),
        ({"listen": "0.0.0.0:4180", "trustedProxies": ["10.0.0.2"]}, {}, 0),
        ({"listen": "0.0.0.0:4180"}, {"upstream": {"url": "http://127.0.0.1:1"}}, 0),
        ({"listen": "0.0.0.0:4180"}, {"rules": [{"preset": "datahub"}]}, 0),
    ],
)
def test_checks_that_will_be_rejected_are_reported(
    server: dict[str, object], more: dict[str, object], told: int
) -> None:
    """A rule requires something, proxies elsewhere may ask, and none of them is trusted."""
    problems = found({"server": server, "rules": [{"path": "/1", **REQUIRED}], **more}, "checks-untrusted")
    assert [problem.path for problem in problems] == ["server.trustedProxies"] * told
