"""OpenMetadata's file and variables, read as OpenMetadata reads them."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from sidecar.config.load import Loaded, load
from sidecar.config.products.openmetadata import VARIABLES
from sidecar.config.providers import has_own_keys
from sidecar.errors import Misconfigured

FULL = Path(__file__).parents[3] / "vectors/config/openmetadata.yaml"
ALGORITHM = "tokenValidationAlgorithm"  # written out in the file; its variable came with a later version


@pytest.fixture(name="folder", autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openmetadata.yaml").write_text(FULL.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def load_text(text: str, environ: Mapping[str, str] | None = None) -> Loaded:
    Path("c.yaml").write_text(text, encoding="utf-8")
    return load(["c.yaml"], environ or {})


IMPORT = "import: {openmetadata: openmetadata.yaml}\n"
NO_OWN_KEYS = {"RSA_PUBLIC_KEY_FILE_PATH": "", "RSA_PRIVATE_KEY_FILE_PATH": '""'}


def test_a_full_file_is_imported(folder: Path) -> None:
    """The four blocks count, with the substitution of their own file; everything else is not even looked at."""
    loaded = load_text(IMPORT, {**NO_OWN_KEYS, "AUTHORIZER_ADMIN_PRINCIPALS": "[admin, alice]"})
    settings = loaded.settings
    assert settings.authentication_configuration.jwt_principal_claims == ("email", "preferred_username", "sub")
    assert settings.authorizer_configuration.admin_principals == ("admin", "alice")
    assert settings.authorizer_configuration.principal_domain == "open-metadata.org"
    assert settings.jwt_token_configuration.jwtissuer == "open-metadata.org"
    assert loaded.sources["authorizerConfiguration.adminPrincipals[1]"] == "environment AUTHORIZER_ADMIN_PRINCIPALS"
    assert loaded.sources["jwtTokenConfiguration.jwtissuer"].startswith("import openmetadata.yaml:")
    assert [(p.name, p.issuer, p.is_own) for p in loaded.providers] == [("openmetadata", "open-metadata.org", True)]


def lines(loaded: Loaded, key: str) -> list[str]:
    return [str(problem) for problem in loaded.warnings if key in problem.path]


def test_a_pristine_file_makes_no_issuer_and_says_what_is_not_in_force() -> None:
    """Its keys are the server's, and its key id is that of the pair that everybody has."""
    loaded = load_text(IMPORT)
    jwt = loaded.settings.jwt_token_configuration
    assert not has_own_keys(jwt)
    assert (jwt.server.jwtissuer, jwt.server.rsapublic_key_file_path) == ("open-metadata.org", "")
    (key_id,) = lines(loaded, "keyId")
    assert "published default" in key_id
    (public,) = lines(loaded, "rsapublicKeyFilePath")
    assert "openmetadata.yaml" in public
    assert "public_key.der" in public
    assert "not here" in public
    (private,) = lines(loaded, "rsaprivateKeyFilePath")
    assert "keyDir" in private


def test_an_imported_public_key_verifies_the_servers_tokens(folder: Path) -> None:
    """It is read from the server's home, where its own start script would read it."""
    home = folder / "om"
    (home / "conf").mkdir(parents=True)
    (home / "conf" / "openmetadata.yaml").write_text(FULL.read_text(encoding="utf-8"), encoding="utf-8")
    (home / "conf" / "public.der").write_bytes(b"")
    text = "import: {openmetadata: om/conf/openmetadata.yaml}\n"
    environ = {"RSA_PUBLIC_KEY_FILE_PATH": "./conf/public.der", "JWT_KEY_ID": "k", "JWT_ISSUER": "om.example.com"}
    loaded = load_text(text, environ)
    (provider,) = loaded.providers
    assert (provider.issuer, provider.is_own, provider.require_expiry) == ("om.example.com", True, False)
    assert provider.key_urls[0] == f"file:{home}/conf/public.der"


def test_own_keys_need_an_issuer_of_their_own_beside_an_import() -> None:
    own = "jwtTokenConfiguration: {keyDir: /keys%s}\n"
    with pytest.raises(Misconfigured, match="jwtissuer: is missing"):
        load_text(IMPORT + own % "", {"JWT_ISSUER": "open-metadata.org"})
    with pytest.raises(Misconfigured, match="give the own tokens another"):
        load_text(IMPORT + own % ", jwtissuer: open-metadata.org")
    loaded = load_text(IMPORT + own % ", jwtissuer: ours")
    assert [provider.issuer for provider in loaded.providers if provider.is_own] == ["open-metadata.org"]


@pytest.mark.parametrize("manager", ["managed-aws", '"azure-kv"', "[odd", "{a: b}"])
@pytest.mark.parametrize("text", [IMPORT, "authenticationConfiguration: {}\n"])
def test_the_servers_secrets_manager_stops_nothing(text: str, manager: str) -> None:
    (line,) = lines(load_text(text, {"SECRET_MANAGER": manager}), "secretsManager")
    assert "SECRET_MANAGER" in line


def test_a_secrets_manager_of_ours_is_an_error() -> None:
    with pytest.raises(Misconfigured, match="no secret is read from it"):
        load_text("secretsManagerConfiguration: {secretsManager: gcp}\n")


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("AUTHENTICATION_PUBLIC_KEYS", "https://h/a,https://h/b", "publicKeyUrls"),
        ("AUTHENTICATION_PUBLIC_KEYS", "'[https://h/a]'", "publicKeyUrls"),
        ("AUTHORIZER_ADMIN_PRINCIPALS", "admin", "adminPrincipals"),
        ("AUTHENTICATION_AUTHORITY", "[a, b]", "authority"),
        ("AUTHENTICATION_AUTHORITY", "{a: b}", "authority"),
    ],
)
@pytest.mark.parametrize("text", [IMPORT, "authenticationConfiguration: {}\n"])
def test_a_value_of_the_wrong_shape_is_blamed_on_its_variable(text: str, variable: str, value: str, key: str) -> None:
    """The file is right, and no other line says what follows from the fault."""
    with pytest.raises(Misconfigured) as caught:
        load_text(text, {"AUTHENTICATION_AUTHORITY": "https://h", variable: value})
    (problem,) = (problem for problem in caught.value.problems if problem.fatal)
    assert key in problem.path
    assert variable in problem.message


def test_an_authority_in_braces_is_the_url_in_them() -> None:
    """Documentation writes its placeholders so."""
    environ = {"AUTHENTICATION_AUTHORITY": "{http://localhost:8080/realms/x}", "AUTHENTICATION_PUBLIC_KEYS": "[]"}
    for text in (IMPORT, "authenticationConfiguration: {clientId: om}\n"):
        assert load_text(text, environ).providers[0].issuer == "http://localhost:8080/realms/x"


@pytest.mark.parametrize(
    ("block", "key", "on", "off"),
    [
        ("authorizerConfiguration", "useRolesFromProvider", "true", "false"),
        ("authorizerConfiguration", "allowedEmailDomains", "[a.example]", "[]"),
        ("authenticationConfiguration", "jwtTeamClaimMapping", "groups", '""'),
    ],
)
def test_what_the_server_alone_does_is_one_line(folder: Path, block: str, key: str, on: str, off: str) -> None:
    for value, told in ((on, 1), (off, 0)):
        (folder / "openmetadata.yaml").write_text(f"{block}: {{{key}: {value}}}\n")
        assert len(lines(load_text(IMPORT), key)) == told


def test_the_importing_file_wins() -> None:
    """Key by key, also over what the imported file took from a variable."""
    loaded = load_text(
        IMPORT + "authorizerConfiguration: {principalDomain: ours}\n",
        {**NO_OWN_KEYS, "AUTHORIZER_PRINCIPAL_DOMAIN": "theirs"},
    )
    assert loaded.settings.authorizer_configuration.principal_domain == "ours"
    assert loaded.settings.jwt_token_configuration.jwtissuer == "open-metadata.org"


@pytest.mark.parametrize(
    ("imported", "ours"),
    [
        ({"AUTHENTICATION_CLIENT_ID": "om"}, "{clientId: om}"),
        ({"AUTHENTICATION_TOKEN_VALIDATION_ALGORITHM": "RS512"}, "{tokenValidationAlgorithm: RS512}"),
    ],
)
def test_idle_settings_stop_the_start_only_where_they_are_ours(imported: Mapping[str, str], ours: str) -> None:
    """What a product's file or variable says without effect is one line of ``check``."""
    (variable,) = imported
    key = next(key for names in VARIABLES.values() for key, name in names.items() if name == variable)
    lines = [str(line) for line in load_text("authenticationConfiguration: {}", imported).warnings if key in line.path]
    assert [f"{key}: has no effect" in line for line in lines] == [True]
    with pytest.raises(Misconfigured, match=f"c.yaml:1: authenticationConfiguration.{key}: has no effect"):
        load_text(f"authenticationConfiguration: {ours}", {})


def test_a_client_id_that_is_imported_without_effect_is_a_warning() -> None:
    loaded = load_text(IMPORT, {**NO_OWN_KEYS, "AUTHENTICATION_CLIENT_ID": "om"})
    assert any(line.path == "authenticationConfiguration.clientId" for line in loaded.warnings)


def test_unknown_names_in_an_imported_file_are_told_not_refused() -> None:
    """A newer server may know more than we do; in our own file the same name is an error."""
    loaded = load_text(IMPORT, NO_OWN_KEYS)
    assert any("botPrincipals: is not known here and ignored" in str(problem) for problem in loaded.warnings)
    with pytest.raises(Misconfigured, match="botPrincipals: is not a known name"):
        load_text("authorizerConfiguration: {botPrincipals: [x]}")


def test_a_bad_value_in_an_imported_file_names_that_file() -> None:
    """With its line."""
    with pytest.raises(Misconfigured, match=r"openmetadata.yaml:\d+: authenticationConfiguration.publicKeyUrls"):
        load_text(IMPORT, {**NO_OWN_KEYS, "AUTHENTICATION_PUBLIC_KEYS": "https://a/k,https://b/k"})


@pytest.mark.parametrize(
    ("block", "key", "variable"),
    [(block, key, name) for block, names in VARIABLES.items() for key, name in names.items() if key != ALGORITHM],
)
def test_each_variable_is_the_one_that_the_file_names(block: str, key: str, variable: str) -> None:
    assert yaml.load(FULL.read_text(encoding="utf-8"), yaml.BaseLoader)[block][key].startswith(f"${{{variable}:-")


def test_a_variable_counts_for_a_key_that_the_file_omits() -> None:
    """Read as YAML would read it in the file; quotes and brackets included."""
    environ = {
        "AUTHENTICATION_AUTHORITY": '"https://idp.example.com"',
        "AUTHENTICATION_PUBLIC_KEYS": "[https://idp.example.com/keys]",
        "AUTHORIZER_ENFORCE_PRINCIPAL_DOMAIN": "false",
        "JWT_ISSUER": "mine",
    }
    loaded = load_text("authenticationConfiguration: {clientId: om}", environ)
    assert loaded.settings.authentication_configuration.authority == "https://idp.example.com"
    assert loaded.settings.jwt_token_configuration.jwtissuer == "mine"
    assert loaded.sources["authenticationConfiguration.authority"] == "environment AUTHENTICATION_AUTHORITY"
    assert [provider.candidate_urls for provider in loaded.providers] == [("https://idp.example.com/keys",)]


def test_a_variable_never_counts_over_a_written_value() -> None:
    """Not even over an empty one."""
    environ = {"AUTHENTICATION_AUTHORITY": "https://evil.example.com", "AUTHENTICATION_CLIENT_ID": "evil"}
    loaded = load_text("authenticationConfiguration: {authority: 'https://a', clientId: ''}", environ)
    flat = loaded.settings.authentication_configuration
    assert (flat.authority, flat.client_id) == ("https://a", "")


def test_variables_alone_configure_nothing() -> None:
    """In a pod they may be there for the server only: without one of OpenMetadata's blocks they do not count."""
    loaded = load_text("server: {workers: 1}", {"AUTHENTICATION_AUTHORITY": "https://a"})
    assert loaded.providers == ()


def test_a_variable_that_is_no_value_is_refused_by_name() -> None:
    """Without its text."""
    with pytest.raises(Misconfigured) as caught:
        load_text("authenticationConfiguration: {authority: 'https://a'}", {"AUTHENTICATION_CLIENT_ID": "hunter2: x"})
    assert "AUTHENTICATION_CLIENT_ID" in str(caught.value)
    assert "hunter2" not in str(caught.value)


PRESET = "rules: [{path: /mine, access: public}, {preset: openmetadata}, {preset: datahub}]\n"


def base_paths(loaded: Loaded) -> list[str]:
    return [rule.base_path for rule in loaded.settings.rules]


def test_the_servers_base_path_is_its_presets() -> None:
    """An imported file says where the server is mounted; rules and other presets stay where they are."""
    loaded = load_text(IMPORT + PRESET, {**NO_OWN_KEYS, "BASE_PATH": "/om/"})
    assert base_paths(loaded) == ["", "/om", ""]
    assert loaded.sources["rules[1].basePath"] == "environment BASE_PATH"
    assert base_paths(load_text(IMPORT + PRESET, NO_OWN_KEYS)) == ["", "", ""]
    assert base_paths(load_text(PRESET, {"BASE_PATH": "/om"})) == ["", "", ""]


def test_a_base_path_that_is_written_wins() -> None:
    for written, expected in (("/here", "/here"), ("/", "")):
        text = IMPORT + f"rules: [{{preset: openmetadata, basePath: {written}}}]"
        assert base_paths(load_text(text, {**NO_OWN_KEYS, "BASE_PATH": "/om"})) == [expected]


def test_a_base_path_that_upstream_url_adds_is_not_the_callers() -> None:
    """Callers ask for /x, the server is asked for /om/x: the preset's paths are those of the callers."""
    environ = {**NO_OWN_KEYS, "BASE_PATH": "/om"}
    upstream = "upstream: {url: 'http://127.0.0.1:1/om/'}\n"
    assert base_paths(load_text(IMPORT + PRESET + upstream, environ)) == ["", "", ""]
    loaded = load_text("rules: [{preset: openmetadata, basePath: /om}]\n" + upstream)
    assert [problem.id for problem in loaded.warnings if problem.id] == ["nothing-accepted", "upstream-base-path"]


def test_a_base_path_that_cannot_be_one_is_told_at_its_place() -> None:
    with pytest.raises(Misconfigured, match=r"basePath: must be a path such as /metadata"):
        load_text(IMPORT + PRESET, {**NO_OWN_KEYS, "BASE_PATH": "/a/../b"})
