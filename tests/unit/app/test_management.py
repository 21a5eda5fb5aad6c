"""What the configuration says about the lifetime of revocation entries."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.app.management import build_revocations
from sidecar.config.load import load
from sidecar.tokens.revocation.service import parse_request
from tests.support.hand_clock import HandClock
from tests.support.memory_store import MemoryStore

ISSUER = "https://idp.example.com"
SCOPES: list[dict[str, Any]] = [
    {"issuer": ISSUER, "subject": "a-1"},
    {"issuer": ISSUER, "issuedBefore": "now"},
    {"actor": {"type": "USER", "id": "alice"}},
]
AGE_OF_ID_TOKEN = 600
SKEW = 30


async def lifetime(folder: Path, about: dict[str, Any], *, login: bool, longest: str | None) -> float | None:
    """How long the entry about ``about`` is kept, in seconds."""
    provider: dict[str, Any] = {"name": "corp", "issuer": ISSUER, "audiences": ["metadata"]}
    provider |= {"maxTokenLifetime": longest} if longest else {}
    provider |= {"login": {"clientId": "metadata", "clientSecret": "s" * 32}} if login else {}
    document = {
        "server": {"publicUrl": "https://metadata.example.com", "trustedProxies": ["127.0.0.1/32"]},
        "store": {"url": f"sqlite:///{folder}/sidecar.db"},
        "authenticationConfiguration": {"providers": [provider]},
        **({"login": {"session": {"maxAge": "7d"}}} if login else {}),
    }
    path = folder / "sidecar.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    store, clock = MemoryStore(), HandClock()
    service = build_revocations(load([str(path)], {}), store, store.write, clock)
    (added,) = await service.add([parse_request(about)], by="USER:root")
    end = added.entry.expires_at
    return None if end is None else round(end - clock.now(), 3)


@pytest.mark.parametrize("about", SCOPES)
async def test_entry_is_kept_until_the_last_session_has_ended(tmp_path: Path, about: dict[str, Any]) -> None:
    week = 7 * 86400
    kept = await lifetime(tmp_path, about, login=True, longest="1h")
    assert kept == week + AGE_OF_ID_TOKEN + SKEW
    assert await lifetime(tmp_path, about, login=True, longest="30d") == 30 * 86400 + SKEW
    assert await lifetime(tmp_path, about, login=True, longest=None) is None
    assert await lifetime(tmp_path, about, login=False, longest="1h") == 3600 + SKEW
