"""Whatever bytes come: a value or one of the promised refusals, never another exception, never for ever.

``FUZZ=20000 pytest tests/fuzz`` tries so many of each kind, other ones every time. What fails belongs into the corpus.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutation import near, near_json
from tests.fuzz.targets import TARGETS
from tests.support.tools import UNDER_CI

CORPUS = Path(__file__).parent / "corpus"
LONGEST = 20  # seconds for one input, on the busiest machine
DIGGING = int(os.environ.get("FUZZ", "0"))
EXAMPLES = DIGGING or (500 if UNDER_CI else 60)
BOUNDED = settings(
    max_examples=EXAMPLES,
    derandomize=not DIGGING,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def corpus(name: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]


@contextmanager
def bounded() -> Iterator[None]:
    """An input that is read for too long fails."""

    def late(*_: object) -> None:
        raise AssertionError(f"still reading after {LONGEST} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def feed(name: str, raw: bytes) -> None:
    target = TARGETS[name]
    with bounded(), suppress(*target.raises):
        target.call(raw)


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*/*")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_corpus(file: Path) -> None:
    feed(file.parent.name, file.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_near_the_corpus(name: str) -> None:
    @BOUNDED
    @given(st.one_of(near(corpus(name)), st.binary(max_size=100)))
    def try_one(raw: bytes) -> None:
        feed(name, raw)

    try_one()


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.is_json])
def test_documents_near_the_corpus(name: str) -> None:
    documents = [raw for raw in corpus(name) if raw[:1] in (b"{", b"[")]

    @BOUNDED
    @given(near_json(documents))
    def try_one(raw: bytes) -> None:
        feed(name, raw)

    try_one()
