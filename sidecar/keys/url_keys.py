"""One key set of a provider, behind a URL or in a file: fetched in the background, kept through outages.

A key set that arrived is the whole truth: what it no longer lists is withdrawn. A fetch that failed changes nothing,
until ``keys.maxStale`` has passed.
"""

import asyncio
import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidecar.config.providers import Provider
from sidecar.config.reading.urls import file_path, is_file
from sidecar.config.settings import KeyFetchSettings
from sidecar.errors import Misconfigured, Problem
from sidecar.keys.disk import DiskCopy
from sidecar.keys.document import DocumentError
from sidecar.keys.key_files import KeyFileError, algorithms_of, parse_public_key
from sidecar.keys.keyset import UNSAFE, ParsedKeys, VerificationKey, parse_jwks, public_jwk, read_jwks, replace, wrap
from sidecar.keys.refresher import Pace, Refresher
from sidecar.keys.well_known import WELL_KNOWN_THUMBPRINTS
from sidecar.metrics import Metrics
from sidecar.outbound import Answer, ControlClient, OutboundError

_MIN_LIFETIME = 60.0
_MAX_LIFETIME = 86400.0
_POLL_INTERVAL = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FetchContext:
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

    def __init__(self, url: str, around: FetchContext, changed: Callable[[], None]) -> None:
        self.url = url
        self.keys: tuple[VerificationKey, ...] = ()
        self.problem = "not fetched yet"
        self._around = around
        self._changed = changed
        self._confirmed = float("-inf")
        self._etag = ""
        self._skipped: Mapping[str, int] = {}
        self._closed = False
        self.is_told = False
        """Whether the set that arrived last says which keys there are: it has some, if only unsafe ones."""
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
        if not self._closed:
            self.refresher.start()

    async def aclose(self) -> None:
        """End the background work, and never begin it again. The keys are left as they are."""
        self._closed = True
        await self.refresher.aclose()

    def withdraw(self) -> None:
        """Give up every key."""
        self._etag = ""
        self.is_told = False
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
            self.is_told = bool(self.keys)
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
            outcome = "not_modified"
            self._confirmed = around.pace.clock.monotonic()
        else:
            outcome = "ok"
            self._adopt(parse_jwks(answer.body, allow_published=around.allow_published), 0.0)
        self._etag = answer.etag if self.keys else ""
        self.problem = self._fault()
        content = {"keys": [public_jwk(key) for key in self.keys]}
        await asyncio.to_thread(around.disk.write, self.url, content, around.pace.clock.now())
        return (outcome, self._lifetime(answer)) if self.keys else ("useless", None)

    def _adopt(self, parsed: ParsedKeys, age: float) -> None:
        self._confirmed = self._around.pace.clock.monotonic() - age
        self.keys = replace(self.keys, parsed.keys)
        self.is_told = bool(self.keys) or not UNSAFE.isdisjoint(parsed.skipped)
        if parsed.skipped != self._skipped:
            self._skipped = parsed.skipped
            unsafe = {word: number for word, number in parsed.skipped.items() if word in UNSAFE}
            if unsafe:
                extra = {"provider": self._around.provider.name, "url": self.url, "skipped": unsafe}
                logger.warning("keys of a set are not used: they are unsafe", extra=extra)
        self._changed()

    def _fault(self) -> str:
        """Why no token can be verified with this set as it is; empty when one can."""
        if not self.keys:
            skipped = ", ".join(f"{number} {word}" for word, number in sorted(self._skipped.items()))
            return f"useless: the set has no usable key{f' ({skipped})' if skipped else ''}"
        accepted = self._around.provider.algorithms
        offered = frozenset[str]().union(*(key.algorithms for key in self.keys))
        if not accepted or accepted & offered:
            return ""
        return (
            f"has keys, but none for the accepted algorithms: no token can pass (accepted are "
            f"{', '.join(sorted(accepted))}, the keys are for {', '.join(sorted(offered))})"
        )

    def _lifetime(self, answer: Answer) -> float:
        """Seconds the answer is good for: what it says within bounds, and never so long that keys would go stale."""
        settings = self._around.settings
        if answer.max_age is None:
            return min(settings.refresh, settings.max_stale)
        shortest = min(_MIN_LIFETIME, settings.refresh)
        return min(max(answer.max_age, shortest), _MAX_LIFETIME, settings.max_stale)


class FileKeys(UrlKeys):
    """The key set in a file of this machine, which is watched. There is no copy of it: the file is as near as that."""

    def __init__(self, url: str, around: FetchContext, changed: Callable[[], None]) -> None:
        super().__init__(url, around, changed)
        self._path = Path(file_path(url))
        self._seen: Stamp | None = None

    async def start(self) -> None:
        """Read the file, and begin to watch it. Raises Misconfigured when no token can be verified with it."""
        await self._fetch()
        if self.problem:
            place = f"provider {self._around.provider.name}"
            raise Misconfigured([Problem(f"{place}: publicKeyUrls", f"{self.url}: {self.problem}")])
        self.refresher.start()

    async def _fetch(self) -> float:
        await super()._fetch()
        return _POLL_INTERVAL

    async def _fetch_once(self) -> tuple[str, float | None]:
        around = self._around
        most = around.settings.max_bytes
        try:
            async with asyncio.timeout(around.settings.timeout):
                stamp, content = await asyncio.to_thread(_read_file, self._path, most, self._seen)
        except TimeoutError as error:
            raise DocumentError("timeout", f"cannot be read within {around.settings.timeout:g} s") from error
        except OSError as error:
            raise DocumentError("unreadable", f"cannot be read: {error.strerror}") from error
        if content is None:
            self._confirmed = around.pace.clock.monotonic()
            outcome = "not_modified"
        else:
            self._seen = None  # until what was read has been understood
            self._adopt(_parse_file(content, self._path, allow_published=around.allow_published), 0.0)
            self._seen = stamp
            outcome = "ok"
        self.problem = self._fault()
        return (outcome, _POLL_INTERVAL) if self.keys else ("useless", _POLL_INTERVAL)

    def withdraw(self) -> None:
        """Give up every key."""
        self._seen = None
        super().withdraw()


Stamp = tuple[int, int, int]


def _parse_file(content: bytes, path: Path, *, allow_published: bool) -> ParsedKeys:
    """The keys in a file: a key set, or one public key in PEM or DER, which has no key id. Raises DocumentError."""
    if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        return parse_jwks(content, allow_published=allow_published)
    try:
        public = parse_public_key(content, path)
    except KeyFileError as error:
        raise DocumentError("useless", f"is no key set and no public key: {error}") from error
    key = VerificationKey(None, algorithms_of(public), wrap(public))
    if key.fingerprint in WELL_KNOWN_THUMBPRINTS and not allow_published:
        return ParsedKeys((), Counter(published=1))
    return ParsedKeys((key,), Counter())


def _read_file(path: Path, most: int, seen: Stamp | None) -> tuple[Stamp, bytes | None]:
    """What tells this file from a changed one, and its content; None where it is as it was ``seen``.

    Raises OSError, and DocumentError for what is no file or has more than ``most`` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # never waits for the writer of a pipe
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise DocumentError("unreadable", "is no regular file")
        stamp = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
        if stamp == seen:
            return stamp, None
        content = file.read(most + 1)
    if len(content) > most:
        raise DocumentError("too_large", f"more than {most} bytes")
    return stamp, content


def open_keys(url: str, around: FetchContext, changed: Callable[[], None]) -> UrlKeys:
    """The key set at ``url``, of either kind, not started."""
    return (FileKeys if is_file(url) else UrlKeys)(url, around, changed)
