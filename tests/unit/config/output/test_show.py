"""What is printed about a configuration: its values with sources, its schema, its reference pages."""

import json
from pathlib import Path

import pytest

from sidecar.config.load import load
from sidecar.config.output.reference import PAGES
from sidecar.config.output.schema import json_schema
from sidecar.config.output.show import as_json, as_yaml

ROOT = Path(__file__).parents[4]
TEXT = """\
store: {url: 'sqlite:////tmp/hunter2.db', password: hunter2}
server: {realm: "yes: ${R:-x} $${Y} \\u00e9\\U0001f600\\n\\"\\\\", trustedProxies: ["10.0.0.0/8"]}
authenticationConfiguration:
  clientId: ${CLIENT}
  authority: https://a
  jwtPrincipalClaims: ${CLAIMS:-[sub]}
  providers:
    - name: p
      issuer: "https://z # x"
      publicKeyUrls: [https://z/keys]
      requiredClaims: {"a.b": ["1", "true"]}
      actorType: {claim: kind, service: [bot]}
      maxTokenLifetime: 90m
rules:
  - {path: /a/*/b, methods: [GET], require: {groups: ["a, b"]}}
"""


@pytest.fixture(name="shown")
def _shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(TEXT, encoding="utf-8")
    return as_yaml(load(["c.yaml"], {"CLIENT": "om", "CLAIMS": "[email]"}))


def test_every_value_names_its_source(shown: str) -> None:
    """Default, file and line, or variable."""
    lines = [line.strip() for line in shown.splitlines()]
    assert "workers: 1  # default" in lines
    assert 'authority: "https://a"  # c.yaml:5' in lines
    assert "clientId: om  # environment CLIENT" in lines
    assert "jwtPrincipalClaims: [email]  # environment CLAIMS" in lines
    assert 'trustedProxies: ["10.0.0.0/8"]  # c.yaml:2' in lines
    assert "- name: p  # c.yaml:8" in lines
    assert 'issuer: "https://z # x"  # c.yaml:9' in lines


def test_secrets_are_masked(shown: str) -> None:
    """In YAML and in JSON."""
    assert "hunter2" not in shown
    assert '"********"  # c.yaml:1' in shown
    assert "hunter2" not in json.dumps(as_json(load(["c.yaml"], {"CLIENT": "om"})))


def test_what_is_shown_says_the_same_when_read(shown: str) -> None:
    """Nothing is lost or looked up a second time."""
    first = load(["c.yaml"], {"CLIENT": "om", "CLAIMS": "[email]"})
    Path("d.yaml").write_text(shown.replace('url: "********"', "url: sqlite:////x"), encoding="utf-8")
    second = load(["d.yaml"], {"R": "other", "Y": "other"})
    without_store = {"store": True}
    assert second.settings.model_dump(exclude=without_store) == first.settings.model_dump(exclude=without_store)
    assert second.providers == first.providers


def test_the_schema_uses_the_files_names() -> None:
    """camelCase, closed, described, and without any secret's default."""
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert schema["additionalProperties"] is False
    assert {"server", "authenticationConfiguration", "import", "allowPublishedSecrets"} <= schema["properties"].keys()
    provider = schema["$defs"]["ProviderSettings"]["properties"]
    assert {"publicKeyUrls", "jwtPrincipalClaims", "maxTokenLifetime"} <= provider.keys()
    assert all("description" in value or "$ref" in value for value in provider.values())
    assert "***" not in json.dumps(schema)
    options = schema["$defs"]["AuthenticatorSettings"]["properties"]["configs"]
    assert options["additionalProperties"] is True, "an authenticator's options are more than texts"


@pytest.mark.parametrize("page", PAGES)
def test_reference_pages_are_up_to_date(page: str) -> None:
    """Run ``python -m sidecar.config.output.reference <page> > docs/reference/<page>.md`` after a change."""
    assert (ROOT / f"docs/reference/{page}.md").read_text(encoding="utf-8") == PAGES[page]()
