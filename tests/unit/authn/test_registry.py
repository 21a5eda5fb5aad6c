"""Which word means which class, what is said about wrong ones, and how options are read."""

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.authn.base import Authenticator
from sidecar.authn.guest import GuestOptions
from sidecar.authn.registry import (
    BUILT_IN,
    ENTRY_POINTS,
    AuthenticatorSpec,
    build_specs,
    chain_specs,
    load_authenticator,
    validate,
)
from sidecar.config.load import Loaded, load
from sidecar.config.output.show import as_json, as_yaml
from sidecar.config.reading.decode import fields_by_name
from sidecar.errors import Misconfigured

GUEST = "com.datahub.authentication.authenticator.DataHubGuestAuthenticator"
PLUGIN = """
from typing import Annotated
from pydantic import Field
from sidecar.authn.base import ABSTAINED, Authenticator
from sidecar.config.settings import Model
from sidecar.secrets.value import Secret

class KeyOptions(Model):
    key: Secret
    count: Annotated[int, Field(ge=1)] = 1

class Keys(Authenticator):
    Options = KeyOptions
    async def authenticate(self, view):
        return ABSTAINED

class Stranger:
    pass
"""


@pytest.fixture(name="read")
def _read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "sample_plugin.py").write_text(PLUGIN)
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('secret text')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sample_plugin", raising=False)

    def read(*authenticators: dict[str, Any], environ: dict[str, str] | None = None, **block: Any) -> Loaded:
        path = tmp_path / "c.yaml"
        document = {"authentication": {"authenticators": list(authenticators), **block}}
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return load([str(path)], environ or {}, validate)

    return read


def told(read: Any, *authenticators: dict[str, Any]) -> str:
    with pytest.raises(Misconfigured) as caught:
        read(*authenticators)
    return str(caught.value)


def options(spec: AuthenticatorSpec) -> Any:
    """Of a model that the test knows."""
    return spec.options


def test_without_any_the_chain_is_jwt(read: Any) -> None:
    assert [member.name for member in build_specs(read().authenticators)] == ["jwt"]


def test_jwt_is_first_unless_it_is_listed(read: Any) -> None:
    assert [member.name for member in build_specs(read({"type": "guest"}).authenticators)] == ["jwt", "guest"]
    listed = read({"type": "sample_plugin:Keys", "name": "keys", "configs": {"key": "k"}}, {"type": "jwt"})
    assert [member.name for member in build_specs(listed.authenticators)] == ["keys", "jwt"]


def test_authenticators_of_other_blocks_come_first(read: Any) -> None:
    configs = read({"type": "guest"}).authenticators
    specs = chain_specs(configs, {"system", "session", "unknown"})
    assert [(spec.name, spec.factory) for spec in specs] == [
        ("session", None), ("system", None), ("jwt", None), ("guest", None),
    ]  # fmt: skip
    assert [spec.describe for spec in specs] == [
        "sessions of the browser login (cookie)",
        "DataHub's system client, Basic id:secret",
        "Bearer JWTs of the configured issuers and own tokens",
        "without credentials everybody is guest on /**",
    ]
    assert chain_specs(configs, ()) == build_specs(configs)


def test_switched_off_the_block_has_no_members(read: Any) -> None:
    assert [member.name for member in build_specs(read({"type": "guest"}, enabled=False).authenticators)] == ["jwt"]


def test_datahubs_guest_is_off_unless_it_is_switched_on(read: Any) -> None:
    """DataHub's default, under DataHub's name only."""
    _, by_java_name = build_specs(read({"type": GUEST, "configs": {"guestUser": "visitor"}}).authenticators)
    assert isinstance(by_java_name.options, GuestOptions)
    assert not options(by_java_name).enabled
    _, switched_on = build_specs(read({"type": GUEST, "configs": {"enabled": "true"}}).authenticators)
    assert options(switched_on).enabled
    _, by_word = build_specs(read({"type": "guest"}).authenticators)
    assert options(by_word).enabled


def test_an_import_path_names_a_plugin_and_its_secrets_are_looked_up(read: Any) -> None:
    member = {"type": "sample_plugin:Keys", "configs": {"key": "env:API_KEY", "count": 3}}
    _, keys = build_specs(read(member, environ={"API_KEY": "opensesame"}).authenticators)
    assert keys.is_plugin
    assert keys.name == "Keys"
    assert options(keys).key.matches("opensesame")
    assert options(keys).count == 3


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ({"type": "gest"}, "authentication.authenticators[0].type: is not a known authenticator; did you mean guest?"),
        ({"type": "com.example.DataHubGuestAuthentikator"}, f"has no counterpart here; did you mean {GUEST}?"),
        ({"type": "sample_plugin:Stranger"}, "is not a subclass of sidecar.authn.base.Authenticator"),
        ({"type": "sample_plugin:Nothing"}, "cannot be imported: AttributeError"),
        ({"type": "no_such_module_here:Nothing"}, "cannot be imported: ModuleNotFoundError"),
        ({"type": "broken_plugin:Anything"}, "cannot be imported: RuntimeError"),
        ({"type": "sample_plugin:Keys"}, "authentication.authenticators[0].configs.key: is missing"),
        ({"type": "sample_plugin:Keys", "configs": {"key": "k", "count": 0}}, "configs.count: must be at least 1"),
        ({"type": "sample_plugin:Keys", "configs": {"key": "k", "cuont": 2}}, "did you mean count?"),
        ({"type": "sample_plugin:Keys", "configs": {"key": "env:UNSET"}}, "configs.key: "),
        ({"type": "guest", "configs": {"guestUser": "env:NAME"}}, "configs.guestUser: is not a secret setting"),
        ({"type": "guest", "configs": {"guestUser": "two words"}}, "configs.guestUser: must be a valid Actor name"),
        ({"type": "guest", "configs": {"paths": ["/a/../b"]}}, "configs.paths[0]: must match"),
        ({"type": "jwt", "configs": {"leeway": 3}}, "configs.leeway: is not a known name; jwt has no options"),
    ],
)  # fmt: skip
def test_an_error_names_its_place(read: Any, member: dict[str, Any], expected: str) -> None:
    text = told(read, member)
    assert expected in text
    assert "c.yaml:" in text
    assert "secret text" not in text


def test_all_problems_are_reported_at_once(read: Any) -> None:
    text = told(read, {"type": "gest"}, {"type": "guest", "onErorr": "fail"}, {"type": "guest"})
    assert "[0].type" in text
    assert "[1].onErorr" in text
    assert "[2]" in text


def test_two_members_need_two_names(read: Any) -> None:
    member = {"type": "sample_plugin:Keys", "configs": {"key": "k"}}
    assert "another authenticator has the name Keys" in told(read, member, member)
    assert len(build_specs(read(member, {**member, "name": "more"}).authenticators)) == 3


@pytest.mark.parametrize("name", ["jwt", "datahub", "system", "own", "guest", "none", "DataHub"])
def test_no_member_has_a_name_that_stands_for_another(read: Any, name: str) -> None:
    member = {"type": "sample_plugin:Keys", "name": name, "configs": {"key": "k"}}
    assert f"cannot have the name {name}, which is reserved" in told(read, member)


def test_no_package_offers_a_member_under_such_a_name(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = EntryPoint("none", "sample_plugin:Keys", ENTRY_POINTS)
    monkeypatch.setattr("sidecar.authn.registry.entry_points", lambda group: [offered])
    assert "cannot have the name none" in told(read, {"type": "none", "configs": {"key": "k"}})


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("jwt", "name", "tokens"),
        ("jwt", "timeout", "1s"),
        ("datahub", "timeout", "1s"),
        ("guest", "timeout", "1s"),
        ("guest", "onError", "continue"),
    ],
)
def test_what_would_have_no_effect_is_refused(read: Any, word: str, key: str, value: str) -> None:
    assert f"authenticators[0].{key}: has no effect on {word}" in told(read, {"type": word, key: value})


@pytest.mark.parametrize(("after", "refused"), [([], True), (["jwt"], False)])
def test_asking_about_jwts_that_are_decided_on_already_is_refused(read: Any, after: list[str], refused: bool) -> None:
    """``jwt`` comes first where it is not listed: a revoked token's signature is still valid."""
    asks = {
        "provider": "corp",
        "url": "https://idp.example.com/i",
        "clientId": "c",
        "clientSecret": "s",
        "jwts": "true",
    }
    written: list[dict[str, Any]] = [
        {"type": "introspection", "configs": asks},
        *({"type": word} for word in after),
    ]
    if refused:
        assert "jwts has no effect after jwt" in told(read, *written)
    else:
        assert [member.name for member in build_specs(read(*written).authenticators)] == ["introspection", "jwt"]


@pytest.mark.parametrize("issuer", ["", "https://cluster"])
def test_two_clusters_of_one_issuer_are_refused(read: Any, issuer: str) -> None:
    """The first would decide on all tokens of both."""
    members: list[dict[str, Any]] = [
        {"type": "kubernetes", "name": f"k{number}", "configs": {"audiences": ["a"], "issuer": issuer}}
        for number in range(2)
    ]
    assert "has the same issuer as k0, which decides on all its tokens" in told(read, *members)
    members[1]["configs"]["issuer"] = "https://other"
    read(*members)


def test_known_java_classes_without_counterpart_are_warned_of(read: Any) -> None:
    loaded = read({"type": "com.datahub.authentication.authenticator.HealthStatusAuthenticator"})
    assert any("preset: datahub" in problem.message for problem in loaded.warnings)
    assert [member.name for member in build_specs(loaded.authenticators)] == ["jwt"]


def test_options_are_printed_nowhere(read: Any) -> None:
    """Only the authenticator knows which of its options are secret."""
    loaded = read({"type": "sample_plugin:Keys", "configs": {"key": "opensesame"}})
    for text in (as_yaml(loaded), str(as_json(loaded)), repr(loaded), repr(build_specs(loaded.authenticators))):
        assert "opensesame" not in text
    assert "key" in as_yaml(loaded)


def test_the_guide_names_every_option_of_every_member() -> None:
    guide = (Path(__file__).resolve().parents[3] / "docs" / "guides" / "authenticators.md").read_text()
    for word, place in BUILT_IN.items():
        _, _, section = guide.partition(f"\n## `{word}`\n")
        rows = "\n".join(line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|"))
        named = set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in rows.splitlines())))
        assert named == set(fields_by_name(load_authenticator(place).Options)), word


def test_every_built_in_type_describes_its_credentials() -> None:
    """A built-in that overrides nothing would be listed by ``sidecar check`` with the default phrase of plugins."""
    for place in BUILT_IN.values():
        owner = next(kind for kind in load_authenticator(place).__mro__ if "describe" in vars(kind))
        assert owner is not Authenticator, place
