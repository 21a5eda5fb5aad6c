"""Throughput of a Kafka gate, compared with a plain transactional copier with the same batches, on one broker.

``python -m bench.kafka [JARS]``: JARS is the folder of a broker's jars, as ``make tools`` brings it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml

from tests.support.http_client import answers
from tests.support.identity_provider import IdentityProvider
from tests.support.kafka import Broker, Sent, broker
from tests.support.ports import free_port
from tests.support.process import running
from tests.support.tools import KAFKA_JARS, TOOLS

RECORDS, BATCH, TOKENS = 60_000, 500, 20
_COPIER = """\
import sys, time
from confluent_kafka import Consumer, Producer, TopicPartition
bootstrap, source, target, wanted, size = sys.argv[1:6]
wanted, size = int(wanted), int(size)
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": target, "auto.offset.reset": "earliest",
    "enable.auto.commit": False, "isolation.level": "read_committed", "log_level": 0})
producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": target, "log_level": 0})
producer.init_transactions(30)
consumer.subscribe([source])
done, began = 0, 0.0
while done < wanted:
    messages = consumer.consume(size, 0.1)
    if not messages:
        continue
    began = began or time.monotonic()
    producer.begin_transaction()
    ends = {}
    for one in messages:
        producer.produce(target, one.value(), one.key(), partition=one.partition(), headers=one.headers(),
            timestamp=one.timestamp()[1])
        ends[one.partition()] = one.offset() + 1
    offsets = [TopicPartition(source, partition, offset) for partition, offset in ends.items()]
    producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 30)
    producer.commit_transaction(30)
    done += len(messages)
print(done / (time.monotonic() - began))
"""


def copied(kafka: Broker, source: str, target: str) -> float:
    """Records per second of the copier."""
    arguments = [kafka.bootstrap, source, target, str(RECORDS), str(BATCH)]
    done = subprocess.run([sys.executable, "-c", _COPIER, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout)


def gated(kafka: Broker, folder: Path, provider: IdentityProvider, source: str, target: str) -> tuple[float, float]:
    """Records per second of a gate, and its memory in bytes."""
    admin = f"127.0.0.1:{free_port()}"
    gate = {
        "name": "bench",
        "from": source,
        "to": target,
        "deadLetter": "dead",
        "audience": "kafka",
        "default": "allow",
    }
    document = {
        "store": {"url": f"sqlite:///{folder}/bench.db"},
        "server": {"adminListen": admin},
        "authenticationConfiguration": {"providers": [{"name": "corp", "issuer": provider.issuer}]},
        "kafka": {"bootstrap": kafka.bootstrap, "gates": [{**gate, "batch": {"records": BATCH}}]},
    }
    config = folder / "bench.yaml"
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    command = [sys.executable, "-m", "sidecar", "kafka", "gate", "--config", config]
    with running(command, log=folder / "gate.log", ready=lambda: answers(f"http://{admin}/livez", 200)):
        began, first = 0.0, 0.0
        while True:
            accepted, memory = _read(f"http://{admin}/metrics")
            now = time.monotonic()
            if accepted and not began:
                began, first = now, accepted
            if accepted >= RECORDS:
                return (accepted - first) / (now - began), memory
            time.sleep(0.02)


def _read(url: str) -> tuple[float, float]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")
    accepted = lines.get('sidecar_kafka_records_total{gate="bench",outcome="accepted",reason="none"}', "0")
    return float(accepted), float(lines["process_resident_memory_bytes"])


def main() -> None:
    """Fill a topic, copy it, gate it, and print both rates."""
    jars = Path(sys.argv[1]) if len(sys.argv) > 1 else TOOLS / f"kafka-{next(iter(KAFKA_JARS))}"
    with tempfile.TemporaryDirectory() as name, IdentityProvider() as provider, broker(jars, Path(name)) as kafka:
        for topic in ("in", "copy", "out", "dead"):
            kafka.create_topic(topic, 3)
        tokens = [provider.mint(aud="kafka", sub=f"s{number}").encode() for number in range(TOKENS)]
        value = os.urandom(1000)
        kafka.write(
            "in",
            [Sent(value, b"k", [("authorization", b"Bearer " + tokens[n % TOKENS])], n % 3) for n in range(RECORDS)],
        )
        plain = copied(kafka, "in", "copy")
        rate, memory = gated(kafka, Path(name), provider, "in", "out")
        found = {"records": RECORDS, "batch": BATCH, "copier per s": round(plain), "gate per s": round(rate)}
        print(json.dumps({**found, "ratio": round(rate / plain, 2), "gate MB": round(memory / 1e6)}))


if __name__ == "__main__":
    main()
