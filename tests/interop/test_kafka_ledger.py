"""A ledger of numbered records through gates that are killed and join, and a broker that restarts."""

import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop.test_kafka_gate import VERSION, Topics, bearer, configuration, gate, pairs
from tests.support.identity_provider import IdentityProvider
from tests.support.kafka import Sent, prepare

pytestmark = pytest.mark.heavy
RECORDS, KEYS, PARTITIONS = 12_000, 60, 3


def records(first: int, count: int, tokens: list[tuple[str, bytes | None]]) -> list[Sent]:
    """Numbered records; every tenth has no credential. A key has one partition, as with every partitioner."""
    return [
        Sent(
            str(number).encode(),
            f"{number % KEYS}:{number}".encode(),
            [] if number % 10 == 0 else [tokens[number % len(tokens)]],
            number % KEYS % PARTITIONS,
        )
        for number in range(first, first + count)
    ]


def test_every_record_ends_once_in_one_of_the_topics(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """Two gates, two kill -9, a third process that joins, and a killed broker, while records arrive."""
    kafka = prepare(require_tool(f"kafka-{VERSION}"), tmp_path)
    with IdentityProvider() as provider, ExitStack() as stack:
        stack.enter_context(kafka.up())
        topics = Topics("ledger", kafka)
        topics.create(PARTITIONS)
        tokens = [bearer(provider.mint(aud=f"kafka:{topics.inbound}", sub=f"s{n}")) for n in range(20)]
        document = configuration(topics, provider, batch={"records": 200, "delay": "20ms"})
        part = RECORDS // 4
        first = stack.enter_context(gate(tmp_path, document, "--instance", "1", name="first"))
        stack.enter_context(gate(tmp_path, document, "--instance", "2", name="second", ready=False))
        topics.write(*records(0, part, tokens))
        first.process.popen.send_signal(signal.SIGKILL)
        topics.write(*records(part, part, tokens))
        again = stack.enter_context(gate(tmp_path, document, "--instance", "1", name="again", ready=False))
        stack.enter_context(gate(tmp_path, document, "--instance", "3", name="third", ready=False))
        topics.write(*records(2 * part, part, tokens))
        assert kafka.process is not None
        kafka.process.popen.kill()
        kafka.process.popen.wait(10)
        stack.enter_context(kafka.up())
        topics.write(*records(3 * part, part, tokens))
        again.process.popen.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 120
        while True:
            accepted = kafka.read(topics.protected, RECORDS, within=5)
            refused = kafka.read(topics.refused, RECORDS, within=2)
            if len(accepted) + len(refused) >= RECORDS or time.monotonic() > deadline:
                break
        numbers = [int((one.key() or b"").partition(b":")[2]) for one in (*accepted, *refused)]
        assert {number: count for number, count in Counter(numbers).items() if count != 1} == {}
        assert sorted(set(range(RECORDS)) - set(numbers)) == []
        assert sorted(int((one.key() or b"").partition(b":")[2]) for one in refused) == [*range(0, RECORDS, 10)]
        by_key: dict[bytes, list[int]] = {}
        for one in accepted:
            key, _, number = (one.key() or b"").partition(b":")
            by_key.setdefault(key, []).append(int(number))
            assert one.value() == number
        assert [key for key, found in by_key.items() if found != sorted(found)] == []
        assert not any(b"Bearer" in (value or b"") for one in accepted for _, value in pairs(one))
