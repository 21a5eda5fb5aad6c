"""Where an issuer keeps its keys: OpenID Connect Discovery 1.0, section 4, and RFC 8414, section 3."""

from dataclasses import dataclass

from yarl import URL

from sidecar.config.providers import Provider
from sidecar.keys.document import DocumentError, parse_object
from sidecar.outbound import ControlClient, OutboundError, OutboundKind, check_url, is_loopback

_MAX_URL = 2048
_NOT_FOUND_KINDS = frozenset({OutboundKind.STATUS, OutboundKind.REDIRECT})


@dataclass(frozen=True, slots=True)
class IssuerMetadata:
    """What an issuer says of itself: its exact spelling and the URL of its keys."""

    issuer: str
    jwks_uri: str


async def discover(provider: Provider, client: ControlClient, within: float, max_bytes: int) -> IssuerMetadata:
    """Ask the issuer of ``provider`` (which must have one) at both well-known places.

    Raises OutboundError, or DocumentError when the document is not the issuer's or names no usable URL.
    """
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
            return parse_metadata(document, provider)
    raise failures[0]


def well_known_urls(issuer: str) -> tuple[str, str]:
    """OpenID's place, appended to the issuer, then RFC 8414's, inserted before its path."""
    bare = issuer.rstrip("/")
    scheme, _, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    return (
        f"{bare}/.well-known/openid-configuration",
        f"{scheme}://{host}/.well-known/oauth-authorization-server{slash}{path}",
    )


def parse_metadata(document: dict[str, object], provider: Provider) -> IssuerMetadata:
    """Judge a discovery document. Raises DocumentError or, for a refused ``jwks_uri``, OutboundError.

    ``issuer`` must be the configured one, character by character; of the flat form's authority only the final slash
    may differ, as its users never had to spell it exactly.
    """
    issuer, jwks_uri = document.get("issuer"), document.get("jwks_uri")
    if not isinstance(issuer, str) or not _is_same_issuer(issuer, provider):
        raise DocumentError("useless", "the document names another issuer than the configured one")
    if not isinstance(jwks_uri, str) or len(jwks_uri) > _MAX_URL:
        raise DocumentError("useless", "the document names no jwks_uri")
    target = check_url(jwks_uri, allow_insecure=provider.allow_insecure_urls)
    if is_loopback(target.host or "") and not is_loopback(URL(provider.issuer or "").host or ""):
        raise DocumentError("useless", "an issuer elsewhere names a jwks_uri on this host")
    return IssuerMetadata(issuer, jwks_uri)


def _is_same_issuer(issuer: str, provider: Provider) -> bool:
    if provider.is_flat:
        return issuer.removesuffix("/") == (provider.issuer or "").removesuffix("/")
    return issuer == provider.issuer
