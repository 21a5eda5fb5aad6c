"""All keys of one provider: which URLs belong to the issuer, and look-up of their keys without waiting.

Each URL is fetched independently, so that an unreachable one affects only its own tokens.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from sidecar.clock import Clock
from sidecar.concurrency import cancel, retrieve
from sidecar.config.providers import Provider
from sidecar.config.settings import KeyFetchSettings
from sidecar.errors import Cause, Unavailable
from sidecar.keys.discovery import IssuerMetadata, discover, parse_metadata, well_known_urls
from sidecar.keys.disk import DiskCopy
from sidecar.keys.document import DocumentError
from sidecar.keys.keyset import KeyIndex, VerificationKey
from sidecar.keys.refresher import Refresher, Timing
from sidecar.keys.url_keys import FetchContext, UrlKeys, create_keys
from sidecar.metrics import Metrics
from sidecar.outbound import ControlClient, OutboundError, explained

_DISCOVERY_LIFETIME = 3600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """State of one provider's keys.

    ``attempted``: every first fetch has ended. ``age``: seconds since the oldest set in use was confirmed, None without
    any. ``problem``: what is wrong now, for operators; empty if nothing.
    """

    provider: str
    usable: bool
    attempted: bool
    keys: int
    age: float | None
    problem: str


class IssuerDiscovery:
    """The issuer's discovery document, fetched hourly and copied to disk.

    ``on_change`` is called when its content changes, and after the first attempt. ``attempted``: a first fetch has
    ended.
    """

    def __init__(self, context: FetchContext, on_change: Callable[[], None]) -> None:
        self.metadata: IssuerMetadata | None = None
        self.attempted = False
        self.problem = "not asked yet"
        self._context = context
        self._on_change = on_change
        self._subject = f"discovery {context.provider.issuer}"
        self.refresher = Refresher(self._fetch, context.settings, context.timing)

    async def start(self) -> None:
        """Load the copy on disk, and start fetching in the background."""
        context = self._context
        now = context.timing.clock.now()
        kept = await asyncio.to_thread(context.disk.load, self._subject, now, context.settings.max_stale)
        if kept is not None:
            try:
                self._adopt(parse_metadata(kept[0], context.provider))
            except (DocumentError, OutboundError) as error:
                _log.warning(
                    "cached discovery document on disk ignored",
                    extra={"event": "cached_discovery_ignored", "detail": error.detail},
                )
        self.refresher.start()

    async def aclose(self) -> None:
        """Stop the background work."""
        await self.refresher.aclose()

    async def _fetch(self) -> float | None:
        context, before = self._context, self.problem if self.refresher.attempted else ""
        settings = context.settings
        try:
            found = await discover(context.provider, context.client, settings.timeout, settings.max_bytes)
        except (OutboundError, DocumentError) as error:
            url = well_known_urls(context.provider.issuer or "")[0]
            self.problem, lifetime = f"discovery document {url}: {explained(error.kind, error.detail)}", None
        except Exception:  # noqa: BLE001 - a bug must not end the background work
            self.problem, lifetime = "discovery: internal: see the log", None
            _log.exception("discovery failed", extra={"event": "discovery_error", "provider": context.provider.name})
        else:
            self.problem, lifetime = "", _DISCOVERY_LIFETIME
            self._adopt(found)
            content = {"issuer": found.issuer, "jwks_uri": found.jwks_uri}
            await asyncio.to_thread(context.disk.save, self._subject, content, context.timing.clock.now())
        context.log_transition(context.provider.issuer or "", before, self.problem)
        if not self.attempted:
            self.attempted = True
            self._on_change()
        return lifetime

    def _adopt(self, found: IssuerMetadata) -> None:
        if found != self.metadata:
            self.metadata = found
            self._on_change()


class ProviderKeys:
    """A :class:`~sidecar.keys.keyset.KeySource` for a provider's URLs, configured and discovered.

    ``cache_dir`` is the folder of disk copies (None: none). ``allow_published`` accepts keys whose private half is
    published in a product's sources. Create it inside the running event loop; :meth:`start` begins to fetch.
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
        pace: Timing | None = None,
    ) -> None:
        self.provider = provider
        self._clock = clock
        self._context = FetchContext(
            provider, settings, client, metrics, pace or Timing(clock), DiskCopy(cache_dir), allow_published
        )
        self._configured_urls = [create_keys(url, self._context, self._reindex) for url in provider.key_urls]
        self._discovery = IssuerDiscovery(self._context, self._apply_discovery) if provider.discovery else None
        self._discovered_urls: list[UrlKeys] = []
        self._presumed = UrlKeys(provider.presumed_url, self._context, self._reindex) if provider.presumed_url else None
        self._reported_useless: frozenset[str] = frozenset()
        self._tasks: set[asyncio.Task[None]] = set()
        self._index = KeyIndex()
        self.bind_metrics()

    def bind_metrics(self) -> None:
        """Make this object the source of the provider's key metrics. Each new one does so on creation."""
        metrics, labels = self._context.metrics, (self.provider.name,)
        metrics.watch(metrics.jwks_keys, lambda: self._index.size, labels)
        metrics.watch(metrics.jwks_age, self._age_or_nan, labels)

    @property
    def issuer(self) -> str | None:
        """The issuer's exact name once discovery has succeeded."""
        found = self._metadata()
        return found.issuer if found else None

    async def start(self) -> None:
        """Load the copies on disk and start fetching in the background; the issuer may be down."""
        if self._presumed is not None:  # before discovery, which decides whether to keep it
            await self._presumed.start()
        if self._discovery is not None:
            await self._discovery.start()
        for source in self._configured_urls:
            await source.start()
        await self._wait_tasks()

    async def aclose(self) -> None:
        """Stop all background work."""
        await cancel(*self._tasks)
        if self._discovery is not None:
            await self._discovery.aclose()
        for source in self._sources():
            await source.aclose()
        if self._presumed is not None:
            await self._presumed.aclose()

    def candidates(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Keys that may have made a signature, from memory; empty if none is known or all are too old."""
        found = self._index.find(kid, algorithm)
        if found:
            for source in self._sources():
                source.expire()
            found = tuple(key for key in found if key.live)
        return found

    async def refetch(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Fetch every URL again, at most once per cool-down; empty: the issuer has no such key.

        Raises Unavailable(KEYS_UNAVAILABLE) while a URL that might list the key has no usable key set.
        """
        found = self.candidates(kid, algorithm)
        if found:
            return found
        if self._discovery is not None and self._discovery.metadata is None:
            await self._discovery.refresher.on_demand(lambda: self._metadata() is not None)
            await self._wait_tasks()

        def is_known() -> bool:
            return bool(self.candidates(kid, algorithm))

        await asyncio.gather(*(source.refresher.on_demand(is_known) for source in self._sources()))
        found = self.candidates(kid, algorithm)
        if not found and not self._is_complete():
            raise Unavailable(Cause.KEYS_UNAVAILABLE, self.status().problem, retry_after=self._retry_after())
        return found

    def status(self) -> KeyStatus:
        """The current state of the keys."""
        sources = self._sources()
        usable = [source for source in sources if source.usable]
        discovery = [] if self._discovery is None else [self._discovery]
        problems = [f"{source.url}: {source.problem}" for source in sources if source.problem]
        problems += [item.problem for item in discovery if item.problem]
        problems += self._useless()
        if not problems and self._awaits_discovery() and not sources:
            problems = ["the jwks_uri of the discovery document is not in publicKeyUrls"]
        return KeyStatus(
            provider=self.provider.name,
            usable=bool(usable),
            attempted=all(fetched.attempted for fetched in self._refreshers()),
            keys=self._index.size,
            age=max((source.age for source in usable), default=None),
            problem="; ".join(problems),
        )

    def _sources(self) -> list[UrlKeys]:
        return [*self._configured_urls, *self._discovered_urls]

    def _refreshers(self) -> list[Refresher]:
        fetched = [source.refresher for source in self._sources()]
        return fetched if self._discovery is None else [*fetched, self._discovery.refresher]

    def _is_complete(self) -> bool:
        """Whether a key set was received from every URL that might list a key."""
        sources = self._sources()
        unknown = self._awaits_discovery() and self._metadata() is None
        return bool(sources) and not unknown and all(source.is_conclusive for source in sources)

    def _awaits_discovery(self) -> bool:
        """Whether keys are expected from a URL that only discovery can provide."""
        provider = self.provider
        if self._discovery is None:
            return False
        if not provider.candidate_urls:
            return not provider.key_urls
        used = {URL(source.url) for source in self._discovered_urls}
        return any(URL(url) not in used for url in provider.candidate_urls)

    def _useless(self) -> list[str]:
        """A message for each configured URL that cannot verify any token because it is not known to be the issuer's."""
        provider, discovery = self.provider, self._discovery
        if discovery is None or provider.candidates_are_shared or not (discovery.attempted or discovery.metadata):
            return []
        found, used = self._metadata(), {URL(source.url) for source in self._discovered_urls}
        unused = [url for url in provider.candidate_urls if URL(url) not in used]
        if found is None:
            return [
                f"{url}: verifies no token: {provider.issuer} has no discovery document that names this URL; "
                f"set {{url: {url}, issuer: <iss of the tokens>}}"
                for url in unused
            ]
        listed = any(URL(url) == URL(found.jwks_uri) for url in provider.candidate_urls)
        instead = "" if listed else ", which publicKeyUrls does not contain: use that URL instead"
        return [
            f"{url}: verifies no token: the discovery document of {provider.issuer} names {found.jwks_uri}{instead}; "
            f"if these are keys of another issuer, set {{url: {url}, issuer: <iss of the tokens>}}, else remove it"
            for url in unused
        ]

    def _retry_after(self) -> int:
        due = min((fetched.due for fetched in self._refreshers()), default=0.0) - self._clock.monotonic()
        return math.ceil(max(1.0, min(due, self._context.settings.retry_max)))

    def _apply_discovery(self) -> None:
        """Start using the discovered ``jwks_uri``, unless it is known already or not allowed.

        A URL that was only presumed to be the issuer's is confirmed if discovery named none, and dropped if it named
        another.
        """
        discovered = self._metadata()
        self._resolve_presumed(None if discovered is None else URL(discovered.jwks_uri))
        if discovered is not None and self._may_use(discovered.jwks_uri):
            self._drop_sources([source for source in self._discovered_urls if not source.usable])
            source = UrlKeys(discovered.jwks_uri, self._context, self._reindex)
            self._discovered_urls.append(source)
            self._spawn(source.start())
        self._log_useless()

    def _resolve_presumed(self, named: URL | None) -> None:
        """Decide about the presumed URL; of the listed URLs only ``named`` stays, if discovery named one."""
        presumed, self._presumed = self._presumed, None
        if presumed is not None:
            self._discovered_urls.append(presumed)
        if named is not None and self.provider.candidate_urls:
            listed = any(URL(url) == named for url in self.provider.candidate_urls)
            guessed = URL(self.provider.presumed_url) if self.provider.presumed_url else None
            gone = (source for source in self._discovered_urls if URL(source.url) != named)
            self._drop_sources([source for source in gone if not listed or URL(source.url) == guessed])
        self._reindex()

    def _log_useless(self) -> None:
        """Log each configured URL that was found to verify no token, once."""
        useless = frozenset(self._useless())
        for sentence in sorted(useless - self._reported_useless):
            _log.error(
                "key URL cannot verify any token",
                extra={"event": "key_url_unusable", "provider": self.provider.name, "detail": sentence},
            )
        self._reported_useless = useless

    def _may_use(self, url: str) -> bool:
        """Whether a discovered URL is allowed and new.

        With ``publicKeyUrls``, only those URLs are ever fetched; discovery then only confirms which belong to the
        issuer.
        """
        provider = self.provider
        if any(URL(source.url) == URL(url) for source in self._configured_urls + self._discovered_urls[-1:]):
            return False
        if not provider.key_urls and not provider.candidate_urls:
            return True
        return any(URL(candidate) == URL(url) for candidate in provider.candidate_urls)

    def _reindex(self) -> None:
        if self._discovered_urls and self._discovered_urls[-1].usable:
            self._drop_sources(self._discovered_urls[:-1])
        self._index = KeyIndex(*(source.keys for source in self._sources()))

    def _drop_sources(self, dropped: list[UrlKeys]) -> None:
        """Stop using URLs that discovery no longer names."""
        self._discovered_urls = [source for source in self._discovered_urls if source not in dropped]
        for source in dropped:
            source.withdraw()
            self._spawn(source.aclose())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(retrieve)

    async def _wait_tasks(self) -> None:
        """Wait for the tasks of :meth:`_spawn`. Cancelling the caller cancels none of them."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _metadata(self) -> IssuerMetadata | None:
        return self._discovery.metadata if self._discovery is not None else None

    def _age_or_nan(self) -> float:
        age = self.status().age
        return math.nan if age is None else age
