"""What a supervisor hands to its workers."""

import os
import pickle
from pathlib import Path

import pytest
import yaml

from sidecar.app.workers.rpc import dumps, loads
from sidecar.config.load import load
from sidecar.secrets.value import Secret
from sidecar.tokens.upstream.assertion import new_assertion_key


def test_a_configuration_arrives_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets and the authenticators' unread options too; the environment is the reader's own."""
    monkeypatch.setenv("SECRET_OF_A_MEMBER", "of the member")
    document = {
        "store": {"url": "redis://127.0.0.1/0", "password": "of the store"},
        "authenticationConfiguration": {"providers": [
            {"name": "corp", "issuer": "https://a.example.com", "audiences": ["a"], "requiredClaims": {"azp": ["x"]}}
        ]},
        "authentication": {"authenticators": [{"type": "guest", "configs": {"guestUser": "visitor"}}]},
    }  # fmt: skip
    path = tmp_path / "sidecar.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    loaded = load([str(path)], os.environ)
    arrived = loads(dumps(loaded))
    assert (arrived.settings, arrived.providers, arrived.sources) == (loaded.settings, loaded.providers, loaded.sources)
    assert arrived.settings.store.password.reveal() == "of the store"
    assert arrived.authenticators[0].options == loaded.authenticators[0].options
    assert arrived.authenticators[0].resolve_secret("env:SECRET_OF_A_MEMBER") == "of the member"
    assert b"SECRET_OF_A_MEMBER" not in dumps(loaded)


def test_the_key_of_assertions_arrives() -> None:
    key = new_assertion_key()
    assert loads(dumps(key)).as_dict(private=True) == key.as_dict(private=True)


def test_elsewhere_a_secret_is_never_written_down() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret("x"))
