"""Breadth first through every state of the model."""

from tests.model.protocol import END, FOREVER, MINT, REMOVED, SHORT, Bounds, State, alike, begin, problem, steps

WORDS = (FOREVER, REMOVED)
TOKENS = (MINT, END)
QUICK = {
    "entries, two processes, one write, two faults": Bounds(writes=1, losses=2),
    "entries, two processes, two writes, a lost tail": Bounds(kinds=WORDS, faults=("lose",)),
    "tokens, two processes, two writes, a lost tail": Bounds(kinds=TOKENS, faults=("lose",)),
    "entries, a clock that stands still": Bounds(kinds=WORDS, has_clock=False, flights=0),
}
WHOLE = QUICK | {
    "entries, two processes, two writes, one fault": Bounds(kinds=WORDS),
    "tokens, two processes, two writes, one fault": Bounds(kinds=TOKENS),
    "entries of three kinds, two processes, two writes, one fault": Bounds(kinds=(FOREVER, SHORT, REMOVED)),
    "entries, two processes, two writes, two faults": Bounds(losses=2, kinds=WORDS),
    "entries, two processes, three writes, one fault": Bounds(writes=3, kinds=WORDS, flights=0),
    "entries, three processes, two writes, one fault": Bounds(processes=3, kinds=WORDS, flights=0),
    "entries, three processes, two writes, a lost tail, late answers": Bounds(
        processes=3, kinds=WORDS, faults=("lose",)
    ),
    "tokens, two processes, two writes, two faults": Bounds(losses=2, kinds=TOKENS, flights=0),
    "tokens, two processes, three writes, one fault": Bounds(writes=3, kinds=TOKENS, flights=0),
    "tokens, three processes, two writes, one fault": Bounds(processes=3, kinds=TOKENS, flights=0),
    "tokens, two processes, a clock that stands still": Bounds(kinds=TOKENS, has_clock=False),
}


def search(bounds: Bounds) -> tuple[int, str]:
    """How many states there are, and the shortest way to a wrong one; empty: there is none."""
    start = begin(bounds)
    came: dict[State, tuple[State, str] | None] = {start: None}
    frontier = [start]
    while frontier:
        found: list[State] = []
        for state in frontier:
            for name, step in steps(state, bounds):
                after = alike(step)
                if after in came:
                    continue
                came[after] = (state, name)
                # with fewer writes it is searched on its own
                wrong = "" if after.writes else problem(after, bounds)
                if wrong:
                    return len(came), "\n    ".join([wrong, *_way(came, after)])
                found.append(after)
        frontier = found
    return len(came), ""


def _way(came: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    names: list[str] = []
    before = came[state]
    while before is not None:
        state, name = before
        names.append(name)
        before = came[state]
    return names[::-1]
