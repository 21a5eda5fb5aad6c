"""The configuration file's vocabulary as frozen models. Names and defaults are the contract with users.

Every field carries a description: the reference page in ``docs/`` is generated from these models. Values arrive as
text (the YAML reader retypes nothing), so each model coerces by its own types. Input values never appear in errors.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic.alias_generators import to_camel

from sidecar.config.reading.units import Address, BasePath, Duration, Network, Size, WebOrigin
from sidecar.secrets.value import Secret

ASYMMETRIC_ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
]  # fmt: skip
DEFAULT_PRINCIPAL_CLAIMS = ("email", "preferred_username", "sub")
DEFAULT_EMAIL_CLAIM = "email"
PrincipalRule = Literal["localPart", "verbatim"]


def _none_is_empty(value: object) -> object:
    """An OpenMetadata key whose variable is set but empty arrives as null and means "nothing given"."""
    return () if value is None or value == "" else value


def _none_is_blank(value: object) -> object:
    return "" if value is None else value


def _forget(value: object) -> None:
    """Keys that only OpenMetadata uses may hold its secrets, so their values are not kept."""


UNUSED = "The product's own; not used here."
Unused = Annotated[Any, BeforeValidator(_forget)]


def _names_only(value: object) -> object:
    """Options belong to their authenticator, which alone knows what is secret among them: here none keeps its value."""
    return dict.fromkeys(map(str, value), "********") if isinstance(value, Mapping) else value


OptionNames = Annotated[Mapping[str, str], BeforeValidator(_names_only, json_schema_input_type=Mapping[str, Any])]
Names = Annotated[tuple[str, ...], BeforeValidator(_none_is_empty)]
Text = Annotated[str, BeforeValidator(_none_is_blank)]


class Model(BaseModel):
    """Frozen, strict about names, silent about values."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_nothing_given(cls, data: Any) -> Any:
        """A key without value counts as left out, as an empty variable does in OpenMetadata."""
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


class Limits(Model):
    """Bounds on what one process accepts on the public listener."""

    max_header_bytes: Size = 16 * 1024
    """Longest request line and longest single header line, in bytes. All header lines together may have four
    times as much."""
    max_headers: Annotated[int, Field(ge=16)] = 128
    """Most header lines in a request."""
    max_token_bytes: Size = 16 * 1024
    """Longest token that is looked at."""
    max_body_bytes: Size | None = None
    """Largest request body that is forwarded; absent: no bound."""
    max_connections: Annotated[int, Field(ge=1)] = 4096
    """Most open connections. For a further one the oldest is closed that is idle and has carried no good credential;
    where there is none, the further one is."""
    max_in_flight: Annotated[int, Field(ge=1)] = 1024
    """Most requests being answered at once; further ones get 503. Of these places a quarter is for requests that wait
    for a verdict, and half for those that a rule lets pass without a credential. Checks need a place only while they
    wait for a verdict."""
    idle_timeout: Duration = 75.0
    """How long a kept-alive connection may wait for its next request."""
    header_timeout: Duration = 15.0
    """How long the head of a request may take to arrive once its first byte is there; then 408."""
    body_timeout: Duration = 60.0
    """How long a request body, or a caller that reads an answer, may make no progress."""


class ServerSettings(Model):
    """The two listeners."""

    listen: Address = "127.0.0.1:4180"
    """Public listener: ``host:port``, ``[v6]:port`` or ``unix:/path``."""
    admin_listen: Address = "127.0.0.1:4181"
    """Operations listener (metrics, health, configuration). Not for the public."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share the public address, each with its own memory of keys, tokens and revocations."""
    prefix: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)+$")] = "/oauth2"
    """Path prefix reserved for the sidecar on the public listener."""
    trusted_proxies: tuple[Network, ...] = ()
    """Peers (CIDRs, or ``unix``) whose headers about the original request are believed. Empty: nobody's."""
    client_certificates: Literal["none", "envoy", "nginx"] = "none"
    """How trusted proxies pass on the client's certificate, in ``X-Forwarded-Client-Cert``: in Envoy's form, or as
    nginx's ``$ssl_client_escaped_cert``. Tokens bound to a certificate are refused with ``none``."""
    public_url: Text = ""
    """The address by which callers reach this service."""
    websocket_origins: tuple[WebOrigin, ...] | None = None
    """Origins (``https://host[:port]``) whose pages may open WebSockets to the service behind; a page of another gets
    403. Callers that send no ``Origin`` are no browsers and not concerned. Absent: not looked at."""
    realm: str = "auth-sidecar"
    """Realm in ``WWW-Authenticate``."""
    check_deadline: Duration = 5.0
    """Longest time that any check may take."""
    drain_delay: Duration = 5.0
    """After SIGTERM: how long the listener still accepts while ``/readyz`` is already false."""
    drain_timeout: Duration = 30.0
    """After that: how long requests in flight may take to end."""
    reload_on_change: bool = False
    """Reload as on SIGHUP when a configuration file has changed; they are looked at every five seconds."""
    limits: Limits = Limits()
    """Bounds on connections, headers and bodies."""


class UpstreamSettings(Model):
    """The service behind."""

    url: Text = ""
    """``http://host:port``, ``https://host:port`` or ``unix:/path``; absent: check mode only. A path behind the port is
    put in front of the request's own when it is forwarded; rules judge the request's own."""
    credentials: Literal["passthrough", "none", "openmetadata", "datahub", "datahubHeader"] = "passthrough"
    """What the service sees as ``Authorization``: the caller's own, nothing, or an OpenMetadata or DataHub token for
    the Actor; with ``datahubHeader`` nothing, but ``X-DataHub-Actor`` (for a DataHub whose authentication is off)."""
    token_validation_algorithm: Literal["RS256", "RS384", "RS512"] = "RS256"
    """With ``openmetadata``: the server's ``tokenValidationAlgorithm``."""
    server_bots: Names = ()
    """With ``openmetadata``: names of the server's bots besides those that it creates by itself and those that end in
    ``-bot``, ``ApplicationBot`` or ``AppBot``. A caller of that name is refused, unless the own issuer named it."""
    connect_timeout: Duration = 5.0
    """Time to open a connection."""
    response_timeout: Duration = 300.0
    """Time from the end of the request to the first byte of the answer, and from one piece of its body to the next;
    event streams may be silent for longer."""
    wait_at_start: Duration | None = None
    """At the start: how long ``/readyz`` stays false at most, until the service has accepted a connection once; absent:
    readiness does not depend on the service."""
    keepalive_timeout: Duration = 15.0
    """How long an idle connection to the service is kept; less than the service's own."""
    ca_file: Text = ""
    """CA bundle for an ``https`` service; absent: that of ``outbound``."""


class StoreTls(Model):
    """TLS towards the store."""

    ca_file: Text = ""
    """CA bundle; absent: that of ``outbound``."""
    cert_file: Text = ""
    """Client certificate."""
    key_file: Text = ""
    """Client key."""
    server_name: Text = ""
    """Name to verify instead of the host's."""


class StoreSettings(Model):
    """Where token records and revocations live."""

    url: Secret = Secret("sqlite:////var/lib/sidecar/sidecar.db")
    """``sqlite:////absolute/path``, ``redis://user:password@host:port/db``, ``redis+cluster://host:port,host:port`` or
    ``redis+sentinel://host:port,host:port/service/db``; with ``rediss`` instead of ``redis``: the same by TLS."""
    username: Text = ""
    """User, when it does not stand in the URL."""
    password: Secret | None = None
    """Password, when it does not stand in the URL."""
    sentinel_username: Text = ""
    """User of the sentinels; they are not given the store's."""
    sentinel_password: Secret | None = None
    """Password of the sentinels."""
    key_prefix: Annotated[str, Field(pattern=r"^[!-~]{0,100}$")] = "{sidecar}:"
    """Prefix of every key in Redis. One without hash tag (``{...}``) gets one: all keys must lie in one slot."""
    wait_replicas: Annotated[int, Field(ge=0, le=16)] = 0
    """Redis replicas that must have a write before it is answered; with fewer it is answered 503."""
    wait_timeout: Annotated[Duration, Field(gt=0, le=10)] = 1.0
    """How long they may take."""
    tls: StoreTls = StoreTls()
    """TLS towards the store."""


class KeyFetchSettings(Model):
    """How the keys of providers are fetched and kept."""

    refresh: Duration = 600.0
    """How old a key set gets before it is fetched anew, when its answer does not say (Cache-Control is honoured)."""
    unknown_kid_cooldown: Duration = 10.0
    """Least time between two fetches of one URL that unknown key ids cause."""
    retry_min: Duration = 1.0
    """First wait after a failed fetch; doubles, with jitter."""
    retry_max: Duration = 60.0
    """Longest wait after failed fetches."""
    timeout: Duration = 5.0
    """Time for one fetch, from connect to last byte."""
    max_bytes: Size = 512 * 1024
    """Largest answer that is read."""
    max_stale: Duration = 86400.0
    """How long the last good keys serve while the provider is away."""
    cache_dir: Text = ""
    """Folder for the disk copy; absent: beside the SQLite file. Not writable is a warning."""
    ca_file: Text = ""
    """CA bundle for key and discovery URLs; absent: that of ``outbound``."""


class OutboundSettings(Model):
    """Calls that the sidecar makes by URL: keys, discovery, introspection, checks of bot tokens, spans."""

    proxy: Secret = Secret("environment")
    """``environment``: the proxy that ``HTTPS_PROXY`` names; ``none``: no proxy, whatever the environment says; or
    ``http://user:password@host:port``. Only https goes through it. ``NO_PROXY`` lists what is reached directly: names
    with everything below them, addresses, networks, ``host:port`` or ``*``. Always direct: loopback and link-local
    addresses, plain http, the upstream, the cluster's API server, the store."""
    ca_file: Text = ""
    """CA bundle for every outgoing connection that names none of its own (``keys``, ``upstream``, ``store.tls``, the
    directory of ``ldap``, spans); absent: the system's."""


class ClaimActorType(Model):
    """The Actor's type by a claim."""

    claim: str
    """Path of the claim."""
    service: Annotated[tuple[str, ...], Field(min_length=1)]
    """Values that mean SERVICE; all others mean USER."""


class KeyUrl(Model):
    """A key URL that says whose keys it holds."""

    url: str
    """Address of the JWKS, or ``file:/path``."""
    issuer: Annotated[str, Field(min_length=1)]
    """Issuer whose tokens these keys may sign."""


def _branch(value: object) -> str:
    """Which member of a ``text or block`` union a value is meant for: errors then speak of that one alone."""
    return "<block>" if isinstance(value, Mapping | Model) else "<text>"


BoundUrl = Annotated[Annotated[str, Tag("<text>")] | Annotated[KeyUrl, Tag("<block>")], Discriminator(_branch)]
ActorTypeSetting = Annotated[
    Annotated[Literal["USER", "SERVICE"], Tag("<text>")] | Annotated[ClaimActorType, Tag("<block>")],
    Discriminator(_branch),
]


class ProviderSettings(Model):
    """One issuer of tokens, with its own keys, audience and mapping."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    """Name in logs, metrics and namespaced Actor ids."""
    issuer: Annotated[str, Field(min_length=1)]
    """Exact ``iss`` of its tokens."""
    public_key_urls: Names = ()
    """Addresses of its JWKS, or ``file:/path`` (watched); absent: by discovery from ``issuer`` (OpenID Connect, then
    RFC 8414)."""
    audiences: Names = ()
    """Accepted ``aud`` values, any of them; empty: not checked, and ``sidecar check`` warns."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ASYMMETRIC_ALGORITHMS  # type: ignore[assignment]
    """Accepted signature algorithms."""
    principal: PrincipalRule | None = None
    """How the claim's text becomes the Actor's id. ``localPart``: the part before an ``@``, in lower case, as
    OpenMetadata names its users. ``verbatim``: the text as it is written, as DataHub does. Absent: that of
    ``authenticationConfiguration``."""
    jwt_principal_claims: Annotated[Names, Field(min_length=1)] | None = None
    """Claims that may name the Actor; the first one present decides. Absent, with no mapping beside it: those of
    ``authenticationConfiguration``."""
    jwt_principal_claims_mapping: Names | None = None
    """``username:<claim>`` and ``email:<claim>``, instead of the list; both in one provider are an error. Absent, with
    no list beside it: that of ``authenticationConfiguration``."""
    email_claim: Annotated[str, Field(min_length=1)] | None = None
    """Claim with the caller's e-mail address, whichever claim names the Actor. Absent: that of
    ``authenticationConfiguration``, else ``email``."""
    email_verified: Literal["required", "absentIsVerified"] | None = None
    """``required``: an e-mail address counts only beside ``email_verified: true``, and a token whose address names the
    Actor is refused without it. ``absentIsVerified``: a token without ``email_verified`` counts as verified. Absent:
    ``required`` with ``mayBeAdmin: true``, else ``absentIsVerified``."""
    principal_domain: Text | None = None
    """Domain of people whose token names no e-mail address. Absent: that of ``authorizerConfiguration``."""
    enforce_principal_domain: bool | None = None
    """Refuse people of other domains. Absent: as in ``authorizerConfiguration``."""
    allowed_domains: Names | None = None
    """Domains that are accepted instead of ``principalDomain``. Absent: those of ``authorizerConfiguration``."""
    groups_claim: Text = ""
    """Path of the claim that lists groups."""
    roles_claim: str = "roles"
    """Path of the claim that lists roles."""
    required_claims: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Claim path to accepted values; a token without one of them is not valid here."""
    max_token_lifetime: Duration | None = None
    """Longest ``exp - iat`` that is accepted."""
    clock_skew: Duration = 30.0
    """Tolerance for ``exp``, ``nbf`` and ``iat``."""
    actor_type: ActorTypeSetting = "USER"
    """Type of its Actors: USER, SERVICE, or by a claim."""
    principal_namespace: Literal["none", "provider"] = "none"
    """``provider``: Actor ids are ``<provider>/<name>``, so that two providers cannot collide."""
    may_be_admin: bool = False
    """Whether its Actors may match a bare name in ``adminPrincipals``: those whose token holds the e-mail address of
    that very name, verified, with ``principalDomain`` or an allowed domain."""
    allow_missing_expiry: bool = False
    """Accept tokens without ``exp``. They are good for ever."""
    allow_insecure_urls: bool = False
    """Accept ``http`` for key and discovery URLs that are not on loopback."""


class BotTokenCheckSettings(Model):
    """Ask the metadata server whether a bot's token is still its current one."""

    url: Annotated[str, Field(min_length=1)]
    """The server's address (``http://127.0.0.1:8585``), or that of its ``/api/v1/users/loggedInUser``."""
    cache: Annotated[Duration, Field(le=120)] = 120.0
    """How long its answer is believed; at most two minutes."""


class AuthenticationConfiguration(Model):
    """OpenMetadata's block, its keys as they are, and ``providers`` for many issuers."""

    public_key_urls: Annotated[tuple[BoundUrl, ...], BeforeValidator(_none_is_empty)] = ()
    """JWKS addresses, each bound to its issuer: named by the discovery document of ``authority``, or written as
    ``{url, issuer}``. ``file:/path`` needs the latter."""
    authority: Text = ""
    """Issuer of the flat form."""
    client_id: Text = ""
    """Required audience of the flat form's issuer."""
    principal: PrincipalRule | None = None
    """How a claim's text becomes the Actor's id: for the flat form, for the authenticators of the chain, and the
    default of ``providers``. ``localPart``: the part before an ``@``, in lower case, as OpenMetadata names its users.
    ``verbatim``: the text as it is written, as DataHub does. Absent: ``verbatim`` with ``upstream.credentials``
    ``datahub`` or ``datahubHeader``, else ``localPart``. With these credentials it must be written as soon as the store
    holds records or denials of Actors."""
    jwt_principal_claims: Names = DEFAULT_PRINCIPAL_CLAIMS
    """Claims that may name the Actor; the first one present decides. The default of ``providers``."""
    jwt_principal_claims_mapping: Names = ()
    """``username:<claim>`` and ``email:<claim>``, instead of the list. The default of ``providers``."""
    email_claim: Text = DEFAULT_EMAIL_CLAIM
    """Claim with the caller's e-mail address, whichever claim names the Actor. The default of ``providers``."""
    token_validation_algorithm: Annotated[
        Literal["RS256", "RS384", "RS512", "ES256", "ES384", "ES512"] | None,
        BeforeValidator(lambda v: v or None),
    ] = None
    """The one algorithm of the flat form; absent: RS256."""
    allow_unbound_issuers: bool = False
    """Accept tokens of any issuer that the flat form's keys have signed, as OpenMetadata does. Dangerous."""
    allow_insecure_urls: bool = False
    """Accept ``http`` for ``publicKeyUrls`` and ``authority`` that are not on loopback."""
    providers: tuple[ProviderSettings, ...] = ()
    """Issuers of tokens, as many as you like."""
    bot_token_check: BotTokenCheckSettings | None = None
    """For bot tokens that the metadata server has minted itself; absent: their signature is enough."""
    client_type: Unused = Field(default=None, description=UNUSED)
    provider: Unused = Field(default=None, description=UNUSED)
    provider_name: Unused = Field(default=None, description=UNUSED)
    response_type: Unused = Field(default=None, description=UNUSED)
    callback_url: Unused = Field(default=None, description=UNUSED)
    jwt_team_claim_mapping: Unused = Field(default=None, description=UNUSED)
    enable_self_signup: Unused = Field(default=None, description=UNUSED)
    enable_auto_redirect: Unused = Field(default=None, description=UNUSED)
    force_secure_session_cookie: Unused = Field(default=None, description=UNUSED)
    session_expiry: Unused = Field(default=None, description=UNUSED)
    max_active_sessions_per_user: Unused = Field(default=None, description=UNUSED)
    additional_trusted_redirect_uris: Unused = Field(default=None, description=UNUSED)
    display_name_claim: Unused = Field(default=None, description=UNUSED)
    oidc_configuration: Unused = Field(default=None, description=UNUSED)
    saml_configuration: Unused = Field(default=None, description=UNUSED)
    ldap_configuration: Unused = Field(default=None, description=UNUSED)


class AuthorizerConfiguration(Model):
    """OpenMetadata's block: who is admin, and which domains people may come from."""

    admin_principals: Names = ()
    """Names of admins; ``<provider>/<id>`` names one of a certain provider."""
    principal_domain: Text = ""
    """Domain of people whose token names no e-mail address. The default of ``providers``."""
    enforce_principal_domain: bool = False
    """Refuse people of other domains. The default of ``providers``."""
    allowed_domains: Names = ()
    """Domains that are accepted instead of ``principalDomain``. The default of ``providers``."""
    class_name: Unused = Field(default=None, description=UNUSED)
    container_request_filter: Unused = Field(default=None, description=UNUSED)
    allowed_email_registration_domains: Unused = Field(default=None, description=UNUSED)
    allowed_email_domains: Unused = Field(default=None, description=UNUSED)
    enable_secure_socket_connection: Unused = Field(default=None, description=UNUSED)
    use_roles_from_provider: Unused = Field(default=None, description=UNUSED)
    default_oauth_role: Unused = Field(default=None, alias="defaultOAuthRole", description=UNUSED)


class JwtTokenConfiguration(Model):
    """OpenMetadata's block: the own keys and the own issuer."""

    rsapublic_key_file_path: Text = ""
    """Public key, DER or PEM (RSA, EC or Ed25519)."""
    rsaprivate_key_file_path: Text = ""
    """Private key, PKCS#8 DER or PEM. Empty with the public one: no own keys."""
    jwtissuer: Text = ""
    """``iss`` of own tokens."""
    key_id: Text = ""
    """``kid`` of the key pair; empty: its RFC 7638 thumbprint."""
    key_dir: Text = ""
    """Folder of several keys, instead of the two files."""
    audience: Text = ""
    """Minted into own tokens and then required of them."""
    clock_skew: Duration | None = None
    """Tolerance for `exp`, `nbf` and `iat` of own tokens. Absent: 5 s for `nbf` and `iat`, none for `exp`."""
    jwks_paths: Names = ("/api/v1/config/jwks",)
    """Paths besides ``{prefix}/jwks`` that publish the own public keys."""


class TokenServiceSettings(Model):
    """DataHub's block: how its tokens are signed."""

    signing_key: Secret | None = None
    """Key of HS256, the octets of its text."""
    salt: Secret | None = None
    """What DataHub hashes its tokens with."""
    issuer: Text = "datahub-metadata-service"
    """``iss`` of DataHub's tokens; DataHub does not verify it."""
    signing_algorithm: Literal["HS256"] = "HS256"
    """DataHub's only algorithm."""


class AuthenticatorSettings(Model):
    """One member of the chain."""

    type: Annotated[str, Field(min_length=1, max_length=300)]
    """A short name (``jwt``, ``guest``, ``basic``, ...), DataHub's Java class name, the name of an installed plugin, or
    ``package.module:Class``."""
    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$")] = ""
    """Name in logs, metrics and ``adminPrincipals``; absent: the short name. Every member needs its own."""
    on_error: Literal["fail", "continue"] = "fail"
    """When it is broken: ``fail`` answers 503 at once, ``continue`` asks the members after it first."""
    timeout: Annotated[Duration, Field(gt=0, le=60)] = 4.0
    """How long it may take for one request before it counts as broken."""
    configs: OptionNames = Field(default_factory=dict)
    """Its own options; see the guide of the authenticator."""


class AuthenticationSettings(Model):
    """DataHub's block: the chain of authenticators, its keys as they are."""

    enabled: bool = True
    """DataHub's switch. ``false``: nothing in this block is in use; tokens of providers and own ones still are."""
    system_client_id: Text = "__datahub_system"
    """Name of DataHub's system client."""
    system_client_secret: Secret | None = None
    """Its secret."""
    token_service: TokenServiceSettings = TokenServiceSettings()
    """How DataHub's tokens are signed."""
    authenticators: tuple[AuthenticatorSettings, ...] = ()
    """Members of the chain, asked in this order. ``jwt`` is always one: the first, unless it is listed elsewhere."""
    require_record: bool = False
    """DataHub tokens of version 2 must be on record here."""
    excluded_paths: Unused = Field(default=None, description=UNUSED)
    enforce_existence_enabled: Unused = Field(default=None, description=UNUSED)
    log_authenticator_exceptions: Unused = Field(default=None, description=UNUSED)
    session_token_duration_ms: Unused = Field(default=None, description=UNUSED)
    access_tokens: Unused = Field(default=None, description=UNUSED)


class TokenSettings(Model):
    """Own tokens and the memory of verified ones."""

    require_record: bool = True
    """Own tokens must be on record; unknown means revoked."""
    allow_never_expiring: bool = False
    """Tokens without expiry may be minted."""
    max_lifetime: Annotated[Duration, Field(ge=1)] | None = None
    """Longest life of own tokens, minted here or not; older ones that live longer are refused. With it, entries of the
    deny list about a whole issuer or an Actor need not be kept for ever."""
    keep_bot_tokens: bool = False
    """A bot's new token leaves its older ones in force."""
    cache_entries: Annotated[int, Field(ge=0, le=1_000_000)] = 10_000
    """Most verified tokens that are remembered."""
    cache_bytes: Size = 64 * 1024 * 1024
    """Most memory that these tokens may take, with their claims and headers. A token with many groups takes more."""


class RequireSettings(Model):
    """What an authenticated caller must have besides."""

    groups: Names = ()
    """At least one of these groups."""
    roles: Names = ()
    """At least one of these roles."""
    actor_types: tuple[Literal["USER", "SERVICE"], ...] = ()
    """One of these Actor types."""
    providers: Names = ()
    """From one of these providers or authenticators; ``own``: own tokens, ``system``: DataHub's system client."""
    admin: bool = False
    """Must be an admin."""


class RuleSettings(Model):
    """One route rule, or a preset of several. The first whose path and method match decides."""

    preset: Literal["openmetadata", "datahub"] | None = None
    """Instead of all else: the paths that the product leaves open, in this place of the list."""
    base_path: BasePath = ""
    """With a preset: the path below which the product is mounted, such as ``/metadata``. The preset's paths are below
    it, and nothing outside it is public. Absent: what an imported file of the product says."""
    path: Annotated[str, Field(pattern=r"^/")] | None = None
    """Path pattern: exact, or ``*`` for one segment, or a final ``/**`` for everything below and itself. Letter case
    counts. An exact path holds with a final slash more or less too, where its rule is stricter than what follows."""
    methods: Annotated[tuple[str, ...], BeforeValidator(_none_is_empty)] = ()
    """Methods it is for; empty: all. GET includes HEAD."""
    access: Literal["public", "guest", "authenticated"] = "authenticated"
    """``public``: never refused. ``guest``: nothing presented is fine, bad credentials are not."""
    require: RequireSettings = RequireSettings()
    """What the caller must have besides."""

    @model_validator(mode="after")
    def _is_rule_or_preset(self) -> "RuleSettings":
        if self.preset is None and self.path is None:
            raise ValueError("needs a path, or a preset")
        if self.preset is not None and not self.model_fields_set <= {"preset", "base_path"}:
            raise ValueError("a preset stands alone in its entry, or with basePath; write rules of your own before it")
        if self.preset is None and self.base_path:
            raise ValueError("basePath stands beside a preset only; write the whole path into path")
        return self


class CorsSettings(Model):
    """Cross-origin requests."""

    preflight: Literal["authenticated", "public"] = "authenticated"
    """``public``: OPTIONS with ``Origin`` and ``Access-Control-Request-Method`` pass without credentials."""


class IdentityHeaderSettings(Model):
    """The headers that tell the service behind who is asking."""

    assertion: bool = False
    """Also send ``X-Auth-Assertion``, a signed JWT of 5 minutes."""
    assertion_audience: Text = ""
    """``aud`` of the assertion; absent: the upstream's URL."""
    max_bytes: Size = 3 * 1024
    """Groups that would push the identity headers over this are left blank. Without assertion and credential."""
    max_total_bytes: Size | None = None
    """Most bytes of identity headers, assertion and minted credential together; absent: 5 KiB more than ``maxBytes``,
    which is 8 KiB by default. Over it, first the groups header is left blank, then the assertion has no groups but
    ``groups_omitted``, and then the request is refused (503)."""
    strip: Names = ()
    """Further headers to remove from what callers send."""

    @property
    def total_bytes(self) -> int:
        """``max_total_bytes``, or what stands for it."""
        return self.max_bytes + 5 * 1024 if self.max_total_bytes is None else self.max_total_bytes


class RevocationSettings(Model):
    """How old the local picture of revocations may get."""

    max_staleness: Duration = 600.0
    """Age from which it counts as stale."""
    on_stale: Literal["deny", "allow"] = "deny"
    """``deny``: 503 for tokens that need it; ``allow``: go on with what is known."""


class LoggingSettings(Model):
    """JSON lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line that is written. Audit lines are always written."""
    access: bool = False
    """Also one line per answered request."""
    refusals_per_second: Annotated[int, Field(ge=1)] = 100
    """Most lines about refused requests that a process writes in a second. Where there are more, one line a second says
    how many were left out, and ``sidecar_log_lines_left_out_total`` counts them; answers are not affected."""


class TracingSettings(Model):
    """Spans for OpenTelemetry (OTLP over HTTP). Needs the extra ``otel``."""

    endpoint: Annotated[str, Field(min_length=1)]
    """Where spans are sent: ``http://collector:4318``, or a whole address where its path is not ``/v1/traces``."""
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of requests that get spans, unless a trusted proxy has decided already."""
    service_name: Annotated[str, Field(min_length=1)] = "auth-sidecar"
    """``service.name`` of the spans."""


class ImportSettings(Model):
    """Full configuration files of the products, read for the blocks that concern authentication."""

    openmetadata: Text = ""
    """Path of an ``openmetadata.yaml``."""
    datahub: Text = ""
    """Path of an ``application.yaml`` of DataHub's metadata service."""


class SecretsManagerConfiguration(Model):
    """OpenMetadata's block; only ``db`` (its default) is understood."""

    secrets_manager: Annotated[Literal["db", "noop"], BeforeValidator(lambda v: v or "db")] = "db"
    """OpenMetadata's; other managers are not supported."""
    prefix: Unused = Field(default=None, description=UNUSED)
    tags: Unused = Field(default=None, description=UNUSED)
    parameters: Unused = Field(default=None, description=UNUSED)


class Settings(Model):
    """The whole configuration."""

    server: ServerSettings = ServerSettings()
    """The two listeners."""
    upstream: UpstreamSettings | None = None
    """The service behind; absent: check mode only."""
    store: StoreSettings = StoreSettings()
    """Where token records and revocations live."""
    keys: KeyFetchSettings = KeyFetchSettings()
    """How the keys of providers are fetched."""
    outbound: OutboundSettings = OutboundSettings()
    """Calls that the sidecar makes by URL."""
    authentication_configuration: AuthenticationConfiguration = AuthenticationConfiguration()
    """Whose tokens are accepted."""
    authorizer_configuration: AuthorizerConfiguration = AuthorizerConfiguration()
    """Admins and domains."""
    jwt_token_configuration: JwtTokenConfiguration = JwtTokenConfiguration()
    """Own keys and issuer."""
    authentication: AuthenticationSettings = AuthenticationSettings()
    """The chain of authenticators."""
    tokens: TokenSettings = TokenSettings()
    """Own tokens and the memory of verified ones."""
    rules: tuple[RuleSettings, ...] = ()
    """Route rules; the first match decides, no match means authenticated."""
    cors: CorsSettings = CorsSettings()
    """Cross-origin requests."""
    revocation: RevocationSettings = RevocationSettings()
    """Staleness of the local picture of revocations."""
    identity_headers: IdentityHeaderSettings = IdentityHeaderSettings()
    """Headers for the service behind."""
    logging: LoggingSettings = LoggingSettings()
    """JSON lines on standard error."""
    tracing: TracingSettings | None = None
    """Spans for OpenTelemetry; absent: none."""
    secrets_manager_configuration: SecretsManagerConfiguration = SecretsManagerConfiguration()
    """OpenMetadata's block."""
    import_: ImportSettings = Field(default=ImportSettings(), alias="import")
    """Configuration files of the products."""
    allow_published_secrets: bool = False
    """Accept keys and secrets that are published in the products' sources. For demonstrations only."""
