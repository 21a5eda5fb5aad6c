"""Findings about settings, before file and line are added."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sidecar.config.reading.tree import Path


class FindingId(StrEnum):
    """Stable ids of findings, for filters on the output of ``sidecar check``."""

    UPSTREAM_URL = "upstream-url"
    UPSTREAM_BASE_PATH = "upstream-base-path"
    DATAHUB_UNAUTHENTICATED = "datahub-unauthenticated"
    NOTHING_ACCEPTED = "nothing-accepted"
    CHECKS_UNTRUSTED = "checks-untrusted"
    RULE_LETTER_CASE = "rule-letter-case"
    RULE_ENCODED = "rule-encoded"
    CHALLENGE_TEXT = "challenge-text"
    RESOURCE_URL = "resource-url"
    RESOURCE_PATH = "resource-path"
    RESOURCE_SCOPE = "resource-scope"
    RESOURCE_PUBLIC = "resource-public"
    RESOURCE_AUTHORIZATION_SERVERS = "resource-authorization-servers"
    RESOURCE_IDLE = "resource-idle"
    RESOURCE_ANY_AUDIENCE = "resource-any-audience"
    THROUGH_UNCHECKED = "through-unchecked"
    THROUGH_PROGRAM = "through-program"
    THROUGH_NAVIGATION = "through-navigation"
    THROUGH_TARGET = "through-target"
    THROUGH_HEADERS = "through-headers"
    THROUGH_COOKIE = "through-cookie"
    THROUGH_ENDPOINTS = "through-endpoints"
    THROUGH_LOGIN_PATHS = "through-login-paths"


FINDINGS: Mapping[FindingId, tuple[bool, str, str]] = {
    FindingId.UPSTREAM_URL: (
        True,
        "`upstream.url` is not a valid address of an upstream",
        "write scheme, host and port, and the path below which the server is mounted, if any",
    ),
    FindingId.UPSTREAM_BASE_PATH: (
        False,
        "a preset's `basePath` is also the path of `upstream.url`, so forwarded requests contain the path twice",
        "keep it in one place: `basePath` if callers write it, `upstream.url` if they do not",
    ),
    FindingId.DATAHUB_UNAUTHENTICATED: (
        True,
        "the imported DataHub has authentication disabled, and `upstream.credentials` is not `datahubHeader`",
        "set `credentials: datahubHeader`, or `METADATA_SERVICE_AUTH_ENABLED=true` at the server and here",
    ),
    FindingId.NOTHING_ACCEPTED: (
        False,
        "no issuer, authenticator or own keys are configured, so every token is rejected",
        "write an entry of `authenticationConfiguration.providers`, or `authority` and `publicKeyUrls`",
    ),
    FindingId.CHECKS_UNTRUSTED: (
        False,
        "`server.listen` is not loopback, `server.trustedProxies` is empty and a rule has a `require`: checks get 403",
        "list the addresses of the proxies in `server.trustedProxies`",
    ),
    FindingId.RULE_LETTER_CASE: (
        False,
        "a rule is stricter than the rule that matches its path in other letter case",
        "nothing for OpenMetadata and DataHub, which are case-sensitive; else make the later rule as strict",
    ),
    FindingId.RULE_ENCODED: (
        False,
        "a rule with an encoded slash, backslash or semicolon is stricter than the rule that matches the decoded path",
        "add a rule for the decoded path that is as strict",
    ),
    FindingId.CHALLENGE_TEXT: (
        True,
        "`server.realm` or a scope contains `scope=`, `error=` or `resource_metadata=`, a parameter of the challenge",
        "choose another text",
    ),
    FindingId.RESOURCE_URL: (
        True,
        "`resources` need `server.publicUrl`: an https URL (http on loopback) without user, query and fragment",
        "set `server.publicUrl` to the URL that clients use; nothing is derived from `Host`",
    ),
    FindingId.RESOURCE_PATH: (
        True,
        "two resources have one path, or the path of a resource has dot segments or is below `server.prefix`",
        "give each resource the path of its endpoint at the upstream",
    ),
    FindingId.RESOURCE_SCOPE: (
        True,
        "a scope of a resource or a rule is not a scope of RFC 6749, or a resource asks for `offline_access`",
        "list the scopes that requests need; clients add `offline_access` themselves",
    ),
    FindingId.RESOURCE_PUBLIC: (
        True,
        "a rule makes a whole resource public, or open to guests, and the resource requires a token",
        "remove the rule or the resource, or write the rule for a path below the resource",
    ),
    FindingId.RESOURCE_AUTHORIZATION_SERVERS: (
        True,
        "no authorization server is known for a resource, or one is not an https URL (http on loopback)",
        "list the issuers in `authorizationServers`",
    ),
    FindingId.RESOURCE_IDLE: (
        True,
        "a setting of a resource has no effect with `metadata: server`, because the upstream serves the metadata",
        "remove the setting",
    ),
    FindingId.RESOURCE_ANY_AUDIENCE: (
        False,
        "`audiences: []` accepts tokens that were issued for other services at a resource",
        "list the audiences of the resource, if the provider can set them",
    ),
    FindingId.THROUGH_UNCHECKED: (
        True,
        "`--through`: the proxy answers a path without credentials that the rules protect",
        "have the proxy check this path with the sidecar; the files in `deploy/` do",
    ),
    FindingId.THROUGH_PROGRAM: (
        True,
        "`--through`: a program without credentials does not get the 401 in JSON with its challenge",
        "have the proxy pass the response to the check on, with its headers and body",
    ),
    FindingId.THROUGH_NAVIGATION: (
        True,
        "`--through`: a browser without a session is not led to the login",
        "uncomment the lines for a browser login in the file of `deploy/`",
    ),
    FindingId.THROUGH_TARGET: (
        True,
        "`--through`: after the login the browser would return to another path or query than it asked for",
        "have the proxy name the whole original path and query to the sidecar, as the files in `deploy/` do",
    ),
    FindingId.THROUGH_HEADERS: (
        True,
        "`--through`: identity headers of the client reach the upstream",
        "have the proxy remove or overwrite them in every spelling, as the files in `deploy/` do",
    ),
    FindingId.THROUGH_COOKIE: (
        True,
        "`--through`: the session cookie reaches the upstream",
        "have the proxy copy `Cookie` of the response to the check to the request",
    ),
    FindingId.THROUGH_ENDPOINTS: (
        True,
        "`--through`: clients reach a check endpoint of the sidecar through the proxy",
        "forward only the paths of the login below `server.prefix`",
    ),
    FindingId.THROUGH_LOGIN_PATHS: (
        True,
        "`--through`: the paths of the login do not lead to the sidecar",
        "forward the paths of the login below `server.prefix` to the sidecar without a check",
    ),
}
"""For each id: whether it is an error or a warning (exit code unchanged), what was found, what to do."""

PROBED = frozenset(identifier for identifier in FindingId if identifier.startswith("through-"))
"""Findings of probes, with exit code 1. Other errors are those of the configuration, with exit code 2."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem at ``path`` (names of the file) and how to fix it; not ``fatal``: a warning.

    ``idle``: the setting has no effect there. It is only a warning if it comes from an imported file or a variable of
    the product: it was set for the product, not for the sidecar.
    """

    path: Path
    message: str
    fatal: bool = True
    id: str = ""
    idle: bool = False


def finding(identifier: FindingId, path: Path, message: str) -> Finding:
    """The finding with this id; :data:`FINDINGS` says whether it is an error."""
    return Finding(path, message, fatal=FINDINGS[identifier][0], id=identifier.value)
