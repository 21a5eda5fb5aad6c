"""What ``sidecar kafka check`` asks a cluster. Reads only; the calls block."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from sidecar.config.settings import KafkaGateSettings, KafkaSettings
from sidecar.errors import Misconfigured, Problem
from sidecar.kafka.client import CALL_TIMEOUT, admin_properties, consumer_properties, group_of, max_received
from sidecar.kafka.gate import property_problem, topics_problem

if TYPE_CHECKING:
    from confluent_kafka import KafkaError
    from confluent_kafka.admin import AdminClient

_MIN_REPLICAS, _MIN_IN_SYNC = 3, 2
_TOKEN_TIMEOUT = 20.0
_TOKEN_PAUSE = 1.0
_TOKEN_LIFETIME = 3600.0


class LoginOutcome(Enum):
    """What a listener did with a token. UNKNOWN: it could not be reached."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "no answer"


@dataclass(frozen=True, slots=True)
class _Topic:
    """A topic as the cluster describes it; ``settings`` None: they may not be read."""

    partitions: int
    replicas: int
    operations: frozenset[str]
    settings: Mapping[str, str] | None


def check_gates(settings: KafkaSettings) -> Iterator[Problem]:
    """The problems of the gates of ``settings``. Raises Misconfigured for properties that librdkafka rejects."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        admin = AdminClient(admin_properties(settings))
    except (KafkaException, ValueError, TypeError) as error:
        raise Misconfigured([Problem("kafka.client", property_problem(error))]) from None
    for index, gate in enumerate(settings.gates):
        path = f"kafka.gates[{index}]"
        try:
            yield from _check_gate(admin, settings, gate, path)
        except KafkaException as error:
            yield Problem(path, f"the cluster {settings.bootstrap} does not answer: {_name(error.args[0])}")
            return


def _check_gate(admin: "AdminClient", settings: KafkaSettings, gate: KafkaGateSettings, path: str) -> Iterator[Problem]:
    names = (gate.from_, gate.to, gate.dead_letter)
    topics = {name: topic for name in names if (topic := _describe(admin, name)) is not None}
    missing = topics_problem(gate, {name: topic.partitions for name, topic in topics.items()})
    if missing is not None:
        yield Problem(f"{path}.{missing[0]}", missing[1])
    for key, name, operation in (("from", gate.from_, "READ"), ("to", gate.to, "WRITE"),
                                 ("deadLetter", gate.dead_letter, "WRITE")):  # fmt: skip
        topic = topics.get(name)
        if topic is None:
            continue
        if operation not in topic.operations:
            yield Problem(f"{path}.{key}", f"the principal of the gate has no permission {operation} for {name}")
        yield from _check_durability(topic, name, f"{path}.{key}")
    if gate.from_ in topics:
        yield from _check_inbound(topics[gate.from_], gate, path)
    if gate.to in topics:
        yield from _check_protected(topics[gate.to], gate, path)
    yield from _check_group(settings, gate, path)
    yield from _check_acls(admin, gate, path)


def _describe(admin: "AdminClient", name: str) -> _Topic | None:
    from confluent_kafka import KafkaException, TopicCollection
    from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined] # no __all__

    try:
        found = admin.describe_topics(
            TopicCollection([name]), include_authorized_operations=True, request_timeout=CALL_TIMEOUT
        )[name].result()
    except KafkaException as error:
        if error.args[0].name() in ("UNKNOWN_TOPIC_OR_PART", "TOPIC_AUTHORIZATION_FAILED"):
            return None
        raise
    resource = ConfigResource(ResourceType.TOPIC, name)
    settings: Mapping[str, str] | None = None
    try:
        entries = admin.describe_configs([resource], request_timeout=CALL_TIMEOUT)[resource].result()
        settings = {key: str(entry.value) for key, entry in entries.items()}
    except KafkaException as error:
        if error.args[0].name() != "TOPIC_AUTHORIZATION_FAILED":
            raise
    operations = frozenset(operation.name for operation in found.authorized_operations or ())
    replicas = min((len(one.replicas) for one in found.partitions), default=0)
    return _Topic(len(found.partitions), replicas, operations, settings)


def _check_durability(topic: _Topic, name: str, path: str) -> Iterator[Problem]:
    if topic.replicas < _MIN_REPLICAS:
        text = (
            f"{name} has {topic.replicas} replicas; with less than {_MIN_REPLICAS}, a broker that fails loses records"
        )
        yield Problem(path, text, fatal=False)
    if topic.settings is None:
        yield Problem(path, f"the settings of {name} may not be read (DESCRIBE_CONFIGS); not checked", fatal=False)
        return
    in_sync = int(topic.settings.get("min.insync.replicas", "1"))
    if in_sync < _MIN_IN_SYNC:
        text = f"min.insync.replicas of {name} is {in_sync}; set it to {_MIN_IN_SYNC}"
        yield Problem(path, text, fatal=False)


def _check_inbound(topic: _Topic, gate: KafkaGateSettings, path: str) -> Iterator[Problem]:
    if topic.settings is None:
        return
    kind = topic.settings.get("message.timestamp.type")
    if gate.identity == "header" and kind != "LogAppendTime":
        text = f"message.timestamp.type of {gate.from_} is {kind}: tokens must be valid when their record is read"
        yield Problem(
            f"{path}.from", f"{text}; set LogAppendTime, so that they must be when it was written", fatal=False
        )
    if "compact" in topic.settings.get("cleanup.policy", ""):
        text = f"cleanup.policy of {gate.from_} is {topic.settings['cleanup.policy']}: brokers may delete records"
        yield Problem(f"{path}.from", f"{text} before the gate has read them; set delete")
    retention = int(topic.settings.get("retention.ms", "-1"))
    if gate.identity == "header" and (retention < 0 or retention > gate.max_lag * 1000):
        text = f"retention.ms of {gate.from_} is {retention}, longer than maxLag ({gate.max_lag:g} s): credentials stay"
        yield Problem(f"{path}.from", f"{text} readable for longer than they are of use", fatal=False)
    largest = int(topic.settings.get("max.message.bytes", "0"))
    if largest > max_received(gate):
        text = f"max.message.bytes of {gate.from_} is {largest}, and the gate receives at most {max_received(gate)}"
        yield Problem(f"{path}.from", f"{text} bytes at once; reduce it, or raise maxRecordBytes")


def _check_protected(topic: _Topic, gate: KafkaGateSettings, path: str) -> Iterator[Problem]:
    largest = int((topic.settings or {}).get("max.message.bytes", gate.max_record_bytes))
    if largest < gate.max_record_bytes:
        text = f"max.message.bytes of {gate.to} is {largest}, less than maxRecordBytes ({gate.max_record_bytes})"
        yield Problem(f"{path}.to", f"{text}: larger records are refused", fatal=False)


def _check_group(settings: KafkaSettings, gate: KafkaGateSettings, path: str) -> Iterator[Problem]:
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    consumer = Consumer(consumer_properties(settings, gate))
    try:
        consumer.committed([TopicPartition(gate.from_, 0)], timeout=CALL_TIMEOUT)
    except KafkaException as error:
        group = group_of(gate)
        yield Problem(path, f"the consumer group {group} cannot be used: {_name(error.args[0])}; see the ACLs")
    finally:
        consumer.close()


def _check_acls(admin: "AdminClient", gate: KafkaGateSettings, path: str) -> Iterator[Problem]:
    from confluent_kafka import KafkaException

    wanted = [("to", gate.to, "WRITE", "write to the protected topic past the gate")]
    if gate.identity == "header":
        wanted.append(("from", gate.from_, "READ", "read the credentials of all clients"))
    else:
        wanted.append(("from", gate.from_, "WRITE", f"write in the name of {gate.actor.id if gate.actor else ''}"))
    for key, topic, operation, danger in wanted:
        try:
            principals = _principals(admin, topic, operation)
        except KafkaException as error:
            name = _name(error.args[0])
            if name == "security_disabled":
                yield Problem(f"{path}.{key}", f"the cluster has no authorizer: every client may {danger}")
            else:
                yield Problem(f"{path}.{key}", f"the ACLs of {topic} cannot be read ({name}); not checked", fatal=False)
            continue
        if "User:*" in principals:
            yield Problem(
                f"{path}.{key}", f"an ACL of {topic} allows {operation} for User:*: every client may {danger}"
            )
        elif len(principals) > 1:
            text = f"{operation} for {topic} is allowed for {', '.join(sorted(principals))}; all but one may {danger}"
            yield Problem(f"{path}.{key}", text, fatal=False)
        elif not principals:
            text = f"no ACL allows {operation} for {topic}: this is left to super.users, or to every client if"
            yield Problem(f"{path}.{key}", f"{text} allow.everyone.if.no.acl.found is set", fatal=False)


def _principals(admin: "AdminClient", topic: str, operation: str) -> frozenset[str]:
    """The principals whom an ACL allows ``operation`` for ``topic``."""
    from confluent_kafka.admin import (  # type: ignore[attr-defined] # no __all__
        AclBindingFilter,
        AclOperation,
        AclPermissionType,
        ResourcePatternType,
        ResourceType,
    )

    any_of: dict[str, Any] = {"principal": None, "host": None}
    found = admin.describe_acls(
        AclBindingFilter(
            ResourceType.TOPIC,
            topic,
            ResourcePatternType.MATCH,
            operation=AclOperation.ANY,
            permission_type=AclPermissionType.ALLOW,
            **any_of,
        ),
        request_timeout=CALL_TIMEOUT,
    ).result()
    allowing = (AclOperation[operation], AclOperation.ALL)
    return frozenset(one.principal for one in found if one.operation in allowing)


def present(settings: KafkaSettings, listener: str, token: str) -> LoginOutcome:
    """What ``listener`` does with a client that logs in with ``token`` by SASL/OAUTHBEARER."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    refused: list[str] = []

    def note(error: "KafkaError") -> None:
        refused.append(error.name())

    plain = {name: value for name, value in settings.client.items() if not name.startswith("sasl.")}
    protocol = settings.client.get("security.protocol")
    secure = protocol is not None and protocol.reveal().upper().endswith("SSL")
    properties: dict[str, Any] = {
        **admin_properties(settings.model_copy(update={"client": plain})),
        "bootstrap.servers": listener,
        "security.protocol": "SASL_SSL" if secure else "SASL_PLAINTEXT",
        "sasl.mechanism": "OAUTHBEARER",
        "oauth_cb": lambda _: (token, time() + _TOKEN_LIFETIME, "check", {}),
        "error_cb": note,
    }
    admin = AdminClient(properties)
    deadline = monotonic() + _TOKEN_TIMEOUT
    while monotonic() < deadline:
        try:
            admin.poll(0)  # calls oauth_cb and error_cb
            admin.list_topics(timeout=_TOKEN_PAUSE)
        except KafkaException:
            if "_AUTHENTICATION" in refused:
                return LoginOutcome.REFUSED
        else:
            return LoginOutcome.ACCEPTED
    return LoginOutcome.UNKNOWN


def _name(error: "KafkaError") -> str:
    return error.name().lower().strip("_")
