"""Translates the configuration file of oauth2-proxy (TOML) for ``sidecar init --from``.

Each option is translated, not needed, not available, or restricts access in a way that has no equivalent: the last must
be dropped by name, so that no translation opens what was closed.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sidecar.errors import Misconfigured, Problem

_MAX_BYTES = 1024 * 1024
GOOGLE = "https://accounts.google.com"

LOGIN = "browser login is not translated: add a login block to the provider, and register the new redirect URI"
NOT_NEEDED = "not needed"
ALWAYS = "always on"
LOGS = "logs are JSON lines on standard error"

# Options without an equivalent, by the sentence that the translation prints about them.
LEFT_OUT: Mapping[str, tuple[str, ...]] = {
    LOGIN: (
        "acr_values", "approval_prompt", "auth_request_response_mode", "auth-request-response-mode",
        "backend_logout_url", "bearer_token_login_fallback", "client_secret", "client_secret_file",
        "code_challenge_method", "cookie_csrf_expire", "cookie_csrf_per_request", "cookie_csrf_per_request_limit",
        "cookie_csrf_samesite", "cookie_domains", "cookie_expire", "cookie_httponly", "cookie_name", "cookie_path",
        "cookie_refresh", "cookie_samesite", "cookie_secret", "cookie_secret_file", "cookie_secure", "encode_state",
        "force_code_challenge_method", "insecure_oidc_skip_nonce", "jwt_key", "jwt_key_file", "login_url",
        "oidc_public_key_files", "profile_url", "prompt", "provider_display_name", "pubjwk_url", "redeem_url",
        "redirect_url", "relative_redirect_url", "resource", "scope", "session_cookie_minimal", "session_store_type",
        "skip_claims_from_profile_url", "skip_provider_button", "validate_url", "whitelist_domains",
        "redis_ca_path", "redis_cluster_connection_urls", "redis_connection_idle_timeout", "redis_connection_url",
        "redis_insecure_skip_tls_verify", "redis_password", "redis_sentinel_connection_urls",
        "redis_sentinel_master_name", "redis_sentinel_password", "redis_use_cluster", "redis_use_sentinel",
        "redis_username",
    ),
    "login.page sets title, message and footer of the pages; nothing else of them can be replaced": (
        "banner", "custom_sign_in_logo", "custom_templates_dir", "display_htpasswd_form", "footer",
        "show_debug_on_error",
    ),
    LOGS: (
        "auth_logging", "auth_logging_format", "errors_to_info_log", "exclude_logging_paths", "logging_compress",
        "logging_filename", "logging_local_time", "logging_max_age", "logging_max_backups", "logging_max_size",
        "request_id_header", "request_logging_format", "silence_ping_logging", "standard_logging",
        "standard_logging_format",
    ),
    ALWAYS: (
        "api_routes", "force_json_errors", "pass_user_headers", "proxy_websockets", "set_xauthrequest",
        "skip_auth_strip_headers", "skip_jwt_bearer_tokens", "pass_host_header", "skip_oidc_discovery",
    ),
    NOT_NEEDED: (
        "allow_query_semicolons", "disable_keep_alives", "flush_interval", "force_https", "gcp_healthchecks",
        "ping_user_agent", "real_client_ip_header", "signature_key", "tls_cipher_suites", "tls_min_version",
        "use_system_trust_store", "metrics_secure_address", "metrics_tls_cert_file", "metrics_tls_key_file",
        "config_test", "version",
    ),
    "health is at /healthz and /readyz of server.adminListen": ("ping_path", "ready_path"),
    "the upstream receives X-Auth-Request-* and no password; see docs/guides/headers.md": (
        "basic_auth_password", "pass_basic_auth", "set_basic_auth", "pass_access_token",
    ),
    "certificates and issuers are always verified; set outbound.caFile for your own CA": (
        "insecure_oidc_skip_issuer_verification", "ssl_insecure_skip_verify", "ssl_upstream_insecure_skip_verify",
    ),
    "an address that is not verified never counts": ("insecure_oidc_allow_unverified_email",),
    "no address bypasses authentication: these callers need a token": ("trusted_ips",),
    "groups are those in the token; the provider is not asked for more": (
        "azure_graph_group_field", "entra_id_federated_token_auth", "github_token", "google_admin_api_user_scope",
        "google_admin_email", "google_service_account_json", "google_target_principal",
        "google_use_application_default_credentials", "google_use_organization_id",
    ),
}  # fmt: skip
_SENTENCES = {name: sentence for sentence, names in LEFT_OUT.items() for name in names}
# Options that restrict access by what a token does not contain, or by lists that rules do not have.
RESTRICTING = (
    "authenticated_emails_file", "bitbucket_repository", "bitbucket_team", "github_org", "github_repo", "github_team",
    "github_users", "gitlab_groups", "gitlab_projects", "google_group", "google_groups", "htpasswd_user_groups",
    "keycloak_groups",
)  # fmt: skip
# Providers whose tokens are JWTs of an OpenID Connect issuer.
_PROVIDERS = ("oidc", "keycloak-oidc", "entra-id", "azure", "adfs", "google", "google-oidc", "gitlab", "cidaas", "")
# A tenant is part of the issuer.
_TENANTS = ("azure_tenant", "entra_id_allowed_tenants")
_LITERAL = re.compile(r"(?:[A-Za-z0-9/_~:@!,=%-]|\\?\.|\\[/-])+")
_METHOD = re.compile(r"[A-Z]+")


@dataclass(slots=True)
class Translation:
    """A configuration of the sidecar, and one line for each option that is not in it or means something else."""

    document: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def read_oauth2_proxy(path: str, name: str, dropped: Sequence[str] = ()) -> Translation:
    """Translate the file at ``path`` for one provider called ``name``. Raises Misconfigured with every problem."""
    return _Translator(_read(path), path, name, frozenset(dropped)).translate()


def _read(path: str) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise _failure(path, f"cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise _failure(path, f"is larger than {_MAX_BYTES} bytes")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _failure(path, "is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        hint = "; a YAML file of oauth2-proxy (alpha configuration) is not supported" if _is_yaml(path) else ""
        raise _failure(path, f"is not TOML: {error}{hint}") from error


def _is_yaml(path: str) -> bool:
    return path.endswith((".yaml", ".yml"))


def _failure(path: str, message: str) -> Misconfigured:
    return Misconfigured([Problem("", f"{path} {message}")])


class _Translator:
    """Translates one file. Each handler takes an option out of the file; what is left is not known."""

    def __init__(self, options: Mapping[str, Any], path: str, name: str, dropped: frozenset[str]) -> None:
        self._options = dict(options)
        self._path = path
        self._dropped = dropped
        self._problems: list[Problem] = []
        self._notes: list[str] = []
        self._provider: dict[str, Any] = {"name": name}
        self._more_providers: list[dict[str, Any]] = []
        self._server: dict[str, Any] = {}
        self._document: dict[str, Any] = {"server": self._server}
        self._rules: list[dict[str, Any]] = []

    def translate(self) -> Translation:
        """The translation. Raises Misconfigured."""
        self._translate_provider()
        self._translate_audiences()
        self._translate_keys()
        self._translate_principal()
        self._translate_domains()
        self._translate_more_issuers()
        self._translate_listeners()
        self._translate_upstream()
        self._translate_open_paths()
        self._translate_requirements()
        self._translate_passwords()
        self._report_rest()
        if self._problems:
            raise Misconfigured(self._problems)
        providers = [self._provider, *self._more_providers]
        self._document["authenticationConfiguration"] = {"providers": providers}
        if self._rules:
            self._document["rules"] = self._rules
        return Translation(self._document, self._notes)

    # -- parts

    def _translate_provider(self) -> None:
        kind = self._text("provider")
        issuer = self._text("oidc_issuer_url") or (GOOGLE if kind in ("google", "google-oidc") else "")
        if kind not in _PROVIDERS:
            self._fail("provider", f"is {kind}, whose tokens cannot be verified by an issuer's keys")
        elif not issuer:
            self._fail("oidc_issuer_url", "is missing: the sidecar needs the issuer of the tokens")
        self._provider["issuer"] = issuer
        for name in _TENANTS:
            tenants = self._list(name)
            if any(tenant.lower() not in issuer.lower().split("/") for tenant in tenants):
                self._fail(name, f"has {', '.join(tenants)}: oidc_issuer_url must name that one tenant")

    def _translate_audiences(self) -> None:
        client = self._text("client_id")
        audiences = [one for one in (client, *self._list("oidc_extra_audiences")) if one]
        if not audiences:
            self._fail("client_id", "is missing: the sidecar accepts tokens for this audience only")
        self._provider["audiences"] = list(dict.fromkeys(audiences))
        claims = self._list("oidc_audience_claims")
        if claims and claims != ["aud"]:
            self._fail("oidc_audience_claims", f"is {', '.join(claims)}: the sidecar reads the audience from aud only")

    def _translate_keys(self) -> None:
        keys = self._text("oidc_jwks_url")
        if keys:
            self._provider["publicKeyUrls"] = [keys]
        algorithms = self._list("oidc_enabled_signing_algs")
        if algorithms:
            self._provider["algorithms"] = algorithms
        bundle = self._list("provider_ca_files")
        if len(bundle) > 1:
            self._fail("provider_ca_files", "has several files: join them in one file for keys.caFile")
        if bundle:
            self._document["keys"] = {"caFile": bundle[0]}

    def _translate_principal(self) -> None:
        email = self._text("oidc_email_claim")
        user = self._text("user_id_claim")
        by_address = self._bool("prefer_email_to_user")
        self._provider["principal"] = "verbatim"
        if email and email != "email":
            self._provider["emailClaim"] = email
        address = email or (user if user != "email" else "") or "email"
        self._provider["jwtPrincipalClaims"] = [address] if by_address else ["sub"]
        groups = self._text("oidc_groups_claim")
        self._provider["groupsClaim"] = groups or "groups"

    def _translate_domains(self) -> None:
        domains = self._list("email_domains")
        if "*" in domains or not domains:
            return
        if any(one.startswith((".", "*")) for one in domains):
            self._restrict("email_domains", "has subdomains: allowedDomains lists domains one by one")
            return
        claim = self._provider.get("emailClaim", "email")
        self._provider |= {
            "jwtPrincipalClaims": [claim],
            "allowedDomains": domains,
            "enforcePrincipalDomain": True,
        }
        self._note("email_domains", f"the claim {claim} now names the caller, because its domain is checked")

    def _translate_more_issuers(self) -> None:
        for number, pair in enumerate(self._list("extra_jwt_issuers"), 2):
            issuer, equals, audience = pair.rpartition("=")
            if not equals or not issuer or not audience:
                self._fail("extra_jwt_issuers", f"has {pair}, which is not issuer=audience")
                continue
            inherited: dict[str, Any] = {
                key: self._provider[key]
                for key in ("principal", "jwtPrincipalClaims", "emailClaim", "groupsClaim", "allowedDomains",
                            "enforcePrincipalDomain")
                if key in self._provider
            }  # fmt: skip
            self._more_providers.append(
                {
                    "name": f"{self._provider['name']}-{number}",
                    "issuer": issuer,
                    "audiences": [audience],
                    **inherited,
                    "principalNamespace": "provider",
                }
            )
        if self._more_providers:
            self._note("extra_jwt_issuers", "names of these issuers begin with the name of their provider")

    def _translate_listeners(self) -> None:
        certificate, key = self._text("tls_cert_file"), self._text("tls_key_file")
        plain, encrypted = self._text("http_address"), self._text("https_address")
        if certificate and key:
            self._server["listen"] = _address(encrypted or "127.0.0.1:443")
            self._server["tls"] = {"certFile": certificate, "keyFile": key}
            if plain:
                self._note("http_address", "there is one public listener: https_address")
        elif plain:
            self._server["listen"] = _address(plain)
        metrics = self._text("metrics_address")
        if metrics:
            self._server["adminListen"] = _address(metrics)
        prefix = self._text("proxy_prefix")
        if prefix:
            self._server["prefix"] = prefix
        behind, proxies = self._bool("reverse_proxy"), self._list("trusted_proxy_ips")
        if proxies:
            self._server["trustedProxies"] = proxies
        elif behind:
            self._note("reverse_proxy", "list the addresses of the proxy in server.trustedProxies; none are trusted")
        if self._bool("skip_auth_preflight"):
            self._document["cors"] = {"preflight": "public"}
        if self._bool("request_logging"):
            self._document["logging"] = {"access": True}

    def _translate_upstream(self) -> None:
        upstreams = self._list("upstreams")
        passes = self._bool("pass_authorization_header") or self._bool("set_authorization_header")
        timeout = self._text("upstream_timeout")
        usable = [one for one in upstreams if urlsplit(one).scheme in ("http", "https")]
        for one in upstreams:
            if one not in usable:
                self._note("upstreams", f"{one} is not a server; it is left out")
        if len(usable) > 1:
            self._fail("upstreams", "has several servers: run one sidecar for each, or let a proxy route")
        if usable:
            parts = urlsplit(usable[0])
            if parts.path not in ("", "/"):
                self._note("upstreams", f"only the server of {usable[0]}: the sidecar forwards all paths to it")
            upstream = {"url": f"{parts.scheme}://{parts.netloc}"}
            if not passes:
                upstream["credentials"] = "none"
            if timeout:
                upstream["responseTimeout"] = timeout
            self._document["upstream"] = upstream

    def _translate_open_paths(self) -> None:
        routes = [*self._list("skip_auth_routes"), *self._list("skip_auth_regex")]
        for route in routes:
            rule = _open_rule(route)
            if rule is None:
                self._note("skip_auth_routes", f"{route} is not translated: these paths need a token; write a rule")
            else:
                self._rules.append(rule)
                self._note("skip_auth_routes", f"{route} became {rule['path']}, and nothing else that it matches")

    def _translate_requirements(self) -> None:
        groups, roles = self._list("allowed_groups"), self._list("allowed_roles")
        require: dict[str, Any] = {}
        if groups:
            require["groups"] = groups
        if roles:
            # oauth2-proxy accepts a caller with one of both lists
            require["roles"] = roles
            self._provider["rolesClaim"] = "realm_access.roles"
            if groups:
                self._note("allowed_roles", "callers now need one of the groups and one of the roles")
        if require:
            self._rules.append({"path": "/**", "require": require})

    def _translate_passwords(self) -> None:
        file = self._text("htpasswd_file")
        if file:
            self._document["authentication"] = {
                "authenticators": [{"type": "jwt"}, {"type": "basic", "configs": {"htpasswd": file}}]
            }

    def _report_rest(self) -> None:
        if not self._options.get("skip_jwt_bearer_tokens"):
            self._note("skip_jwt_bearer_tokens", "is off there; the sidecar accepts bearer tokens in any case")
        for name in list(self._options):
            if name in RESTRICTING:
                self._restrict(name, "restricts who may log in and has no equivalent")
            elif name in _SENTENCES:
                if self._is_set(self._options[name]):
                    self._note(name, _SENTENCES[name])
            else:
                self._fail(name, "is not an option of oauth2-proxy that is known here; correct or remove it")
        unused = self._dropped - {*RESTRICTING, "email_domains"}
        for name in sorted(unused):
            self._fail(f"--drop {name}", "names no option that can be dropped")

    # -- values

    @staticmethod
    def _is_set(value: object) -> bool:
        return value not in ("", False, [], None)

    def _text(self, name: str) -> str:
        value = self._options.pop(name, "")
        if isinstance(value, str):
            return value
        self._fail(name, "must be text")
        return ""

    def _bool(self, name: str) -> bool:
        value = self._options.pop(name, False)
        if isinstance(value, bool):
            return value
        self._fail(name, "must be true or false")
        return False

    def _list(self, name: str) -> list[str]:
        value = self._options.pop(name, [])
        items = [value] if isinstance(value, str) else value
        if isinstance(items, list) and all(isinstance(one, str) for one in items):
            return [one for one in items if one]
        self._fail(name, "must be text or a list of texts")
        return []

    def _restrict(self, name: str, why: str) -> None:
        if name in self._dropped:
            self._note(name, f"dropped: {why}")
            return
        self._fail(name, f"{why}. To go on without it: --drop {name}")

    def _fail(self, name: str, message: str) -> None:
        self._problems.append(Problem(name, message, self._path))

    def _note(self, name: str, sentence: str) -> None:
        self._notes.append(f"{name}: {sentence}")


def _address(text: str) -> str:
    """An address of oauth2-proxy as one of the sidecar: ``http://`` is removed, no host means all addresses."""
    bare = re.sub(r"^https?://", "", text)
    return f"*{bare}" if bare.startswith(":") else bare


def _open_rule(route: str) -> dict[str, Any] | None:
    """A public rule for at most what ``route`` opens; None if a path pattern cannot express it.

    The regular expression of a route matches anywhere: without a final ``$`` it is a prefix.
    """
    method, equals, pattern = route.partition("=")
    if not equals or not _METHOD.fullmatch(method):
        method, pattern = "", route
    exact = pattern.endswith("$")
    path = pattern.removeprefix("^").removesuffix("$")
    for ending in ("(/.*)?", "/.*", ".*"):
        if path.endswith(ending):
            path, exact = path.removesuffix(ending), False
            break
    if not pattern.startswith("^/") or not _LITERAL.fullmatch(path):
        return None
    path = path.replace("\\", "")
    if not exact:
        path = f"{path.rstrip('/')}/**"
        if path == "/**":
            return None
    methods: dict[str, Any] = {"methods": [method]} if method else {}
    return {"path": path, **methods, "access": "public"}


TRANSLATED: Mapping[str, str] = {
    "provider": "the issuer of Google; a provider without JWTs is an error",
    "oidc_issuer_url": "`providers[].issuer`",
    "azure_tenant": "part of `oidc_issuer_url`; another one is an error",
    "entra_id_allowed_tenants": "as `azure_tenant`",
    "oidc_jwks_url": "`providers[].publicKeyUrls`",
    "client_id": "`providers[].audiences`",
    "oidc_extra_audiences": "`providers[].audiences`",
    "oidc_audience_claims": "only `aud`; another claim is an error",
    "oidc_enabled_signing_algs": "`providers[].algorithms`",
    "provider_ca_files": "`keys.caFile`",
    "oidc_email_claim": "`providers[].emailClaim`",
    "user_id_claim": "as `oidc_email_claim`",
    "prefer_email_to_user": "`providers[].jwtPrincipalClaims` with the claim of the address instead of `sub`",
    "oidc_groups_claim": "`providers[].groupsClaim`",
    "email_domains": "`providers[].allowedDomains` with `enforcePrincipalDomain: true`; the address names the caller",
    "extra_jwt_issuers": "further `providers`, each with its own namespace",
    "http_address": "`server.listen`",
    "https_address": "`server.listen`",
    "tls_cert_file": "`server.tls.certFile`",
    "tls_key_file": "`server.tls.keyFile`",
    "metrics_address": "`server.adminListen`",
    "proxy_prefix": "`server.prefix`",
    "reverse_proxy": "nothing is trusted without `server.trustedProxies`",
    "trusted_proxy_ips": "`server.trustedProxies`",
    "skip_auth_preflight": "`cors.preflight: public`",
    "request_logging": "`logging.access`",
    "upstreams": "`upstream.url`; several servers are an error",
    "upstream_timeout": "`upstream.responseTimeout`",
    "pass_authorization_header": "`upstream.credentials: passthrough`; absent: `none`",
    "set_authorization_header": "`upstream.credentials: passthrough`; absent: `none`",
    "skip_auth_routes": "`rules` with `access: public`, if the expression is a path or a prefix",
    "skip_auth_regex": "as `skip_auth_routes`",
    "allowed_groups": "a rule with `require.groups` for all paths",
    "allowed_roles": "a rule with `require.roles` for all paths, from `realm_access.roles`",
    "htpasswd_file": "authenticator `basic`",
}
"""For each option that is translated: where it goes. The table of the migration guide is made of this."""


def option_table() -> str:
    """The Markdown table of all options, for the migration guide."""
    rows = [f"| `{name}` | {text} |" for name, text in TRANSLATED.items()]
    rows += [f"| {', '.join(f'`{name}`' for name in names)} | {sentence} |" for sentence, names in LEFT_OUT.items()]
    rows.append(
        f"| {', '.join(f'`{name}`' for name in RESTRICTING)} | restrict access and have no equivalent: an error, "
        "unless the option is named by `--drop` |"
    )
    return "\n".join(["| oauth2-proxy | auth-sidecar |", "|---|---|", *rows, ""])
