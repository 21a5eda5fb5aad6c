"""Checks of ``tokenHeaders``: header names without another meaning, and existing providers."""

import re
from collections.abc import Iterator

from sidecar.config.providers import FLAT_NAME, OWN_NAME, UNBOUND_NAME
from sidecar.config.reading.decode import nearest
from sidecar.config.reading.finding import Finding
from sidecar.config.reading.tree import Path
from sidecar.config.settings import Settings, TokenHeaderSettings

_NAME = re.compile(r"[A-Za-z0-9-]+")
_OTHER_SOURCES = frozenset({"own", "system", "datahub", FLAT_NAME, OWN_NAME, UNBOUND_NAME})
# In lower case: framing, routing, other credentials, and headers that the sidecar sets or evaluates.
_TAKEN = frozenset(
    {
        "authorization", "cookie", "host", "origin", "referer", "expect", "date", "forwarded",
        "upgrade-insecure-requests",
        "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "via",
        "proxy-authorization", "proxy-authenticate", "proxy-authentication-info",
        "accept", "accept-encoding", "user-agent", "traceparent", "tracestate",
        "x-request-id", "x-real-ip", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port",
        "x-forwarded-uri", "x-forwarded-method", "x-forwarded-prefix", "x-forwarded-server", "x-forwarded-client-cert",
        "x-original-uri", "x-original-url", "x-original-method", "x-rewrite-url", "x-datahub-actor",
        "x-impersonate-user", "remote-user",
    }
)  # fmt: skip
_TAKEN_PREFIXES = ("x-auth-", "content-", "sec-", "access-control-", "if-", "x-datahub-delegated-for-")
# Always removed from requests.
_NEVER_FORWARDED = frozenset({"x-forwarded-access-token"})


def check_token_headers(settings: Settings) -> Iterator[Finding]:
    """See above."""
    seen: dict[str, int] = {}
    providers = {provider.name for provider in settings.authentication_configuration.providers}
    members = {item.name or item.type.rpartition(":")[2] for item in settings.authentication.authenticators}
    known = {*providers, *members, *_OTHER_SOURCES}
    for index, header in enumerate(settings.authentication.token_headers):
        path: Path = ("authentication", "tokenHeaders", index)
        name = header.name.lower()
        message = _fault_of_name(header)
        if message:
            yield Finding((*path, "name"), message)
        elif name in seen:
            yield Finding((*path, "name"), f"is the same header as in tokenHeaders[{seen[name]}]; write it once")
        seen.setdefault(name, index)
        if header.forward and name in _NEVER_FORWARDED:
            yield Finding(
                (*path, "forward"), f"cannot be used: {header.name} is always removed, because upstreams trust it"
            )
        for place, provider in enumerate(header.providers):
            if provider not in known and not provider.startswith(f"{FLAT_NAME}-"):
                hint = nearest(provider, known)
                text = f"no provider or authenticator is named {provider}: no token would be accepted there"
                yield Finding((*path, "providers", place), f"{text}{'; ' if hint else ''}{hint}")


def _fault_of_name(header: TokenHeaderSettings) -> str:
    name = header.name.lower()
    if not _NAME.fullmatch(name):
        return "must be one header name of letters, digits and -"
    if name in _TAKEN or name.startswith(_TAKEN_PREFIXES):
        return f"is {header.name}, which has another meaning in requests; name the header that holds the token alone"
    return ""
