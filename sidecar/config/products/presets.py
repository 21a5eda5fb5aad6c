"""Rules that the products themselves follow: which paths they leave open. Exact paths and whole segments, always."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from sidecar.config.settings import RequireSettings, RuleSettings

_READ = ("GET", "HEAD")
_NO_REQUIREMENT = RequireSettings()


@dataclass(frozen=True, slots=True)
class RouteRule:
    """One rule as it is matched, written or of a preset.

    A path with one of the segments ``without``, in any letter case and wherever it stands, is none of the rule's.
    ``ignores_credentials``: a public path that starts or ends a session of the upstream's own. No identity is added,
    and the caller's credentials are not forwarded: a caller who follows a stranger's link must not act there as
    himself. ``source`` names the rule in the configuration, for log lines.
    """

    path: str
    methods: tuple[str, ...] = ()
    access: Literal["public", "guest", "authenticated"] = "authenticated"
    require: RequireSettings = _NO_REQUIREMENT
    without: frozenset[str] = frozenset()
    of_preset: bool = True
    ignores_credentials: bool = False
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
        # Its feed among it: without credentials everybody could name any user's id and read along.
        RouteRule("/api/**"),
        # The single-page application. A server that is mounted below a path which basePath does not name has its API
        # there, and this rule would open it.
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
            # To a GMS whoever asks these is the system client, so reading is all that is left open.
            "/openapi/check/**",
            "/openapi/up/**",
        ),
        *_public((), "/schema-registry/**", "/public-iceberg/**"),
        # Login at DataHub's frontend, for a sidecar in front of it.
        *_login(_READ, "/authenticate", "/sso", "/logOut"),
        *_login(("POST",), "/logIn", "/signUp", "/resetNativeUserCredentials", "/oidcImplicitTokenExchange"),
        *_login((*_READ, "POST"), "/callback/*"),
        # DataHub's user interface asks these as the system client: sessions for anybody, whether a password is right,
        # the client secret of its identity provider. A GMS answers whoever has a good credential.
        RouteRule("/auth/**", require=RequireSettings(providers=("system",))),
    ),
}


def expanded(rules: Iterable[RuleSettings]) -> Iterator[RouteRule]:
    """``rules`` in order, each preset replaced by what it stands for, below its ``basePath``."""
    for index, rule in enumerate(rules):
        if rule.preset is None:
            source = f"rules[{index}] {rule.path or '/'}"
            yield RouteRule(rule.path or "/", rule.methods, rule.access, rule.require, of_preset=False, source=source)
            continue
        for inner in PRESETS[rule.preset]:
            source = f"rules[{index}] preset {rule.preset} {inner.path}"
            yield replace(inner, path=f"{rule.base_path}{inner.path}", source=source)
            if rule.base_path and inner.require != _NO_REQUIREMENT:
                # What only some may ask stays theirs, should the server answer it beside the base path too.
                yield replace(inner, source=source)
