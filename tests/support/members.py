"""Members of the chain without an application around them."""

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from multidict import CIMultiDict

from sidecar.authn.base import Authenticator, AuthenticatorContext
from sidecar.clock import Clock
from sidecar.identity.actor import ActorType
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import PrincipalPolicy
from sidecar.identity.request import RequestContext, read_credential
from sidecar.store.record import TokenRecord
from tests.support.hand_clock import HandClock

POLICY = PrincipalPolicy(
    "member",
    (ClaimPath("sub"),),
    groups_claim=ClaimPath("groups"),
    reserved=frozenset({"guest", "anonymous", "__datahub_system"}),
    is_bot_name=lambda name: name == "ingestion-bot",
    actor_type=ActorType.USER,
)


def surroundings(name: str = "member", clock: Clock | None = None, **more: Any) -> AuthenticatorContext:
    """What a member is given; no client unless one is named in ``more``."""
    policy = replace(POLICY, provider=name, authenticator=name)
    return AuthenticatorContext(name, clock or HandClock(), **{"client": None, "policy": policy, **more})


def asked(*authorization: str, target: str | None = "/api", method: str = "GET", **headers: str) -> RequestContext:
    """A request that carries these ``Authorization`` lines and other headers."""
    lines: CIMultiDict[str] = CIMultiDict([("Authorization", line) for line in authorization])
    lines.extend(headers)
    return RequestContext(method, target, lines, read_credential(lines))


def basic(user: str, password: str | bytes) -> str:
    """``Basic`` of RFC 7617."""
    raw = password if isinstance(password, bytes) else password.encode()
    return f"Basic {base64.b64encode(user.encode() + b':' + raw).decode()}"


def options_of(kind: type[Authenticator], written: Mapping[str, Any]) -> Any:
    """Sound options of ``kind``, as the configuration's words say."""
    return kind.Options.model_validate(written)


async def unclaimed(_name: str, _by: str, _replace_person: bool) -> tuple[TokenRecord, ...]:
    """For a minter that reserves no bot names."""
    return ()
