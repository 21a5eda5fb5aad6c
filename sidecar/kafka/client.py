"""Properties of the librdkafka clients of gates. What decides exactly-once delivery cannot be configured."""

import logging
from typing import Any

from sidecar.config.settings import KafkaGateSettings, KafkaSettings
from sidecar.errors import Misconfigured, Problem

_silent = logging.getLogger("sidecar.librdkafka")
_silent.disabled = True
TRANSACTION_TIMEOUT = 30.0
"""How long readers of committed records may have to wait for a gate that was killed, in seconds."""
SESSION_TIMEOUT = 10.0
CALL_TIMEOUT = 15.0
"""Time for one call to the brokers, in seconds."""
_MIN_RECEIVED = 16 * 1024 * 1024
_FETCHED = 4 * 1024 * 1024
_PREFETCHED_KIB = 8 * 1024
_FRAMING = 64 * 1024


def group_of(gate: KafkaGateSettings) -> str:
    """Consumer group of all processes that run ``gate``."""
    return f"auth-sidecar-{gate.name}"


def max_received(gate: KafkaGateSettings) -> int:
    """Maximum bytes of a response of a broker, and of a batch of records after decompression."""
    return max(_MIN_RECEIVED, gate.max_record_bytes + _FETCHED)


def base_properties(settings: KafkaSettings) -> dict[str, Any]:
    """The properties of every client. Raises Misconfigured if the extra is not installed."""
    try:
        import confluent_kafka  # noqa: F401 - only whether it is there
    except ImportError:
        message = "needs the extra kafka: pip install 'auth-sidecar[kafka]'"
        raise Misconfigured([Problem("kafka", message)]) from None
    return {
        **{name: value.reveal() for name, value in settings.client.items()},
        "bootstrap.servers": settings.bootstrap,
        # its lines have texts of brokers
        "log_level": 0,
        "logger": _silent,
        "socket.keepalive.enable": True,
    }


def consumer_properties(settings: KafkaSettings, gate: KafkaGateSettings) -> dict[str, Any]:
    """The properties of the consumer of ``gate``."""
    return {
        **base_properties(settings),
        "group.id": group_of(gate),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # a position that does not exist any more means lost records: it must not be moved silently
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "range",
        "session.timeout.ms": int(SESSION_TIMEOUT * 1000),
        "heartbeat.interval.ms": 1000,
        "check.crcs": True,
        "allow.auto.create.topics": False,
        "fetch.wait.max.ms": max(5, min(100, int(gate.batch.delay * 1000))),
        "fetch.max.bytes": _FETCHED,
        "max.partition.fetch.bytes": _FETCHED,
        "queued.max.messages.kbytes": _PREFETCHED_KIB,
        "receive.message.max.bytes": max_received(gate),
    }


def producer_properties(settings: KafkaSettings, gate: KafkaGateSettings, instance: str) -> dict[str, Any]:
    """The properties of the producer of ``gate``; ``instance`` is unique among the processes that run it."""
    return {
        **base_properties(settings),
        "transactional.id": f"{group_of(gate)}-{instance}",
        "enable.idempotence": True,
        "transaction.timeout.ms": int(TRANSACTION_TIMEOUT * 1000),
        "message.max.bytes": max(1_000_000, gate.max_record_bytes + _FRAMING),
        "allow.auto.create.topics": False,
    }


def admin_properties(settings: KafkaSettings) -> dict[str, Any]:
    """The properties of a client that only looks."""
    return {**base_properties(settings), "socket.timeout.ms": int(CALL_TIMEOUT * 1000)}
