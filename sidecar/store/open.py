"""Which store it is: ``store.url`` decides."""

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
    """The store that ``settings`` name; whoever opens it closes it.

    Raises Misconfigured when it can never work, and Unavailable when its file cannot be opened now. A server is not
    asked before the first operation.
    """
    url = settings.url.reveal()
    if settings.url == StoreSettings().url:
        # Nobody chose this place: where it can be made, nobody need know of it.
        with suppress(OSError):
            sqlite_path(url).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if url.startswith("sqlite:"):
        return SqliteStore(await Database.open(sqlite_path(url), metrics), clock)
    return RedisStore(RedisClient(settings, metrics, clock), clock)
