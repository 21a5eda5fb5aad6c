"""Browser sessions in a store, as logins leave them."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from sidecar.clock import SystemClock
from sidecar.config.settings import StoreSettings
from sidecar.identity.actor import Actor, ActorType
from sidecar.metrics import Metrics
from sidecar.secrets.value import Secret
from sidecar.sessions.records import content_of, make_record, seal_content
from sidecar.sessions.sealing import Sealer, encode_base64url
from sidecar.store.base import Batch
from sidecar.store.open import open_store

SECRET = "a secret of the benchmark, of 32 bytes or more"
COOKIE = "sidecar_session"


def write_sessions(database: Path, issuer: str, provider: str, count: int) -> Sequence[str]:
    """The cookie values of ``count`` sessions of different users, which are written to ``database``."""
    return asyncio.run(_write(database, issuer, provider, count))


async def _write(database: Path, issuer: str, provider: str, count: int) -> Sequence[str]:
    clock, sealer = SystemClock(), Sealer((Secret(SECRET),))
    store = await open_store(StoreSettings(url=Secret(f"sqlite:///{database}")), Metrics(), clock)
    now, secrets = clock.now(), [encode_base64url(number.to_bytes(32, "big")) for number in range(1, count + 1)]
    try:
        for number, secret in enumerate(secrets):
            name = f"user-{number:06}"
            claims = {
                "iss": issuer,
                "sub": name,
                "email": f"{name}@example.com",
                "preferred_username": name,
                "groups": ["engineering", "data"],
                "iat": int(now),
            }
            content = content_of(provider, issuer, claims, issued_at=now, confirmed_at=now)
            actor = Actor(ActorType.USER, name, issuer=issuer, provider=provider, subject=name)
            record = make_record(secret, content, actor, now=now, expires_at=now + 3600)
            text = seal_content(record.id, content, sealer)
            await store.put_companion(record.id, text, now + 3600, after=0)
            await store.write(Batch(add=(record,)))
    finally:
        await store.aclose()
    return secrets
