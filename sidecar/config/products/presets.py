"""The public paths of the products, as rules. Only exact paths and whole segments, no prefixes of segments."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from sidecar.config.settings import RequireSettings, RuleSettings

_READ = ("GET", "HEAD")
_NO_REQUIREMENT = RequireSettings()


@dataclass(frozen=True, slots=True)
class RouteRule:
    """One rule, from the configuration or from a preset.

    The rule does not match a path that contains a segment in ``without``, in any letter case. ``ignores_credentials``:
    a public path that starts or ends a session of the upstream itself. No identity is added and the caller's
    credentials are not forwarded, so that a link of an attacker cannot act there with the caller's identity.
    ``keeps_basic``: but ``Basic`` is, by which OAuth clients authenticate. ``source`` names the rule in the
    configuration, for log lines.
    """

    path: str
    methods: tuple[str, ...] = ()
    access: Literal["public", "guest", "authenticated"] = "authenticated"
    require: RequireSettings = _NO_REQUIREMENT
    without: frozenset[str] = frozenset()
    of_preset: bool = True
    ignores_credentials: bool = False
    keeps_basic: bool = False
    source: str = field(default="", compare=False)


def _public(methods: tuple[str, ...], *paths: str) -> tuple[RouteRule, ...]:
    return tuple(RouteRule(path, methods, "public") for path in paths)


def _login(methods: tuple[str, ...], *paths: str) -> tuple[RouteRule, ...]:
    return tuple(RouteRule(path, methods, "public", ignores_credentials=True) for path in paths)


PRESETS: Mapping[str, tuple[RouteRule, ...]] = {
    "openmetadata": (
        *_public(
            _READ,
            "/api/v1/system/version",
            "/api/v1/system/health",
            "/api/v1/system/config/jwks",
            "/api/v1/system/config/auth",
            "/api/v1/system/config/authorizer",
            "/api/v1/system/config/customUiThemePreference",
            "/api/v1/system/config/rdf",
        ),
        *_public(
            ("POST",),
            "/api/v1/users/signup",
            "/api/v1/users/login",
            "/api/v1/users/refresh",
            "/api/v1/users/generatePasswordResetLink",
            "/api/v1/users/password/reset",
            "/api/v1/collate/apps/support/redeem-code",
        ),
        *_public(("PUT",), "/api/v1/users/registrationConfirmation", "/api/v1/users/resendRegistrationToken"),
        # Login of confidential OpenID Connect clients and of SAML.
        *_login(
            (*_READ, "POST"),
            "/api/v1/auth/login",
            "/api/v1/auth/callback",
            "/api/v1/auth/logout",
            "/api/v1/auth/refresh",
        ),
        *_login(_READ, "/callback", "/api/v1/saml/login", "/api/v1/saml/metadata"),
        *_login(("POST",), "/api/v1/saml/acs"),
        # Includes the feed: without credentials every client could read the feed of any user id.
        RouteRule("/api/**"),
        # The single-page application. If the server is mounted below a path that basePath does not name, its API is
        # there, and this rule would make it public.
        RouteRule("/**", _READ, "public", without=frozenset({"api", "mcp", "v1", "swagger.json"})),
    ),
    "datahub": (
        *_public(
            _READ,
            "/health",
            "/health/live",
            "/config",
            "/config/search/export",
            "/actuator/prometheus",
            # A GMS handles these requests as the system client, so only reading is public.
            "/openapi/check/**",
            "/openapi/up/**",
        ),
        *_public((), "/schema-registry/**", "/public-iceberg/**"),
        # Login at DataHub's frontend, for a sidecar in front of it.
        *_login(_READ, "/authenticate", "/sso", "/logOut"),
        *_login(("POST",), "/logIn", "/signUp", "/resetNativeUserCredentials", "/oidcImplicitTokenExchange"),
        *_login((*_READ, "POST"), "/callback/*"),
        # DataHub's frontend calls these as the system client: sessions for any user, password checks, the client secret
        # of its identity provider. A GMS answers every authenticated caller.
        RouteRule("/auth/**", require=RequireSettings(providers=("system",))),
    ),
}


def expand_presets(rules: Iterable[RuleSettings]) -> Iterator[RouteRule]:
    """``rules`` in order, with each preset replaced by its rules, below its ``basePath``."""
    for index, rule in enumerate(rules):
        if rule.preset is None:
            source = f"rules[{index}] {rule.path or '/'}"
            yield RouteRule(rule.path or "/", rule.methods, rule.access, rule.require, of_preset=False, source=source)
            continue
        for inner in PRESETS[rule.preset]:
            source = f"rules[{index}] preset {rule.preset} {inner.path}"
            yield replace(inner, path=f"{rule.base_path}{inner.path}", source=source)
            if rule.base_path and inner.require != _NO_REQUIREMENT:
                # Restricted paths stay restricted outside basePath too, in case the server also answers there.
                yield replace(inner, source=source)
