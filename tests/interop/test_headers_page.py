"""docs/guides/headers.md: the headers of a running sidecar, and the programs that verify the assertion."""

import json
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.dataplane.identity_headers import ASSERTION, DATAHUB_ACTOR, NAMES
from tests.support.echo_upstream import Received, echo_upstream
from tests.support.http_client import request
from tests.support.identity_provider import IdentityProvider
from tests.support.sidecar_process import Sidecar, running_sidecar
from tests.support.tools import ROOT

PAGE = ROOT / "docs" / "guides" / "headers.md"
EXAMPLES = ROOT / "examples" / "assertion"
PROGRAMS = {"python": "verify.py", "go": "go/main.go", "java": "java/Verify.java"}
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def block(language: str, start: str = "") -> str:
    """The first block of the page in a language."""
    blocks: list[tuple[str, str]] = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    return next(text for found, text in blocks if found == language and text.startswith(start))


@dataclass(frozen=True, slots=True)
class Scene:
    """The page's configuration in force."""

    sidecar: Sidecar
    idp: IdentityProvider
    issuer: str
    audience: str

    def received(self, **claims: Any) -> Received:
        """The request that reaches the service of a caller with these claims."""
        token = self.idp.mint(aud="openmetadata", **claims)
        reply = request(f"{self.sidecar.url}/x", headers=[("Authorization", f"Bearer {token}")])
        return Received.of(reply.json())


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Only addresses are replaced."""
    with IdentityProvider() as idp, echo_upstream() as upstream:
        document = yaml.safe_load(block("yaml", "# sidecar.yaml"))
        document["authenticationConfiguration"]["providers"][0]["issuer"] = idp.issuer
        document["upstream"]["url"] = upstream.url
        issuer = document["jwtTokenConfiguration"]["jwtissuer"]
        with running_sidecar(tmp_path_factory.mktemp("headers"), document) as sidecar:
            yield Scene(sidecar, idp, f"{issuer}/assertion", upstream.url)


def test_the_table_names_every_header() -> None:
    """No more and no fewer."""
    named = re.findall(r"^\| `(X-[\w-]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert named == [*NAMES, ASSERTION, DATAHUB_ACTOR]


def test_the_example_is_what_a_service_receives(scene: Scene) -> None:
    """Header by header, and no other identity header but those of the token."""
    seen = scene.received(**json.loads(block("json")))
    expected = dict(line.split(": ", 1) for line in block("http").splitlines())
    assert {name: seen.all(name) for name in expected} == {name: [value] for name, value in expected.items()}
    others = {name for name in (*NAMES, DATAHUB_ACTOR) if seen.all(name)} - expected.keys()
    assert others == {"X-Auth-Issuer", "X-Auth-Token-Id"}


def test_what_the_table_calls_blank_is_left_out_when_forwarding(scene: Scene) -> None:
    """No address, an address that is not verified, no groups, no id."""
    seen = scene.received(email=None, groups=None, jti=None)
    for name in ("X-Auth-Request-Email", "X-Auth-Request-Groups", "X-Auth-Token-Id"):
        assert seen.all(name) == []
    assert scene.received(email_verified=False).all("X-Auth-Request-Email") == []


def test_a_check_sends_blank_values(scene: Scene) -> None:
    """So that a proxy overwrites what a client sent."""
    token = scene.idp.mint(aud="openmetadata", email=None, groups=None)
    reply = request(f"{scene.sidecar.url}/oauth2/auth", headers=[("Authorization", f"Bearer {token}")])
    assert (reply.status, reply.all("X-Auth-Request-Email")) == (200, [""])


def test_callers_without_a_token(tmp_path: Path) -> None:
    """A password has the issuer of its authenticator, the guest none; neither has a token id."""
    (tmp_path / "users").write_text("alice: secret,admin\n", encoding="utf-8")
    authenticators = [{"type": "basic", "configs": {"userProps": str(tmp_path / "users")}}, {"type": "guest"}]
    with echo_upstream() as upstream:
        document = {
            "upstream": {"url": upstream.url},
            "authentication": {"authenticators": authenticators},
            "rules": [{"path": "/**", "access": "guest"}],
        }
        with running_sidecar(tmp_path, document) as sidecar:
            password = b64encode(b"alice:secret").decode()
            by_password = Received.of(
                request(f"{sidecar.url}/x", headers=[("Authorization", f"Basic {password}")]).json()
            )
            guest = Received.of(request(f"{sidecar.url}/x").json())
    assert by_password.all("X-Auth-Request-User") == ["alice"]
    assert by_password.all("X-Auth-Issuer") == ["urn:auth-sidecar:basic"]
    assert guest.all("X-Auth-Request-User") == ["guest"]
    assert guest.all("X-Auth-Issuer") == []
    assert by_password.all("X-Auth-Token-Id") == guest.all("X-Auth-Token-Id") == []


def test_the_members_of_the_assertion_are_those_of_the_table(scene: Scene) -> None:
    """Every claim is documented."""
    from joserfc.jwk import KeySet

    from examples.assertion.verify import verify

    (assertion,) = scene.received().all(ASSERTION)
    keys = KeySet.import_key_set(request(f"{scene.sidecar.url}/oauth2/assertion/jwks").json())
    claims = verify(assertion, keys, scene.issuer, scene.audience)
    text = PAGE.read_text(encoding="utf-8").partition("## The assertion")[2].partition("### Python")[0]
    documented = set(re.findall(r"`(actor\.\w+|[a-z_]+)`", text))
    members = {f"actor.{name}" for name in claims["actor"]} | (claims.keys() - {"actor"})
    assert members <= documented
    assert {name for name in documented if name.startswith("actor.")} <= members


@pytest.mark.parametrize("language", PROGRAMS)
def test_the_page_shows_the_program_that_is_run(language: str) -> None:
    """Character by character."""
    program = (EXAMPLES / PROGRAMS[language]).read_text(encoding="utf-8")
    assert program in [text for found, text in _BLOCK.findall(PAGE.read_text(encoding="utf-8")) if found == language]


def command_of(language: str, require_tool: Callable[[str], Path]) -> tuple[list[object], Path]:
    """How the program is run, and where."""
    if language == "python":
        return [sys.executable, EXAMPLES / "verify.py"], EXAMPLES
    if language == "go":
        return [require_tool("go"), "run", "."], EXAMPLES / "go"
    archive = require_tool("java-nimbus")
    return ["java", "-cp", archive, "Verify.java"], EXAMPLES / "java"


@pytest.mark.parametrize(
    "language",
    ["python", pytest.param("go", marks=pytest.mark.heavy), pytest.param("java", marks=pytest.mark.heavy)],
)
def test_the_programs_verify_an_assertion_and_nothing_else(
    language: str, scene: Scene, require_tool: Callable[[str], Path]
) -> None:
    """A good one passes; the caller's own token, another audience, another issuer and a changed one do not."""
    command, folder = command_of(language, require_tool)
    seen = scene.received(preferred_username="zoe", groups=["readers", "a,b"])
    (assertion,) = seen.all(ASSERTION)
    (own,) = seen.all("Authorization")
    keys = f"{scene.sidecar.url}/oauth2/assertion/jwks"

    def run(text: str, issuer: str = scene.issuer, audience: str = scene.audience) -> tuple[int, str]:
        done = subprocess.run(
            [str(part) for part in (*command, keys, issuer, audience)],
            cwd=folder,
            input=text,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout + (done.stderr if done.returncode == 0 else "")

    assert run(assertion) == (0, "zoe readers,a,b\n")
    head, payload, signature = assertion.split(".")
    changed = ".".join((head, payload, signature[:-4] + ("AAAA" if signature[-4:] != "AAAA" else "BBBB")))
    for bad in (
        run(own.removeprefix("Bearer ")),
        run(changed),
        run(assertion, issuer="elsewhere/assertion"),
        run(assertion, audience="http://elsewhere"),
    ):
        assert bad[0] != 0
        assert "zoe" not in bad[1]
