"""What the configuration says of DataHub's secrets, put together from the places where DataHub keeps them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.authn.authenticators.datahub_system import check_system_client
from sidecar.authn.authenticators.datahub_token import DATAHUB, DataHubTokenOptions, check_shared_secrets
from sidecar.authn.authenticators.guest import GuestOptions
from sidecar.authn.registry import AuthenticatorSpec
from sidecar.config.reading.tree import dotted
from sidecar.config.settings import Settings
from sidecar.errors import Misconfigured, Problem
from sidecar.secrets.value import Secret
from sidecar.tokens.datahub import SharedKey

_BLOCK = "authentication"
_NO_SECRET = Secret("")


@dataclass(frozen=True, slots=True)
class DataHubSetup:
    """DataHub's secrets, all of them fit for use. None: not configured, or not in use.

    ``accepts_tokens``: the chain has a member for DataHub's tokens; else the key only signs.
    """

    system_client: tuple[str, Secret] | None = None
    key: SharedKey | None = None
    salt: Secret = _NO_SECRET
    accepts_tokens: bool = False


def datahub_setup(settings: Settings, planned: Sequence[AuthenticatorSpec]) -> DataHubSetup:
    """Read the block ``authentication`` and the options of the authenticator. Raises Misconfigured."""
    problems: list[Problem] = []
    system_client = _system_client(settings, problems)
    key, salt = _shared_secrets(settings, planned, problems)
    problems += _guests_with_his_name(settings, planned)
    if problems:
        raise Misconfigured(problems)
    return DataHubSetup(system_client, key, salt, any(item.type_name == DATAHUB for item in planned))


def _system_client(settings: Settings, problems: list[Problem]) -> tuple[str, Secret] | None:
    block = settings.authentication
    if not block.enabled or not block.system_client_secret:
        return None
    try:
        check_system_client(
            block.system_client_id, block.system_client_secret, allow_published=settings.allow_published_secrets
        )
    except Misconfigured as found:
        problems.extend(found.problems)
    return block.system_client_id, block.system_client_secret


def _guests_with_his_name(settings: Settings, planned: Sequence[AuthenticatorSpec]) -> list[Problem]:
    """To the server behind the name alone makes the system client, who may do everything."""
    client_id = settings.authentication.system_client_id
    return [
        Problem(dotted((*item.configured.path, "configs", "guestUser")), f"is the system client, {client_id}")
        for item in planned
        if item.configured is not None
        and isinstance(item.options, GuestOptions)
        and item.options.guest_user == client_id.lower()
    ]


def _shared_secrets(
    settings: Settings, planned: Sequence[AuthenticatorSpec], problems: list[Problem]
) -> tuple[SharedKey | None, Secret]:
    service = settings.authentication.token_service
    member = next((item for item in planned if item.type_name == DATAHUB), None)
    options = member.options if member is not None else None
    if not isinstance(options, DataHubTokenOptions):
        options = DataHubTokenOptions()
    signs = settings.upstream is not None and settings.upstream.credentials == DATAHUB
    if member is None and not signs:
        return None, _NO_SECRET
    place = f"{_BLOCK}.tokenService"
    if member is not None and member.configured is not None and (options.signing_key or options.salt):
        place = dotted((*member.configured.path, "configs"))
    for name, one, other in (
        ("signingKey", options.signing_key, service.signing_key),
        ("salt", options.salt, service.salt),
    ):
        if one and other and one != other:
            problems.append(Problem(f"{place}.{name}", f"is not that of {_BLOCK}.tokenService; keep one of the two"))
    key = options.signing_key or service.signing_key or _NO_SECRET
    salt = options.salt or service.salt or _NO_SECRET
    if not key:
        text = "is missing; set DataHub's own (DATAHUB_TOKEN_SERVICE_SIGNING_KEY)"
        problems.append(Problem(f"{place}.signingKey", text))
        return None, salt
    try:
        allowed = settings.allow_published_secrets
        return check_shared_secrets(key, salt, place, needs_salt=member is not None, allow_published=allowed), salt
    except Misconfigured as found:
        problems.extend(found.problems)
        return None, salt
