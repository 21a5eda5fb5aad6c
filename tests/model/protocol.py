"""The protocol between processes and store as a model of few things, small enough to be searched to the end.

A state is the store, the processes, and answers that are on their way. The values are merged by the functions of
:mod:`sidecar.store.merge`; what a process does with them is what :class:`sidecar.store.replica.mirror.Mirror` does, in
as many steps as others can come between.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

from sidecar.identity.actor import ActorType
from sidecar.store.merge import Word, is_replaced, join_currents, join_records, rank
from sidecar.store.record import Current, TokenKind, TokenRecord, bot_key
from sidecar.store.revocation_entry import Removal, Scope, make_entry

FOREVER, SHORT, REMOVED = "deny for ever", "deny for a while", "remove"
MINT, END = "mint", "end"


class Said(NamedTuple):
    """The last word about the one entry there is. ``kind`` empty: none."""

    version: int = 0
    kind: str = ""


class Token(NamedTuple):
    """A token of the one bot there is."""

    id: str
    version: int
    has_ended: bool


class Value(NamedTuple):
    """All that a store or a copy knows."""

    said: Said = Said()
    tokens: tuple[Token, ...] = ()
    current: tuple[int, str] = (0, "")


class Entry(NamedTuple):
    """One write in the log. ``mark`` tells it from every other, ``value`` is what it says."""

    mark: int
    value: Value


class Store(NamedTuple):
    """``kept``: what the entries that were cut off the log have led to. ``clock`` is that of its server."""

    life: int = 1
    kept: Value = Value()
    cut: int = 0
    base: int = 0
    log: tuple[Entry, ...] = ()
    clock: int = 0

    @property
    def head(self) -> int:
        return self.log[-1].mark if self.log else self.base


class Flight(NamedTuple):
    """An answer on its way to ``process``."""

    process: int
    number: int
    mark: int
    value: Value
    marks: frozenset[int]
    heard: int
    loads: int


class Process(NamedTuple):
    """``position``: life, entries read, mark of the last; None: everything has to be read. ``promised``: by marks."""

    value: Value = Value()
    position: tuple[int, int, int] | None = (1, 0, 0)
    promised: frozenset[tuple[int, Value]] = frozenset()
    floor: int = 0
    loads: int = 0
    reading: tuple[Value, tuple[int, int, int]] | None = None


class Done(NamedTuple):
    """A write: what it says, with which version, when it began, and when it was acknowledged (0: not)."""

    kind: str
    about: str
    began: int
    acknowledged: int = 0
    version: int = 0


class State(NamedTuple):
    """Everything at one moment. ``writes``, ``losses``: how many there may still be."""

    store: Store
    processes: tuple[Process, ...]
    flights: tuple[Flight, ...] = ()
    done: tuple[Done, ...] = ()
    writes: int = 0
    losses: int = 0
    marks: int = 0
    time: int = 0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is searched. ``has_clock``: the store's clock goes on; else versions are only counted."""

    processes: int = 2
    writes: int = 2
    losses: int = 1
    flights: int = 1
    kinds: tuple[str, ...] = (FOREVER, SHORT, REMOVED)
    faults: tuple[str, ...] = ("lose", "wipe", "trim", "reread")
    has_clock: bool = True
    piece: int = 4
    orders: tuple[int, ...] = field(default=(1, -1))


# --- values


@lru_cache(None)
def _word(said: Said) -> Word:
    if said.kind == REMOVED:
        return Removal("d", said.version, 1.0)
    ends = 9.0 if said.kind == SHORT else None
    return replace(make_entry(Scope.TOKEN, "i", "j", 1.0, expires_at=ends), version=said.version)


@lru_cache(None)
def _record(token: Token) -> TokenRecord:
    return TokenRecord(
        token.id, "h", "n", TokenKind.BOT, "bot", ActorType.SERVICE, 1.0,
        revoked_at=2.0 if token.has_ended else None, version=token.version,
    )  # fmt: skip


@lru_cache(None)
def _join_said(one: Said, other: Said) -> Said:
    if not one.kind or not other.kind:
        return max(one, other)
    return one if rank(_word(one)) >= rank(_word(other)) else other


@lru_cache(None)
def _join_tokens(one: Token, other: Token) -> Token:
    joined = join_records(_record(one), _record(other))
    return Token(joined.id, joined.version, joined.revoked_at is not None)


@lru_cache(None)
def merge(one: Value, other: Value) -> Value:
    """Both values as one."""
    tokens = {token.id: token for token in one.tokens}
    for token in other.tokens:
        tokens[token.id] = _join_tokens(tokens[token.id], token) if token.id in tokens else token
    key = bot_key("bot")
    newest = join_currents(Current(key, *one.current), Current(key, *other.current))
    ended = [
        token._replace(has_ended=token.has_ended or is_replaced(_record(token), newest)) for token in tokens.values()
    ]
    return Value(_join_said(one.said, other.said), tuple(sorted(ended)), (newest.version, newest.id))


def learn(known: Value, heard: Value, floor: int) -> Value:
    """What a process makes of what the log says: it has no version of an entry at hand but ``floor``, what it was
    promised. A word that is not later than that is left out.
    """
    merged = merge(known, heard)
    if heard.said.kind and heard.said.version > floor:
        return merged._replace(said=heard.said)
    return merged._replace(said=known.said)


@lru_cache(1 << 16)
def state_of(store: Store) -> Value:
    """What the store holds."""
    value = store.kept
    for entry in store.log:
        value = merge(value, entry.value)
    return value


def version_of(value: Value) -> int:
    """The highest version in it."""
    return max(value.said.version, value.current[0], *(token.version for token in value.tokens), 0)


# --- steps


def begin(bounds: Bounds) -> State:
    """Nothing has been written, and each replica has read that."""
    return State(Store(), (Process(),) * bounds.processes, writes=bounds.writes, losses=bounds.losses)


def steps(state: State, bounds: Bounds) -> Iterator[tuple[str, State]]:
    """Every step that may come next, and what it leads to."""
    for index in range(len(state.processes)):
        if state.writes:
            for kind in bounds.kinds:
                written = write(state, index, kind, bounds)
                if written == state:
                    continue
                yield f"{kind} at {index}", answer(written, len(written.flights) - 1, bounds)
                if len(state.flights) < bounds.flights:
                    yield f"{kind} at {index}, its answer late", written
        process = state.processes[index]
        if process.position is None and process.reading is None:
            yield f"{index} reads the snapshot", read(state, index)
        followed = follow(state, index, bounds)
        if followed != state:
            yield f"{index} follows", followed
        if "reread" in bounds.faults and process.position is not None and state.losses:
            fewer = _put(state, index, process._replace(position=None))._replace(losses=state.losses - 1)
            yield f"{index} has to read everything", fewer
    for number in range(len(state.flights)):
        yield f"answer {number} arrives", answer(state, number, bounds)
    if state.losses:
        yield from _faults(state, bounds)


def _faults(state: State, bounds: Bounds) -> Iterator[tuple[str, State]]:
    store, fewer = state.store, state._replace(losses=state.losses - 1)
    if "lose" in bounds.faults:
        for kept in range(len(store.log)):
            yield f"the store loses {len(store.log) - kept}", fewer._replace(store=store._replace(log=store.log[:kept]))
    if "wipe" in bounds.faults and (store.log or store.kept != Value()):
        fresh = Store(life=store.life + 1, clock=store.clock)
        yield "the store is emptied", fewer._replace(store=fresh)
    if "trim" in bounds.faults and store.log:
        cut = store._replace(kept=state_of(store), cut=store.cut + len(store.log), base=store.head, log=())
        yield "the log is cut", fewer._replace(store=cut)


def write(state: State, index: int, kind: str, bounds: Bounds) -> State:
    """The store does what ``index`` asks; the answer is on its way."""
    store, process = state.store, state.processes[index]
    there = state_of(store)
    clock = store.clock + 1 if bounds.has_clock else 0
    version = max(clock, version_of(there), process.floor) + (not bounds.has_clock or clock <= version_of(there))
    version = max(version, process.floor + 1)
    time = state.time + 1
    token_id = f"t{time}"
    if kind == MINT:
        said = Value(tokens=(Token(token_id, version, False),), current=(version, token_id))
    elif kind == END:
        known = {token.id: token for token in (*there.tokens, *process.value.tokens)}
        if not known:
            return state
        token_id = max(known)
        said = Value(tokens=(known[token_id]._replace(has_ended=True),))
    else:
        said = Value(Said(version, kind))
    mark = state.marks + 1
    changed = merge(there, said) != there
    if changed:
        store = store._replace(log=(*store.log, Entry(mark, said)), clock=max(store.clock + 1, store.clock))
    about = token_id if kind in (MINT, END) else "entry"
    done = Done(kind, about, time, version=said.said.version)
    flight = Flight(
        index, len(state.done), store.head, said, frozenset({process.position[2] if process.position else 0}), -1,
        process.loads,
    )  # fmt: skip
    return state._replace(
        store=store, flights=(*state.flights, flight), done=(*state.done, done), writes=state.writes - 1,
        marks=mark, time=time,
    )  # fmt: skip


def answer(state: State, number: int, bounds: Bounds) -> State:
    """An answer arrives."""
    flight = state.flights[number]
    rest = state.flights[:number] + state.flights[number + 1 :]
    state = state._replace(flights=rest)
    process = state.processes[flight.process]
    value, mark, marks, heard = flight.value, flight.mark, flight.marks, flight.heard
    if flight.loads != process.loads:
        # everything was read meanwhile: the store tells what of it counts
        state, value, mark = put_back(state, value)
        marks = frozenset()
    promised = process.promised if mark in marks else process.promised | {(mark, value)}
    told = value if value.said.version > heard else value._replace(said=Said())
    process = process._replace(
        value=learn(process.value, told, -1), promised=promised, floor=max(process.floor, version_of(value))
    )
    others = tuple(
        other._replace(heard=max(other.heard, value.said.version)) if other.process == flight.process else other
        for other in state.flights
    )
    state = _put(state, flight.process, process)._replace(flights=others, time=state.time + 1)
    done = state.done[flight.number]._replace(acknowledged=state.time)
    return state._replace(done=(*state.done[: flight.number], done, *state.done[flight.number + 1 :]))


def put_back(state: State, value: Value) -> tuple[State, Value, int]:
    """Merge ``value`` into the store. Returns what of it counts there, and the mark of the last entry."""
    store = state.store
    there = state_of(store)
    if merge(there, value) != there:
        state = state._replace(store=store._replace(log=(*store.log, Entry(state.marks + 1, value))))
        state = state._replace(marks=state.marks + 1)
    counts = _join_said(there.said, value.said) == value.said
    return state, value if counts else value._replace(said=Said()), state.store.head


def follow(state: State, index: int, bounds: Bounds) -> State:
    """One piece of the log, or the end of reading everything."""
    process, store = state.processes[index], state.store
    if process.reading is not None:
        return finish_reading(state, index)
    if process.position is None:
        return state
    _, number, mark = process.position
    if not _fits(store, process.position):
        return _put(state, index, process._replace(position=None))
    entries = store.log[number - store.cut :][: bounds.piece]
    passed = {entry.mark for entry in entries}
    due = process.promised
    promised = frozenset(item for item in process.promised if item[0] not in passed)
    value = process.value
    heard = Value()
    for entry in entries:
        heard = merge(heard, entry.value)
    floor = max((item[1].said.version for item in promised if item[1].said.kind), default=-1)
    if entries:
        value = learn(value, heard, floor)
        mark = entries[-1].mark
    flights = tuple(
        flight._replace(marks=flight.marks | passed, heard=max(flight.heard, heard.said.version))
        if flight.process == index
        else flight
        for flight in state.flights
    )
    process = process._replace(
        value=value, promised=promised, position=(store.life, number + len(entries), mark),
        floor=max(process.floor, version_of(heard)),
    )  # fmt: skip
    if number + len(entries) == store.cut + len(store.log) and promised & due:
        process = process._replace(position=None)  # what was promised is not there
    return _put(state, index, process)._replace(flights=flights)


def _fits(store: Store, position: tuple[int, int, int]) -> bool:
    life, number, mark = position
    if life != store.life and (number or mark):
        return False
    if not store.cut <= number <= store.cut + len(store.log):
        return False
    return mark == (store.log[number - store.cut - 1].mark if number > store.cut else store.base)


def read(state: State, index: int) -> State:
    """The pieces of the snapshot."""
    store, process = state.store, state.processes[index]
    stands = (store.life, store.cut + len(store.log), store.head)
    return _put(state, index, process._replace(reading=(state_of(store), stands), promised=frozenset()))


def finish_reading(state: State, index: int) -> State:
    """The log behind the snapshot, then what the old copy knows better, then the new copy in place of the old one."""
    process, store = state.processes[index], state.store
    assert process.reading is not None
    fresh, position = process.reading
    if not _fits(store, position):
        return _put(state, index, process._replace(reading=None))
    for entry in store.log[position[1] - store.cut :]:
        fresh = merge(fresh, entry.value)
    position = (store.life, store.cut + len(store.log), store.head)
    old = process.value
    owed: frozenset[tuple[int, Value]] = frozenset()
    joined = merge(old, fresh)
    if joined != fresh:
        better = old if joined.said != fresh.said else old._replace(said=Said())
        state, _, mark = put_back(state, better)
        owed = frozenset({(mark, better)})
    process = process._replace(
        value=joined, position=position, promised=owed, reading=None, loads=process.loads + 1,
        floor=max(process.floor, version_of(joined)),
    )  # fmt: skip
    state = _put(state, index, process)
    flights = tuple(
        flight._replace(heard=max(flight.heard, fresh.said.version)) if flight.process == index else flight
        for flight in state.flights
    )
    return state._replace(flights=flights)


def _put(state: State, index: int, process: Process) -> State:
    return state._replace(processes=(*state.processes[:index], process, *state.processes[index + 1 :]))


def alike(state: State) -> State:
    """The one of all states that differ only in which process is which that is searched in place of them."""
    order = sorted(
        range(len(state.processes)), key=lambda index: _sortable(state.processes[index], state.flights, index)
    )
    places = {index: place for place, index in enumerate(order)}
    flights = tuple(flight._replace(process=places[flight.process]) for flight in state.flights)
    return state._replace(processes=tuple(state.processes[index] for index in order), flights=flights)


def _sortable(process: Process, flights: tuple[Flight, ...], index: int) -> tuple[object, ...]:
    its = tuple(number for number, flight in enumerate(flights) if flight.process == index)
    return (process.value, process.position or (), sorted(process.promised), process.floor, process.loads, its,
            process.reading or ())  # fmt: skip


# --- what must hold


def converged(state: State, bounds: Bounds, order: int) -> State:
    """No more faults and writes: every answer arrives, and each replica reads until nothing changes."""
    while state.flights:
        state = answer(state, 0, bounds)
    for _ in range(40):
        before = state
        for index in range(len(state.processes))[::order]:
            if state.processes[index].position is None and state.processes[index].reading is None:
                state = read(state, index)
            state = follow(state, index, bounds)
        if state == before:
            return state
    raise AssertionError(f"no end: {state}")


def problem(state: State, bounds: Bounds) -> str:
    """What is wrong with ``state`` once each replica has read everything; empty: nothing."""
    for order in bounds.orders:
        end = converged(state, bounds, order)
        there = state_of(end.store)
        if any(process.value != there for process in end.processes):
            return f"copies differ: {[process.value for process in end.processes]}, stored {there}"
        wrong = _wrong_word(end.done, there, bounds) or _wrong_tokens(end.done, there, bounds)
        if wrong:
            return wrong
    return ""


def latest(done: tuple[Done, ...]) -> list[Done]:
    """Those after whose acknowledgement no other one began that was acknowledged."""
    return [
        one
        for one in done
        if not any(one.acknowledged and other.acknowledged and one.acknowledged < other.began for other in done)
    ]


def _wrong_word(done: tuple[Done, ...], there: Value, bounds: Bounds) -> str:
    words = tuple(one for one in done if one.about == "entry")
    if not words:
        return f"never written: {there.said}" if there.said.kind else ""
    latest_version = max((one.version for one in words if one.acknowledged), default=0)
    if there.said.version < latest_version:
        return f"version {there.said.version} counts, and {latest_version} was acknowledged"
    right = {one.kind for one in (latest(words) if bounds.has_clock else words)}
    return "" if there.said.kind in right else f"{there.said.kind}, right would be one of {right}"


def _wrong_tokens(done: tuple[Done, ...], there: Value, bounds: Bounds) -> str:
    mints = tuple(one for one in done if one.kind == MINT)
    ended = {one.about for one in done if one.kind == END and one.acknowledged}
    maybe = {one.about for one in done if one.kind == END}
    standing = {token.id for token in there.tokens if not token.has_ended}
    if standing & ended:
        return f"{standing & ended} stand and have ended"
    if len(standing) > 1:
        return f"{standing} stand, of one bot"
    last = {one.about for one in (latest(mints) if bounds.has_clock else mints)}
    if not standing <= last:
        return f"{standing} stand, right would be one of {last}"
    if any(one.acknowledged for one in mints) and not standing and not last & maybe:
        return f"none stands, right would be one of {last}"
    return ""
