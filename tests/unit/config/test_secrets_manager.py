"""The block of the secrets manager, its variables, and references to secrets."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from sidecar.authn.registry import validate
from sidecar.config.load import Loaded, load, load_without_secrets
from sidecar.errors import Misconfigured
from sidecar.secrets.value import Secret

AZURE = "secretsManagerConfiguration: {secretsManager: azure-kv, parameters: {vaultName: acme}}\n"
PASSWORD = "store: {url: 'redis://h', password: 'secret:redis'}\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded_with(text: str, held: Mapping[str, str], environ: Mapping[str, str] | None = None) -> Loaded:
    """The configuration ``text`` with these secrets."""
    Path("c.yaml").write_text(text, encoding="utf-8")
    return load(["c.yaml"], environ or {}, validate, lambda _: {name: Secret(value) for name, value in held.items()})


def problems(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """The errors of ``text``."""
    with pytest.raises(Misconfigured) as caught:
        loaded_with(text, {}, environ)
    return [str(problem) for problem in caught.value.problems if problem.fatal]


def test_a_secret_is_looked_up_wherever_one_may_stand() -> None:
    """In blocks, in options of authenticators, and in a DataHub block; each is named with its line."""
    text = (
        AZURE
        + PASSWORD
        + "authentication:\n"
        + "  systemClientSecret: secret:system\n"
        + "  authenticators:\n"
        + "    - type: ldap\n"
        + "      configs: {url: 'ldaps://h', userBase: 'dc=a', bindDn: 'cn=a', bindPassword: 'secret:ldap'}\n"
    )
    loaded = loaded_with(text, {"redis": "mark-1", "system": "mark-2", "ldap": "mark-3"})
    assert loaded.settings.store.password == Secret("mark-1")
    assert loaded.settings.authentication.system_client_secret == Secret("mark-2")
    assert [(one.path, one.id, one.line) for one in loaded.references] == [
        ("store.password", "redis", 2),
        ("authentication.systemClientSecret", "system", 4),
        ("authentication.authenticators[0].configs.bindPassword", "ldap", 7),
    ]
    assert "mark-" not in repr(loaded)


def test_other_errors_are_found_before_anything_is_read() -> None:
    """The secrets manager is not asked for a configuration that cannot be used anyway."""

    def read(_: Loaded) -> Mapping[str, Secret]:
        raise AssertionError("was asked")

    Path("c.yaml").write_text(AZURE + PASSWORD + "server: {workers: many}\n")
    with pytest.raises(Misconfigured, match=r"server\.workers"):
        load(["c.yaml"], {}, validate, read)


def test_what_depends_on_a_secret_is_checked_with_it() -> None:
    """Own keys that are in the secrets manager are own keys."""
    text = (
        AZURE
        + "jwtTokenConfiguration: {keySecret: 'secret:keys', jwtissuer: ours}\n"
        + "upstream: {url: 'http://127.0.0.1:8585', credentials: openmetadata}\n"
    )
    assert loaded_with(text, {"keys": "{}"}).references
    assert any("jwtissuer: is missing" in one for one in _errors(text.replace(", jwtissuer: ours", ""), {"keys": "{}"}))


def _errors(text: str, held: Mapping[str, str]) -> list[str]:
    with pytest.raises(Misconfigured) as caught:
        loaded_with(text, held)
    return [str(problem) for problem in caught.value.problems]


def test_without_a_reader_a_reference_is_an_error() -> None:
    """A configuration with a default in place of the secret is never served."""
    Path("c.yaml").write_text(AZURE + PASSWORD)
    with pytest.raises(Misconfigured, match=r"store\.password: is in the secrets manager"):
        load(["c.yaml"], {})
    assert [one.id for one in load_without_secrets(["c.yaml"], {}).references] == ["redis"]


def test_a_secret_that_the_reader_leaves_out_is_an_error() -> None:
    assert "was not read" in problems(AZURE + PASSWORD)[0]


def test_a_value_is_not_resolved_again() -> None:
    """Whatever it looks like."""
    for value in ("env:HOME", "file:/etc/hostname", "secret:other", "${HOME}"):
        loaded = loaded_with(AZURE + PASSWORD, {"redis": value}, {"HOME": "/root"})
        assert loaded.settings.store.password == Secret(value)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("{}", "secretsManager is db, which names none"),
        ("{secretsManager: noop}", "secretsManager is noop, which names none"),
        ("{secretsManager: azure-kv}", "needs parameters.vaultName, which is missing"),
        ("{secretsManager: azure-kv, parameters: {vaultName: a--b}}", "vaultName: must be the name of a Key Vault"),
        ("{secretsManager: azure-kv, parameters: {vaultUrl: 'http://h'}}", "vaultUrl: must be https"),
        ("{secretsManager: azure-kv, parameters: {vaultUrl: 'http://127.0.0.1'}}", "vaultUrl: must be https"),
        ("{secretsManager: azure-kv, parameters: {vaultUrl: 'https://169.254.169.254'}}", "link-local or metadata"),
        ("{secretsManager: azure-kv, parameters: {vaultUrl: 'https://u:p@h'}}", "no path, query or credentials"),
        ("{secretsManager: azure-kv, parameters: {vaultUrl: 'https://h/x'}}", "no path, query or credentials"),
        (
            "{secretsManager: azure-kv, parameters: {vaultName: acme, authority: 'http://h'}}",
            "authority: must be the host",
        ),
        ("{secretsManager: azure-kv, parameters: {vaultName: acme, clientSecret: x}}", "needs tenantId and clientId"),
        ("{secretsManager: azure-kv, parameters: {vaultName: acme, tenantId: x}}", "needs clientId and clientSecret"),
        ("{secretsManager: openbao, parameters: {baoToken: x}}", "needs parameters.baoAddress"),
        ("{secretsManager: openbao, parameters: {baoAddress: 'http://h:8200', baoToken: x}}", "must be https"),
        ("{secretsManager: openbao, parameters: {baoAddress: 'https://h'}}", "baoToken: is missing"),
        (
            "{secretsManager: openbao, parameters: {baoAddress: 'https://h', baoToken: x, baoSkipTlsVerify: 'true'}}",
            "baoSkipTlsVerify: is true, and the certificate is always verified",
        ),
        (
            "{secretsManager: openbao, parameters: {baoAddress: 'https://h', baoAuthMethod: approle, baoRoleId: x}}",
            "baoSecretId: is missing; baoAuthMethod approle needs it",
        ),
        (
            "{secretsManager: openbao, parameters: {baoAddress: 'https://h', baoToken: x, baoMount: ../sys}}",
            "baoMount: must be",
        ),
        ("{secretsManager: kubernetes, parameters: {kubeconfigPath: /x}}", "kubeconfigPath: is not supported"),
        ("{secretsManager: aws}", "secretsManager is aws, which is not supported"),
        ("{secretsManager: gcp}", "use azure-kv, managed-azure-kv, openbao, managed-openbao, kubernetes"),
        ("{secretsManager: azure-kv, parameters: {vaultName: acme}, tags: [a]}", "each tag must be key:value"),
    ],
)
def test_what_a_block_must_have(block: str, message: str) -> None:
    assert any(message in problem for problem in problems(f"secretsManagerConfiguration: {block}\n{PASSWORD}"))


def test_the_variables_of_the_server_and_of_its_ingestion() -> None:
    """The server's win, quotes are removed, and a key that is written wins over all, unless it is null."""
    text = "secretsManagerConfiguration: {parameters: {clientId: ~}}\n" + PASSWORD
    environ = {
        "SECRET_MANAGER": '"managed-azure-kv"',
        "SECRET_MANAGER_PREFIX": '""',
        "SECRET_MANAGER_TAGS": "[team:data]",
        "OM_SM_VAULT_NAME": '""',
        "AIRFLOW__OPENMETADATA_SECRETS_MANAGER__AZURE_KEY_VAULT_NAME": "airflow-vault",
        "AZURE_KEY_VAULT_NAME": "plain-vault",
        "OM_SM_TENANT_ID": "tenant",
        "OM_SM_CLIENT_ID": '"client"',
        "AIRFLOW__OPENMETADATA_SECRETS_MANAGER__AZURE_CLIENT_SECRET": "airflow-secret",
        "OPENMETADATA_CLUSTER_NAME": "prod",
    }
    settings = loaded_with(text, {"redis": "x"}, environ).settings
    block = settings.secrets_manager_configuration
    assert (block.secrets_manager, block.prefix, block.tags) == ("managed-azure-kv", "", ("team:data",))
    given = block.parameters
    assert (given.vault_name, given.tenant_id, given.client_id) == ("airflow-vault", "tenant", "client")
    assert given.client_secret == Secret("airflow-secret")
    assert settings.cluster_name == "prod"
    written = "secretsManagerConfiguration: {secretsManager: azure-kv, parameters: {vaultName: mine}}\n" + PASSWORD
    given = loaded_with(written, {"redis": "x"}, environ).settings.secrets_manager_configuration.parameters
    assert given.vault_name == "mine"


def test_an_imported_block_is_used_and_its_faults_matter_only_to_a_reference() -> None:
    """The server's own file: a manager that is not supported is a warning, until a setting needs it."""
    Path("om.yaml").write_text(
        "clusterName: prod\nsecretsManagerConfiguration: {secretsManager: managed-aws, parameters: {region: x}}\n"
    )
    imported = "import: {openmetadata: om.yaml}\n"
    loaded = loaded_with(imported, {})
    assert loaded.settings.cluster_name == "prod"
    assert any("is managed-aws, which is not supported" in str(warning) for warning in loaded.warnings)
    assert "is managed-aws, which is not supported; use" in problems(imported + PASSWORD)[0]
    Path("om.yaml").write_text(AZURE)
    assert loaded_with(imported + PASSWORD, {"redis": "x"}).settings.store.password == Secret("x")


def test_files_of_secrets_are_known() -> None:
    """Those of authenticators as well, so that they can be watched."""
    Path("a").write_text("x")
    here = Path.cwd()
    text = f"store: {{url: 'redis://h', password: 'file:{here}/a'}}\n"
    assert loaded_with(text, {}).secret_files == (f"{here}/a",)


KEYS = "jwtTokenConfiguration: {keyDir: /keys, jwtissuer: meta.example.com}\n"
VAULT = "secretsManagerConfiguration: {secretsManager: managed-azure-kv, parameters: {vaultName: acme}}\n"
BOT_TOKENS = "tokens: {botTokensInVault: true}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (KEYS, "tokens.botTokensInVault: needs a secrets manager that is written to, and secretsManager is db; use "),
        (KEYS + VAULT.replace("managed-", ""), "secretsManager is azure-kv; use managed-azure-kv, managed-openbao"),
        (KEYS + VAULT.replace("managed-azure-kv", "managed-aws"), "secretsManager is managed-aws; use managed-azure"),
        (VAULT, "tokens.botTokensInVault: has no effect without signing keys"),
        (KEYS + VAULT.replace("vaultName: acme", "clientId: x"), "needs parameters.vaultName, which is missing"),
        (KEYS + VAULT + f"clusterName: {'x' * 100}\n", "tokens.botTokensInVault: cannot work with this clusterName"),
    ],
)
def test_tokens_of_bots_need_a_secrets_manager_that_is_written_to(text: str, message: str) -> None:
    """With or without a reference in the configuration."""
    assert any(message in problem for problem in problems(BOT_TOKENS + text)), problems(BOT_TOKENS + text)


def test_tokens_of_bots_in_a_secrets_manager() -> None:
    assert loaded_with(BOT_TOKENS + KEYS + VAULT, {}).settings.tokens.bot_tokens_in_vault


@pytest.mark.parametrize(
    ("loader", "manager", "is_warned"),
    [
        ('${LOADER:-"noop"}', "azure-kv", True),
        ("noop", "db", False),
        ("env", "azure-kv", False),
        ("${UNSET_ELSEWHERE}", "azure-kv", False),
    ],
)
def test_the_servers_loader_for_ingestion(loader: str, manager: str, is_warned: bool) -> None:
    """With noop, the server's default, OpenMetadata's ingestion does not start with a secrets manager."""
    Path("om.yaml").write_text(
        AZURE.replace("azure-kv", manager) + "pipelineServiceClientConfiguration:\n  apiEndpoint: ${NOT_SET}\n"
        f"  secretsManagerLoader: {loader}\n"
    )
    loaded = loaded_with("import: {openmetadata: om.yaml}\n", {})
    found = [str(one) for one in loaded.warnings if "secretsManagerLoader" in str(one)]
    assert bool(found) is is_warned
    assert not [str(one) for one in loaded.warnings if "NOT_SET" in str(one)]
    if is_warned:
        assert "om.yaml:" in found[0]
        assert "is noop, and OpenMetadata's ingestion does not start with it and azure-kv; set it to env" in found[0]
