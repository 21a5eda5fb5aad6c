"""Settings of Kafka gates that contradict each other, or have no effect."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config.load import load
from sidecar.errors import Misconfigured, Problem

_GATE = {"name": "g", "from": "in", "to": "out", "deadLetter": "dead", "default": "allow"}
_REDIS = {"url": "redis://127.0.0.1:6379"}


def problems(tmp_path: Path, kafka: dict[str, Any], store: dict[str, str] | None = None) -> list[Problem]:
    path = tmp_path / "sidecar.yaml"
    path.write_text(yaml.safe_dump({"store": store or _REDIS, "kafka": {"bootstrap": "b:9092", **kafka}}), "utf-8")
    try:
        return [one for one in load([str(path)], {"PASSWORD": "x"}).warnings if one.path.startswith(("kafka", "store"))]
    except Misconfigured as error:
        return [one for one in error.problems if one.fatal]


def gate(**changes: Any) -> dict[str, Any]:
    return {"gates": [{name: value for name, value in {**_GATE, **changes}.items() if value is not None}]}


@pytest.mark.parametrize(
    "kafka",
    [
        gate(),
        gate(default="refuse", rules=[{"require": {"groups": ["writers"]}}]),
        gate(identity="topic", actor={"id": "bot-a"}),
        gate(audience="", allowUnboundAudience=True),
        {"client": {"security.protocol": "SASL_SSL", "sasl.password": "env:PASSWORD"}, **gate()},
        {"gates": [_GATE, {**_GATE, "name": "h", "from": "out", "to": "further", "deadLetter": "dead"}]},
    ],
)
def test_right_settings_have_no_findings(tmp_path: Path, kafka: dict[str, Any]) -> None:
    assert problems(tmp_path, kafka) == []


@pytest.mark.parametrize(
    ("kafka", "path", "text"),
    [
        (gate(default=None), "kafka.gates[0].default", "is missing"),
        (gate(deadLetter=None), "kafka.gates[0].deadLetter", "is missing"),
        (gate(default="refuse"), "kafka.gates[0].default", "refuses every record"),
        (gate(rules=[{"require": {"admin": True}}]), "kafka.gates[0].default", "has no effect"),
        (gate(default="refuse", rules=[{}]), "kafka.gates[0].rules[0]", "requires nothing"),
        (gate(default="refuse", rules=[{"require": {"admin": True}}] * 2), "kafka.gates[0].rules[1]", "never reached"),
        (gate(audience=""), "kafka.gates[0].audience", "allowUnboundAudience: true"),
        (gate(allowUnboundAudience=True), "kafka.gates[0].allowUnboundAudience", "kafka:in"),
        (
            gate(audience="", allowUnboundAudience=True, maxTokenLifetime="5m"),
            "kafka.gates[0].maxTokenLifetime",
            "has no effect without audience",
        ),
        (gate(identity="topic"), "kafka.gates[0].actor", "is missing"),
        (gate(actor={"id": "a"}), "kafka.gates[0].actor", "has no effect"),
        (gate(identity="topic", actor={"id": "a"}, header="x"), "kafka.gates[0].header", "has no effect"),
        (gate(identity="topic", actor={"id": "a@b@c/d"}), "kafka.gates[0].actor.id", "must match"),
        (gate(to="in"), "kafka.gates[0].to", "endless loop"),
        (gate(deadLetter="in"), "kafka.gates[0].deadLetter", "endless loop"),
        (gate(deadLetter="out"), "kafka.gates[0].deadLetter", "a topic of their own"),
        (
            {"gates": [_GATE, {**_GATE, "name": "h", "from": "out", "to": "in", "deadLetter": "d"}]},
            "kafka.gates[0].to",
            "endless loop",
        ),
        ({"gates": [_GATE, {**_GATE, "to": "other"}]}, "kafka.gates[1].name", "must be unique"),
        (gate(**{"from": "a/b"}), "kafka.gates[0].from", "must match"),
        (gate(onUnreadable="stop"), "kafka.gates[0].onUnreadable", "'pause' or 'skip'"),
        (gate(batch={"records": 0}), "kafka.gates[0].batch.records", "at least 1"),
        *(
            ({"client": {name: "1"}}, f'kafka.client."{name}"', "is not a property that can be set here")
            for name in ("isolation.level", "enable.auto.commit", "transactional.id", "enable.idempotence", "log.queue")
        ),
        (
            {"client": {"enable.ssl.certificate.verification": "false"}},
            'kafka.client."enable.ssl.certificate.verification"',
            "is not a property",
        ),
        (
            {"client": {"ssl.endpoint.identification.algorithm": "none"}},
            'kafka.client."ssl.endpoint.identification.algorithm"',
            "must be https",
        ),
        ({"client": {"ssl.key.pem": "k"}}, 'kafka.client."ssl.key.pem"', "ssl.key.location"),
        ({"client": {"sasl.password": "env:NOT_SET"}}, 'kafka.client."sasl.password"', "NOT_SET"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, kafka: dict[str, Any], path: str, text: str) -> None:
    found = problems(tmp_path, kafka)
    assert found[0].path == path
    assert text in found[0].message
    assert len(found) == (2 if path == "kafka.gates[0].to" and "endless" in text and len(kafka["gates"]) > 1 else 1)


def test_a_store_that_other_hosts_cannot_share_is_a_warning(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, gate(), {"url": f"sqlite:///{tmp_path}/s.db"})
    assert (found.path, found.fatal) == ("store.url", False)
    assert "use Redis" in found.message
