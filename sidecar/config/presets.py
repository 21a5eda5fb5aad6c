"""Rules that the products themselves follow: which paths they leave open. Exact paths and whole segments, always."""

from collections.abc import Iterable, Iterator, Mapping

from sidecar.config.settings import RequireSettings, RuleSettings

_READ = ("GET", "HEAD")


def _public(methods: tuple[str, ...], *paths: str) -> tuple[RuleSettings, ...]:
    return tuple(RuleSettings(path=path, methods=methods, access="public") for path in paths)


PRESETS: Mapping[str, tuple[RuleSettings, ...]] = {
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
        # Its feed among it: without credentials everybody could name any user's id and read along.
        RuleSettings(path="/api/**"),
        # The single-page application.
        *_public(_READ, "/**"),
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
        # DataHub's user interface asks these as the system client: sessions for anybody, whether a password is right,
        # the client secret of its identity provider. A GMS answers whoever has a good credential.
        RuleSettings(path="/auth/**", require=RequireSettings(providers=("system",))),
    ),
}


def expanded(rules: Iterable[RuleSettings]) -> Iterator[RuleSettings]:
    """``rules`` in order, each preset replaced by what it stands for."""
    for rule in rules:
        if rule.preset is None:
            yield rule
        else:
            yield from PRESETS[rule.preset]
