"""From the file's two vocabularies (the flat OpenMetadata form, ``providers``) to one list of providers."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Provider:
    """One issuer of tokens as the rest of the program sees it, whichever form the file used.

    ``issuer`` is None only for the flat form with ``allowUnboundIssuers``: it then stands for every issuer that no
    other provider owns. ``issuer_aliases`` are further accepted spellings of ``iss`` (the flat form's ``authority``
    with and without its final slash) until discovery has told the exact one. ``key_urls`` are bound to the issuer;
    ``candidate_urls`` only count once discovery names them as the issuer's ``jwks_uri``. ``discovery`` asks for
    discovery from ``issuer``. ``is_own`` marks the metadata server's own issuer read from its JWKS: its tokens
    count as the own issuer's and need no record. ``is_flat`` marks the flat form's ``authority``.
    """

    name: str
    issuer: str | None
    issuer_aliases: tuple[str, ...] = ()
    key_urls: tuple[str, ...] = ()
    candidate_urls: tuple[str, ...] = ()
    discovery: bool = False
    audiences: frozenset[str] = frozenset()
    algorithms: frozenset[str] = frozenset()
    principal_claims: tuple[str, ...] = ()
    username_claim: str = ""
    email_claim: str = ""
    groups_claim: str = ""
    roles_claim: str = "roles"
    required_claims: Mapping[str, frozenset[str]] = field(default_factory=dict)
    max_token_lifetime: float | None = None
    clock_skew: float = 30.0
    service_claim: str = ""
    service_values: frozenset[str] = frozenset()
    actor_type: str = "USER"
    namespaced: bool = False
    may_be_admin: bool = False
    require_expiry: bool = True
    allow_insecure_urls: bool = False
    is_flat: bool = False
    is_own: bool = False
