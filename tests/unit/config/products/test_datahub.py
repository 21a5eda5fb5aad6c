"""DataHub's file and variables, read as DataHub reads them, and nothing in a value becomes more than text."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from sidecar.authn.registry import build_specs, validate
from sidecar.config.load import Loaded, load
from sidecar.config.output.show import as_json, as_yaml
from sidecar.config.products.datahub import VARIABLES
from sidecar.config.products.spring import Expander
from sidecar.config.reading.placeholders import PlaceholderError
from sidecar.errors import Misconfigured

FULL = Path(__file__).parents[3] / "vectors/config/datahub.yaml"
KEY, SALT, SECRET = "key: with #, 'odd' {signs}", "salt-of-the-tests", "s3cret-of-the-tests"
ENVIRON = {
    "DATAHUB_TOKEN_SERVICE_SIGNING_KEY": KEY,
    "DATAHUB_TOKEN_SERVICE_SALT": SALT,
    "DATAHUB_SYSTEM_CLIENT_SECRET": SECRET,
}
IMPORT = "import: {datahub: application.yaml}\n"


@pytest.fixture(name="folder", autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "application.yaml").write_text(FULL.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def load_text(text: str, environ: Mapping[str, str] | None = None) -> Loaded:
    Path("c.yaml").write_text(text, encoding="utf-8")
    return load(["c.yaml"], environ or {}, validate)


def told(text: str, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(Misconfigured) as caught:
        load_text(text, environ)
    return str(caught.value)


def test_a_full_file_is_imported() -> None:
    """One block counts, with the placeholders of its own file; everything else is not even looked at."""
    loaded = load_text(IMPORT, {**ENVIRON, "GUEST_AUTHENTICATION_ENABLED": "true"})
    block = loaded.settings.authentication
    assert block.enabled
    assert block.system_client_id == "__datahub_system"
    assert block.system_client_secret
    assert block.system_client_secret.reveal() == SECRET
    assert block.token_service.signing_key
    assert block.token_service.signing_key.reveal() == KEY
    assert block.token_service.issuer == "datahub-metadata-service"
    planned = build_specs(loaded.authenticators)
    assert [item.type_name for item in planned] == ["jwt", "datahub", "guest"]
    assert loaded.sources["authentication.tokenService.salt"] == "environment DATAHUB_TOKEN_SERVICE_SALT"
    assert loaded.sources["authentication.tokenService.issuer"].startswith("import application.yaml:")


def test_what_is_left_out_is_named() -> None:
    warnings = [str(warning) for warning in load_text(IMPORT, ENVIRON).warnings]
    for place in ("authentication.authenticators[1].type", "authentication.authenticators[2].type"):
        assert any(f"{place}: is skipped" in warning for warning in warnings)
    assert any("authentication.somethingNew: is unknown here and ignored" in warning for warning in warnings)


def test_unknown_class_is_named_with_the_nearest(folder: Path) -> None:
    text = FULL.read_text(encoding="utf-8").replace("DataHubTokenAuthenticator", "DataHubTokensAuthenticator")
    (folder / "application.yaml").write_text(text, encoding="utf-8")
    said = told(IMPORT, ENVIRON)
    assert "authentication.authenticators[0].type" in said
    assert "did you mean com.datahub.authentication.authenticator.DataHubTokenAuthenticator?" in said


def test_what_is_written_wins_over_the_import() -> None:
    loaded = load_text(
        f"{IMPORT}authentication: {{systemClientId: other, authenticators: [{{type: datahub}}]}}\n", ENVIRON
    )
    assert loaded.settings.authentication.system_client_id == "other"
    assert [item.type_name for item in build_specs(loaded.authenticators)] == ["jwt", "datahub"]


def test_each_part_that_is_switched_off_is_a_line() -> None:
    """The variable of a quickstart switches the block off here too, and never in silence."""
    loaded = load_text(IMPORT, {**ENVIRON, "METADATA_SERVICE_AUTH_ENABLED": "false"})
    assert loaded.authenticators == ()
    said = [str(line) for line in loaded.warnings if line.path == "authentication.enabled"]
    assert len(said) == len(loaded.settings.authentication.authenticators) + 1
    assert all("METADATA_SERVICE_AUTH_ENABLED" in line and "has no effect" in line for line in said)
    again = load_text(
        f"{IMPORT}authentication: {{enabled: true}}\n", {**ENVIRON, "METADATA_SERVICE_AUTH_ENABLED": "false"}
    )
    assert again.authenticators


def test_a_guest_that_is_switched_off_is_described_so() -> None:
    for value, words in (("false", "switched off"), ("true", "without credentials everybody is guest")):
        planned = build_specs(load_text(IMPORT, {**ENVIRON, "GUEST_AUTHENTICATION_ENABLED": value}).authenticators)
        (guest,) = (item for item in planned if item.type_name == "guest")
        assert words in guest.describe


def test_no_secret_is_shown() -> None:
    loaded = load_text(IMPORT, ENVIRON)
    shown = f"{as_yaml(loaded)}{as_json(loaded)}{loaded!r}"
    for secret in (KEY, SALT, SECRET):
        assert secret not in shown


@pytest.mark.parametrize(
    ("block", "key", "variable"),
    [(block, key, name) for block, names in VARIABLES.items() for key, name in names.items()],
)
def test_each_variable_is_the_one_that_the_file_names(block: str, key: str, variable: str) -> None:
    found = yaml.load(FULL.read_text(encoding="utf-8"), yaml.BaseLoader)
    for name in block.split("."):
        found = found[name]
    assert found[key].startswith(f"${{{variable}:")


def test_variables_fill_what_the_block_leaves_out() -> None:
    loaded = load_text("authentication: {systemClientId: mine}\n", {**ENVIRON, "DATAHUB_SYSTEM_CLIENT_ID": "theirs"})
    block = loaded.settings.authentication
    assert block.system_client_id == "mine"
    assert block.token_service.signing_key
    # verbatim: no YAML is read from it
    assert block.token_service.signing_key.reveal() == KEY
    assert loaded.sources["authentication.systemClientSecret"] == "environment DATAHUB_SYSTEM_CLIENT_SECRET"


def test_variables_do_not_count_without_the_block() -> None:
    assert (
        load_text("upstream: {url: 'http://127.0.0.1:1'}\n", ENVIRON).settings.authentication.system_client_secret
        is None
    )


def test_variable_that_is_empty_is_none() -> None:
    assert load_text("authentication: {}\n", {"DATAHUB_SYSTEM_CLIENT_ID": ""}).settings.authentication.enabled


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "import.datahub: cannot be read"),
        ("a: 1\n", "has no block authentication"),
        ("authentication: [x]\n", "has no block authentication"),
        ("authentication: {enabled: '${X'}\n", "authentication.enabled: has a placeholder that is not closed"),
        ("authentication: {enabled: '${X}'}\n", "authentication.enabled: the variable X is not set"),
        ("authentication: {enabled: '${X:maybe}'}\n", "authentication.enabled: must be true or false"),
        ("authentication: {tokenService: {signingAlgorithm: HS512}}\n", "signingAlgorithm: must be 'HS256'"),
        ("authentication: [", "application.yaml"),
    ],
)
def test_unusable_file_is_reported(folder: Path, text: str | None, said: str) -> None:
    if text is None:
        (folder / "application.yaml").unlink()
    else:
        (folder / "application.yaml").write_text(text, encoding="utf-8")
    assert said in told(IMPORT)


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("plain", {}, "plain"),
        ("${A:b}", {}, "b"),
        ("${A:b}", {"A": "x"}, "x"),
        ("${A:b}", {"A": ""}, ""),
        ("${A:}", {}, ""),
        ("${A:b:c}", {}, "b:c"),
        ("${A:http://x:1/${B:y}}/z", {}, "http://x:1/y/z"),
        ("${A:${B:${C:d}}}", {}, "d"),
        ("${A:${B:c}}", {"B": "x"}, "x"),
        ("${A:${B}}", {"A": "x"}, "x"),
        ("${A:{b}}", {}, "{b}"),
        ("${A:1}${B:2} ${A:3}", {"A": "x"}, "x2 x"),
        ("${A:b}", {"A": "${B:c}"}, "c"),
        ("$A {A} $", {}, "$A {A} $"),
        ("${A:- b}", {}, "- b"),
        ("${A:x}", {"A": "[a, b]: {c: !!tag d} # e"}, "[a, b]: {c: !!tag d} # e"),
    ],
)
def test_placeholders(text: str, environ: dict[str, str], expected: str) -> None:
    assert Expander(environ).expand(text) == expected


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        ("${A}", {}, "the variable A is not set and has no default"),
        ("${A:${B}}", {}, "the variable B is not set"),
        ("${A:b", {}, "not closed"),
        ("${A:{b}", {}, "not closed"),
        ("${${A:b}:c}", {}, "is not set|name contains placeholders"),
        ("${A:x}", {"A": "${B:x}", "B": "${A:x}"}, "refers to itself"),
        ("${A:x}" * 300, {}, "too many"),
        ("${A:" * 30 + "x" + "}" * 30, {}, "refers to itself"),
        ("${A:x}", {"A": "${B:x}" * 150, "B": "y" * 1000}, "too long"),
    ],
)
def test_bad_placeholders_end_with_a_reason_and_without_the_value(
    text: str, environ: dict[str, str], said: str
) -> None:
    with pytest.raises(PlaceholderError, match=said) as caught:
        Expander(environ).expand(text)
    assert "yyy" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "expected", "source"),
    [
        ({}, "", ""),
        ({"DATAHUB_BASE_PATH": "/dh"}, "/dh", "DATAHUB_BASE_PATH"),
        ({"DATAHUB_GMS_BASE_PATH": "/gms/"}, "/gms", "DATAHUB_GMS_BASE_PATH"),
        ({"DATAHUB_GMS_BASE_PATH": "/gms", "DATAHUB_BASE_PATH": "/dh"}, "/gms", "DATAHUB_GMS_BASE_PATH"),
        ({"DATAHUB_GMS_BASE_PATH": "/", "DATAHUB_BASE_PATH": "/dh"}, "/dh", "DATAHUB_BASE_PATH"),
    ],
)
def test_the_metadata_services_base_path_is_its_presets(environ: Mapping[str, str], expected: str, source: str) -> None:
    """Its own one before that of the whole application; other presets are not moved by it."""
    loaded = load_text(IMPORT + "rules: [{preset: datahub}, {preset: openmetadata}]", {**ENVIRON, **environ})
    assert [rule.base_path for rule in loaded.settings.rules] == [expected, ""]
    assert loaded.sources.get("rules[0].basePath", "").removeprefix("environment ") == source
