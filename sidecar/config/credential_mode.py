"""The modes of ``upstream.credentials``. No other module compares their names."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from sidecar.config.settings import Settings


class Product(Enum):
    """The metadata servers for which a mode is made."""

    OPENMETADATA = "openmetadata"
    DATAHUB = "datahub"


@dataclass(frozen=True, slots=True)
class CredentialMode:
    """What one mode sends to the upstream, and what follows from it.

    ``mints``: the upstream receives a token that the sidecar mints in the format of this product. ``names_users_of``:
    the upstream receives the name of the Actor as a user of this product, in a token or a header; its rules for names,
    admins and bots apply. ``sends_actor_header``: the name is in ``X-DataHub-Actor``. ``keeps_credentials``: the
    credentials of the caller are not removed. ``upstream_verifies``: the upstream verifies the caller's token itself.
    """

    mints: Product | None = None
    names_users_of: Product | None = None
    sends_actor_header: bool = False
    keeps_credentials: bool = False
    upstream_verifies: bool = False


MODES: Mapping[str, CredentialMode] = {
    "passthrough": CredentialMode(keeps_credentials=True, upstream_verifies=True),
    "none": CredentialMode(),
    "openmetadata": CredentialMode(mints=Product.OPENMETADATA, names_users_of=Product.OPENMETADATA),
    "datahub": CredentialMode(mints=Product.DATAHUB, names_users_of=Product.DATAHUB),
    "datahubHeader": CredentialMode(names_users_of=Product.DATAHUB, sends_actor_header=True),
}
"""The modes by the value of ``upstream.credentials``."""
_CHECK_MODE = CredentialMode(keeps_credentials=True)


def credential_mode(settings: Settings) -> CredentialMode:
    """The mode of ``settings``. Without an upstream, the proxy forwards the credentials of the caller."""
    return _CHECK_MODE if settings.upstream is None else MODES[settings.upstream.credentials]
