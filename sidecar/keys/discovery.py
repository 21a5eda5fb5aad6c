"""Discovery of an issuer's key URL: OpenID Connect Discovery 1.0 section 4, and RFC 8414 section 3."""

import json
from dataclasses import dataclass

from yarl import URL

from sidecar.config.providers import Provider
from sidecar.hosts import is_loopback
from sidecar.keys.document import DocumentError, parse_object
from sidecar.outbound import ControlClient, OutboundError, OutboundKind, check_url

_MAX_URL = 2048
_MAX_SHOWN = 200
_NOT_FOUND_KINDS = frozenset({OutboundKind.STATUS, OutboundKind.REDIRECT})


@dataclass(frozen=True, slots=True)
class IssuerMetadata:
    """The issuer's exact name and key URL, from its discovery document."""

    issuer: str
    jwks_uri: str


async def discover(provider: Provider, client: ControlClient, within: float, max_bytes: int) -> IssuerMetadata:
    """The metadata of ``provider`` (which must have an issuer), from its discovery document.

    Raises OutboundError, or DocumentError if the document is of another issuer or names no usable URL.
    """
    return parse_metadata(await fetch_document(provider, client, within, max_bytes), provider)


async def fetch_document(provider: Provider, client: ControlClient, within: float, max_bytes: int) -> dict[str, object]:
    """Fetch the discovery document of ``provider`` from both well-known URLs. Raises OutboundError, DocumentError."""
    failures: list[OutboundError | DocumentError] = []
    for url in well_known_urls(provider.issuer or ""):
        try:
            answer = await client.get(
                url, within=within, max_bytes=max_bytes, allow_insecure=provider.allow_insecure_urls
            )
            document = parse_object(answer.body)
        except OutboundError as error:
            if error.kind not in _NOT_FOUND_KINDS:
                raise
            failures.append(error)
        except DocumentError as error:
            failures.append(error)
        else:
            return document
    raise failures[0]


def well_known_urls(issuer: str) -> tuple[str, str]:
    """OpenID's URL (appended to the issuer), then that of RFC 8414 (inserted before the issuer's path)."""
    bare = issuer.rstrip("/")
    scheme, _, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    return (
        f"{bare}/.well-known/openid-configuration",
        f"{scheme}://{host}/.well-known/oauth-authorization-server{slash}{path}",
    )


def parse_metadata(document: dict[str, object], provider: Provider) -> IssuerMetadata:
    """Validate a discovery document. Raises DocumentError or, for a ``jwks_uri`` that is not allowed, OutboundError.

    ``issuer`` must equal the configured one exactly. With the flat form's authority, a final slash may differ.
    """
    issuer, jwks_uri = document.get("issuer"), document.get("jwks_uri")
    if not isinstance(issuer, str) or not is_same_issuer(issuer, provider):
        raise DocumentError("useless", _issuer_mismatch(issuer, provider.issuer or ""))
    if not isinstance(jwks_uri, str) or len(jwks_uri) > _MAX_URL:
        raise DocumentError("useless", "the discovery document has no jwks_uri")
    target = check_url(jwks_uri, allow_insecure=provider.allow_insecure_urls)
    if is_loopback(target.host or "") and not is_loopback(URL(provider.issuer or "").host or ""):
        raise DocumentError("useless", "the issuer is on another host, but its jwks_uri is on loopback")
    return IssuerMetadata(issuer, jwks_uri)


def _issuer_mismatch(found: object, configured: str) -> str:
    """Both values, the found one in JSON and cut to a length that fits into a log line."""
    shown = json.dumps(found)[:_MAX_SHOWN] if isinstance(found, str) else "none"
    found_text = f'issuer mismatch: configured "{configured}", discovery document says {shown}'
    return f"{found_text}; set issuer to the iss of its tokens"


def is_same_issuer(issuer: str, provider: Provider) -> bool:
    """Whether ``issuer`` is that of ``provider``: equal, or with the flat form's authority but for a final slash."""
    if provider.is_flat:
        return issuer.removesuffix("/") == (provider.issuer or "").removesuffix("/")
    return issuer == provider.issuer
