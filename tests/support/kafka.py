"""A real Kafka broker (KRaft, one node) from Maven's jars: a plain listener, and one with SASL/OAUTHBEARER."""

import base64
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # the library re-exports them without __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from tests.support.ports import answers_on, free_port
from tests.support.process import Process, running

_START_TIMEOUT = 90.0
_CALL_TIMEOUT = 30.0
_MEMORY = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAIN
listeners=PLAIN://127.0.0.1:{plain},{oauth_listener}CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAIN://127.0.0.1:{plain}{advertised}
listener.security.protocol.map=PLAIN:PLAINTEXT,OAUTH:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={folder}/logs
num.partitions=3
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.enable=false
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
{more}
"""
_OAUTH = """\
sasl.enabled.mechanisms=OAUTHBEARER
listener.name.oauth.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.oauth.oauthbearer.sasl.jaas.config=\
org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.oauth.oauthbearer.sasl.server.callback.handler.class=\
org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
listener.name.oauth.oauthbearer.sasl.oauthbearer.jwks.endpoint.url={jwks}
listener.name.oauth.oauthbearer.sasl.oauthbearer.expected.issuer={issuer}
listener.name.oauth.oauthbearer.sasl.oauthbearer.expected.audience={audience}
"""


@dataclass(frozen=True, slots=True)
class OAuth:
    """Whose tokens the listener with SASL/OAUTHBEARER accepts. The key set must be reachable when the broker starts."""

    jwks: str
    issuer: str
    audience: str


@dataclass(slots=True)
class Broker:
    """One broker, which a test can stop or kill and start again on the same data."""

    jars: Path
    folder: Path
    settings: Path
    jwks: str
    plain: int
    oauth: int
    process: Process | None = field(default=None, repr=False)

    @property
    def bootstrap(self) -> str:
        """The plain listener: its anonymous user may do everything."""
        return f"127.0.0.1:{self.plain}"

    @property
    def oauth_bootstrap(self) -> str:
        """The listener with SASL/OAUTHBEARER; what its users may do is up to ACLs."""
        return f"127.0.0.1:{self.oauth}"

    @contextmanager
    def up(self) -> Iterator[Process]:
        """The broker, from when it answers until the block ends or the test kills it."""
        command = [
            shutil.which("java"),
            *_MEMORY,
            f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self.jwks}",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp",
            f"{self.jars}/*",
            "kafka.Kafka",
            self.settings,
        ]
        with running(
            command,
            log=self.folder / "broker.log",
            ready=lambda: answers_on(self.plain) and self._knows_itself(),
            within=_START_TIMEOUT,
        ) as self.process:
            yield self.process

    def _knows_itself(self) -> bool:
        try:
            return bool(self.admin().list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def admin(self) -> AdminClient:
        """A client of the plain listener."""
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def create_topic(self, name: str, partitions: int = 1, **settings: str) -> None:
        """A topic; ``settings`` have underscores for dots."""
        config = {key.replace("_", "."): value for key, value in settings.items()}
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=config)
        admin = self.admin()  # calls end with the client
        admin.create_topics([topic])[name].result(_CALL_TIMEOUT)

    def configure_topic(self, name: str, setting: str, value: str) -> None:
        """Change one setting of a topic."""
        entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
        admin = self.admin()
        admin.incremental_alter_configs([resource])[resource].result(_CALL_TIMEOUT)

    def write(self, topic: str, records: Sequence["Sent"], **settings: object) -> None:
        """Write ``records`` and wait until the broker has them."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0, **settings})
        failed: list[object] = []
        for record in records:
            producer.produce(
                topic,
                value=record.value,
                key=record.key,
                headers=list(record.headers),
                partition=record.partition,
                timestamp=record.timestamp,
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )
            producer.poll(0)
        assert producer.flush(_CALL_TIMEOUT) == 0
        assert not failed, failed

    def read(self, topic: str, count: int, *, within: float = 30.0, committed: bool = True) -> list[Message]:
        """The first ``count`` records of all partitions; fewer if they do not come in time. Reads what is committed."""
        with self.reader(committed=committed) as consumer:
            partitions = consumer.list_topics(topic, timeout=_CALL_TIMEOUT).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            found: list[Message] = []
            for _ in range(int(within / 0.2)):
                found += [
                    message for message in consumer.consume(max(1, count - len(found)), 0.2) if not message.error()
                ]
                if len(found) >= count:
                    break
            return found

    @contextmanager
    def reader(self, *, committed: bool = True) -> Iterator[Consumer]:
        """A consumer without a group of its own."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"test-{uuid.uuid4()}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed" if committed else "read_uncommitted",
                "log_level": 0,
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()


@dataclass(frozen=True, slots=True)
class Sent:
    """One record to write."""

    value: bytes | None = b"value"
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()
    partition: int = -1
    timestamp: int = 0


@contextmanager
def broker(
    jars: Path, folder: Path, oauth: OAuth | None = None, more: Mapping[str, str] | None = None
) -> Iterator[Broker]:
    """A broker that is up until the block ends; ``more`` are further lines of its settings."""
    made = prepare(jars, folder, oauth, more)
    with made.up():
        yield made


def prepare(jars: Path, folder: Path, oauth: OAuth | None = None, more: Mapping[str, str] | None = None) -> Broker:
    """A broker with formatted storage in ``folder``, not started."""
    plain, port, controller = free_port(), free_port(), free_port()
    settings = folder / "server.properties"
    lines = "\n".join(f"{name}={value}" for name, value in (more or {}).items())
    if oauth is not None:
        lines = _OAUTH.format(jwks=oauth.jwks, issuer=oauth.issuer, audience=oauth.audience) + lines
    text = _SETTINGS.format(
        controller=controller,
        plain=plain,
        oauth_listener=f"OAUTH://127.0.0.1:{port}," if oauth else "",
        advertised=f",OAUTH://127.0.0.1:{port}" if oauth else "",
        folder=folder,
        more=lines,
    )
    settings.write_text(text, encoding="utf-8")
    cluster = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
    if cluster.startswith("-"):  # the tool would read it as an option
        cluster = f"A{cluster[1:]}"
    command = ["java", *_MEMORY, "-cp", f"{jars}/*", "kafka.tools.StorageTool", "format", "-t", cluster]
    done = subprocess.run(
        [*command, "-c", settings, "--standalone"], check=False, capture_output=True, timeout=_START_TIMEOUT
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return Broker(jars, folder, settings, "" if oauth is None else oauth.jwks, plain, port)
