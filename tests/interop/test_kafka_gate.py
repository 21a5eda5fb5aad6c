"""A gate between two topics of a real Kafka broker."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Message

from tests.support.http_client import answers
from tests.support.identity_provider import IdentityProvider
from tests.support.kafka import Broker, Sent, broker
from tests.support.ports import free_port
from tests.support.process import Process, running
from tests.support.tools import KAFKA_JARS

pytestmark = pytest.mark.heavy
VERSION = next(iter(KAFKA_JARS))
STAMPS = {"X-Auth-Actor-Urn", "X-Auth-Actor-Type", "X-Auth-Issuer", "X-Auth-Token-Id", "X-Auth-Origin"}


@pytest.fixture(scope="module")
def kafka(require_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with broker(require_tool(f"kafka-{VERSION}"), tmp_path_factory.mktemp("kafka")) as up:
        yield up


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as up:
        yield up


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one test."""

    name: str
    kafka: Broker

    @property
    def inbound(self) -> str:
        return f"{self.name}.in"

    @property
    def protected(self) -> str:
        return f"{self.name}.out"

    @property
    def refused(self) -> str:
        return f"{self.name}.dead"

    def create(self, partitions: int = 3, **settings: str) -> None:
        """All three; ``settings`` are those of the inbound one."""
        self.kafka.create_topic(self.inbound, partitions, **settings)
        self.kafka.create_topic(self.protected, partitions)
        self.kafka.create_topic(self.refused, 1)

    def write(self, *records: Sent) -> None:
        self.kafka.write(self.inbound, records)


@pytest.fixture
def topics(kafka: Broker, request: pytest.FixtureRequest) -> Topics:
    """Names of topics of this test, which are not created yet."""
    return Topics(re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:60], kafka)


@dataclass(frozen=True, slots=True)
class Running:
    """A gate that is up."""

    process: Process
    admin: str
    config: Path

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"{self.admin}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    def ready(self) -> bool:
        return answers(f"{self.admin}/readyz", 200)

    def lines(self, event: str) -> list[dict[str, Any]]:
        found = (json.loads(line) for line in self.process.output.splitlines() if line.startswith("{"))
        return [line for line in found if line.get("event") == event]


def configuration(topics: Topics, provider: IdentityProvider, **gate: Any) -> dict[str, Any]:
    usual = {
        "name": topics.name,
        "from": topics.inbound,
        "to": topics.protected,
        "deadLetter": topics.refused,
        "default": "allow",
        **gate,
    }
    corp = {"name": "corp", "issuer": provider.issuer, "groupsClaim": "groups"}
    return {
        "authenticationConfiguration": {"providers": [corp]},
        "kafka": {"bootstrap": topics.kafka.bootstrap, "gates": [usual]},
    }


@contextmanager
def gate(
    folder: Path, document: Mapping[str, Any], *arguments: str, ready: bool = True, name: str = "gate"
) -> Iterator[Running]:
    """``sidecar kafka gate`` with this configuration; ``ready``: wait until it has its partitions."""
    admin = f"127.0.0.1:{free_port()}"
    full = {"store": {"url": f"sqlite:///{folder}/sidecar.db"}, "server": {"adminListen": admin}, **document}
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(full), encoding="utf-8")
    with running(
        [sys.executable, "-m", "sidecar", "kafka", "gate", "--config", config, *arguments],
        log=folder / f"{name}.log",
        ready=lambda: answers(f"http://{admin}{'/readyz' if ready else '/livez'}", 200),
        within=60.0,
    ) as process:
        yield Running(process, f"http://{admin}", config)


def bearer(token: str, name: str = "authorization") -> tuple[str, bytes | None]:
    return name, b"Bearer " + token.encode()


def pairs(message: Message) -> list[tuple[str, bytes | None]]:
    found: Any = message.headers() or []
    return list(found)


def headers(message: Message) -> dict[str, bytes]:
    found = pairs(message)
    assert len({name for name, _ in found}) == len(found)
    return {name: value for name, value in found if value is not None}


def reasons(messages: Sequence[Message]) -> dict[bytes | None, tuple[str, str]]:
    """Reason and cause by the key of the record."""
    return {one.key(): (headers(one)["reason"].decode(), headers(one)["cause"].decode()) for one in messages}


def test_an_accepted_record_has_its_actor_and_not_its_token(
    topics: Topics, provider: IdentityProvider, tmp_path: Path
) -> None:
    """Key, value, partition, timestamp and other headers are unchanged; what claims an identity is removed."""
    topics.create()
    token = provider.mint(aud=f"kafka:{topics.inbound}")
    forged = [("x-auth-actor-urn", b"urn:li:corpuser:root"), ("X_Auth.Actor-Type", b"x"), ("X-DataHub-Actor", b"r")]
    kept = [("trace", b"1"), ("empty", None), ("x-custom", b"\xff")]
    with gate(tmp_path, configuration(topics, provider, identity="header")) as running_gate:
        record = Sent(b"\x00v", b"k", [*forged, bearer(token), ("Cookie", b"s=1"), *kept], partition=2, timestamp=1234)
        topics.write(record, Sent(None, b"tombstone", [bearer(token, "AUTHORIZATION")], partition=0))
        found = {one.key(): one for one in topics.kafka.read(topics.protected, 2)}
    message = found[b"k"]
    assert (message.value(), message.partition(), message.timestamp()) == (b"\x00v", 2, (1, 1234))
    named = pairs(message)
    assert named[: len(kept)] == kept
    stamped = dict(named[len(kept) :])
    assert set(stamped) == STAMPS
    assert stamped["X-Auth-Actor-Urn"] == b"urn:li:corpuser:alice"
    assert stamped["X-Auth-Issuer"] == provider.issuer.encode()
    assert stamped["X-Auth-Origin"] == f"{topics.inbound}/2/0".encode()
    assert found[b"tombstone"].value() is None
    assert token not in running_gate.process.output


def test_refused_records_are_dead_lettered_without_value_and_token(
    topics: Topics, provider: IdentityProvider, tmp_path: Path
) -> None:
    """Each with its reason and cause; the log names the position, never the content."""
    topics.create()
    aud = f"kafka:{topics.inbound}"
    good = provider.mint(aud=aud)
    with IdentityProvider() as other:
        stranger, forged = other.mint(aud=aud), other.mint(aud=aud, iss=provider.issuer)
    cases: dict[bytes, tuple[list[tuple[str, bytes | None]], tuple[str, str]]] = {
        b"none": ([], ("token_missing", "credentials_absent")),
        b"empty": ([("authorization", None)], ("token_missing", "credentials_absent")),
        b"twice": ([bearer(good), bearer(good, "Authorization")], ("credentials_ambiguous", "credentials_multiple")),
        b"binary": ([("authorization", b"Bearer \xff\x00")], ("token_malformed", "not_a_jwt")),
        b"audience": ([bearer(provider.mint(aud="metadata"))], ("token_invalid", "audience")),
        b"expired": ([bearer(provider.mint(aud=aud, lifetime=-120))], ("token_expired", "expired")),
        b"long": ([bearer(provider.mint(aud=aud, lifetime=7200))], ("token_invalid", "lifetime")),
        b"issuer": ([bearer(stranger)], ("token_invalid", "issuer")),
        b"key": ([bearer(forged)], ("token_invalid", "unknown_kid")),
        b"group": ([bearer(provider.mint(aud=aud, groups=["other"]))], ("forbidden", "rule_groups")),
        b"large": ([bearer(provider.mint(aud=aud, groups=["readers"]))], ("too_large", "record_size")),
    }
    rules = [{"require": {"groups": ["readers"]}}]
    document = configuration(topics, provider, default="refuse", rules=rules, maxRecordBytes=2000)
    with gate(tmp_path, document) as up:
        for key, (sent, _) in cases.items():
            topics.write(Sent(b"PRIVATE" * (400 if key == b"large" else 1), key, sent))
        topics.write(Sent(b"fine", b"good", [bearer(provider.mint(aud=aud, groups=["readers"]))]))
        dead = topics.kafka.read(topics.refused, len(cases))
        assert [one.key() for one in topics.kafka.read(topics.protected, 1)] == [b"good"]
        up.process.wait_until(
            lambda: len(up.lines("kafka_record_refused")) == len(cases), within=10, what="all refusals are logged"
        )
        counted = up.metrics()
    assert reasons(dead) == {key: expected for key, (_, expected) in cases.items()}
    assert {one.value() for one in dead} == {None}
    assert all({"reason", "cause", "requestId", "origin", "at"} <= set(headers(one)) for one in dead)
    ids = {headers(one)["requestId"].decode() for one in dead}
    assert {line["requestId"] for line in up.lines("kafka_record_refused")} == ids
    assert "PRIVATE" not in up.process.output
    assert good not in up.process.output
    name = f'sidecar_kafka_records_total{{gate="{topics.name}",outcome="refused",reason="token_invalid"}}'
    assert counted[name] == 4


def test_a_topic_may_have_one_actor(topics: Topics, provider: IdentityProvider, tmp_path: Path) -> None:
    """``identity: topic``: no credential is needed, and one that is there is removed."""
    topics.create()
    actor = {"type": "SERVICE", "id": "bot-a"}
    with gate(tmp_path, configuration(topics, provider, identity="topic", actor=actor)):
        topics.write(Sent(b"v", b"k", [("authorization", b"Bearer x")]))
        (message,) = topics.kafka.read(topics.protected, 1)
    stamped = headers(message)
    assert stamped["X-Auth-Actor-Urn"] == b"urn:li:corpuser:bot-a"
    assert stamped["X-Auth-Actor-Type"] == b"SERVICE"
    assert set(stamped) <= STAMPS


def test_a_token_is_judged_at_the_time_of_the_broker(
    topics: Topics, provider: IdentityProvider, tmp_path: Path
) -> None:
    """It may expire while its record waits; the time that a client writes does not count."""
    topics.create(1, message_timestamp_type="LogAppendTime")
    claimed = Topics(f"{topics.name}-claimed", topics.kafka)
    claimed.create(1)
    token = provider.mint(aud=["kafka:a", "kafka:b"], lifetime=2.0)
    for one in (topics, claimed):
        one.write(Sent(b"v", b"k", [bearer(token)]))
    time.sleep(4.0)
    brief = {"clockSkew": "0s"}
    for one, audience, output in ((topics, "kafka:a", topics.protected), (claimed, "kafka:b", claimed.refused)):
        document = configuration(one, provider, audience=audience)
        document["authenticationConfiguration"]["providers"][0] |= brief
        with gate(tmp_path, document):
            assert len(topics.kafka.read(output, 1)) == 1, output
    # a record that waited for longer than maxLag is judged now
    late = Topics(f"{topics.name}-late", topics.kafka)
    late.create(1, message_timestamp_type="LogAppendTime")
    late.write(Sent(b"v", b"k", [bearer(provider.mint(aud="kafka:c", lifetime=1.0))]))
    time.sleep(2.5)
    document = configuration(late, provider, audience="kafka:c", maxLag="1s")
    document["authenticationConfiguration"]["providers"][0] |= brief
    with gate(tmp_path, document):
        assert reasons(topics.kafka.read(late.refused, 1)) == {b"k": ("token_expired", "expired")}


def test_keys_that_cannot_be_fetched_stop_partitions_and_refuse_nothing(
    topics: Topics, provider: IdentityProvider, tmp_path: Path
) -> None:
    """Records wait, also those behind them of callers that could be checked; then all go on in order."""
    topics.create(1)
    with IdentityProvider() as dark:
        dark.published = False
        document = configuration(topics, provider, audience="kafka:x")
        document["authenticationConfiguration"]["providers"].append({"name": "dark", "issuer": dark.issuer})
        with gate(tmp_path, document) as up:
            good, waiting = provider.mint(aud="kafka:x"), dark.mint(aud="kafka:x")
            order = [b"1", b"2", b"3", b"4"]
            tokens = [good, waiting, good, waiting]
            topics.write(*(Sent(b"v", key, [bearer(one)]) for key, one in zip(order, tokens, strict=True)))
            up.process.wait_until(lambda: bool(up.lines("kafka_partition_stopped")), within=30, what="stopped")
            assert up.lines("kafka_partition_stopped")[0]["offset"] == 1
            assert [one.key() for one in topics.kafka.read(topics.protected, 2, within=3)] == [b"1"]
            up.process.wait_until(
                lambda: up.metrics().get(_stopped(topics, "keys_unavailable")) == 1, within=10, what="the metric moved"
            )
            topics.write(Sent(b"v", b"5", [bearer(good)]))
            dark.published = True
            assert [one.key() for one in topics.kafka.read(topics.protected, 5)] == [*order, b"5"]
            assert topics.kafka.read(topics.refused, 1, within=1) == []
            up.process.wait_until(
                lambda: up.metrics().get(_stopped(topics, "keys_unavailable")) == 0, within=10, what="the metric fell"
            )


def _stopped(topics: Topics, cause: str) -> str:
    return f'sidecar_kafka_paused{{cause="{cause}",gate="{topics.name}"}}'


def test_a_refused_record_may_stop_its_partition(topics: Topics, provider: IdentityProvider, tmp_path: Path) -> None:
    """``onRefuse: stop``: nothing behind it passes, and nothing is dead-lettered."""
    topics.create(2)
    aud = f"kafka:{topics.inbound}"
    good = [bearer(provider.mint(aud=aud))]
    topics.write(
        Sent(b"v", b"a", good, 0), Sent(b"v", b"bad", [], 0), Sent(b"v", b"b", good, 0), Sent(b"v", b"c", good, 1)
    )
    with gate(tmp_path, configuration(topics, provider, onRefuse="stop")):
        found = {one.key() for one in topics.kafka.read(topics.protected, 3, within=6)}
        assert found == {b"a", b"c"}
        assert topics.kafka.read(topics.refused, 1, within=1) == []


def test_a_record_too_large_for_the_protected_topic_does_not_stop_the_others(
    topics: Topics, provider: IdentityProvider, tmp_path: Path
) -> None:
    """The limit of the topic is only known from the broker's answer, which names no record."""
    topics.create(1)
    topics.kafka.configure_topic(topics.protected, "max.message.bytes", "4000")
    token = bearer(provider.mint(aud=f"kafka:{topics.inbound}"))
    topics.write(Sent(b"1", b"1", [token]), Sent(os.urandom(3900), b"2", [token]), Sent(b"3", b"3", [token]))
    with gate(tmp_path, configuration(topics, provider)):
        assert [one.key() for one in topics.kafka.read(topics.protected, 2)] == [b"1", b"3"]
        assert reasons(topics.kafka.read(topics.refused, 1)) == {b"2": ("too_large", "record_size")}


def test_a_batch_that_cannot_be_decompressed(topics: Topics, provider: IdentityProvider, tmp_path: Path) -> None:
    """It stops its partition, or is passed over and counted; other partitions go on, and memory stays bounded."""
    topics.create(2, max_message_bytes="2000000")
    token = bearer(provider.mint(aud=f"kafka:{topics.inbound}"))
    topics.write(Sent(b"v", b"before", [token], 0))
    bomb = Sent(bytes(200_000_000), b"bomb", [token], 0)
    limits: dict[str, object] = {"message.max.bytes": 300_000_000, "compression.type": "zstd"}
    topics.kafka.write(topics.inbound, [bomb], **limits)
    topics.write(Sent(b"v", b"behind", [token], 0), Sent(b"v", b"other", [token], 1))
    with gate(tmp_path, configuration(topics, provider, onUnreadable="pause")) as up:
        assert {one.key() for one in topics.kafka.read(topics.protected, 3, within=8)} == {b"before", b"other"}
        up.process.wait_until(
            lambda: up.metrics().get(_stopped(topics, "unreadable")) == 1, within=10, what="the metric moved"
        )
        assert up.lines("kafka_partition_stopped")[0]["offset"] == 1
    with gate(tmp_path, configuration(topics, provider, onUnreadable="skip")) as up:
        assert {one.key() for one in topics.kafka.read(topics.protected, 3)} == {b"before", b"behind", b"other"}
        assert [line["origin"] for line in up.lines("kafka_record_skipped")] == [f"{topics.inbound}/0/1"]
        assert up.metrics()[f'sidecar_kafka_unreadable_total{{gate="{topics.name}"}}'] == 1
        assert up.metrics()["process_resident_memory_bytes"] < 300e6


def test_topics_that_do_not_fit_are_an_error_at_the_start(
    topics: Topics, provider: IdentityProvider, tmp_path: Path
) -> None:
    """Missing topics, and unequal numbers of partitions, with both values."""
    topics.kafka.create_topic(topics.inbound, 3)
    config = tmp_path / "gate.yaml"
    admin = {"server": {"adminListen": f"127.0.0.1:{free_port()}"}, "store": {"url": f"sqlite:///{tmp_path}/s.db"}}
    config.write_text(yaml.safe_dump({**configuration(topics, provider), **admin}), encoding="utf-8")
    command = [sys.executable, "-m", "sidecar", "kafka", "gate", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"the topic {topics.protected} does not exist" in done.stderr
    topics.kafka.create_topic(topics.protected, 2)
    topics.kafka.create_topic(topics.refused, 1)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"{topics.protected} has 2 partitions and {topics.inbound} has 3" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_processes_with_one_transactional_id(topics: Topics, provider: IdentityProvider, tmp_path: Path) -> None:
    """The older one is fenced and exits with 1; no record is written twice."""
    topics.create(1)
    token = bearer(provider.mint(aud=f"kafka:{topics.inbound}"))
    document = configuration(topics, provider)
    with gate(tmp_path, document, name="old") as old:
        topics.write(Sent(b"v", b"1", [token]))
        assert len(topics.kafka.read(topics.protected, 1)) == 1
        old.process.popen.send_signal(signal.SIGSTOP)
        with gate(tmp_path, document, name="new", ready=False) as new:
            new.process.wait_until(new.ready, within=60, what="it has the partition of the stopped one")
            topics.write(Sent(b"v", b"2", [token]))
            assert len(topics.kafka.read(topics.protected, 2)) == 2
            old.process.popen.send_signal(signal.SIGCONT)
            # the older one may write only if it gets the partition again
            new.process.stop()
            topics.write(Sent(b"v", b"3", [token]))
            assert old.process.popen.wait(60) == 1
        assert "give each process of a host its own --instance" in old.process.output
        assert len(topics.kafka.read(topics.protected, 3, within=3)) == 2


def test_waiting_records_are_refused_once_their_token_is_revoked(
    topics: Topics, provider: IdentityProvider, tmp_path: Path
) -> None:
    """A revocation counts for every record that is read after it, whenever it was written."""
    topics.create(3)
    document = configuration(topics, provider)
    token = provider.mint(aud=f"kafka:{topics.inbound}", jti="stolen")
    topics.write(Sent(b"v", b"accepted", [bearer(token)]))
    with gate(tmp_path, document) as up:
        assert len(topics.kafka.read(topics.protected, 1)) == 1
    topics.write(*(Sent(b"v", str(number).encode(), [bearer(token)]) for number in range(10_000)))
    revoke(up.config, provider.issuer, "stolen")
    with gate(tmp_path, document):
        refused = topics.kafka.read(topics.refused, 10_000, within=90)
    assert len(refused) == 10_000
    assert set(reasons(refused).values()) == {("token_revoked", "denied")}
    assert len(topics.kafka.read(topics.protected, 2, within=2)) == 1


def test_a_revoked_token_is_refused_after_it_has_expired(
    topics: Topics, provider: IdentityProvider, tmp_path: Path
) -> None:
    """Its record waited, and the token was valid when the record was appended; the entry ends with the token."""
    topics.create(1, message_timestamp_type="LogAppendTime")
    document = configuration(topics, provider)
    document["authenticationConfiguration"]["providers"][0]["clockSkew"] = "0s"
    with gate(tmp_path, document) as up:
        pass
    stolen, good = (provider.mint(aud=f"kafka:{topics.inbound}", jti=jti, lifetime=8.0) for jti in ("stolen", "good"))
    command = [sys.executable, "-m", "sidecar", "revocations", "add", "--config", str(up.config), "--token", "-"]
    subprocess.run(command, input=stolen.encode(), check=True, capture_output=True, timeout=60)
    topics.write(Sent(b"v", b"stolen", [bearer(stolen)]), Sent(b"v", b"good", [bearer(good)]))
    time.sleep(9.0)
    with gate(tmp_path, document):
        assert reasons(topics.kafka.read(topics.refused, 1)) == {b"stolen": ("token_revoked", "denied")}
        assert [message.key() for message in topics.kafka.read(topics.protected, 1)] == [b"good"]


def test_a_running_gate_applies_a_revocation(topics: Topics, provider: IdentityProvider, tmp_path: Path) -> None:
    """Within moments: the same token was accepted before."""
    topics.create(1)
    token = provider.mint(aud=f"kafka:{topics.inbound}", jti="running")
    with gate(tmp_path, configuration(topics, provider)) as up:
        topics.write(Sent(b"v", b"before", [bearer(token)]))
        assert len(topics.kafka.read(topics.protected, 1)) == 1
        revoke(up.config, provider.issuer, "running")
        time.sleep(1.0)
        topics.write(Sent(b"v", b"after", [bearer(token)]))
        assert reasons(topics.kafka.read(topics.refused, 1)) == {b"after": ("token_revoked", "denied")}


def revoke(config: Path, issuer: str, token_id: str) -> None:
    """As an operator does, with the store of the gate."""
    command = [sys.executable, "-m", "sidecar", "revocations", "add", "--config", str(config)]
    subprocess.run([*command, "--issuer", issuer, "--jti", token_id], check=True, capture_output=True, timeout=60)
