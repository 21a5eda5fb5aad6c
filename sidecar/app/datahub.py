"""Reads DataHub's secrets from the places of the configuration where DataHub keeps them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.authn.authenticators.datahub_system import check_system_client
from sidecar.authn.authenticators.datahub_token import DATAHUB, DataHubTokenOptions, check_shared_secrets
from sidecar.authn.guest import GuestOptions
from sidecar.authn.registry import AuthenticatorSpec
from sidecar.config.credential_mode import Product, credential_mode
from sidecar.config.load import Loaded
from sidecar.config.reading.tree import dotted
from sidecar.config.settings import Settings
from sidecar.errors import Misconfigured, Problem
from sidecar.secrets.value import Secret
from sidecar.tokens.datahub import SharedKey

_BLOCK = "authentication"
_NO_SECRET = Secret("")


@dataclass(frozen=True, slots=True)
class DataHubSetup:
    """Validated secrets of DataHub. None: not configured, or not used.

    ``accepts_tokens``: the chain has an authenticator for DataHub tokens; otherwise the key is used for signing only.
    """

    system_client: tuple[str, Secret] | None = None
    key: SharedKey | None = None
    salt: Secret = _NO_SECRET
    accepts_tokens: bool = False


def datahub_setup(loaded: Loaded, specs: Sequence[AuthenticatorSpec]) -> DataHubSetup:
    """Read the block ``authentication`` and the options of the authenticator. Raises Misconfigured."""
    settings = loaded.settings
    problems: list[Problem] = []
    system_client = _system_client(settings, problems)
    key, salt = _shared_secrets(settings, specs, problems)
    problems += _guests_named_as_system_client(settings, specs)
    if problems:
        raise Misconfigured(loaded.located(problems))
    return DataHubSetup(system_client, key, salt, any(item.type_name == DATAHUB for item in specs))


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


def _guests_named_as_system_client(settings: Settings, specs: Sequence[AuthenticatorSpec]) -> list[Problem]:
    """The upstream identifies its system client, which may do everything, by the name alone."""
    client_id = settings.authentication.system_client_id
    return [
        Problem(
            dotted((*spec.configured.path, "configs", "guestUser")),
            f"is the name of the system client ({client_id}); choose another",
        )
        for spec in specs
        if spec.configured is not None
        and isinstance(spec.options, GuestOptions)
        and spec.options.guest_user == client_id.lower()
    ]


def _shared_secrets(
    settings: Settings, specs: Sequence[AuthenticatorSpec], problems: list[Problem]
) -> tuple[SharedKey | None, Secret]:
    service = settings.authentication.token_service
    spec = next((item for item in specs if item.type_name == DATAHUB), None)
    options = spec.options if spec is not None else None
    if not isinstance(options, DataHubTokenOptions):
        options = DataHubTokenOptions()
    signs = credential_mode(settings).mints is Product.DATAHUB
    if spec is None and not signs:
        return None, _NO_SECRET
    path = f"{_BLOCK}.tokenService"
    if spec is not None and spec.configured is not None and (options.signing_key or options.salt):
        path = dotted((*spec.configured.path, "configs"))
    for name, one, other in (
        ("signingKey", options.signing_key, service.signing_key),
        ("salt", options.salt, service.salt),
    ):
        if one and other and one != other:
            problems.append(
                Problem(f"{path}.{name}", f"differs from {_BLOCK}.tokenService.{name}; remove one of the two")
            )
    key = options.signing_key or service.signing_key or _NO_SECRET
    salt = options.salt or service.salt or _NO_SECRET
    if not key:
        text = "is missing; set DATAHUB_TOKEN_SERVICE_SIGNING_KEY here and at DataHub (openssl rand -base64 32)"
        problems.append(Problem(f"{path}.signingKey", text))
        return None, salt
    try:
        allowed = settings.allow_published_secrets
        return check_shared_secrets(key, salt, path, needs_salt=spec is not None, allow_published=allowed), salt
    except Misconfigured as found:
        problems.extend(found.problems)
        return None, salt
