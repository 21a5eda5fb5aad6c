"""Complete revocation entries, compressed, to restore a store that has lost them.

Checking a token needs digests only; restoring an entry needs everything that it was made of.
"""

import json
import zlib
from collections.abc import Iterator
from itertools import accumulate
from math import inf
from operator import attrgetter, sub
from typing import Any

import orjson

from sidecar.store.revocation_entry import RevocationEntry, Scope, entry_id, entry_key

_BLOCK = 2048
_fields = attrgetter("scope", "issuer", "name", "created_at", "issued_before", "expires_at", "reason", "created_by")


class CompressedLog:
    """Entries in the order in which they came, within a block in the order of their versions.

    An entry that was removed or replaced stays until its block has ended.
    """

    def __init__(self) -> None:
        self._open: list[tuple[str, RevocationEntry]] = []
        self._blocks: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self._open) + _BLOCK * len(self._blocks)

    def __iter__(self) -> Iterator[RevocationEntry]:
        for _, packed in self._blocks:
            *columns, steps = json.loads(zlib.decompress(packed))
            for name, *fields in zip(*columns, accumulate(steps), strict=True):
                yield _entry(name, fields)
        for _, entry in self._open:
            yield entry

    def add(self, entry: RevocationEntry, *, has_proper_id: bool) -> None:
        """Keep ``entry``. A proper id is made of the rest, and would not compress."""
        self._open.append(("" if has_proper_id else entry.id, entry))
        if len(self._open) == _BLOCK:
            until = max(inf if entry.expires_at is None else entry.expires_at for _, entry in self._open)
            # stable: of one id the later entry stays behind the earlier one
            block = sorted(self._open, key=_version)
            columns = [[name for name, _ in block], *zip(*(_fields(item) for _, item in block), strict=True)]
            versions = list(map(_version, block))
            # the differences compress to half of the numbers
            steps = [versions[0], *map(sub, versions[1:], versions)]
            # level 1: the higher ones take twice the time for a twentieth less
            self._blocks.append((until, zlib.compress(_encode([*columns, steps]), 1)))
            self._open = []

    def prune(self, now: float) -> None:
        """Drop blocks whose entries have all expired at ``now``."""
        self._blocks = [block for block in self._blocks if block[0] > now]


def _version(item: tuple[str, RevocationEntry]) -> int:
    return item[1].version


def _encode(columns: list[Any]) -> bytes:
    try:
        return orjson.dumps(columns)
    except TypeError:  # a lone surrogate, which it takes for no text
        return json.dumps(columns).encode("ascii")


def _entry(name: str, fields: list[Any]) -> RevocationEntry:
    scope, issuer, about, created_at, issued_before, *rest = fields
    proper = name or entry_id(entry_key(scope, issuer, about), issued_before)
    return RevocationEntry(proper, Scope(scope), issuer, about, created_at, issued_before, *rest)
