"""The revocation list in memory: whether a valid token is revoked. No I/O; a look-up is a few dictionary look-ups.

To keep a million entries small, an entry is not an object but a digest of what it refers to, and one number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import ceil, floor, inf, isfinite
from typing import Self

from sidecar.identity.actor import Actor
from sidecar.identity.names import folded, local_part
from sidecar.store.record import NO_OWNER, Owner
from sidecar.store.replica.compressed_log import CompressedLog
from sidecar.store.replica.expiry_index import MINUTE, ExpiryIndex
from sidecar.store.revocation_entry import RevocationEntry, Scope, actor_entry_name, entry_id, entry_key, parse_entry_id

_versions = count(1)
_MAX_WASTE = 50_000

# The times of an entry, in the smallest object that holds two floats (32 bytes). ``real``: it matches tokens issued
# before then (infinite: any). ``imag``: its expiry (infinite: never).
_Validity = complex


@dataclass(frozen=True, slots=True)
class Source:
    """The credential that an exchanged token was issued for: what ends it, ends the token too.

    ``session`` is its ``sid``. ``token_id`` is its ``jti``, or with ``is_digest`` the SHA-256 (lower-case hex) of its
    signing input. ``issued_at`` None: the credential does not say, so every cut-off matches.
    """

    issuer: str
    subject: str
    token_id: str
    is_digest: bool = False
    session: str = ""
    issued_at: float | None = None

    @property
    def references(self) -> list[tuple[Scope, str, str]]:
        """What entries can refer to it by: scope, issuer and name."""
        scope = Scope.DIGEST if self.is_digest else Scope.TOKEN
        named = [(scope, self.issuer, self.token_id), (Scope.ISSUER, self.issuer, "")]
        if self.subject:
            named += [(Scope.SUBJECT, self.issuer, self.subject), (Scope.SUBJECT_SESSIONS, self.issuer, self.subject)]
        return [*named, (Scope.SESSION, self.issuer, self.session)] if self.session else named


class RevocationKeys:
    """What entries can refer to one verified token by.

    The key of a reference is computed once, for the first list that has entries of its scope: most lists have entries
    of one or two scopes.
    """

    __slots__ = ("_keys", "issued_at", "issued_by_provider", "references")

    def __init__(
        self,
        references: tuple[tuple[Scope, str, str], ...],
        issued_at: float | None,
        *,
        issued_by_provider: float | None = None,
    ) -> None:
        """``references`` are scope, issuer and name, as in :class:`RevocationEntry`. ``issued_by_provider``: the time
        to compare with the cut-offs of providers, if another than ``issued_at``.
        """
        self.references = references
        self._keys: dict[int, bytes] = {}
        # without a time of issue, every cut-off matches
        self.issued_at = -inf if issued_at is None else issued_at
        self.issued_by_provider = self.issued_at if issued_by_provider is None else issued_by_provider

    def key(self, index: int) -> bytes:
        """The key of the reference at ``index``."""
        key = self._keys.get(index)
        if key is None:
            key = self._keys[index] = entry_key(*self.references[index])
        return key

    def with_source(self, source: Source | None) -> Self:
        """The same for a token that was issued for ``source``, which ends with it; None: it was not.

        Cut-offs are compared with the earlier time of issue of the two.
        """
        if source is None:
            return self
        issued_at = -inf if source.issued_at is None else source.issued_at
        references = tuple(dict.fromkeys((*self.references, *source.references)))
        return type(self)(references, min(self.issued_at, issued_at), issued_by_provider=issued_at)


def revocation_keys(
    actor: Actor,
    signing_digest: str = "",
    *,
    owner: Owner = NO_OWNER,
    recorded_at: float | None = None,
    session: str | None = None,
    session_began_at: float | None = None,
) -> RevocationKeys:
    """The facts about the token that made ``actor``.

    ``signing_digest`` is the SHA-256 (lower-case hex) of its signing input, asked about where it has no ``jti``.
    ``owner`` is where the owner of an own token comes from: what ends the tokens of that origin ends this one too.
    ``recorded_at``: when its record was made, which stands in for a missing ``iat``, and for one of the same second,
    because ``iat`` has whole seconds. ``session``: the credential ends with a session at its issuer, of that ``sid``
    (empty: which one is unknown); None: it does not. ``session_began_at``: when its session here began, by this clock.
    That of the provider may be ahead of it, so the earlier time is compared with cut-offs that were set here; those of
    the provider are compared with ``iat``.
    """
    issuer = actor.issuer
    about = []
    if actor.token_id:
        about.append((Scope.TOKEN, issuer, actor.token_id))
    elif signing_digest:
        about.append((Scope.DIGEST, issuer, signing_digest))
    about += ((Scope.SUBJECT, issuer, actor.subject), (Scope.ISSUER, issuer, ""))
    for spelling in spellings(actor.id, actor.full_id):
        about.append((Scope.ACTOR, "", actor_entry_name(actor.type, spelling)))
    if session is not None:
        if session:
            about.append((Scope.SESSION, issuer, session))
        if actor.subject:
            about.append((Scope.SUBJECT_SESSIONS, issuer, actor.subject))
    if owner.issuer:
        about += ((Scope.SUBJECT, owner.issuer, owner.subject), (Scope.ISSUER, owner.issuer, ""))
    references = tuple(about)
    issued_at = actor.issued_at
    if recorded_at is not None and (issued_at is None or issued_at == floor(recorded_at)):
        issued_at = recorded_at
    if session_began_at is None or issued_at is None:
        return RevocationKeys(references, issued_at)
    return RevocationKeys(references, min(issued_at, session_began_at), issued_by_provider=issued_at)


def spellings(*actor_ids: str) -> tuple[str, ...]:
    """Each spelling under which an entry may name the Actor of ``actor_ids``, empty ones aside.

    Entries are folded, older ones may be in lower case throughout. An Actor whose id is an address is also denied by
    an entry for its local part, and an Actor whose id is a local part by an entry for the address. The configuration
    decides which of the two is the id, and a change of it must not undo an entry.
    """
    every: dict[str, None] = {}
    for one in actor_ids:
        lower = one.lower()
        if lower != one:
            every.update(dict.fromkeys((one, lower, folded(one), local_part(one))))
        elif one:  # most names: folded already
            every[one] = None
            if "@" in one:
                every[local_part(one)] = None
    return tuple(every)


class RevocationList:
    """The entries in force. ``version`` changes, to a number that no list has had, whenever more tokens may match, or
    a token may have to be rejected for another reason.

    ``endless`` counts the entries that never expire.
    """

    def __init__(self) -> None:
        self.version = 0
        self.endless = 0
        self._size = 0
        # a number where one entry with its proper id stands, else entries by id
        self._entries: dict[bytes, _Validity | dict[str, _Validity]] = {}
        # the scopes of all entries that it has had; a scope stays when its last entry goes
        self._scopes: set[Scope] = set()
        self._strange_ids: dict[str, bytes] = {}
        self._shared: dict[float, _Validity] = {}
        self._expiries: ExpiryIndex[bytes] = ExpiryIndex()
        self._archive = CompressedLog()

    def __len__(self) -> int:
        return self._size

    def match(self, facts: RevocationKeys, now: float) -> Scope | None:
        """The scope of an entry that matches the token at ``now`` (seconds since the epoch); None: none matches."""
        entries, scopes = self._entries, self._scopes
        for index, (scope, _, _) in enumerate(facts.references):
            if scope not in scopes:
                continue
            found = entries.get(facts.key(index))
            if found is None:
                continue
            issued_at = facts.issued_by_provider if scope is Scope.SUBJECT_SESSIONS else facts.issued_at
            for span in (found,) if isinstance(found, _Validity) else found.values():
                if issued_at < span.real and now < span.imag:
                    return scope
        return None

    def match_again(self) -> None:
        """Change ``version``, so that every credential is checked again at its next use."""
        self.version = next(_versions)

    def add(self, entry: RevocationEntry) -> bool:
        """Add ``entry``, or replace the one with the same id. False: its times are not numbers."""
        if not _is_time(entry.issued_before) or not _is_time(entry.expires_at):
            return False
        key = entry_key(entry.scope, entry.issuer, entry.name)
        is_proper = entry.id == entry_id(key, entry.issued_before)
        if not is_proper or entry.id in self._strange_ids:
            self.discard(entry.id)  # the same id may have been about something else
        if not is_proper:
            self._strange_ids[entry.id] = key
        self._scopes.add(entry.scope)
        span = self._span(entry)
        if self._replace(key, entry.id, span, is_proper=is_proper):
            self._expiries.put(key, span.imag)
            self.match_again()
        # even if it matches the same tokens: its version is later
        self._archive.add(entry, has_proper_id=is_proper)
        return True

    def discard(self, entry_id_: str) -> bool:
        """Remove the entry with that id. False: there is none."""
        proper = parse_entry_id(entry_id_)
        key = self._strange_ids.pop(entry_id_, None) or (proper[0] if proper else None)
        found = self._entries.get(key) if key else None
        if key is None or found is None:
            return False
        if isinstance(found, _Validity):
            if proper is None or entry_id_ != _id_of(key, found):
                return False
            del self._entries[key]
            self._forget(found)
            return True
        span = found.pop(entry_id_, None)
        if span is not None:
            self._forget(span)
        if not found:
            del self._entries[key]
        return span is not None

    def has(self, entry: RevocationEntry) -> bool:
        """Whether an entry with that id is in force."""
        key = entry_key(entry.scope, entry.issuer, entry.name)
        found = self._entries.get(key)
        if isinstance(found, _Validity):
            return entry.id == _id_of(key, found)
        return found is not None and entry.id in found

    def active(self, now: float) -> Iterator[RevocationEntry]:
        """Every complete entry in force at ``now``. An id may occur twice; the later one counts."""
        for entry in self._archive:
            if (entry.expires_at is None or entry.expires_at > now) and self.has(entry):
                yield entry

    @property
    def is_wasteful(self) -> bool:
        """Whether removed and replaced entries take more memory than those in force: reading again saves it."""
        return len(self._archive) > 2 * self._size + _MAX_WASTE

    def prune(self, now: float, most: int) -> None:
        """Drop entries that expired before ``now``, looking at no more than ``most``."""
        due = self._expiries.pop_due(now, most)
        if due:
            self._archive.prune(now)
        for key in due:
            found = self._entries.get(key)
            if isinstance(found, _Validity):
                if found.imag <= now:
                    self._shared.pop(found.imag, None)
                    self.discard(_id_of(key, found))
            elif found is not None:
                for ended in [name for name, span in found.items() if span.imag <= now]:
                    self.discard(ended)

    def _replace(self, key: bytes, name: str, span: _Validity, *, is_proper: bool) -> bool:
        """Set the times of an entry. False: they are the same already."""
        found = self._entries.get(key)
        if isinstance(found, _Validity):
            held = _id_of(key, found)
            if held != name:
                self._entries[key] = {held: found, name: span}
                found = None
            else:
                self._entries[key] = span
        elif found is None:
            self._entries[key] = span if is_proper else {name: span}
        else:
            entries, found = found, found.get(name)
            entries[name] = span
        if found == span:
            return False
        if found is not None:
            self._forget(found)
        self._size += 1
        self.endless += span.imag == inf
        return True

    def _forget(self, span: _Validity) -> None:
        self._size -= 1
        self.endless -= span.imag == inf

    def _span(self, entry: RevocationEntry) -> _Validity:
        """The times of an entry. Entries for single tokens share the object of their minute of expiry."""
        until = inf if entry.expires_at is None else entry.expires_at
        if entry.issued_before is not None:
            return complex(entry.issued_before, until)
        minute = inf if until == inf else ceil(until / MINUTE) * MINUTE
        return self._shared.setdefault(minute, complex(inf, minute))


def _is_time(value: float | None) -> bool:
    return value is None or isfinite(value)


def _id_of(key: bytes, span: _Validity) -> str:
    return entry_id(key, None if span.real == inf else span.real)
