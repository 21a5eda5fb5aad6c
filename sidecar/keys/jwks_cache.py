"""The keys of one provider: fetched in the background, kept through outages, found without waiting.

Each URL lives for itself, so that a dead one hurts only its own tokens. A key set that arrived is the whole truth:
what it no longer lists is withdrawn at once. A fetch that failed changes nothing, until ``keys.maxStale`` has passed.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from sidecar.clock import Clock
from sidecar.config.providers import Provider
from sidecar.config.settings import KeyFetchSettings
from sidecar.errors import Cause, Unavailable
from sidecar.keys.discovery import Discovered, discover, read_metadata
from sidecar.keys.disk import DiskCopy
from sidecar.keys.document import DocumentError
from sidecar.keys.keyset import KeyIndex, ParsedKeys, VerificationKey, parse_jwks, public_jwk, read_jwks, replace
from sidecar.keys.refresher import Pace, Refresher
from sidecar.metrics import Metrics
from sidecar.outbound import Answer, ControlClient, OutboundError
from sidecar.tasks import retrieve

_SHORTEST_LIFETIME = 60.0
_LONGEST_LIFETIME = 86400.0
_DISCOVERY_LIFETIME = 3600.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """One provider's keys at this moment.

    ``tried``: every first fetch has ended. ``age``: seconds since the oldest set in use was confirmed, None without
    any. ``problem``: what is wrong now, in words for the operator; empty when all is well.
    """

    provider: str
    usable: bool
    tried: bool
    keys: int
    age: float | None
    problem: str


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What every part of one provider needs."""

    provider: Provider
    settings: KeyFetchSettings
    client: ControlClient
    metrics: Metrics
    pace: Pace
    disk: DiskCopy
    allow_published: bool

    def count(self, outcome: str) -> None:
        self.metrics.jwks_fetches.labels(self.provider.name, outcome).inc()

    def tell(self, url: str, before: str, now: str) -> None:
        """One line when a fetch begins or ceases to fail, none while nothing changes."""
        if before != now:
            level, text = (
                (logging.WARNING, "keys cannot be fetched") if now else (logging.INFO, "keys are fetched again")
            )
            logger.log(level, text, extra={"provider": self.provider.name, "url": url, "detail": now})


class UrlKeys:
    """The key set behind one URL. ``changed`` is called whenever ``keys`` did."""

    def __init__(self, url: str, around: _Surroundings, changed: Callable[[], None]) -> None:
        self.url = url
        self.keys: tuple[VerificationKey, ...] = ()
        self.problem = "not fetched yet"
        self._around = around
        self._changed = changed
        self._confirmed = float("-inf")
        self._etag = ""
        self.refresher = Refresher(self._fetch, around.settings, around.pace, self.expire)

    @property
    def usable(self) -> bool:
        """Whether there is a key to verify with."""
        return bool(self.keys)

    @property
    def age(self) -> float:
        """Seconds since the issuer last confirmed these keys."""
        return self._around.pace.clock.monotonic() - self._confirmed

    async def start(self) -> None:
        """Take up the copy on disk, if it is young enough, and begin to fetch in the background."""
        around = self._around
        now = around.pace.clock.now()
        kept = await asyncio.to_thread(around.disk.read, self.url, now, around.settings.max_stale)
        if kept is not None:
            content, age = kept
            try:
                parsed = read_jwks(content, allow_published=around.allow_published)
            except DocumentError as error:
                logger.warning("the copy on disk is not used", extra={"url": self.url, "detail": error.detail})
            else:
                self._adopt(parsed, age)
        self.refresher.start()

    async def aclose(self) -> None:
        """End the background work. The keys are left as they are."""
        await self.refresher.aclose()

    def withdraw(self) -> None:
        """Give up every key."""
        self._etag = ""
        if self.keys:
            self.keys = replace(self.keys, ())
            self._changed()

    def expire(self) -> None:
        """Give up keys that nobody has confirmed for ``keys.maxStale``."""
        if self.keys and self.age > self._around.settings.max_stale:
            logger.error("keys are too old to be used", extra={"provider": self._around.provider.name, "url": self.url})
            self.withdraw()

    async def _fetch(self) -> float | None:
        around, before = self._around, self.problem if self.refresher.tried else ""
        try:
            outcome, lifetime = await self._fetch_once()
        except (OutboundError, DocumentError) as error:
            outcome, lifetime = str(error.kind), None
            self.problem = f"{error.kind}: {error.detail}"
        except Exception:  # a fault of ours must not end the background work
            outcome, lifetime = "internal", None
            self.problem = "internal: see the log"
            logger.exception("fetching keys failed", extra={"provider": around.provider.name, "url": self.url})
        around.count(outcome)
        around.tell(self.url, before, self.problem)
        self.expire()
        return lifetime

    async def _fetch_once(self) -> tuple[str, float | None]:
        around = self._around
        answer = await around.client.get(
            self.url,
            within=around.settings.timeout,
            max_bytes=around.settings.max_bytes,
            allow_insecure=around.provider.allow_insecure_urls,
            etag=self._etag,
        )
        if answer.not_modified:
            outcome, skipped = "not_modified", {}
            self._confirmed = around.pace.clock.monotonic()
        else:
            parsed = parse_jwks(answer.body, allow_published=around.allow_published)
            outcome, skipped = "ok", dict(parsed.skipped)
            self._adopt(parsed, 0.0)
        self._etag = answer.etag if self.keys else ""
        self.problem = "" if self.keys else f"useless: the set has no usable key {skipped or ''}".rstrip()
        content = {"keys": [public_jwk(key) for key in self.keys]}
        await asyncio.to_thread(around.disk.write, self.url, content, around.pace.clock.now())
        return (outcome, self._lifetime(answer)) if self.keys else ("useless", None)

    def _adopt(self, parsed: ParsedKeys, age: float) -> None:
        self._confirmed = self._around.pace.clock.monotonic() - age
        self.keys = replace(self.keys, parsed.keys)
        self._changed()

    def _lifetime(self, answer: Answer) -> float:
        """Seconds the answer is good for: what it says within bounds, and never so long that keys would go stale."""
        settings = self._around.settings
        if answer.max_age is None:
            return min(settings.refresh, settings.max_stale)
        shortest = min(_SHORTEST_LIFETIME, settings.refresh)
        return min(max(answer.max_age, shortest), _LONGEST_LIFETIME, settings.max_stale)


class IssuerDiscovery:
    """What the issuer says of itself, asked hourly and kept on disk. ``changed`` is called when it says otherwise."""

    def __init__(self, around: _Surroundings, changed: Callable[[], None]) -> None:
        self.found: Discovered | None = None
        self.problem = "not asked yet"
        self._around = around
        self._changed = changed
        self._subject = f"discovery {around.provider.issuer}"
        self.refresher = Refresher(self._fetch, around.settings, around.pace)

    async def start(self) -> None:
        """Take up the copy on disk, and begin to ask in the background."""
        around = self._around
        now = around.pace.clock.now()
        kept = await asyncio.to_thread(around.disk.read, self._subject, now, around.settings.max_stale)
        if kept is not None:
            try:
                self._adopt(read_metadata(kept[0], around.provider))
            except (DocumentError, OutboundError) as error:
                logger.warning("the copy on disk is not used", extra={"detail": error.detail})
        self.refresher.start()

    async def aclose(self) -> None:
        """End the background work."""
        await self.refresher.aclose()

    async def _fetch(self) -> float | None:
        around, before = self._around, self.problem if self.refresher.tried else ""
        settings = around.settings
        try:
            found = await discover(around.provider, around.client, settings.timeout, settings.max_bytes)
        except (OutboundError, DocumentError) as error:
            self.problem, lifetime = f"discovery: {error.kind}: {error.detail}", None
        except Exception:  # a fault of ours must not end the background work
            self.problem, lifetime = "discovery: internal: see the log", None
            logger.exception("discovery failed", extra={"provider": around.provider.name})
        else:
            self.problem, lifetime = "", _DISCOVERY_LIFETIME
            self._adopt(found)
            content = {"issuer": found.issuer, "jwks_uri": found.jwks_uri}
            await asyncio.to_thread(around.disk.write, self._subject, content, around.pace.clock.now())
        around.tell(around.provider.issuer or "", before, self.problem)
        return lifetime

    def _adopt(self, found: Discovered) -> None:
        if found != self.found:
            self.found = found
            self._changed()


class ProviderKeys:
    """A :class:`~sidecar.keys.keyset.KeySource` over a provider's URLs, configured and discovered.

    ``cache_dir`` is the folder of the disk copies (None: none are kept). ``allow_published`` accepts keys whose private
    half is published in a product's sources. Make it inside the running loop; nothing is fetched before
    :meth:`start`.
    """

    def __init__(
        self,
        provider: Provider,
        settings: KeyFetchSettings,
        client: ControlClient,
        metrics: Metrics,
        clock: Clock,
        cache_dir: Path | None,
        *,
        allow_published: bool = False,
        pace: Pace | None = None,
    ) -> None:
        self.provider = provider
        self._clock = clock
        self._around = _Surroundings(
            provider, settings, client, metrics, pace or Pace(clock), DiskCopy(cache_dir), allow_published
        )
        self._urls = [UrlKeys(url, self._around, self._reindex) for url in provider.key_urls]
        self._discovery = IssuerDiscovery(self._around, self._follow) if provider.discovery else None
        self._found: list[UrlKeys] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._index = KeyIndex()
        self.observe()

    def observe(self) -> None:
        """Be the one whose keys the metrics tell for this provider; so is every new one, until another is."""
        metrics, labels = self._around.metrics, (self.provider.name,)
        metrics.watch(metrics.jwks_keys, lambda: self._index.size, labels)
        metrics.watch(metrics.jwks_age, self._age_or_nan, labels)

    @property
    def issuer(self) -> str | None:
        """The issuer's own spelling once discovery has told it."""
        found = self._discovered()
        return found.issuer if found else None

    async def start(self) -> None:
        """Take up what is on disk and begin to fetch in the background; needs no issuer to be there."""
        if self._discovery is not None:
            await self._discovery.start()
        for source in self._urls:
            await source.start()
        await self._settle()

    async def aclose(self) -> None:
        """End all background work."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._discovery is not None:
            await self._discovery.aclose()
        for source in self._sources():
            await source.aclose()

    def candidates(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Keys that may have made a signature, from memory alone; empty when none is known or all are too old."""
        found = self._index.find(kid, algorithm)
        if found:
            for source in self._sources():
                source.expire()
            found = tuple(key for key in found if key.live)
        return found

    async def refetch(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Ask every URL once more, within the cool-down; empty: the issuer definitely has no such key.

        Raises Unavailable(KEYS_UNAVAILABLE) while a URL that might have it has no usable key set.
        """
        found = self.candidates(kid, algorithm)
        if found:
            return found
        if self._discovery is not None and self._discovery.found is None:
            await self._discovery.refresher.on_demand()
            await self._settle()
        await asyncio.gather(*(source.refresher.on_demand() for source in self._sources()))
        found = self.candidates(kid, algorithm)
        if not found and not self._is_complete():
            raise Unavailable(Cause.KEYS_UNAVAILABLE, self.status().problem, retry_after=self._retry_after())
        return found

    def status(self) -> KeyStatus:
        """How the keys stand now."""
        sources = self._sources()
        usable = [source for source in sources if source.usable]
        discovery = [] if self._discovery is None else [self._discovery]
        problems = [f"{source.url}: {source.problem}" for source in sources if source.problem]
        problems += [item.problem for item in discovery if item.problem]
        if not problems and self._awaits_discovery() and not sources:
            problems = ["discovery names a jwks_uri that publicKeyUrls does not list"]
        return KeyStatus(
            provider=self.provider.name,
            usable=bool(usable),
            tried=all(fetched.tried for fetched in self._refreshers()),
            keys=self._index.size,
            age=max((source.age for source in usable), default=None),
            problem="; ".join(problems),
        )

    def _sources(self) -> list[UrlKeys]:
        return [*self._urls, *self._found]

    def _refreshers(self) -> list[Refresher]:
        fetched = [source.refresher for source in self._sources()]
        return fetched if self._discovery is None else [*fetched, self._discovery.refresher]

    def _is_complete(self) -> bool:
        """Whether every URL that might have a key has told its keys."""
        sources = self._sources()
        unknown = self._awaits_discovery() and self._discovered() is None
        return bool(sources) and not unknown and all(source.usable for source in sources)

    def _awaits_discovery(self) -> bool:
        """Whether keys are expected from a URL that only discovery can name."""
        provider = self.provider
        return self._discovery is not None and bool(provider.candidate_urls or not provider.key_urls)

    def _retry_after(self) -> int:
        due = min((fetched.due for fetched in self._refreshers()), default=0.0) - self._clock.monotonic()
        return math.ceil(max(1.0, min(due, self._around.settings.retry_max)))

    def _follow(self) -> None:
        """Take up the ``jwks_uri`` that discovery named, unless it is known already or not listed."""
        discovered = self._discovered()
        if discovered is None or not self._may_use(discovered.jwks_uri):
            return
        self._forget([source for source in self._found if not source.usable])
        source = UrlKeys(discovered.jwks_uri, self._around, self._reindex)
        self._found.append(source)
        self._spawn(source.start())

    def _may_use(self, url: str) -> bool:
        """Whether a discovered URL counts and is new.

        With ``publicKeyUrls`` given, those are all the places that are ever asked; discovery only says whose they are.
        """
        provider = self.provider
        if any(URL(source.url) == URL(url) for source in self._urls + self._found[-1:]):
            return False
        if not provider.key_urls and not provider.candidate_urls:
            return True
        return any(URL(candidate) == URL(url) for candidate in provider.candidate_urls)

    def _reindex(self) -> None:
        if self._found and self._found[-1].usable:
            self._forget(self._found[:-1])
        self._index = KeyIndex(*(source.keys for source in self._sources()))

    def _forget(self, moved: list[UrlKeys]) -> None:
        """Give up URLs that discovery no longer names."""
        self._found = [source for source in self._found if source not in moved]
        for source in moved:
            source.withdraw()
            self._spawn(source.aclose())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(retrieve)

    async def _settle(self) -> None:
        """Wait for what :meth:`_spawn` began. A caller who is cancelled cancels none of it."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _discovered(self) -> Discovered | None:
        return self._discovery.found if self._discovery is not None else None

    def _age_or_nan(self) -> float:
        age = self.status().age
        return math.nan if age is None else age
