"""Selects the store by ``store.url``."""

from contextlib import suppress

from sidecar.clock import Clock
from sidecar.config.settings import StoreSettings
from sidecar.metrics import Metrics
from sidecar.store.base import Store
from sidecar.store.redis.client import RedisClient
from sidecar.store.redis.store import RedisStore
from sidecar.store.sqlite.database import Database, sqlite_path
from sidecar.store.sqlite.store import SqliteStore


async def open_store(settings: StoreSettings, metrics: Metrics, clock: Clock) -> Store:
    """The configured store; the caller closes it.

    Raises Misconfigured if it can never work, and Unavailable if its file cannot be opened now. A server is not
    contacted before the first operation.
    """
    url = settings.url.reveal()
    if settings.url == StoreSettings().url:
        # The default path: create its folder if possible.
        with suppress(OSError):
            sqlite_path(url).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if url.startswith("sqlite:"):
        return SqliteStore(await Database.open(sqlite_path(url), metrics), clock)
    return RedisStore(RedisClient(settings, metrics, clock), clock)
