"""One key set of a provider, behind a URL or in a file: fetched in the background, kept through outages.

A key set that was received is complete: keys that it no longer lists are withdrawn. A failed fetch changes nothing
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
from sidecar.files import POLL_INTERVAL, FileState, state_of
from sidecar.keys.disk import DiskCopy
from sidecar.keys.document import DocumentError
from sidecar.keys.key_files import KeyFileError, algorithms_of, parse_public_key
from sidecar.keys.keyset import (
    UNSAFE,
    ParsedKeys,
    VerificationKey,
    key_set_from_document,
    parse_key_set,
    public_jwk,
    to_jose_key,
    update_keys,
)
from sidecar.keys.refresher import Refresher, Timing
from sidecar.keys.well_known import WELL_KNOWN_THUMBPRINTS
from sidecar.metrics import Metrics
from sidecar.outbound import Answer, ControlClient, OutboundError, explained

_MIN_LIFETIME = 60.0
_MAX_LIFETIME = 86400.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FetchContext:
    """Shared by all key sets of one provider."""

    provider: Provider
    settings: KeyFetchSettings
    client: ControlClient
    metrics: Metrics
    timing: Timing
    disk: DiskCopy
    allow_published: bool

    def count_fetch(self, outcome: str) -> None:
        self.metrics.jwks_fetches.labels(self.provider.name, outcome).inc()

    def log_transition(self, url: str, before: str, now: str) -> None:
        """Log when fetches start or stop to fail."""
        if before != now:
            about = {"provider": self.provider.name, "url": url, "detail": now}
            if now:
                _log.warning("key fetch failed; retrying", extra={"event": "key_fetch_failed", **about})
            else:
                _log.info("key fetch succeeded again", extra={"event": "key_fetch_recovered", **about})


class UrlKeys:
    """The key set behind one URL. ``on_change`` is called whenever ``keys`` changed."""

    def __init__(self, url: str, context: FetchContext, on_change: Callable[[], None]) -> None:
        self.url = url
        self.keys: tuple[VerificationKey, ...] = ()
        self.problem = "not fetched yet"
        self._context = context
        self._on_change = on_change
        self._confirmed_at = float("-inf")
        self._etag = ""
        self._skipped: Mapping[str, int] = {}
        self._closed = False
        self.is_conclusive = False
        """Whether the last received set has keys, even if only unsafe ones: then unknown keys do not exist."""
        self.refresher = Refresher(self._fetch, context.settings, context.timing, self.expire)

    @property
    def usable(self) -> bool:
        """Whether there is a key to verify with."""
        return bool(self.keys)

    @property
    def age(self) -> float:
        """Seconds since the issuer last confirmed these keys."""
        return self._context.timing.clock.monotonic() - self._confirmed_at

    async def start(self) -> None:
        """Load the copy on disk, unless it is too old, and start fetching in the background."""
        context = self._context
        now = context.timing.clock.now()
        kept = await asyncio.to_thread(context.disk.load, self.url, now, context.settings.max_stale)
        if kept is not None:
            content, age = kept
            try:
                parsed = key_set_from_document(content, allow_published=context.allow_published)
            except DocumentError as error:
                _log.warning(
                    "cached keys on disk ignored",
                    extra={"event": "cached_keys_ignored", "url": self.url, "detail": error.detail},
                )
            else:
                self._adopt(parsed, age)
        if not self._closed:
            self.refresher.start()

    async def aclose(self) -> None:
        """Stop the background work permanently. The keys are not changed."""
        self._closed = True
        await self.refresher.aclose()

    def withdraw(self) -> None:
        """Withdraw every key."""
        self._etag = ""
        self.is_conclusive = False
        if self.keys:
            self.keys = update_keys(self.keys, ())
            self._on_change()

    def expire(self) -> None:
        """Withdraw keys that were not confirmed for ``keys.maxStale``."""
        if self.keys and self.age > self._context.settings.max_stale:
            _log.error(
                "keys dropped: older than keys.maxStale",
                extra={"event": "keys_expired", "provider": self._context.provider.name, "url": self.url},
            )
            self.withdraw()

    async def _fetch(self) -> float | None:
        context, before = self._context, self.problem if self.refresher.attempted else ""
        try:
            outcome, lifetime = await self._fetch_once()
        except (OutboundError, DocumentError) as error:
            self.is_conclusive = bool(self.keys)
            outcome, lifetime = str(error.kind), None
            self.problem = explained(error.kind, error.detail)
        except Exception:  # noqa: BLE001 - a bug must not end the background work
            outcome, lifetime = "internal", None
            self.problem = "internal: see the log"
            _log.exception(
                "unhandled error while fetching keys",
                extra={"event": "key_fetch_error", "provider": context.provider.name, "url": self.url},
            )
        context.count_fetch(outcome)
        context.log_transition(self.url, before, self.problem)
        self.expire()
        return lifetime

    async def _fetch_once(self) -> tuple[str, float | None]:
        context = self._context
        answer = await context.client.get(
            self.url,
            within=context.settings.timeout,
            max_bytes=context.settings.max_bytes,
            allow_insecure=context.provider.allow_insecure_urls,
            etag=self._etag,
        )
        if answer.not_modified:
            outcome = "not_modified"
            self._confirmed_at = context.timing.clock.monotonic()
        else:
            outcome = "ok"
            self._adopt(parse_key_set(answer.body, allow_published=context.allow_published), 0.0)
        self._etag = answer.etag if self.keys else ""
        self.problem = self._set_problem()
        content = {"keys": [public_jwk(key) for key in self.keys]}
        await asyncio.to_thread(context.disk.save, self.url, content, context.timing.clock.now())
        return (outcome, self._lifetime(answer)) if self.keys else ("useless", None)

    def _adopt(self, parsed: ParsedKeys, age: float) -> None:
        self._confirmed_at = self._context.timing.clock.monotonic() - age
        self.keys = update_keys(self.keys, parsed.keys)
        self.is_conclusive = bool(self.keys) or not UNSAFE.isdisjoint(parsed.skipped)
        if parsed.skipped != self._skipped:
            self._skipped = parsed.skipped
            unsafe = {word: number for word, number in parsed.skipped.items() if word in UNSAFE}
            if unsafe:
                _log.warning(
                    "unsafe keys of a key set skipped",
                    extra={
                        "event": "unsafe_keys_skipped",
                        "provider": self._context.provider.name,
                        "url": self.url,
                        "skipped": unsafe,
                    },
                )
        self._on_change()

    def _set_problem(self) -> str:
        """Why no token can be verified with this set; empty if one can."""
        if not self.keys:
            skipped = ", ".join(f"{number} {word}" for word, number in sorted(self._skipped.items()))
            return f"useless: the set has no usable key{f' ({skipped})' if skipped else ''}"
        accepted = self._context.provider.algorithms
        offered = frozenset[str]().union(*(key.algorithms for key in self.keys))
        if not accepted or accepted & offered:
            return ""
        return (
            f"no key fits the accepted algorithms, so no token can be verified (accepted: "
            f"{', '.join(sorted(accepted))}; the keys are for: {', '.join(sorted(offered))})"
        )

    def _lifetime(self, answer: Answer) -> float:
        """Seconds for which the response is valid: its max-age within limits, and never beyond ``keys.maxStale``."""
        settings = self._context.settings
        if answer.max_age is None:
            return min(settings.refresh, settings.max_stale)
        shortest = min(_MIN_LIFETIME, settings.refresh)
        return min(max(answer.max_age, shortest), _MAX_LIFETIME, settings.max_stale)


class FileKeys(UrlKeys):
    """The key set in a local file, which is watched. It has no disk copy."""

    def __init__(self, url: str, context: FetchContext, on_change: Callable[[], None]) -> None:
        super().__init__(url, context, on_change)
        self._path = Path(file_path(url))
        self._last_signature: FileState | None = None

    async def start(self) -> None:
        """Read the file, and start watching it. Raises Misconfigured if no token can be verified with it."""
        await self._fetch()
        if self.problem:
            provider = self._context.provider
            place = f"provider {provider.name}: {provider.keys_setting}"
            raise Misconfigured([Problem(place, f"{self.url}: {self.problem}")])
        self.refresher.start()

    async def _fetch(self) -> float:
        await super()._fetch()
        return POLL_INTERVAL

    async def _fetch_once(self) -> tuple[str, float | None]:
        context = self._context
        most = context.settings.max_bytes
        try:
            async with asyncio.timeout(context.settings.timeout):
                stamp, content = await asyncio.to_thread(_read_file, self._path, most, self._last_signature)
        except TimeoutError as error:
            raise DocumentError("timeout", f"cannot be read within {context.settings.timeout:g} s") from error
        except OSError as error:
            raise DocumentError("unreadable", f"cannot be read: {error.strerror}") from error
        if content is None:
            self._confirmed_at = context.timing.clock.monotonic()
            outcome = "not_modified"
        else:
            self._last_signature = None  # until the content has been parsed
            self._adopt(_parse_file(content, self._path, allow_published=context.allow_published), 0.0)
            self._last_signature = stamp
            outcome = "ok"
        self.problem = self._set_problem()
        return (outcome, POLL_INTERVAL) if self.keys else ("useless", POLL_INTERVAL)

    def withdraw(self) -> None:
        """Withdraw every key."""
        self._last_signature = None
        super().withdraw()


def _parse_file(content: bytes, path: Path, *, allow_published: bool) -> ParsedKeys:
    """The keys in a file: a key set, or one public key in PEM or DER, which has no key id. Raises DocumentError."""
    if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        return parse_key_set(content, allow_published=allow_published)
    try:
        public = parse_public_key(content, path)
    except KeyFileError as error:
        raise DocumentError("useless", f"is neither a key set nor a public key: {error}") from error
    key = VerificationKey(None, algorithms_of(public), to_jose_key(public))
    if key.fingerprint in WELL_KNOWN_THUMBPRINTS and not allow_published:
        return ParsedKeys((), Counter(published=1))
    return ParsedKeys((key,), Counter())


def _read_file(path: Path, max_bytes: int, known: FileState | None) -> tuple[FileState, bytes | None]:
    """The file's signature and content; the content is None if the signature is ``known``.

    Raises OSError, and DocumentError if it is not a regular file or has more than ``max_bytes`` bytes.
    """
    descriptor = os.open(
        path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    )  # O_NONBLOCK: does not wait for the writer of a pipe
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise DocumentError("unreadable", "is not a regular file")
        signature = state_of(facts)
        if signature == known:
            return signature, None
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise DocumentError("too_large", f"more than {max_bytes} bytes")
    return signature, content


def create_keys(url: str, context: FetchContext, on_change: Callable[[], None]) -> UrlKeys:
    """The key set at ``url``, of either kind, not started."""
    return (FileKeys if is_file(url) else UrlKeys)(url, context, on_change)
