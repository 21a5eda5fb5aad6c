"""A login that cannot work, or that others than its browser could use, is found at the start."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.load import load
from sidecar.errors import Misconfigured

LOGIN: dict[str, Any] = {"clientId": "web", "clientSecret": "s"}

MEMBERS: dict[str, Any] = {
    "authentication": {
        "authenticators": [
            {"type": "jwt"},
            {"type": "basic", "configs": {"htpasswd": "/etc/passwords"}},
            {"type": "basic", "name": "people", "configs": {"htpasswd": "/etc/people"}},
        ]
    }
}
CLASH = {"authentication": {"authenticators": [{"type": "basic", "name": "corp", "configs": {"htpasswd": "/p"}}]}}


def problems(folder: Path, registration: dict[str, Any] | None, **blocks: Any) -> str:
    provider = {"name": "corp", "issuer": "https://idp.example.com", "audiences": ["a"]}
    document = {
        "server": {"publicUrl": "https://metadata.example.com"},
        "upstream": {"url": "http://127.0.0.1:8585"},
        "store": {"url": f"sqlite:///{folder}/s.db"},
        "authenticationConfiguration": {
            "providers": [provider | ({} if registration is None else {"login": registration})]
        },
        **blocks,
    }
    path = folder / "sidecar.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    try:
        load([str(path)], {})
    except Misconfigured as error:
        return str(error)
    return ""


def test_good_login(tmp_path: Path) -> None:
    assert problems(tmp_path, LOGIN) == ""
    assert problems(tmp_path, LOGIN, server={"publicUrl": "http://127.0.0.1:4180"}) == ""
    assert problems(tmp_path, {"clientId": "web"}) == ""
    assert problems(tmp_path, LOGIN, login={"passwords": ["people", "basic"]}, **MEMBERS) == ""
    assert problems(tmp_path, None, login={"passwords": ["basic"]}, **MEMBERS) == ""


@pytest.mark.parametrize(
    ("login", "blocks", "text"),
    [
        (LOGIN, {"server": {}}, "server.publicUrl: is required for login"),
        (LOGIN, {"server": {"publicUrl": "http://metadata.example.com"}}, "login needs https except on loopback"),
        (LOGIN, {"server": {"publicUrl": "https://a.example.com/meta"}}, "must be an origin without a path"),
        (LOGIN, {"store": {"url": "redis://127.0.0.1"}}, "login.secrets: are required with Redis"),
        (LOGIN, {"login": {"secrets": ["short"]}}, "login.secrets[0]: has 5 bytes, at least 32"),
        (LOGIN, {"upstream": None}, "server.trustedProxies: is empty"),
        (LOGIN, {"login": {"apiPaths": ["api"]}}, "login.apiPaths[0]: must be a path pattern"),
        (LOGIN, {"login": {"logout": {"returnTo": "//evil"}}}, "login.logout.returnTo: must be a path"),
        (LOGIN, {"login": {"session": {"idle": "10s"}}}, "login.session.idle"),
        (LOGIN, {"login": {"session": {"recheck": "0s"}}}, "login.session.recheck"),
        (LOGIN, {"login": {"passwords": ["basic"]}}, "login.passwords[0]: must be the name of a basic or ldap entry"),
        (LOGIN, {"login": {"passwords": ["jwt"]}, **MEMBERS}, "those with passwords are basic, people"),
        (LOGIN, {"login": {"passwords": ["basic", "basic"]}, **MEMBERS}, "login.passwords[1]: is repeated"),
        (LOGIN, {"login": {"passwords": ["corp"]}, **CLASH}, "contains corp, which is also a provider"),
        (None, {"login": {"passwords": ["basic"]}, "server": {}, **MEMBERS}, "server.publicUrl: is required for login"),
        (None, {"login": {"skipChooser": False}}, "login: has no effect"),
        ({**LOGIN, "scopes": ["email"]}, {}, "login.scopes: must contain openid"),
        ({**LOGIN, "extraParameters": {"redirect_uri": "x"}}, {}, "is set by the sidecar"),
        ({**LOGIN, "clientKeyFile": "/k.pem"}, {}, "cannot stand beside clientSecret"),
        ({"clientId": "w", "clientAuthentication": "client_secret_post"}, {}, "login.clientSecret: is required"),
        ({"clientId": "w", "clientAuthentication": "private_key_jwt"}, {}, "login.clientKeyFile: is required"),
        ({**LOGIN, "clientAuthentication": "none"}, {}, "is not used"),
        ({"clientSecret": "s"}, {}, "clientId"),
    ],
)
def test_bad_login_is_a_sentence_that_names_the_setting(
    tmp_path: Path, login: dict[str, Any] | None, blocks: dict[str, Any], text: str
) -> None:
    found = problems(tmp_path, login, **blocks)
    assert text in found
    assert "short" not in found
