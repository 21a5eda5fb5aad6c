"""Copies on disk that allow a restart during an issuer's outage. Only public data is written."""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from sidecar.keys.document import DocumentError, parse_object

_log = logging.getLogger(__name__)

_MAX_CLOCK_DIFFERENCE = 60.0


class DiskCopy:
    """JSON objects in one folder (None: nothing is stored), identified by ``subject``. Shared by processes."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._warned = False

    def load(self, subject: str, now: float, max_age: float) -> tuple[dict[str, Any], float] | None:
        """The stored content for ``subject`` and its age in seconds; None if absent, unreadable, too old or from the
        future.

        The caller validates the content as if it had been fetched.
        """
        if self._folder is None:
            return None
        try:
            record = parse_object(_path(self._folder, subject).read_bytes())
        except (OSError, DocumentError):
            return None
        kept_at, content = record.get("keptAt"), record.get("content")
        if record.get("subject") != subject or not isinstance(content, dict):
            return None
        if not isinstance(kept_at, int | float) or not -_MAX_CLOCK_DIFFERENCE <= now - kept_at <= max_age:
            return None
        return content, max(0.0, now - kept_at)

    def save(self, subject: str, content: dict[str, Any], now: float) -> None:
        """Store ``content`` atomically. The first failure is logged as a warning."""
        if self._folder is None:
            return
        record = json.dumps({"subject": subject, "keptAt": now, "content": content})
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(_path(self._folder, subject), record.encode())
        except OSError as error:
            if not self._warned:
                self._warned = True
                _log.warning(
                    "keys cannot be cached on disk; after a restart they are unavailable until the issuer answers",
                    extra={
                        "event": "key_cache_write_failed",
                        "folder": str(self._folder),
                        "detail": error.strerror,
                    },
                )


def _path(folder: Path, subject: str) -> Path:
    return folder / f"{hashlib.sha256(subject.encode()).hexdigest()}.json"


def _replace(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".keys-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
