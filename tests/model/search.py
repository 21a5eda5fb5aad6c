"""Breadth first through every state of the model."""

from tests.model.protocol import END, FOREVER, MINT, REMOVED, SHORT, Bounds, State, begin, problem, steps

WORDS = (FOREVER, SHORT, REMOVED)
QUICK = {
    "denials, two processes, one write, one fault": Bounds(writes=1),
    "denials, two processes, two writes": Bounds(losses=0, kinds=WORDS),
    "denials, two processes, two writes, a lost tail": Bounds(kinds=(FOREVER, REMOVED), faults=("lose",), flights=0),
    "tokens, two processes, two writes, a lost tail": Bounds(kinds=(MINT,), faults=("lose",), flights=0),
}
WHOLE = {
    "denials, two processes, two writes, two faults": Bounds(losses=2, kinds=WORDS, flights=2),
    "denials, two processes, three writes, one fault": Bounds(writes=3, kinds=(FOREVER, REMOVED)),
    "denials, three processes, two writes, one fault": Bounds(processes=3, kinds=(FOREVER, REMOVED)),
    "tokens, two processes, three writes, one fault": Bounds(writes=3, kinds=(MINT, END)),
    "tokens, two processes, two writes, two faults": Bounds(losses=2, kinds=(MINT, END)),
    "tokens, three processes, two writes, one fault": Bounds(processes=3, kinds=(MINT, END)),
    "denials, a clock that stands still": Bounds(losses=2, has_clock=False, kinds=WORDS),
    "tokens, a clock that stands still": Bounds(losses=2, has_clock=False, kinds=(MINT, END)),
}


def search(bounds: Bounds) -> tuple[int, str]:
    """How many states there are, and the shortest way to a wrong one; empty: there is none."""
    start = begin(bounds)
    came: dict[State, tuple[State, str] | None] = {start: None}
    frontier = [start]
    while frontier:
        found: list[State] = []
        for state in frontier:
            for name, after in steps(state, bounds):
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
