"""``sidecar kafka check`` on real brokers, one of which accepts forged tokens by default."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka.admin import (  # type: ignore[attr-defined] # the library re-exports them without __all__
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from sidecar.cli.main import main
from tests.support.kafka import Broker, OAuth, broker
from tests.support.ports import free_port
from tests.support.sidecar_process import running_sidecar

pytestmark = pytest.mark.heavy
ISSUER = "https://metadata.example.com"


@contextmanager
def scene(jars: Path, folder: Path, more: Mapping[str, str] | None = None) -> Iterator[tuple[Broker, dict[str, Any]]]:
    """A broker that verifies tokens with the key set of a sidecar, and the configuration of that sidecar."""
    keys = folder / "keys"
    assert main(["keys", "generate", "--dir", str(keys)]) == 0
    document: dict[str, Any] = {
        "jwtTokenConfiguration": {
            "jwtissuer": ISSUER,
            "rsapublicKeyFilePath": f"{keys}/public_key.der",
            "rsaprivateKeyFilePath": f"{keys}/private_key.der",
            "keyId": "first",
        }
    }
    with (
        running_sidecar(folder, document) as sidecar,
        broker(jars, folder, OAuth(f"{sidecar.url}/oauth2/jwks", ISSUER, "kafka"), more) as kafka,
    ):
        yield kafka, {**document, "store": {"url": f"sqlite:///{folder}/check.db"}}


def check(folder: Path, document: Mapping[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    config = folder / "check.yaml"
    config.write_text(yaml.safe_dump(dict(document)), encoding="utf-8")
    command = [sys.executable, "-m", "sidecar", "kafka", "check", "--config", str(config), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert "Traceback" not in done.stderr
    assert "eyJ" not in done.stdout + done.stderr
    return done


def test_topics_and_acls_of_a_cluster(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """Missing topics, settings that lose records or keep credentials, and principals that go past the gate."""
    gate = {"name": "g", "from": "in", "to": "out", "deadLetter": "dead", "default": "allow"}
    with broker(require_tool("kafka-4.4.0"), tmp_path) as kafka:
        document = {
            "store": {"url": f"sqlite:///{tmp_path}/s.db"},
            "kafka": {"bootstrap": kafka.bootstrap, "gates": [gate]},
        }
        done = check(tmp_path, document)
        assert done.returncode == 1
        assert "kafka.gates[0].from: the topic in does not exist" in done.stderr
        kafka.create_topic("in", 2, cleanup_policy="compact", retention_ms="86400000")
        kafka.create_topic("out", 3)
        kafka.create_topic("dead")
        done = check(tmp_path, document)
        assert done.returncode == 1
        for text in (
            "out has 3 partitions and in has 2",
            "message.timestamp.type of in is CreateTime",
            "cleanup.policy of in is compact",
            "retention.ms of in is 86400000, longer than maxLag (3600 s)",
            "max.message.bytes of out is 1048588, less than maxRecordBytes (5242880)",
            "out has 1 replicas; with less than 3",
            "min.insync.replicas of dead is 1; set it to 2",
            "no ACL allows WRITE for out",
        ):
            assert text in done.stderr, text
        sound = {"message.timestamp.type": "LogAppendTime", "retention.ms": "3600000", "cleanup.policy": "delete"}
        kafka.create_topic("sound", 3, **{name.replace(".", "_"): value for name, value in sound.items()})
        kafka.configure_topic("out", "max.message.bytes", "6000000")
        document["kafka"]["gates"] = [{**gate, "from": "sound"}]  # type: ignore[index]
        allow(kafka, "out", "User:gate", AclOperation.WRITE)
        allow(kafka, "sound", "User:gate", AclOperation.ALL)
        done = check(tmp_path, document)
        assert (done.returncode, "CreateTime" in done.stderr, "error:" in done.stderr) == (0, False, False)
        assert "allowed for" not in done.stderr
        assert "isolation.level=read_committed" in done.stdout
        allow(kafka, "out", "User:other", AclOperation.WRITE)
        allow(kafka, "sound", "User:*", AclOperation.READ)
        done = check(tmp_path, document)
        assert done.returncode == 1
        assert "WRITE for out is allowed for User:gate, User:other" in done.stderr
        assert "an ACL of sound allows READ for User:*" in done.stderr


def allow(kafka: Broker, topic: str, principal: str, operation: Any) -> None:
    binding = AclBinding(
        ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, principal, "*", operation, AclPermissionType.ALLOW
    )
    admin = kafka.admin()
    admin.create_acls([binding])[binding].result(20)


BAD = ("with a broken signature", "signed with another key", "without a signature")
SIGNED_BAD = ("that has expired", "for another audience", "of another issuer")


def test_a_listener_that_verifies_tokens_passes(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """Each bad token is refused, and the good one shows that this is because they are bad."""
    with scene(require_tool("kafka-4.4.0"), tmp_path) as (kafka, document):
        document["kafka"] = {"bootstrap": kafka.bootstrap}
        done = check(tmp_path, document, "--listener", kafka.oauth_bootstrap)
        assert (done.returncode, done.stderr) == (0, "")
        assert [f"  {kind}: refused" in done.stdout for kind in (*BAD, *SIGNED_BAD)] == [True] * 6
        assert "  good: accepted" in done.stdout
        # the refusal of everything is no proof
        done = check(tmp_path, document, "--listener", kafka.oauth_bootstrap, "--audience", "other")
        assert done.returncode == 0
        assert "does not accept a good token" in done.stderr
        del document["jwtTokenConfiguration"]
        document["kafka"] = {"bootstrap": kafka.oauth_bootstrap, "client": {"sasl.mechanism": "OAUTHBEARER"}}
        done = check(tmp_path, document)
        assert "no good token was presented" in done.stderr


def test_a_listener_that_accepts_forged_tokens_is_an_error(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """The defaults of Kafka 4.1.0, configured as completely as those of 4.4."""
    with scene(require_tool("kafka-4.1.0"), tmp_path) as (kafka, document):
        document["kafka"] = {"bootstrap": kafka.bootstrap}
        done = check(tmp_path, document, "--listener", kafka.oauth_bootstrap)
        assert done.returncode == 1
        assert "accepts a token signed with another key: any client can log in with any name" in done.stderr
        assert "  signed with another key: accepted" in done.stdout


def test_a_listener_that_does_not_answer_proves_nothing(tmp_path: Path) -> None:
    """Neither that it refuses bad tokens nor that it accepts them."""
    document = {"store": {"url": f"sqlite:///{tmp_path}/s.db"}, "kafka": {"bootstrap": "127.0.0.1:1"}}
    done = check(tmp_path, document, "--listener", f"127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "gave no answer" in done.stderr
