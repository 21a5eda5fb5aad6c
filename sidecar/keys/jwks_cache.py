"""The keys of one provider: which URLs are the issuer's, and the keys of all of them, found without waiting.

Each URL lives for itself, so that a dead one hurts only its own tokens.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from sidecar.clock import Clock
from sidecar.concurrency import retrieve
from sidecar.config.providers import Provider
from sidecar.config.settings import KeyFetchSettings
from sidecar.errors import Cause, Unavailable
from sidecar.keys.discovery import Discovered, discover, read_metadata
from sidecar.keys.disk import DiskCopy
from sidecar.keys.document import DocumentError
from sidecar.keys.keyset import KeyIndex, VerificationKey
from sidecar.keys.refresher import Pace, Refresher
from sidecar.keys.url_keys import FetchContext, UrlKeys, open_keys
from sidecar.metrics import Metrics
from sidecar.outbound import ControlClient, OutboundError

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


class IssuerDiscovery:
    """What the issuer says of itself, asked hourly and kept on disk.

    ``changed`` is called when it says otherwise, and once it is known that it says nothing. ``asked``: it was asked.
    """

    def __init__(self, around: FetchContext, changed: Callable[[], None]) -> None:
        self.found: Discovered | None = None
        self.asked = False
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
                logger.warning(
                    "cached discovery document on disk ignored",
                    extra={"event": "cached_discovery_ignored", "detail": error.detail},
                )
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
            logger.exception("discovery failed", extra={"event": "discovery_error", "provider": around.provider.name})
        else:
            self.problem, lifetime = "", _DISCOVERY_LIFETIME
            self._adopt(found)
            content = {"issuer": found.issuer, "jwks_uri": found.jwks_uri}
            await asyncio.to_thread(around.disk.write, self._subject, content, around.pace.clock.now())
        around.tell(around.provider.issuer or "", before, self.problem)
        if not self.asked:
            self.asked = True
            self._changed()
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
        self._around = FetchContext(
            provider, settings, client, metrics, pace or Pace(clock), DiskCopy(cache_dir), allow_published
        )
        self._urls = [open_keys(url, self._around, self._reindex) for url in provider.key_urls]
        self._discovery = IssuerDiscovery(self._around, self._follow) if provider.discovery else None
        self._found: list[UrlKeys] = []
        self._presumed = UrlKeys(provider.presumed_url, self._around, self._reindex) if provider.presumed_url else None
        self._unnamed: frozenset[str] = frozenset()
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
        if self._presumed is not None:  # before discovery, which decides whether it is kept
            await self._presumed.start()
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
        if self._presumed is not None:
            await self._presumed.aclose()

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
            await self._discovery.refresher.on_demand(lambda: self._discovered() is not None)
            await self._settle()

        def is_known() -> bool:
            return bool(self.candidates(kid, algorithm))

        await asyncio.gather(*(source.refresher.on_demand(is_known) for source in self._sources()))
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
        problems += self._useless()
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
        return bool(sources) and not unknown and all(source.is_told for source in sources)

    def _awaits_discovery(self) -> bool:
        """Whether keys are expected from a URL that only discovery can name."""
        provider = self.provider
        if self._discovery is None:
            return False
        if not provider.candidate_urls:
            return not provider.key_urls
        used = {URL(source.url) for source in self._found}
        return any(URL(url) not in used for url in provider.candidate_urls)

    def _useless(self) -> list[str]:
        """A sentence for each listed URL that verifies no token, because nothing says that it is the issuer's."""
        provider, discovery = self.provider, self._discovery
        if discovery is None or provider.candidates_are_shared or not (discovery.asked or discovery.found):
            return []
        found, used = self._discovered(), {URL(source.url) for source in self._found}
        unused = [url for url in provider.candidate_urls if URL(url) not in used]
        if found is None:
            return [
                f"{url}: verifies no token: there is no discovery document of {provider.issuer} to say whose keys "
                f"these are; write {{url: {url}, issuer: <iss of the tokens>}}"
                for url in unused
            ]
        listed = any(URL(url) == URL(found.jwks_uri) for url in provider.candidate_urls)
        instead = "" if listed else ", which publicKeyUrls does not list: name it instead"
        return [
            f"{url}: verifies no token: the discovery document of {provider.issuer} names {found.jwks_uri}{instead}; "
            f"for another issuer's keys write {{url: {url}, issuer: <iss of the tokens>}}, else remove it"
            for url in unused
        ]

    def _retry_after(self) -> int:
        due = min((fetched.due for fetched in self._refreshers()), default=0.0) - self._clock.monotonic()
        return math.ceil(max(1.0, min(due, self._around.settings.retry_max)))

    def _follow(self) -> None:
        """Take up the ``jwks_uri`` that discovery named, unless it is known already or not listed.

        What was only presumed to be the issuer's counts from now on if nothing was named, and no longer if another was.
        """
        discovered = self._discovered()
        self._settle_presumed(None if discovered is None else URL(discovered.jwks_uri))
        if discovered is not None and self._may_use(discovered.jwks_uri):
            self._forget([source for source in self._found if not source.usable])
            source = UrlKeys(discovered.jwks_uri, self._around, self._reindex)
            self._found.append(source)
            self._spawn(source.start())
        self._tell_useless()

    def _settle_presumed(self, named: URL | None) -> None:
        """Decide about the presumed URL; of the listed ones only that which is ``named`` stays, if one is."""
        presumed, self._presumed = self._presumed, None
        if presumed is not None:
            self._found.append(presumed)
        if named is not None and self.provider.candidate_urls:
            listed = any(URL(url) == named for url in self.provider.candidate_urls)
            guessed = URL(self.provider.presumed_url) if self.provider.presumed_url else None
            gone = (source for source in self._found if URL(source.url) != named)
            self._forget([source for source in gone if not listed or URL(source.url) == guessed])
        self._reindex()

    def _tell_useless(self) -> None:
        """One line for each listed URL that turns out to verify no token."""
        useless = frozenset(self._useless())
        for sentence in sorted(useless - self._unnamed):
            logger.error(
                "key URL cannot verify any token",
                extra={"event": "key_url_unusable", "provider": self.provider.name, "detail": sentence},
            )
        self._unnamed = useless

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
