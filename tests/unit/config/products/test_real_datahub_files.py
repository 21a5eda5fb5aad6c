"""DataHub's ``application.yaml`` in each of its shapes, with the variables of its quickstart and of its Helm chart."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from sidecar.app.datahub import DataHubSetup, datahub_setup
from sidecar.authn.registry import build_specs, validate
from sidecar.config.load import Loaded, load
from sidecar.errors import Misconfigured

CLASSES = "com.datahub.authentication.authenticator."
PUBLISHED_KEY = "WnEdIeTG/VVCLQqGwC/BAkqyY0k+H8NEAtWGejrBI94="
PUBLISHED_SALT = "ohDVbJBvHHVJh9S/UA4BYF9COuNnqqVhr9MLKEGXk1O="
SHAPES = ("0.8.18", "0.8.36", "0.10.3", "0.12.0", "0.12.1", "0.15", "1.3")
# The chart keeps three values in a Secret that it generates.
CHART = {
    "METADATA_SERVICE_AUTH_ENABLED": "true",
    "DATAHUB_SYSTEM_CLIENT_ID": "__datahub_system",
    "DATAHUB_SYSTEM_CLIENT_SECRET": "generated-system-secret-of-the-chart",
    "DATAHUB_TOKEN_SERVICE_SIGNING_KEY": "generated-signing-key-of-the-chart-0001",
    "DATAHUB_TOKEN_SERVICE_SALT": "generated-salt-of-the-chart",
}
QUICKSTART = {
    "METADATA_SERVICE_AUTH_ENABLED": "false",
    "DATAHUB_SYSTEM_CLIENT_SECRET": "JohnSnowKnowsNothing",
    "DATAHUB_TOKEN_SERVICE_SIGNING_KEY": "",
    "DATAHUB_TOKEN_SERVICE_SALT": "",
    "DATAHUB_BASE_PATH": "/",
    "DATAHUB_GMS_BASE_PATH": "/",
}


def application_yaml(version: str) -> str:
    """The block, and the sections around it that the import reads, as the file of ``version`` has them."""
    number = tuple(map(int, version.split(".")))
    key = f"${{DATAHUB_TOKEN_SERVICE_SIGNING_KEY:{PUBLISHED_KEY}}}"
    salt = f"${{DATAHUB_TOKEN_SERVICE_SALT:{PUBLISHED_SALT}}}" if number >= (0, 8, 36) else ""
    text = 'path-mappings:\n  "/": ""\n' if number >= (1, 0) else ""
    default = "true" if number >= (0, 15) else "false"
    text += f"authentication:\n  enabled: ${{METADATA_SERVICE_AUTH_ENABLED:{default}}}\n"
    if number >= (0, 15):
        text += "  excludedPaths: /schema-registry/*,/health\n"
        text += "  enforceExistenceEnabled: ${METADATA_SERVICE_AUTH_ENFORCE_EXISTENCE_ENABLED:true}\n"
    text += f"  authenticators:\n    - type: {CLASSES}DataHubTokenAuthenticator\n      configs:\n"
    text += f"        signingKey: {key}\n"
    text += f"        salt: {salt}\n" if salt else ""
    if number >= (0, 12, 1):
        text += f"    - type: {CLASSES}HealthStatusAuthenticator\n"
    if number >= (1, 0):
        text += f"    - type: {CLASSES}DataHubOAuthAuthenticator\n      configs:\n"
        text += "        enabled: ${EXTERNAL_OAUTH_ENABLED:false}\n        jwksUri: ${EXTERNAL_OAUTH_JWKS_URI:}\n"
        text += f"    - type: {CLASSES}DataHubGuestAuthenticator\n      configs:\n"
        text += "        guestUser: ${GUEST_AUTHENTICATION_USER:guest}\n"
        text += "        enabled: ${GUEST_AUTHENTICATION_ENABLED:false}\n"
    if number >= (0, 10, 3):
        text += "  logAuthenticatorExceptions: ${METADATA_SERVICE_AUTHENTICATOR_EXCEPTIONS_ENABLED:false}\n"
    text += "  systemClientId: ${DATAHUB_SYSTEM_CLIENT_ID:__datahub_system}\n"
    text += "  systemClientSecret: ${DATAHUB_SYSTEM_CLIENT_SECRET:JohnSnowKnowsNothing}\n"
    text += f"  tokenService:\n    signingKey: {key}\n"
    text += f"    salt: {salt}\n" if salt else ""
    if number >= (0, 12):
        text += "    issuer: ${DATAHUB_TOKEN_SERVICE_ISSUER:datahub-metadata-service}\n"
        text += "    signingAlgorithm: ${DATAHUB_TOKEN_SERVICE_SIGNING_ALGORITHM:HS256}\n"
    text += "  sessionTokenDurationMs: ${SESSION_TOKEN_DURATION_MS:86400000}\n"
    text += (
        "datahub:\n  gms:\n    uri: ${DATAHUB_GMS_URI:#{null}}\n    useSSL: ${DATAHUB_GMS_USE_SSL:${GMS_SSL:false}}\n"
    )
    if number >= (1, 0):
        text += "    basePath: ${DATAHUB_GMS_BASE_PATH:}\n  basePath: ${DATAHUB_BASE_PATH:}\n"
    # two keys that differ only to Spring, and names that no parser of placeholders can read
    text += "timeseries:\n  queueSize: ${QUERY)QUEUE_SIZE:500}\nspring.application.name: ${APPLICATION_NAME:gms}\n"
    return f"{text}secretService:\n  encryptionKey: \"#{{systemEnvironment['KEY'] ?: 'none'}}\"\n"


def imported(
    folder: Path, version: str, environ: Mapping[str, str], credentials: str = "datahub", own: str = ""
) -> Loaded:
    (folder / "application.yaml").write_text(application_yaml(version), encoding="utf-8")
    ours = "import: {datahub: application.yaml}\nrules: [{preset: datahub}]\n"
    ours += f"upstream: {{url: 'http://127.0.0.1:8080', credentials: {credentials}}}\n{own}"
    (folder / "c.yaml").write_text(ours, encoding="utf-8")
    return load([str(folder / "c.yaml")], environ, validate)


def setup(loaded: Loaded) -> DataHubSetup:
    return datahub_setup(loaded, build_specs(loaded.authenticators))


@pytest.mark.parametrize("version", SHAPES)
def test_the_charts_variables_make_a_file_work_as_it_is(tmp_path: Path, version: str) -> None:
    """The chart sets the salt for every version: a server without one does not read it."""
    found = setup(imported(tmp_path, version, CHART))
    assert found.accepts_tokens
    assert found.key is not None
    assert found.system_client is not None
    assert found.salt.reveal() == CHART["DATAHUB_TOKEN_SERVICE_SALT"] or version == "0.8.18"


@pytest.mark.parametrize("version", [version for version in SHAPES if version != "0.8.18"])
def test_published_secrets_are_an_error_with_the_line_that_has_them(tmp_path: Path, version: str) -> None:
    loaded = imported(tmp_path, version, {"METADATA_SERVICE_AUTH_ENABLED": "true"})
    with pytest.raises(Misconfigured) as caught:
        setup(loaded)
    lines = [str(problem) for problem in caught.value.problems]
    assert [line.partition(":")[0] for line in lines] == [
        "authentication.systemClientSecret",
        "authentication.authenticators[0].configs.signingKey",
        "authentication.authenticators[0].configs.salt",
    ]
    assert all("published default" in line and "openssl rand" in line for line in lines)
    assert all(f"value of import {tmp_path}/application.yaml:" in line for line in lines)
    assert "anyone can sign with it" not in lines[2]


def test_a_secret_from_a_variable_is_blamed_on_the_variable(tmp_path: Path) -> None:
    environ = {**CHART, "DATAHUB_SYSTEM_CLIENT_SECRET": "JohnSnowKnowsNothing"}
    with pytest.raises(Misconfigured, match=r"systemClientSecret: .*environment DATAHUB_SYSTEM_CLIENT_SECRET"):
        setup(imported(tmp_path, "1.3", environ))


def test_a_file_without_a_salt_needs_one(tmp_path: Path) -> None:
    environ = {name: value for name, value in CHART.items() if name != "DATAHUB_TOKEN_SERVICE_SALT"}
    with pytest.raises(Misconfigured, match=r"salt: is empty; set DATAHUB_TOKEN_SERVICE_SALT .* \(before 0\.8\.36\)"):
        setup(imported(tmp_path, "0.8.18", environ))
    own = f"authentication: {{tokenService: {{salt: {CHART['DATAHUB_TOKEN_SERVICE_SALT']}}}}}\n"
    assert setup(imported(tmp_path, "0.8.18", environ, own=own)).key is not None


@pytest.mark.parametrize("version", SHAPES)
@pytest.mark.parametrize("credentials", ["datahub", "passthrough", "none"])
def test_a_quickstart_without_authentication_is_an_error_without_the_header(
    tmp_path: Path, version: str, credentials: str
) -> None:
    """Its metadata service ignores tokens, and treats a request without the Actor's header as the system client's."""
    for own in ("", "authentication: {enabled: true}\n"):
        with pytest.raises(Misconfigured) as caught:
            imported(tmp_path, version, QUICKSTART, credentials, own)
        (error,) = (problem for problem in caught.value.problems if problem.fatal)
        assert error.id == "datahub-unauthenticated"
        assert f"is {credentials}" in error.message
        assert "datahubHeader" in error.message
        assert "METADATA_SERVICE_AUTH_ENABLED" in str(error)


@pytest.mark.parametrize("version", SHAPES)
def test_a_quickstart_works_with_the_header(tmp_path: Path, version: str) -> None:
    loaded = imported(tmp_path, version, QUICKSTART, "datahubHeader")
    assert setup(loaded).key is None
    assert not any(rule.base_path for rule in loaded.settings.rules)
    about = [line for line in loaded.warnings if line.path == "authentication.enabled"]
    assert len(about) == len(loaded.settings.authentication.authenticators) + 1


def test_a_file_of_a_server_without_authentication_is_not_importable(tmp_path: Path) -> None:
    """Before 0.8.18 there is no such block."""
    (tmp_path / "application.yaml").write_text("datahub:\n  gms: {}\n", encoding="utf-8")
    (tmp_path / "c.yaml").write_text("import: {datahub: application.yaml}\n", encoding="utf-8")
    with pytest.raises(Misconfigured, match=r"no block authentication; .*0\.8\.18 or later"):
        load([str(tmp_path / "c.yaml")], {}, validate)
