"""The secrets manager that a configuration names, and what is wrong with it and with the references to its secrets."""

import re
from collections.abc import Iterator, Sequence

from sidecar.config.providers import has_own_keys
from sidecar.config.reading.finding import Finding
from sidecar.config.reading.urls import leads_inside, split_url
from sidecar.config.settings import SecretsManagerConfiguration, SecretsManagerParameters, Settings
from sidecar.errors import Problem
from sidecar.hosts import is_loopback
from sidecar.secrets.ids import MANAGERS, NO_MANAGER, Manager, VaultKind, bot_token_id, id_problem
from sidecar.secrets.resolve import SecretReference

SECRETS_MANAGER = "secretsManagerConfiguration"
EXAMPLE_BOT = "ingestion-bot"
"""The name of a bot that every OpenMetadata server has."""
_KNOWN = ", ".join(MANAGERS)
_VAULT_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9]|-(?=[A-Za-z0-9])){2,23}")
_MAX_TAGS = 15
_MAX_TAG = 512
NEEDED_TO_REACH = (SECRETS_MANAGER, "outbound.proxy")
"""Settings that are needed to reach the secrets manager, so their values cannot be in it."""


def manager_of(settings: Settings) -> Manager | None:
    """The supported secrets manager that ``settings`` name; None: none."""
    return MANAGERS.get(settings.secrets_manager_configuration.secrets_manager)


def check_secrets_manager(settings: Settings) -> Iterator[Finding]:
    """What is wrong with the block. In a file of the server's it is a warning: it matters only if a secret is read."""
    block = settings.secrets_manager_configuration
    name = block.secrets_manager
    writes_tokens = settings.tokens.bot_tokens_in_vault
    if writes_tokens:
        yield from _bot_token_faults(settings)
    if name in NO_MANAGER:
        return
    if name not in MANAGERS:
        message = f"is {name}, which is not supported, and no secret is read from it; use {_KNOWN}, or db"
        yield Finding((SECRETS_MANAGER, "secretsManager"), message, idle=not writes_tokens)
        return
    for path, message in _faults(block, MANAGERS[name]):
        yield Finding((SECRETS_MANAGER, *path), message, idle=not writes_tokens)


def _bot_token_faults(settings: Settings) -> Iterator[Finding]:
    """Why ``tokens.botTokensInVault`` cannot work."""
    path, block = ("tokens", "botTokensInVault"), settings.secrets_manager_configuration
    manager = MANAGERS.get(block.secrets_manager)
    if manager is None or not manager.writes:
        managed = ", ".join(name for name, one in MANAGERS.items() if one.writes)
        message = f"needs a secrets manager that is written to, and secretsManager is {block.secrets_manager}"
        yield Finding(path, f"{message}; use {managed}")
        return
    if not has_own_keys(settings.jwt_token_configuration):
        yield Finding(path, "has no effect without signing keys; set jwtTokenConfiguration (sidecar keys generate)")
    try:
        bot_token_id(manager.kind, block.prefix, settings.cluster_name, EXAMPLE_BOT)
    except ValueError as error:
        where = "prefix and clusterName" if block.prefix else "clusterName"
        yield Finding(path, f"cannot work with this {where}: {error}")


def reference_problems(settings: Settings, references: Sequence[SecretReference]) -> list[Problem]:
    """Why ``references`` cannot be looked up, as far as the configuration alone shows; empty: nothing is wrong."""
    block = settings.secrets_manager_configuration
    manager = MANAGERS.get(block.secrets_manager)
    problems = []
    for reference in references:
        if reference.path.startswith(NEEDED_TO_REACH):
            message = "is needed to reach the secrets manager and cannot be in it; use file:/path or env:NAME"
        elif manager is None:
            which = "which names none" if block.secrets_manager in NO_MANAGER else "which is not supported"
            setting = f"{SECRETS_MANAGER}.secretsManager is {block.secrets_manager}, {which}"
            message = f"is in a secrets manager, but {setting}; use {_KNOWN}"
        else:
            message = id_problem(manager.kind, reference.id)
        if message:
            problems.append(Problem(reference.path, message, reference.file, reference.line))
    if manager is not None:
        problems += [Problem(".".join((SECRETS_MANAGER, *path)), text) for path, text in _faults(block, manager)]
    return problems


def _faults(block: SecretsManagerConfiguration, manager: Manager) -> Iterator[tuple[tuple[str, ...], str]]:
    """The setting below the block, and what is wrong with it."""
    faults = {VaultKind.AZURE: _azure_faults, VaultKind.OPENBAO: _bao_faults, VaultKind.KUBERNETES: _kubernetes_faults}
    for key, message in faults[manager.kind](block.parameters):
        yield ("parameters", key) if key else ("secretsManager",), message
    if len(block.tags) > _MAX_TAGS:
        yield ("tags",), f"has {len(block.tags)} tags; at most {_MAX_TAGS} are possible"
    for tag in block.tags:
        key, colon, value = tag.partition(":")
        if not colon or not key or max(len(key), len(value)) > _MAX_TAG:
            yield ("tags",), f"each tag must be key:value, with at most {_MAX_TAG} characters on each side"
            break


def _azure_faults(given: SecretsManagerParameters) -> Iterator[tuple[str, str]]:
    if given.vault_url:
        if message := _address_fault(given.vault_url, loopback_http=False):
            yield "vaultUrl", message
    elif not given.vault_name:
        yield "", "needs parameters.vaultName, which is missing; write the name of the Key Vault, or vaultUrl"
    elif not _VAULT_NAME.fullmatch(given.vault_name):
        yield "vaultName", "must be the name of a Key Vault: 3 to 24 letters, digits and single hyphens"
    if given.authority and (message := _authority_fault(given.authority)):
        yield "authority", message
    if given.client_secret and not (given.tenant_id and given.client_id):
        yield "clientSecret", "needs tenantId and clientId"
    if given.tenant_id and not given.client_secret:
        yield "tenantId", "needs clientId and clientSecret; for a managed identity write clientId alone"


def _bao_faults(given: SecretsManagerParameters) -> Iterator[tuple[str, str]]:
    if not given.bao_address:
        yield "", "needs parameters.baoAddress, which is missing; write it, such as https://bao.example.com:8200"
    elif message := _address_fault(given.bao_address, loopback_http=True):
        yield "baoAddress", message
    if given.bao_skip_tls_verify:
        yield "baoSkipTlsVerify", "is true, and the certificate is always verified; set baoCaCertPath to its CA"
    for key in ("bao_mount", "bao_namespace", "bao_auth_path"):
        if not re.fullmatch(r"([A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*/?)?", getattr(given, key)):
            alias = SecretsManagerParameters.model_fields[key].alias
            yield str(alias), "must be a path of letters, digits, _ and -"
    needed = {"token": ("bao_token",), "approle": ("bao_role_id", "bao_secret_id"), "kubernetes": ("bao_role",)}
    for key in needed[given.bao_auth_method]:
        if not getattr(given, key):
            alias = SecretsManagerParameters.model_fields[key].alias
            yield str(alias), f"is missing; baoAuthMethod {given.bao_auth_method} needs it"


def _kubernetes_faults(given: SecretsManagerParameters) -> Iterator[tuple[str, str]]:
    if message := _address_fault(given.api_server, loopback_http=True):
        yield "apiServer", message
    if given.kubeconfig_path:
        yield "kubeconfigPath", "is not supported; use apiServer, caFile and tokenFile"


def _address_fault(text: str, *, loopback_http: bool) -> str:
    """What is wrong with the address of a secrets manager; a credential is sent to it."""
    parts = split_url(text)
    if parts is None:
        return "must be https://host[:port]"
    host = str(parts.hostname)
    if leads_inside(host):
        return "names a link-local or metadata address, which is never a secrets manager"
    if parts.scheme == "http" and not (loopback_http and is_loopback(host)):
        return "must be https: a credential and secrets are sent over it"
    if "@" in parts.netloc or parts.path not in ("", "/") or parts.query or parts.fragment:
        return "must be scheme, host and port only: no path, query or credentials"
    return ""


def _authority_fault(text: str) -> str:
    if re.fullmatch(r"(https://)?[A-Za-z0-9.-]+(:[0-9]{1,5})?/?", text):
        return ""
    return "must be the host of the authority, such as login.microsoftonline.us"
