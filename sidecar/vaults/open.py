"""Opens the secrets manager that a configuration names."""

from collections.abc import Mapping
from pathlib import Path

from sidecar.config.settings import SecretsManagerConfiguration, SecretsManagerParameters
from sidecar.egress import Egress
from sidecar.outbound import ControlClient
from sidecar.secrets.ids import MANAGERS, VaultKind
from sidecar.vaults.base import BoundedVault, Observe, Vault
from sidecar.vaults.kubernetes import KubernetesSecrets
from sidecar.vaults.openbao import OpenBao

_POD_CA = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"


def open_vault(
    configuration: SecretsManagerConfiguration, egress: Egress, observe: Observe | None = None
) -> BoundedVault:
    """A client of the secrets manager. Call it inside a running loop, and close it.

    Raises Misconfigured if a CA bundle cannot be read or a library is missing. ``configuration`` must name a supported
    secrets manager.
    """
    kind = MANAGERS[configuration.secrets_manager].kind
    return BoundedVault(_vault(kind, configuration, egress), configuration.timeout, observe)


def _vault(kind: VaultKind, configuration: SecretsManagerConfiguration, egress: Egress) -> Vault:
    given, timeout = configuration.parameters, configuration.timeout
    if kind is VaultKind.OPENBAO:
        return OpenBao(given, ControlClient(given.bao_ca_cert_path or given.ca_file, egress=egress), timeout)
    if kind is VaultKind.KUBERNETES:
        client = ControlClient(given.ca_file or _pod_ca(given), egress=egress)
        return KubernetesSecrets(given, client, timeout, tags_of(configuration))
    # the library takes 0.2 s to import, and is optional
    from sidecar.vaults.azure import open_azure

    return open_azure(given, egress, timeout, tags_of(configuration))


def _pod_ca(given: SecretsManagerParameters) -> str:
    """The CA bundle of the pod's cluster, for the API server under its own name."""
    is_own_cluster = given.api_server == SecretsManagerParameters.model_fields["api_server"].default
    return _POD_CA if is_own_cluster and Path(_POD_CA).exists() else ""


def tags_of(configuration: SecretsManagerConfiguration) -> Mapping[str, str]:
    """The tags of secrets that are written."""
    pairs = (tag.partition(":") for tag in configuration.tags)
    return {key: value for key, _, value in pairs}
