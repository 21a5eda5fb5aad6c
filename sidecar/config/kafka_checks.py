"""Conditions between settings of Kafka gates."""

from collections.abc import Iterator, Mapping, Sequence

from sidecar.config.reading.finding import Finding
from sidecar.config.reading.store_url import StoreKind, parse_store_url
from sidecar.config.reading.tree import Path
from sidecar.config.settings import KafkaGateSettings, KafkaSettings, RequireSettings, Settings

_PREFIXES = ("sasl.", "ssl.")
_NAMES = frozenset(
    {
        "security.protocol", "client.id", "client.rack", "client.dns.lookup", "broker.address.family",
        "socket.timeout.ms", "socket.connection.setup.timeout.ms", "connections.max.idle.ms", "metadata.max.age.ms",
        "reconnect.backoff.ms", "reconnect.backoff.max.ms", "compression.type",
    }
)  # fmt: skip
_KEY_TEXTS = frozenset({"ssl.key.pem", "ssl.certificate.pem", "ssl.ca.pem"})
_HOST_CHECK = "ssl.endpoint.identification.algorithm"


def check_kafka(settings: Settings) -> Iterator[Finding]:
    """Gates whose topics and identities make sense, and client properties that a gate may leave to its operator."""
    kafka = settings.kafka
    if kafka is None:
        return
    yield from _check_client(kafka)
    names = [gate.name for gate in kafka.gates]
    for index, gate in enumerate(kafka.gates):
        path: Path = ("kafka", "gates", index)
        if gate.name in names[:index]:
            yield Finding((*path, "name"), f"{gate.name} is the name of an earlier gate; names must be unique")
        yield from _check_identity(gate, path)
        yield from _check_audience(gate, path)
        yield from _check_rules(gate, path)
    yield from _check_cycles(kafka.gates)
    if kafka.gates and _is_sqlite(settings):
        message = (
            "is SQLite: a gate applies a revocation only if it runs on the same host with the same file; use Redis for "
            "gates on other hosts"
        )
        yield Finding(("store", "url"), message, fatal=False)


def _check_client(kafka: KafkaSettings) -> Iterator[Finding]:
    for name, value in kafka.client.items():
        path: Path = ("kafka", "client", name)
        if name in _KEY_TEXTS:
            yield Finding(path, f"must be a file: write {name.removesuffix('.pem')}.location")
        elif name not in _NAMES and not name.startswith(_PREFIXES):
            text = "is not a property that can be set here: only those about security and connections can"
            yield Finding(path, f"{text}; bootstrap.servers is kafka.bootstrap, batches are kafka.gates[].batch")
        elif name == _HOST_CHECK and value.reveal() != "https":
            yield Finding(path, "must be https: the host name in the certificate of a broker is always verified")


def _check_identity(gate: KafkaGateSettings, path: Path) -> Iterator[Finding]:
    given = gate.model_fields_set
    if gate.identity == "topic":
        if gate.actor is None:
            yield Finding((*path, "actor"), "is missing; with identity: topic it is the Actor of all records")
        for name, alias in (
            ("header", "header"),
            ("audience", "audience"),
            ("allow_unbound_audience", "allowUnboundAudience"),
            ("max_token_lifetime", "maxTokenLifetime"),
            ("max_lag", "maxLag"),
        ):
            if name in given:
                yield Finding((*path, alias), "has no effect with identity: topic; records have no credential")
    elif gate.actor is not None:
        yield Finding((*path, "actor"), f"has no effect with identity: {gate.identity}; the credential names the Actor")


def _check_audience(gate: KafkaGateSettings, path: Path) -> Iterator[Finding]:
    if gate.identity == "topic":
        return
    if gate.expected_audience:
        if gate.allow_unbound_audience:
            message = f"has no effect: tokens must have the audience {gate.expected_audience}"
            yield Finding((*path, "allowUnboundAudience"), message)
    elif not gate.allow_unbound_audience:
        message = (
            "is empty: a reader of the inbound topic could use the tokens in it elsewhere; name an audience, or set "
            "allowUnboundAudience: true"
        )
        yield Finding((*path, "audience"), message)
    elif "max_token_lifetime" in gate.model_fields_set:
        message = "has no effect without audience; set maxTokenLifetime of the providers"
        yield Finding((*path, "maxTokenLifetime"), message)


def _check_rules(gate: KafkaGateSettings, path: Path) -> Iterator[Finding]:
    if not gate.rules:
        if gate.default == "refuse":
            yield Finding((*path, "default"), "refuses every record, because there are no rules; add rules, or allow")
        return
    if gate.default == "allow":
        message = "has no effect: with format: raw, the first of rules applies to all records; write refuse"
        yield Finding((*path, "default"), message)
    for index, rule in enumerate(gate.rules):
        if rule.require == RequireSettings():
            yield Finding((*path, "rules", index), "requires nothing; write require, or default: allow without rules")
        if index:
            message = "is never reached: with format: raw, the first of rules applies to all records"
            yield Finding((*path, "rules", index), message)


def _check_cycles(gates: Sequence[KafkaGateSettings]) -> Iterator[Finding]:
    """No record may come back to a gate that has written it."""
    writes: dict[str, set[str]] = {}
    for gate in gates:
        writes.setdefault(gate.from_, set()).update((gate.to, gate.dead_letter))
    for index, gate in enumerate(gates):
        path: Path = ("kafka", "gates", index)
        if gate.to == gate.dead_letter:
            yield Finding((*path, "deadLetter"), f"is {gate.to}, as to; refused records need a topic of their own")
        for name, topic in (("to", gate.to), ("deadLetter", gate.dead_letter)):
            if _leads_to(writes, topic, gate.from_):
                message = f"is {topic}, from which gates bring records back to {gate.from_}: an endless loop"
                yield Finding((*path, name), message)


def _leads_to(writes: Mapping[str, set[str]], start: str, wanted: str) -> bool:
    seen: set[str] = set()
    open_topics = {start}
    while open_topics:
        topic = open_topics.pop()
        if topic == wanted:
            return True
        seen.add(topic)
        open_topics |= writes.get(topic, set()) - seen
    return False


def _is_sqlite(settings: Settings) -> bool:
    try:
        return parse_store_url(settings.store.url.reveal()).kind is StoreKind.SQLITE
    except ValueError:
        return False
