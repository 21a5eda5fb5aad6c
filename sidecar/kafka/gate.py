"""The loop of one gate: read a batch, decide, write it in one transaction. Runs in a thread of its own."""

import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from sidecar.config.settings import KafkaGateSettings, KafkaSettings
from sidecar.errors import Cause, Failed, Misconfigured, Problem, Reason, Refused, SidecarError
from sidecar.identity.actor import Actor
from sidecar.identity.request import NO_CREDENTIAL
from sidecar.kafka.client import CALL_TIMEOUT, consumer_properties, producer_properties
from sidecar.kafka.judge import RecordVerdict
from sidecar.kafka.records import (
    Header,
    HeaderReader,
    Record,
    RecordOrigin,
    actor_headers,
    dead_letter_headers,
    headers_unreadable,
    origin_header,
    size_of,
    too_large,
)
from sidecar.logs import AUDIT
from sidecar.metrics import Metrics
from sidecar.store.timestamps import format_rfc3339

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

    Delivered = Callable[[KafkaError | None, Message], None]

_log = logging.getLogger("sidecar.kafka")
_audit = logging.getLogger(AUDIT)
_IDLE_POLL = 0.2
_RETRY = (0.5, 15.0)
_MEASURE_INTERVAL = 1.0
_MAX_DEAD_LETTER_KEY = 64 * 1024
_NO_MEMBERSHIP = b"\xff\xff\xff\xff"
_GENERATION = slice(7, 11)
"""Of the serialized membership: after its magic bytes, the generation of the group; -1: not a member."""

# names of errors; those with an underscore are librdkafka's own
_UNREADABLE = frozenset({"_BAD_COMPRESSION", "_BAD_MSG"})
_TRANSIENT = frozenset({"_PARTITION_EOF", "_TRANSPORT", "_ALL_BROKERS_DOWN"})
_FENCED = frozenset({"_FENCED", "PRODUCER_FENCED"})

Decide = Callable[[Sequence[Record]], Sequence[RecordVerdict]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that was written to the dead-letter topic, for the log."""

    gate: str
    origin: str
    failure: Failed
    request_id: str
    actor: str = ""


class GateFencedError(SidecarError):
    """Another process uses the same transactional id. This one must not go on."""


class _BrokenError(Exception):
    """The cluster does not do what the gate needs now. ``cause`` is a word for logs and metrics."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class _TooLargeError(Exception):
    """The broker rejected a record of the transaction because of its size. The transaction is aborted."""


@dataclass(slots=True)
class _Stopped:
    """Records of a partition that wait: for a decision, or for an operator (``retry_at`` infinite)."""

    cause: str
    records: list[Record]
    retry_at: float
    delay: float = _RETRY[0]


@dataclass(slots=True)
class _Outgoing:
    """A decided record; ``headers``: those with which an accepted one is written."""

    record: Record
    verdict: RecordVerdict
    headers: list[Header]
    request_id: str = ""


class KafkaGate:
    """One gate of the configuration. :meth:`run` blocks until :meth:`stop` is called from another thread."""

    def __init__(
        self,
        settings: KafkaSettings,
        gate: KafkaGateSettings,
        *,
        instance: str,
        decide: Decide,
        is_stripped: Callable[[str], bool],
        report: Callable[[Sequence[Refusal]], None],
        metrics: Metrics,
    ) -> None:
        """``instance`` is unique among the processes that run this gate. ``decide`` may block; it never raises.

        ``report`` is called with what was refused, after the transaction. Both are called in the thread of the gate.
        """
        self.name = gate.name
        self.problem = "not connected yet"
        """Why the gate does not work now, in words; empty: it does. Read by other threads."""
        self.is_connected = False
        self._settings = settings
        self._gate = gate
        self._instance = instance
        self._decide = decide
        self._report = report
        self._metrics = metrics
        self._headers = HeaderReader(gate.header if gate.identity == "header" else "", is_stripped)
        self._stopping = threading.Event()
        self._stopped: dict[int, _Stopped] = {}
        self._positions: dict[int, int] = {}
        """Committed position of each partition."""
        self._next: dict[int, int] = {}
        """Position of the next record to read."""
        self._newest: dict[int, int] = {}
        self._assigned: list[int] = []
        self._membership = b""
        self._epoch = 0
        self._measured_at = 0.0
        self._measured: set[int] = set()
        self._causes: set[str] = set()
        self._has_run = False
        self._durations = metrics.kafka_transaction_duration.labels(gate.name)

    @property
    def stopped_partitions(self) -> Mapping[str, int]:
        """Number of stopped partitions by cause."""
        found: dict[str, int] = {}
        for one in list(self._stopped.values()):
            found[one.cause] = found.get(one.cause, 0) + 1
        return found

    def stop(self) -> None:
        """Make :meth:`run` return after the current batch. Thread-safe."""
        self._stopping.set()

    def run(self) -> None:
        """Run until :meth:`stop`. Raises GateFencedError, and Misconfigured for topics that do not fit at the start."""
        _audit.info("gate started", extra={"event": "kafka_gate_started", "gate": self.name, "from": self._gate.from_})
        delay = _RETRY[0]
        try:
            while not self._stopping.is_set():
                try:
                    self._run_connected()
                except _BrokenError as broken:
                    # a connection that worked for a while begins with the shortest delay again
                    delay = _RETRY[0] if self.is_connected else min(delay * 2, _RETRY[1])
                    self._note_broken(broken.cause)
                self._stopping.wait(0 if self._stopping.is_set() else delay)
        finally:
            self._measure_nothing()
            _audit.info("gate stopped", extra={"event": "kafka_gate_stopped", "gate": self.name})

    def _note_broken(self, cause: str) -> None:
        if self.problem != cause:
            _log.warning(
                "gate is stopped; retrying", extra={"event": "kafka_gate_broken", "gate": self.name, "cause": cause}
            )
        self.problem = cause
        self.is_connected = False
        self._measure_nothing()
        self._set_stopped_metric({cause: 1})

    def _run_connected(self) -> None:
        """Open the clients and loop. Raises _BrokenError for every failure of the cluster."""
        from confluent_kafka import Consumer, KafkaException, Producer

        self._stopped.clear()
        self._positions.clear()
        self._assigned = []
        with ExitStack() as stack:
            try:
                consumer = Consumer(consumer_properties(self._settings, self._gate))
                stack.callback(_close, consumer)
                self._producer = Producer(producer_properties(self._settings, self._gate, self._instance))
                stack.callback(lambda: _close(self._producer))
            except (KafkaException, ValueError, TypeError) as error:
                raise Misconfigured([Problem("kafka.client", property_problem(error))]) from None
            try:
                self._check_topics(consumer)
                # also ends a transaction that an earlier process with this id left open
                self._producer.init_transactions(CALL_TIMEOUT)
                consumer.subscribe([self._gate.from_], on_assign=self._on_assign, on_revoke=self._on_revoke)
                self._loop(consumer)
            except KafkaException as error:
                raise self._broken(error) from None

    def _loop(self, consumer: "Consumer") -> None:
        while not self._stopping.is_set():
            self._process(consumer, self._collect(consumer))
            for partition in self._due():
                held = self._stopped[partition].records
                self._process(consumer, held, retried=partition)
            self._measure(consumer)

    # Positions and membership

    def _on_assign(self, consumer: "Consumer", partitions: "list[TopicPartition]") -> None:
        """Begin at the committed positions, at the first record if there is none. Raises KafkaException."""
        self._forget()
        positions = consumer.committed(partitions, timeout=2 * CALL_TIMEOUT) if partitions else []
        for one in positions:
            if one.error is not None:
                raise _BrokenError(_word(one.error))
            if one.offset < 0:
                one.offset, _ = consumer.get_watermark_offsets(one, timeout=CALL_TIMEOUT)
        consumer.assign(positions)
        self._membership = bytes(consumer.consumer_group_metadata())
        if self._membership[_GENERATION] == _NO_MEMBERSHIP:
            raise _BrokenError("group_membership")
        self._assigned = sorted(one.partition for one in positions)
        self._positions = {one.partition: one.offset for one in positions}
        self._next = dict(self._positions)
        self._check_topics(consumer)  # partitions may have been added
        self.is_connected = self._has_run = True
        self.problem = ""
        _log.info(
            "partitions assigned",
            extra={"event": "kafka_partitions_assigned", "gate": self.name, "partitions": self._assigned},
        )

    def _on_revoke(self, consumer: "Consumer", partitions: "list[TopicPartition]") -> None:
        self._forget()
        consumer.unassign()

    def _forget(self) -> None:
        """Drop all records in memory: they belong to an assignment that has ended."""
        self._epoch += 1
        self._assigned = []
        self._stopped.clear()
        self._positions.clear()
        self._next.clear()
        self._membership = b""

    def _check_topics(self, consumer: "Consumer") -> None:
        """Raise Misconfigured at the start, _BrokenError later, if the topics cannot be used together."""
        gate = self._gate
        found = consumer.list_topics(timeout=CALL_TIMEOUT).topics
        problem = topics_problem(gate, {name: len(topic.partitions) for name, topic in found.items()})
        if problem is None:
            return
        if self._has_run:
            raise _BrokenError("topics")
        raise Misconfigured([Problem(f"kafka.gates.{gate.name}.{problem[0]}", problem[1])])

    # Reading

    def _collect(self, consumer: "Consumer") -> list[Record]:
        """The next records, at most a batch. Empty if none arrived for a moment."""
        batch, size, epoch = self._gate.batch, 0, self._epoch
        records: list[Record] = []
        ends = 0.0
        while len(records) < batch.records and size < batch.bytes and not self._stopping.is_set():
            left = ends - monotonic() if records else _IDLE_POLL
            if left <= 0:
                break
            message = consumer.poll(left)
            if self._epoch != epoch:  # the partitions changed during this call; what was read before is not ours
                records.clear()
                size, epoch = 0, self._epoch
            if message is None:
                break
            error = message.error()
            if error is not None:
                self._on_error(consumer, message, error)
                continue
            if not records:
                ends = monotonic() + batch.delay
            record = self._read(message)
            self._next[record.origin.partition] = record.origin.offset + 1
            size += size_of(record, record.headers)
            waiting = self._stopped.get(record.origin.partition)
            if waiting is not None:  # read before the partition was stopped
                waiting.records.append(record)
            else:
                records.append(record)
        return records

    def _read(self, message: "Message") -> Record:
        kind, timestamp = message.timestamp()
        origin = RecordOrigin(self._gate.from_, message.partition() or 0, message.offset() or 0)
        credential, kept, unreadable = NO_CREDENTIAL, list[Header](), None
        try:
            headers: Any = message.headers() or []
            credential, kept = self._headers.split(headers)
        except (UnicodeError, SystemError):
            unreadable = headers_unreadable()
        return Record(origin, message.key(), message.value(), timestamp, kind == 2, kept, credential, unreadable)

    def _on_error(self, consumer: "Consumer", message: "Message", error: "KafkaError") -> None:
        """Handle what was read instead of a record. Raises _BrokenError if the gate cannot go on."""
        from confluent_kafka import TopicPartition

        partition = message.partition()
        if error.name() == "_AUTO_OFFSET_RESET" and partition is not None:
            self._halt(consumer, partition, "offset_out_of_range", [])
        elif error.name() in _UNREADABLE and partition is not None:
            if self._gate.on_unreadable == "pause":
                self._halt(consumer, partition, "unreadable", [])
                return
            # librdkafka does not say how long the batch is: the broker sends it again for each position inside it
            skipped = self._next[partition]
            self._next[partition] = skipped + 1
            self._metrics.kafka_unreadable.labels(self.name).inc()
            _audit.warning(
                "record skipped: its batch cannot be read",
                extra={
                    "event": "kafka_record_skipped",
                    "gate": self.name,
                    "origin": str(RecordOrigin(self._gate.from_, partition, skipped)),
                },
            )
            consumer.seek(TopicPartition(self._gate.from_, partition, skipped + 1))
        elif error.name() not in _TRANSIENT:
            raise _BrokenError(_word(error))

    # Stopped partitions

    def _halt(
        self, consumer: "Consumer", partition: int, cause: str, records: list[Record], delay: float | None = None
    ) -> None:
        """Stop a partition before ``records``; with ``delay``, try again after so many seconds."""
        from confluent_kafka import TopicPartition

        if partition not in self._stopped:
            consumer.pause([TopicPartition(self._gate.from_, partition)])
            _log.warning(
                "partition is stopped",
                extra={
                    "event": "kafka_partition_stopped",
                    "gate": self.name,
                    "cause": cause,
                    "partition": partition,
                    "offset": records[0].origin.offset if records else self._next.get(partition),
                },
            )
        retry_at = float("inf") if delay is None else monotonic() + delay
        self._stopped[partition] = _Stopped(cause, records, retry_at, delay or 0.0)

    def _due(self) -> list[int]:
        now = monotonic()
        return [partition for partition, one in self._stopped.items() if one.retry_at <= now]

    def _process(self, consumer: "Consumer", records: list[Record], retried: int | None = None) -> None:
        """Decide on ``records`` and write those that are decided. The rest waits, with its partition stopped."""
        from confluent_kafka import TopicPartition

        if not records and retried is None:
            return
        verdicts = self._decide(records) if records else ()
        decided: list[_Outgoing] = []
        stamps: dict[int, list[Header]] = {}  # records of one caller have one Actor object
        waiting: dict[int, list[Record]] = {}
        causes: dict[int, str] = {}
        for record, verdict in zip(records, verdicts, strict=True):
            partition = record.origin.partition
            one = self._outgoing(record, verdict, stamps)
            failure = one.verdict.failure
            if partition in waiting:
                waiting[partition].append(record)
            elif failure is not None and (not isinstance(failure, Refused) or self._gate.on_refuse == "stop"):
                waiting[partition] = [record]
                causes[partition] = "refused" if isinstance(failure, Refused) else failure.cause.value
            else:
                decided.append(one)
        for chunk in self._chunks(decided):
            self._write_isolating(chunk)
        for partition, left in waiting.items():
            before = self._stopped.get(partition)
            delay = _RETRY[0] if before is None or decided else min(before.delay * 2, _RETRY[1])
            self._halt(consumer, partition, causes[partition], left, delay)
        if retried is not None and retried not in waiting:
            del self._stopped[retried]
            consumer.resume([TopicPartition(self._gate.from_, retried)])
            _log.info(
                "partition continues",
                extra={"event": "kafka_partition_continues", "gate": self.name, "partition": retried},
            )

    def _outgoing(self, record: Record, verdict: RecordVerdict, stamps: dict[int, list[Header]]) -> _Outgoing:
        actor = verdict.actor
        if verdict.failure is not None or actor is None:
            return _Outgoing(record, verdict, [])
        stamp = stamps.get(id(actor))
        if stamp is None:
            stamp = stamps[id(actor)] = actor_headers(actor)
        headers = [*record.headers, *stamp, origin_header(record.origin)]
        size, limit = size_of(record, headers), self._gate.max_record_bytes
        return _Outgoing(record, verdict if size <= limit else RecordVerdict(actor, too_large(size, limit)), headers)

    def _chunks(self, decided: Sequence[_Outgoing]) -> Iterator[list[_Outgoing]]:
        """``decided`` in parts of at most ``batch.bytes`` and ``batch.records``."""
        batch, chunk, size = self._gate.batch, list[_Outgoing](), 0
        for one in decided:
            length = size_of(one.record, one.record.headers)
            if chunk and (size + length > batch.bytes or len(chunk) >= batch.records):
                yield chunk
                chunk, size = [], 0
            chunk.append(one)
            size += length
        if chunk:
            yield chunk

    # Writing

    def _write_isolating(self, chunk: list[_Outgoing]) -> None:
        """Write ``chunk``. If the broker finds a record too large, each is written alone, to find out which."""
        try:
            self._write(chunk)
        except _TooLargeError:
            for one in chunk:
                try:
                    self._write([one])
                except _TooLargeError:
                    if self._gate.on_refuse == "stop":
                        raise _BrokenError("record_size") from None
                    failure = Refused(Reason.TOO_LARGE, Cause.RECORD_SIZE, "over max.message.bytes of the topic")
                    one.verdict = RecordVerdict(one.verdict.actor, failure)
                    self._write([one])

    def _replace_producer(self) -> None:
        """Abort the transaction with a new producer: one that has failed must not be used again."""
        from confluent_kafka import Producer

        _close(self._producer)
        self._producer = Producer(producer_properties(self._settings, self._gate, self._instance))
        self._producer.init_transactions(CALL_TIMEOUT)

    def _write(self, chunk: Sequence[_Outgoing]) -> None:
        """One transaction. Raises _TooLargeError after it was aborted; KafkaException if its end is unknown."""
        from confluent_kafka import KafkaException, TopicPartition

        began, failures = monotonic(), list["KafkaError"]()

        def delivered(error: "KafkaError | None", _message: "Message") -> None:
            if error is not None:
                failures.append(error)

        producer = self._producer
        producer.begin_transaction()
        try:
            refusals = self._produce(producer, chunk, delivered)
            ends = {one.record.origin.partition: one.record.origin.offset + 1 for one in chunk}
            offsets = [TopicPartition(self._gate.from_, partition, offset) for partition, offset in ends.items()]
            producer.send_offsets_to_transaction(offsets, self._membership, CALL_TIMEOUT)
            producer.commit_transaction(CALL_TIMEOUT)
        except KafkaException as error:
            self._metrics.kafka_transactions.labels(self.name, "aborted").inc()
            if any(_is_too_large(one) for one in failures) or _is_too_large(error.args[0]):
                self._replace_producer()
                raise _TooLargeError from None
            raise
        self._positions |= ends
        self._newest |= {one.record.origin.partition: one.record.timestamp for one in chunk}
        self._durations.observe(monotonic() - began)
        self._metrics.kafka_transactions.labels(self.name, "committed").inc()
        self._count(chunk)
        if refusals:
            self._report(refusals)

    def _produce(
        self,
        producer: "Producer",
        chunk: Sequence[_Outgoing],
        delivered: "Delivered",
    ) -> list[Refusal]:
        refusals: list[Refusal] = []
        for one in chunk:
            record, failure = one.record, one.verdict.failure
            if failure is None:
                arguments = {"partition": record.origin.partition, "timestamp": max(0, record.timestamp)}
                self._send(producer, delivered, self._gate.to, record.key, record.value, one.headers, arguments)
            else:
                refusals.append(self._refuse(producer, delivered, one, failure, one.verdict.actor))
        return refusals

    def _refuse(
        self,
        producer: "Producer",
        delivered: "Delivered",
        one: _Outgoing,
        failure: Failed,
        actor: Actor | None,
    ) -> Refusal:
        record = one.record
        one.request_id = one.request_id or str(uuid.uuid4())
        key = record.key if record.key is not None and len(record.key) <= _MAX_DEAD_LETTER_KEY else None
        at = format_rfc3339(time(), "milliseconds") or ""
        token_id = "" if actor is None else actor.token_id
        headers = dead_letter_headers(record.origin, failure, one.request_id, at, token_id)
        self._send(producer, delivered, self._gate.dead_letter, key, None, headers, {})
        return Refusal(self.name, str(record.origin), failure, one.request_id, "" if actor is None else actor.id)

    def _send(
        self,
        producer: "Producer",
        delivered: "Delivered",
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: list[Header],
        arguments: Mapping[str, Any],
    ) -> None:
        deadline = monotonic() + CALL_TIMEOUT
        while True:
            try:
                producer.produce(topic, value, key, headers=list(headers), on_delivery=delivered, **arguments)
                return
            except BufferError:
                if monotonic() > deadline:
                    raise _BrokenError("queue_full") from None
                producer.poll(0.05)

    def _count(self, chunk: Sequence[_Outgoing]) -> None:
        counts: dict[tuple[str, str], int] = {}
        for one in chunk:
            failure = one.verdict.failure
            key = ("accepted", "none") if failure is None else ("refused", failure.reason.value)
            counts[key] = counts.get(key, 0) + 1
        for (outcome, reason), number in counts.items():
            self._metrics.kafka_records.labels(self.name, outcome, reason).inc(number)

    def _broken(self, error: Any) -> SidecarError | Exception:
        """What an exception of librdkafka means."""
        reason = error.args[0]
        if reason.name() in _FENCED:
            _audit.error("gate fenced", extra={"event": "kafka_gate_fenced", "gate": self.name})
            return GateFencedError(
                f"gate {self.name}: another process uses the transactional id of this one; give each process of a host "
                "its own --instance"
            )
        return _BrokenError(_word(reason))

    # Metrics

    def _measure(self, consumer: "Consumer") -> None:
        """Set the gauges, at most once a second."""
        now = monotonic()
        if now - self._measured_at < _MEASURE_INTERVAL:
            return
        from confluent_kafka import TopicPartition

        self._measured_at = now
        oldest = 0.0
        for partition in self._measured - set(self._assigned):
            self._metrics.kafka_lag_records.remove(self.name, str(partition))
        self._measured = set(self._assigned)
        for partition in self._assigned:
            _low, high = consumer.get_watermark_offsets(TopicPartition(self._gate.from_, partition), cached=True)
            position = self._positions.get(partition)
            lag = max(0, high - position) if position is not None and high >= 0 else 0
            self._metrics.kafka_lag_records.labels(self.name, str(partition)).set(lag)
            if lag and self._newest.get(partition, 0) > 0:
                oldest = max(oldest, time() - self._newest[partition] / 1000)
            stopped = self._stopped.get(partition)
            if stopped is not None and stopped.records and stopped.records[0].timestamp > 0:
                oldest = max(oldest, time() - stopped.records[0].timestamp / 1000)
        self._metrics.kafka_lag_seconds.labels(self.name).set(oldest)
        self._metrics.kafka_assigned.labels(self.name).set(len(self._assigned))
        self._set_stopped_metric(self.stopped_partitions)

    def _set_stopped_metric(self, stopped: Mapping[str, int]) -> None:
        self._causes |= set(stopped)
        for cause in self._causes:
            self._metrics.kafka_stopped.labels(self.name, cause).set(stopped.get(cause, 0))

    def _measure_nothing(self) -> None:
        self._metrics.kafka_assigned.labels(self.name).set(0)
        self._set_stopped_metric({})


def topics_problem(gate: KafkaGateSettings, partitions: Mapping[str, int]) -> tuple[str, str] | None:
    """Setting and text of what prevents ``gate`` from working with topics of so many ``partitions``, or None."""
    for setting, name in (("from", gate.from_), ("to", gate.to), ("deadLetter", gate.dead_letter)):
        if not partitions.get(name):
            return setting, f"the topic {name} does not exist, or may not be described; create it and its ACLs"
    here, there = partitions[gate.from_], partitions[gate.to]
    if here != there:
        text = f"{gate.to} has {there} partitions and {gate.from_} has {here}; they need the same number"
        return "to", f"{text}, because each record keeps the number of its partition"
    return None


def _close(client: "Consumer | Producer") -> None:
    """Close ``client`` without waiting for what it has not sent."""
    from confluent_kafka import KafkaException, Producer

    with suppress(KafkaException, RuntimeError):
        if isinstance(client, Producer):
            client.purge()
        client.close()


def _is_too_large(error: "KafkaError") -> bool:
    return error.name() == "MSG_SIZE_TOO_LARGE"


def _word(error: "KafkaError") -> str:
    """The name of the error in librdkafka, as a word for logs and metrics."""
    return error.name().lower().strip("_")


def property_problem(error: Exception) -> str:
    """What librdkafka rejects. Its text names the property, and may have the value."""
    text = str(error)
    known = text.partition('property: "')[2].partition('"')[0] or text.partition('property "')[2].partition('"')[0]
    return f"librdkafka rejects the property {known}" if known else "librdkafka rejects a property; check their values"
