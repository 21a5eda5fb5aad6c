"""The settings of the configuration file as frozen models. Names and defaults are the contract with users.

Every field carries a description: the reference page in ``docs/`` is generated from these models. Values arrive as
text (the YAML reader retypes nothing), so each model coerces by its own types. Input values never appear in errors.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic.alias_generators import to_camel

from sidecar.config.reading.units import AnyOrigin, BasePath, Duration, ListenAddress, Network, Size, WebOrigin
from sidecar.secrets.value import Secret

ASYMMETRIC_ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
]  # fmt: skip
DEFAULT_PRINCIPAL_CLAIMS = ("email", "preferred_username", "sub")
DEFAULT_EMAIL_CLAIM = "email"
DEFAULT_CLIENT_CLAIMS = ("azp", "client_id", "cid", "appid")
PrincipalRule = Literal["localPart", "verbatim"]


def _none_is_empty(value: object) -> object:
    """An OpenMetadata key whose variable is set but empty arrives as null and counts as absent."""
    return () if value is None or value == "" else value


def _none_is_blank(value: object) -> object:
    return "" if value is None else value


def _forget(value: object) -> None:
    """Keys that only OpenMetadata uses may contain its secrets, so their values are discarded."""


UNUSED = "Used by the product only."
Unused = Annotated[Any, BeforeValidator(_forget)]


def _names_only(value: object) -> object:
    """Only the authenticator knows which of its options are secret, so their values are not kept here."""
    return dict.fromkeys(map(str, value), "********") if isinstance(value, Mapping) else value


OptionNames = Annotated[Mapping[str, str], BeforeValidator(_names_only, json_schema_input_type=Mapping[str, Any])]
Names = Annotated[tuple[str, ...], BeforeValidator(_none_is_empty)]
Text = Annotated[str, BeforeValidator(_none_is_blank)]


class Model(BaseModel):
    """Frozen; rejects unknown names and never shows values in errors."""

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
        """A key without a value counts as absent, like an empty variable in OpenMetadata."""
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


class Limits(Model):
    """Bounds on what one process accepts on the public listener."""

    max_header_bytes: Size = 16 * 1024
    """Maximum length of the request line and of each header line, in bytes. All header lines together may have four
    times as much."""
    max_headers: Annotated[int, Field(ge=16)] = 128
    """Maximum number of header lines in a request."""
    max_token_bytes: Size = 16 * 1024
    """Maximum size of a token."""
    max_body_bytes: Size | None = None
    """Maximum size of a forwarded request body; absent: unlimited."""
    max_connections: Annotated[int, Field(ge=1)] = 4096
    """Maximum number of open connections. When it is reached, a new connection replaces the oldest idle one that has
    carried no valid credential; if there is none, the new connection is closed."""
    max_in_flight: Annotated[int, Field(ge=1)] = 1024
    """Maximum number of requests in flight; further ones get 503. Requests that wait for a verdict may use a quarter of
    it (half of that if the verdict needs their body), and requests that a rule allows without a credential half. Checks
    count only while they wait for a verdict."""
    idle_timeout: Duration = 75.0
    """Time that a keep-alive connection may wait for its next request."""
    header_timeout: Duration = 15.0
    """Time for the head of a request to arrive, from its first byte; then 408."""
    body_timeout: Duration = 60.0
    """Time without progress of a request body, or of a caller that reads a response, after which it is aborted."""


class ServerTls(Model):
    """TLS on the public listener. The files are read again when they change."""

    cert_file: Annotated[str, Field(min_length=1)]
    """Certificate with its chain (PEM)."""
    key_file: Annotated[str, Field(min_length=1)]
    """Its private key (PEM, not encrypted)."""
    client_ca_file: Text = ""
    """CAs of client certificates (PEM), for ``clientCertificates``. Client certificates are optional; one of another CA
    ends the handshake. Absent: client certificates are not requested."""


class ServerSettings(Model):
    """The two listeners."""

    listen: ListenAddress = "127.0.0.1:4180"
    """Public listener: ``host:port``, ``[v6]:port``, ``*:port`` (all addresses, IPv4 and IPv6) or ``unix:/path``."""
    admin_listen: ListenAddress = "127.0.0.1:4181"
    """Operations listener (metrics, health, configuration). Do not expose it; it has no TLS."""
    socket_mode: Annotated[str, Field(pattern=r"^(0?[0-7]{3})?$")] = ""
    """Mode of the public listener's ``unix:`` socket, such as ``0660``; absent: by the umask of the process."""
    socket_group: Text = ""
    """Group of that socket, by name or number; absent: that of the process."""
    tls: ServerTls | None = None
    """TLS on the public listener; absent: plain HTTP."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Number of processes that share the public address, each with its own keys, token cache and copy of the revocation
    list."""
    prefix: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)+$")] = "/oauth2"
    """Path prefix reserved for the sidecar on the public listener."""
    trusted_proxies: tuple[Network, ...] = ()
    """Proxies (CIDRs, or ``unix``) whose headers about the original request are trusted. Empty: none."""
    client_certificates: Literal["none", "envoy", "nginx", "tls"] = "none"
    """Source of the client certificate. ``envoy``, ``nginx``: for trusted proxies, ``X-Forwarded-Client-Cert`` in
    Envoy's format or as nginx's ``$ssl_client_escaped_cert``; for other peers, with ``tls.clientCaFile``, the TLS
    handshake. ``tls``: the TLS handshake only. ``none``: tokens bound to a certificate are rejected."""
    public_url: Text = ""
    """URL by which callers reach the public listener."""
    origins: tuple[WebOrigin, ...] | None = None
    """Origins (``https://host[:port]``) of your pages: the default of ``websocketOrigins``, ``cors.origins`` and
    ``resources[].origins``. The origin of ``publicUrl`` is always among them."""
    websocket_origins: tuple[WebOrigin, ...] | None = None
    """Origins whose pages may open WebSockets to the upstream; pages of other origins get 403. Requests without
    ``Origin`` do not come from browsers and are not affected. Absent: ``server.origins``; without it, not checked."""
    realm: str = "auth-sidecar"
    """Realm in ``WWW-Authenticate``."""
    check_deadline: Duration = 5.0
    """Maximum duration of a check; then 503."""
    drain_delay: Duration = 5.0
    """Time after SIGTERM during which the listener still accepts connections while ``/readyz`` already answers 503."""
    drain_timeout: Duration = 30.0
    """Time for in-flight requests to finish after that."""
    reload_on_change: bool = False
    """Reload, as on SIGHUP, when a configuration file changes; checked every five seconds."""
    limits: Limits = Limits()
    """Bounds on connections, headers and bodies."""


class UpstreamSettings(Model):
    """The upstream: the server that requests are forwarded to."""

    url: Text = ""
    """``http://host:port``, ``https://host:port`` or ``unix:/path``; absent: check mode only. A path after the port is
    prepended to the path of each forwarded request; rules match the path without it."""
    credentials: Literal["passthrough", "none", "openmetadata", "datahub", "datahubHeader"] = "passthrough"
    """``Authorization`` sent to the upstream: the caller's own, none, or an OpenMetadata or DataHub token for the
    Actor. ``datahubHeader``: none, but ``X-DataHub-Actor`` (for a DataHub with authentication disabled)."""
    token_validation_algorithm: Literal["RS256", "RS384", "RS512"] = "RS256"
    """With ``openmetadata``: the server's ``tokenValidationAlgorithm``."""
    server_bots: Names = ()
    """With ``openmetadata``: names of the server's bots besides those that it creates by itself and those that end in
    ``-bot``, ``ApplicationBot`` or ``AppBot``. A caller with such a name is rejected unless its token was issued by the
    sidecar."""
    connect_timeout: Duration = 5.0
    """Time to open a connection."""
    response_timeout: Duration = 300.0
    """Time from the end of the request to the first byte of the response, and between two parts of its body; event
    streams may pause for longer."""
    wait_at_start: Duration | None = None
    """Maximum time after the start that ``/readyz`` stays 503 while the upstream has not accepted a connection; absent:
    readiness does not depend on the upstream."""
    keepalive_timeout: Duration = 15.0
    """How long an idle connection to the upstream is kept. Set it below the idle timeout of the upstream."""
    ca_file: Text = ""
    """CA bundle for an ``https`` upstream; absent: that of ``outbound``."""


class StoreTls(Model):
    """TLS connections to the store."""

    ca_file: Text = ""
    """CA bundle; absent: that of ``outbound``."""
    cert_file: Text = ""
    """Client certificate."""
    key_file: Text = ""
    """Client key."""
    server_name: Text = ""
    """Name to verify in the server's certificate, instead of the host name."""


class StoreSettings(Model):
    """Where token records and revocations are stored."""

    url: Secret = Secret("sqlite:////var/lib/sidecar/sidecar.db")
    """``sqlite:////absolute/path``, ``redis://user:password@host:port/db``, ``unix:///path/of/socket?db=1``,
    ``redis+cluster://host:port,host:port`` or ``redis+sentinel://host:port,host:port/service/db``; ``rediss``
    instead of ``redis`` uses TLS. ``db``, ``username`` and ``password`` in the query mean the same as in redis-py."""
    username: Text = ""
    """User, if it is not in the URL."""
    password: Secret | None = None
    """Password, if it is not in the URL."""
    sentinel_username: Text = ""
    """User for the sentinels, which do not receive that of the store."""
    sentinel_password: Secret | None = None
    """Password for the sentinels."""
    key_prefix: Annotated[str, Field(pattern=r"^[!-~]{0,100}$")] = "{sidecar}:"
    """Prefix of every key in Redis. If it has no hash tag (``{...}``), one is added: all keys must be in one slot."""
    wait_replicas: Annotated[int, Field(ge=0, le=16)] = 0
    """Number of Redis replicas that must acknowledge a write; with fewer the call gets 503."""
    wait_timeout: Annotated[Duration, Field(gt=0, le=10)] = 1.0
    """Time for these acknowledgements."""
    tls: StoreTls = StoreTls()
    """TLS connections to the store."""


class KeyFetchSettings(Model):
    """How the keys of providers are fetched and cached."""

    refresh: Duration = 600.0
    """Age at which a key set is fetched again, if the response has no Cache-Control."""
    unknown_kid_cooldown: Duration = 10.0
    """Minimum time between two fetches of one URL that are caused by unknown key ids."""
    retry_min: Duration = 1.0
    """First delay after a failed fetch; it doubles, with jitter."""
    retry_max: Duration = 60.0
    """Maximum delay after failed fetches."""
    timeout: Duration = 5.0
    """Timeout of one fetch, from connect to the last byte."""
    max_bytes: Size = 512 * 1024
    """Maximum size of a response."""
    max_stale: Duration = 86400.0
    """How long the last good keys are used while the provider is unavailable."""
    cache_dir: Text = ""
    """Directory for the copy on disk; absent: beside the SQLite file. If it is not writable, a warning is logged."""
    ca_file: Text = ""
    """CA bundle for key and discovery URLs; absent: that of ``outbound``."""


class OutboundSettings(Model):
    """Outgoing requests to URLs: keys, discovery, introspection, bot token checks, spans."""

    proxy: Secret = Secret("environment")
    """``environment``: the proxy in ``HTTPS_PROXY``; ``none``: no proxy, regardless of the environment; or
    ``http://user:password@host:port``. Only https requests use it. ``NO_PROXY`` lists exceptions: domain names with
    their subdomains, addresses, networks, ``host:port`` or ``*``. Never through the proxy: loopback and link-local
    addresses, plain http, the upstream, the cluster's API server, the store."""
    ca_file: Text = ""
    """CA bundle for all outgoing connections without a CA bundle of their own (``keys``, ``upstream``, ``store.tls``,
    ``ldap``, spans); absent: the system's."""


class ClaimActorType(Model):
    """The type of the Actor, from a claim."""

    claim: str
    """Path of the claim."""
    service: Annotated[tuple[str, ...], Field(min_length=1)]
    """Values that mean SERVICE; any other value means USER."""


class KeyUrl(Model):
    """A key URL with its issuer."""

    url: str
    """URL of the JWKS, or ``file:/path``."""
    issuer: Annotated[str, Field(min_length=1)]
    """Issuer whose tokens these keys may sign."""


def _branch(value: object) -> str:
    """Which branch of a ``text or block`` union a value belongs to, so that errors are about that branch only."""
    return "<block>" if isinstance(value, Mapping | Model) else "<text>"


BoundUrl = Annotated[Annotated[str, Tag("<text>")] | Annotated[KeyUrl, Tag("<block>")], Discriminator(_branch)]
ActorTypeSetting = Annotated[
    Annotated[Literal["USER", "SERVICE"], Tag("<text>")] | Annotated[ClaimActorType, Tag("<block>")],
    Discriminator(_branch),
]


class ProviderLoginSettings(Model):
    """Browser login at this provider: the sidecar's registration there as an OpenID Connect client."""

    client_id: Annotated[str, Field(min_length=1)]
    """Client id."""
    client_secret: Secret | None = None
    """Client secret."""
    client_key_file: Text = ""
    """Private key (PEM) for ``private_key_jwt``."""
    client_authentication: Literal["auto", "client_secret_basic", "client_secret_post", "private_key_jwt", "none"] = (
        "auto"
    )
    """How the sidecar authenticates at the token endpoint. ``auto``: with a key ``private_key_jwt``; with a secret
    ``client_secret_basic``, or ``client_secret_post`` if the provider lists only that; else ``none``."""
    scopes: Annotated[Names, Field(min_length=1)] = ("openid", "profile", "email")
    """Scopes to request; ``openid`` must be among them."""
    display_name: Text = ""
    """Name on the sign-in page; absent: the provider's name."""
    userinfo: Literal["auto", "always", "never"] = "auto"
    """When to read the UserInfo endpoint. ``auto``: if the ID token has none of the claims that name the Actor, or
    lacks the configured groups claim."""
    pushed: Literal["required", "always", "never"] = "required"
    """Pushed authorization requests (RFC 9126). ``required``: where the provider requires them."""
    prompt: Literal["", "login", "consent", "select_account"] = ""
    """``prompt`` of the authorization request."""
    max_age: Duration | None = None
    """Maximum time since the person has authenticated at the provider; older authentications are repeated."""
    acr_values: Names = ()
    """Accepted authentication context classes, in order of preference; an ID token with another ``acr`` is rejected."""
    extra_parameters: Mapping[str, str] = Field(default_factory=dict)
    """Further parameters of the authorization request, such as ``domain_hint``."""
    refresh: Literal["auto", "never"] = "auto"
    """Whether to keep the refresh token of a login, where the provider gives one, for ``login.session.recheck``. Some
    providers give one only for the scope ``offline_access``."""


class ProviderSettings(Model):
    """One issuer of tokens, with its own keys, audience and mapping."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    """Name in logs, metrics and namespaced Actor ids."""
    issuer: Annotated[str, Field(min_length=1)]
    """Exact ``iss`` of its tokens."""
    public_key_urls: Names = ()
    """URLs of its JWKS, or ``file:/path`` (read again when it changes); absent: discovery from ``issuer`` (OpenID
    Connect, then RFC 8414)."""
    audiences: Names = ()
    """Accepted ``aud`` values; a token needs one of them. Empty: not checked, and ``sidecar check`` warns."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ASYMMETRIC_ALGORITHMS  # type: ignore[assignment]
    """Accepted signature algorithms."""
    principal: PrincipalRule | None = None
    """How the text of the claim becomes the id of the Actor. ``localPart``: the part before an ``@``, in lower case, as
    in OpenMetadata. ``verbatim``: the text unchanged, as in DataHub. Absent: that of
    ``authenticationConfiguration``."""
    jwt_principal_claims: Annotated[Names, Field(min_length=1)] | None = None
    """Claims that may name the Actor; the first that is present decides. Absent, and no mapping either: those of
    ``authenticationConfiguration``."""
    jwt_principal_claims_mapping: Names | None = None
    """``username:<claim>`` and ``email:<claim>``, instead of the list; both in one provider are an error. Absent, and
    no list either: that of ``authenticationConfiguration``."""
    email_claim: Annotated[str, Field(min_length=1)] | None = None
    """Claim with the caller's e-mail address, whichever claim names the Actor. Absent: that of
    ``authenticationConfiguration``, else ``email``."""
    email_verified: Literal["required", "absentIsVerified"] | None = None
    """``required``: an e-mail address counts only with ``email_verified: true``, and a token whose address names the
    Actor is rejected without it. ``absentIsVerified``: a token without ``email_verified`` counts as verified. Absent:
    ``required`` with ``mayBeAdmin: true``, else ``absentIsVerified``."""
    principal_domain: Text | None = None
    """Domain of users whose token has no e-mail address. Absent: that of ``authorizerConfiguration``."""
    enforce_principal_domain: bool | None = None
    """Reject users of other domains. Absent: as in ``authorizerConfiguration``."""
    allowed_domains: Names | None = None
    """Accepted domains, instead of ``principalDomain``. Absent: those of ``authorizerConfiguration``."""
    groups_claim: Text = ""
    """Path of the claim that lists groups."""
    roles_claim: str = "roles"
    """Path of the claim that lists roles."""
    client_claims: Annotated[Names, Field(min_length=1)] = DEFAULT_CLIENT_CLAIMS
    """Claims that may name the OAuth client to which the token was issued; the first that is present decides."""
    trust_act: bool = False
    """Whether the provider may say who acts for the subject of a token (``act``, RFC 8693), such as an agent. If not,
    ``require.agents: forbidden`` rejects tokens with ``act``, and nothing else reads it."""
    required_claims: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Path of a claim, and its accepted values; a token without one of them is rejected."""
    max_token_lifetime: Duration | None = None
    """Maximum ``exp - iat``."""
    clock_skew: Duration = 30.0
    """Tolerance for ``exp``, ``nbf`` and ``iat``."""
    actor_type: ActorTypeSetting = "USER"
    """Type of its Actors: USER, SERVICE, or from a claim."""
    principal_namespace: Literal["none", "provider"] = "none"
    """``provider``: ids of Actors are ``<provider>/<name>``, so that names of two providers cannot collide."""
    may_be_admin: bool = False
    """Whether its Actors may match a bare name in ``adminPrincipals``. The token must have a verified e-mail address
    with that name before the ``@``, and with ``principalDomain`` or an allowed domain."""
    allow_missing_expiry: bool = False
    """Accept tokens without ``exp``. They never expire."""
    bearer: bool | None = None
    """Whether its tokens authenticate requests. Absent: true, but false for a provider that a rule in
    ``tokenEndpoint.workloads`` names: its tokens are then good for the token endpoint only."""
    allow_insecure_urls: bool = False
    """Accept ``http`` for key and discovery URLs that are not on loopback."""
    login: ProviderLoginSettings | None = None
    """Browser login at this provider; absent: none."""


class BotTokenCheckSettings(Model):
    """Ask the metadata server whether a bot token is still the current one."""

    url: Annotated[str, Field(min_length=1)]
    """URL of the server (``http://127.0.0.1:8585``), or of its ``/api/v1/users/loggedInUser``."""
    cache: Annotated[Duration, Field(le=120)] = 120.0
    """How long its answer is cached; at most two minutes."""


class AuthenticationConfiguration(Model):
    """OpenMetadata's block with its own keys, and ``providers`` for several issuers."""

    public_key_urls: Annotated[tuple[BoundUrl, ...], BeforeValidator(_none_is_empty)] = ()
    """JWKS URLs, each bound to its issuer: either named by the discovery document of ``authority``, or written as
    ``{url, issuer}``. ``file:/path`` needs the latter."""
    authority: Text = ""
    """Issuer of the flat form."""
    client_id: Text = ""
    """Required audience of the flat form's issuer."""
    principal: PrincipalRule | None = None
    """How the text of a claim becomes the id of the Actor: for the flat form, for other authenticators, and as the
    default of ``providers``. ``localPart``: the part before an ``@``, in lower case, as in OpenMetadata.
    ``verbatim``: the text unchanged, as in DataHub. Absent: ``verbatim`` with ``upstream.credentials`` ``datahub`` or
    ``datahubHeader``, else ``localPart``. With these credentials it is required as soon as the store has records or
    revocations of Actors."""
    jwt_principal_claims: Names = DEFAULT_PRINCIPAL_CLAIMS
    """Claims that may name the Actor; the first that is present decides. The default of ``providers``."""
    jwt_principal_claims_mapping: Names = ()
    """``username:<claim>`` and ``email:<claim>``, instead of the list. The default of ``providers``."""
    email_claim: Text = DEFAULT_EMAIL_CLAIM
    """Claim with the caller's e-mail address, whichever claim names the Actor. The default of ``providers``."""
    token_validation_algorithm: Annotated[
        Literal["RS256", "RS384", "RS512", "ES256", "ES384", "ES512"] | None,
        BeforeValidator(lambda v: v or None),
    ] = None
    """The only accepted algorithm of the flat form; absent: RS256."""
    allow_unbound_issuers: bool = False
    """Accept tokens of any issuer that the flat form's keys have signed, as OpenMetadata does. Dangerous."""
    allow_insecure_urls: bool = False
    """Accept ``http`` for ``publicKeyUrls`` and ``authority`` that are not on loopback."""
    providers: tuple[ProviderSettings, ...] = ()
    """Issuers of tokens."""
    bot_token_check: BotTokenCheckSettings | None = None
    """For bot tokens minted by the metadata server; absent: a valid signature is sufficient."""
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
    """OpenMetadata's block: admins, and accepted domains of users."""

    admin_principals: Names = ()
    """Names of admins; ``<provider>/<id>`` names an Actor of one provider."""
    principal_domain: Text = ""
    """Domain of users whose token has no e-mail address. The default of ``providers``."""
    enforce_principal_domain: bool = False
    """Reject users of other domains. The default of ``providers``."""
    allowed_domains: Names = ()
    """Accepted domains, instead of ``principalDomain``. The default of ``providers``."""
    class_name: Unused = Field(default=None, description=UNUSED)
    container_request_filter: Unused = Field(default=None, description=UNUSED)
    allowed_email_registration_domains: Unused = Field(default=None, description=UNUSED)
    allowed_email_domains: Unused = Field(default=None, description=UNUSED)
    enable_secure_socket_connection: Unused = Field(default=None, description=UNUSED)
    use_roles_from_provider: Unused = Field(default=None, description=UNUSED)
    default_oauth_role: Unused = Field(default=None, alias="defaultOAuthRole", description=UNUSED)


class ServerTokenSettings(Model):
    """Tokens that the metadata server signs with a key of its own. They need no record here."""

    jwtissuer: Text = ""
    """``iss`` of the server's tokens. It must differ from the own ``jwtissuer`` where there are own keys."""
    rsapublic_key_file_path: Text = ""
    """The server's public key, DER or PEM, the whole path; read again when it changes. Besides, its key set in
    ``publicKeyUrls`` counts."""


class JwtTokenConfiguration(Model):
    """OpenMetadata's block: signing keys and issuer of the tokens that the sidecar issues."""

    rsapublic_key_file_path: Text = ""
    """Public key, DER or PEM (RSA, EC or Ed25519)."""
    rsaprivate_key_file_path: Text = ""
    """Private key, PKCS#8 DER or PEM. If this and the public key are empty, the sidecar issues no tokens."""
    jwtissuer: Text = ""
    """``iss`` of issued tokens."""
    key_id: Text = ""
    """``kid`` of the key pair; empty: its RFC 7638 thumbprint."""
    key_dir: Text = ""
    """Directory of several keys, instead of the two files. Needed for key rotation."""
    key_secret: Secret | None = None
    """Private JWK set with the keys, instead of ``keyDir``: ``secret:<id>`` of a secrets manager, which ``sidecar keys
    rotate`` creates and changes."""
    audience: Text = ""
    """``aud`` of issued tokens, which is then required."""
    clock_skew: Duration | None = None
    """Tolerance for ``exp``, ``nbf`` and ``iat`` of issued tokens. Absent: 5 s for ``nbf`` and ``iat``, none for
    ``exp``."""
    server: ServerTokenSettings = ServerTokenSettings()
    """What an imported ``openmetadata.yaml`` has in this block: its key verifies the server's tokens; it signs none."""
    jwks_paths: Names = ("/api/v1/config/jwks",)
    """Paths besides ``{prefix}/jwks`` that publish the public keys."""


class TokenServiceSettings(Model):
    """DataHub's block: how its tokens are signed."""

    signing_key: Secret | None = None
    """Key of HS256: the bytes of this text."""
    salt: Secret | None = None
    """Salt with which DataHub hashes its tokens."""
    issuer: Text = "datahub-metadata-service"
    """``iss`` of DataHub's tokens; DataHub does not verify it."""
    signing_algorithm: Literal["HS256"] = "HS256"
    """DataHub's only algorithm."""


class AuthenticatorSettings(Model):
    """One authenticator of the chain."""

    type: Annotated[str, Field(min_length=1, max_length=300)]
    """A short name (``jwt``, ``guest``, ``basic``, ...), a Java class name of DataHub, the name of an installed plugin,
    or ``package.module:Class``."""
    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$")] = ""
    """Name in logs, metrics and ``adminPrincipals``; absent: the short name. Names must be unique."""
    on_error: Literal["fail", "continue"] = "fail"
    """If it is unavailable: ``fail`` answers 503, ``continue`` tries the authenticators after it first."""
    timeout: Annotated[Duration, Field(gt=0, le=60)] = 4.0
    """Time for one request, after which it counts as unavailable."""
    configs: OptionNames = Field(default_factory=dict)
    """Options of this authenticator; see the guide."""


class TokenHeaderSettings(Model):
    """A header with a token, as identity-aware proxies add it."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    """Name of the header, such as ``X-Goog-IAP-JWT-Assertion``. The value is a token, with or without ``Bearer``."""
    providers: Names = ()
    """Providers or authenticators whose tokens are accepted in this header; empty: all."""
    ambient: bool = False
    """The proxy adds the header to every request: it is ignored if the request has ``Authorization``."""
    forward: bool = False
    """Forward the header to the upstream unchanged, verified or not; otherwise it is removed."""


class WebsocketTokenSettings(Model):
    """Tokens of WebSockets, on which pages cannot set ``Authorization``."""

    subprotocol: bool = False
    """Accept ``bearer.<token>`` and ``base64url.bearer.authorization.k8s.io.<token in base64url>`` in
    ``Sec-WebSocket-Protocol``. Another subprotocol must be offered as well; the token is not forwarded."""


class AuthenticationSettings(Model):
    """DataHub's block with its own keys: the authentication chain."""

    enabled: bool = True
    """DataHub's switch. ``false``: this block is not used; tokens of providers and issued tokens are still accepted."""
    system_client_id: Text = "__datahub_system"
    """Name of DataHub's system client."""
    system_client_secret: Secret | None = None
    """Its secret."""
    token_service: TokenServiceSettings = TokenServiceSettings()
    """How DataHub's tokens are signed."""
    authenticators: tuple[AuthenticatorSettings, ...] = ()
    """Authenticators, tried in this order. ``jwt`` is always in the chain: if it is not listed, it is the first."""
    require_record: bool = False
    """Reject DataHub tokens of version 2 that are not on record here."""
    token_headers: tuple[TokenHeaderSettings, ...] = ()
    """Headers besides ``Authorization`` that may contain a token. A request with several credentials is rejected."""
    websocket_tokens: WebsocketTokenSettings = WebsocketTokenSettings()
    """Tokens of WebSockets."""
    excluded_paths: Unused = Field(default=None, description=UNUSED)
    enforce_existence_enabled: Unused = Field(default=None, description=UNUSED)
    log_authenticator_exceptions: Unused = Field(default=None, description=UNUSED)
    session_token_duration_ms: Unused = Field(default=None, description=UNUSED)
    access_tokens: Unused = Field(default=None, description=UNUSED)


class TokenSettings(Model):
    """Issued tokens, and the cache of verified tokens."""

    require_record: bool = True
    """Reject issued tokens that are not on record."""
    allow_never_expiring: bool = False
    """Allow minting tokens that never expire."""
    max_lifetime: Annotated[Duration, Field(ge=1)] | None = None
    """Maximum lifetime of issued tokens; existing tokens that live longer are rejected. With it, revocation entries
    about an issuer or an Actor can expire."""
    keep_bot_tokens: bool = False
    """Keep older tokens of a bot valid when it gets a new one."""
    bot_tokens_in_vault: bool = False
    """Also write new tokens of bots to the secrets manager, under OpenMetadata's id, from which its ingestion can read
    them; with ``managed-azure-kv``, ``managed-openbao`` and ``kubernetes`` only. While the secrets manager fails, such
    tokens cannot be minted."""
    cache_entries: Annotated[int, Field(ge=0, le=1_000_000)] = 10_000
    """Maximum number of cached tokens."""
    cache_bytes: Size = 64 * 1024 * 1024
    """Maximum memory of these tokens, with their claims and headers. A token with many groups takes more."""


class RequireSettings(Model):
    """Requirements on an authenticated caller; all of them must hold."""

    groups: Names = ()
    """At least one of these groups."""
    roles: Names = ()
    """At least one of these roles."""
    actor_types: tuple[Literal["USER", "SERVICE"], ...] = ()
    """One of these Actor types."""
    providers: Names = ()
    """One of these providers or authenticators; ``own``: issued tokens, ``system``: DataHub's system client."""
    admin: bool = False
    """The caller must be an admin."""
    max_age: Annotated[Duration, Field(ge=10)] | None = None
    """Maximum time since the person has authenticated (claim ``auth_time`` of the token or the login). Otherwise a
    browser with a session is led to the provider, and programs get 401 ``insufficient_user_authentication``."""
    acr: tuple[Annotated[str, Field(pattern=r"^[!#-\[\]-~]{1,255}$")], ...] = ()
    """Accepted authentication context classes (claim ``acr``); otherwise as for ``maxAge``."""
    scopes: Names = ()
    """All of these scopes (claim ``scope`` or ``scp``). A caller who lacks only scopes gets 403 with
    ``insufficient_scope`` and the scopes that the request needs."""
    clients: Names = ()
    """One of these OAuth clients, see ``clientClaims`` of providers."""
    agents: Literal["forbidden", "required"] | None = None
    """``forbidden``: tokens with ``act``, with which an agent acts for the caller, are rejected. ``required``: only
    these are accepted, from issuers that may say so (``trustAct``)."""


class RuleSettings(Model):
    """One route rule, or a preset of several. The first rule whose path and method match decides."""

    preset: Literal["openmetadata", "datahub"] | None = None
    """Instead of all other keys: the open paths of this product, at this place of the list."""
    base_path: BasePath = ""
    """With a preset: the path below which the product is mounted, such as ``/metadata``. All paths of the preset are
    below it, and nothing outside it is public. Absent: that of the product's imported file."""
    path: Annotated[str, Field(pattern=r"^/")] | None = None
    """Path pattern, case-sensitive: exact, ``*`` for one segment, or a final ``/**`` for the path and everything below
    it. An exact path also matches with or without a final slash, where its rule is stricter than the next match."""
    methods: Annotated[tuple[str, ...], BeforeValidator(_none_is_empty)] = ()
    """Methods that it applies to; empty: all. GET includes HEAD."""
    access: Literal["public", "guest", "authenticated"] = "authenticated"
    """``public``: never rejected. ``guest``: allowed without credentials; bad credentials are rejected."""
    require: RequireSettings = RequireSettings()
    """Requirements on the caller."""

    @model_validator(mode="after")
    def _is_rule_or_preset(self) -> "RuleSettings":
        if self.preset is None and self.path is None:
            raise ValueError("needs a path, or a preset")
        if self.preset is not None and not self.model_fields_set <= {"preset", "base_path"}:
            raise ValueError("a preset stands alone in its entry, or with basePath; write rules of your own before it")
        if self.preset is None and self.base_path:
            raise ValueError("basePath stands beside a preset only; write the whole path into path")
        return self


class ResourceSettings(Model):
    """A protected resource (RFC 9728) at the upstream, such as an MCP server: clients learn from the sidecar where to
    get a token for it."""

    path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$")]
    """Path of the resource, which includes everything below it; empty: the whole upstream. The longest path decides.
    Its identifier is ``server.publicUrl`` followed by this path."""
    metadata: Literal["own", "server"] = "own"
    """``own``: the sidecar serves the metadata. ``server``: the upstream does, and is its own authorization server, as
    OpenMetadata at ``/mcp``; its paths for metadata, registration and login are passed on without credentials."""
    name: Text = ""
    """Name for people (``resource_name``)."""
    authorization_servers: Names = ()
    """Issuers that give tokens for it, in order of preference. Absent: the issuers of all providers."""
    audiences: Names | None = None
    """A token needs one of these ``aud`` values here. Absent: the identifier of the resource; with ``metadata: server``
    none is needed. ``[]``: none is needed."""
    scopes: Names = ()
    """Scopes that every request needs; the challenge of a 401 names them."""
    scopes_supported: Names = ()
    """Scopes that the metadata lists; absent: ``scopes``."""
    origins: tuple[WebOrigin, ...] | None = None
    """Origins whose pages may call it; pages of other origins get 403. Requests without ``Origin`` are not affected.
    Absent: ``server.origins``; without it, not checked."""


SignalEvent = Literal[
    "session-revoked", "sessions-revoked", "tokens-revoked", "credential-change", "token-claims-change",
    "account-disabled", "account-purged", "credential-compromise", "identifier-recycled",
]  # fmt: skip


class TransmitterSettings(Model):
    """A provider that pushes security events (OpenID Shared Signals Framework) to ``{prefix}/events/<provider>``."""

    provider: Annotated[str, Field(min_length=1)]
    """Name of the provider. Its events can only end sessions and tokens of its own subjects."""
    issuer: Text = ""
    """``iss`` of its security event tokens; absent: the provider's issuer."""
    audience: Text = ""
    """``aud`` of its security event tokens; absent: ``server.publicUrl`` followed by ``server.prefix``."""
    authorization: Secret
    """Value of ``Authorization`` that each push must have, such as ``Bearer`` and a random text; at least 32
    characters."""
    events: tuple[SignalEvent, ...] = (
        "session-revoked", "sessions-revoked", "tokens-revoked", "credential-change", "account-disabled",
        "account-purged", "credential-compromise", "identifier-recycled",
    )  # fmt: skip
    """Events that have an effect; others are acknowledged and counted. ``account-disabled`` and ``account-purged`` end
    all tokens of the subject, also later ones, until the entry is removed; ``credential-compromise`` and
    ``identifier-recycled`` all tokens so far; the others the sessions and tokens of the provider so far, but not the
    tokens that the sidecar issued."""


class SignalSettings(Model):
    """Ends of sessions and accounts that identity providers report."""

    transmitters: tuple[TransmitterSettings, ...] = ()
    """Providers that push security events."""


class CorsSettings(Model):
    """Cross-origin requests."""

    preflight: Literal["authenticated", "public"] = "authenticated"
    """``public``: OPTIONS with ``Origin`` and ``Access-Control-Request-Method`` passes without credentials."""
    origins: tuple[AnyOrigin, ...] | None = None
    """Origins whose pages may read refusals of upstream paths, such as a 401 (``Access-Control-Allow-Origin``). ``*``:
    all pages. Responses of the upstream are not changed. Absent: those of ``server.origins``."""
    credentials: bool = False
    """Also allow requests with cookies (``Access-Control-Allow-Credentials``). Not with ``*``."""


_NGINX_TOTAL = 3584


class IdentityHeaderSettings(Model):
    """Headers that pass the identity of the caller to the upstream."""

    assertion: bool = False
    """Also send ``X-Auth-Assertion``, a signed JWT that is valid for 5 minutes."""
    assertion_audience: Text = ""
    """``aud`` of the assertion; absent: the upstream's URL."""
    max_bytes: Size = 3 * 1024
    """Maximum bytes of the identity headers, without assertion and credential. Over it, the groups header is blank."""
    max_total_bytes: Size | None = None
    """Maximum bytes of identity headers, assertion and minted credential together; absent: 5 KiB more than
    ``maxBytes``, which is 8 KiB by default, and 3584 bytes at ``{prefix}/auth``, because nginx's default buffer has
    4 KB. Over it, the groups header is blank; then the assertion has ``groups_omitted`` instead of groups; then the
    request gets 503."""
    strip: Names = ()
    """Further headers to remove from callers' requests."""

    @property
    def total_bytes(self) -> int:
        """``max_total_bytes``, or its default."""
        return self.max_bytes + 5 * 1024 if self.max_total_bytes is None else self.max_total_bytes

    @property
    def nginx_total_bytes(self) -> int:
        """The same for answers to nginx, which answers 500 to a head larger than its buffer (4 KB by default).

        A written limit shows that the buffer was set as well.
        """
        is_default = self.max_total_bytes is None and self.max_bytes <= _NGINX_TOTAL
        return _NGINX_TOTAL if is_default else self.total_bytes


class RevocationSettings(Model):
    """Maximum age of the local copy of the revocation list."""

    max_staleness: Duration = 600.0
    """Age at which it counts as stale."""
    on_stale: Literal["deny", "allow"] = "deny"
    """``deny``: every token gets 503 while it is stale; ``allow``: continue with the stale copy."""


class LoggingSettings(Model):
    """Lines on standard error."""

    format: Literal["auto", "json", "text"] = "auto"
    """``json``: one JSON object per line. ``text``: time, level, message and fields, for people. ``auto``: text if
    standard error is a terminal, otherwise JSON."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is written. Audit lines are always written."""
    access: bool = False
    """Also write one line per response."""
    refusals_per_second: Annotated[int, Field(ge=1)] = 100
    """Maximum number of lines about rejected requests that a process writes per second. If there are more, one line a
    second has the number of suppressed lines, and ``sidecar_log_lines_left_out_total`` counts them."""


class TracingSettings(Model):
    """Spans for OpenTelemetry (OTLP over HTTP). Needs the extra ``otel``."""

    endpoint: Annotated[str, Field(min_length=1)]
    """URL of the collector: ``http://collector:4318``, or a complete URL if its path is not ``/v1/traces``."""
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of requests that are sampled, unless a trusted proxy has already decided."""
    service_name: Annotated[str, Field(min_length=1)] = "auth-sidecar"
    """``service.name`` of the spans."""


class LoginSessionSettings(Model):
    """Lifetime of browser sessions."""

    max_age: Annotated[Duration, Field(ge=300)] = 86400.0
    """Time from the login to the end of the session. It is not extended by use."""
    idle: Annotated[Duration, Field(ge=300)] = 14400.0
    """Time without a request after which the session ends, measured to about a minute."""
    per_person: Annotated[int, Field(ge=1, le=1000)] = 20
    """Maximum number of sessions of one person; a further login ends the one that was used least recently."""
    recheck: Annotated[Duration, Field(ge=1)] = 900.0
    """Time after which the provider is asked again, with the refresh token of the login, whether the person may still
    log in, and with which claims. Requests do not wait for its response until as much time has passed once more, at
    most one minute. Without a refresh token the claims are those of the login."""
    recheck_grace: Annotated[Duration, Field(ge=0)] = 3600.0
    """Time for which a session goes on while the provider does not answer ``recheck``; then the person has to log in
    again."""
    fresh_for: Annotated[Duration, Field(ge=60)] = 900.0
    """Time from the login during which the pages allow what lasts longer than the session: to create and revoke tokens,
    and for admins to end sessions of others. After it they ask for another login."""
    persistent: bool = False
    """Keep the cookie when the browser is closed, for ``maxAge``."""


class LoginCookieSettings(Model):
    """The session cookie."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "sidecar_session"
    """Name, to which ``__Host-`` is prepended with https. Two sidecars on one host, whatever their ports, need
    different names."""


class LoginLogoutSettings(Model):
    """What signing out ends, and where it leads."""

    provider: bool = True
    """End the session at the provider as well (RP-initiated logout), if the provider supports it."""
    return_to: Annotated[str, Field(min_length=1)] = "/"
    """Where the button on the signed-out page leads."""


class LoginPageSettings(Model):
    """Texts on the pages. They are shown as they are: HTML and Markdown are not interpreted."""

    title: Annotated[str, Field(max_length=60)] = ""
    """Name of the service on every page. Absent: the host of ``server.publicUrl``."""
    message: Annotated[str, Field(max_length=400)] = ""
    """Sentence on the sign-in page."""
    footer: Annotated[str, Field(max_length=400)] = ""
    """Last line of every page."""


class LoginSettings(Model):
    """Browser login. It is in force as soon as a provider has a ``login`` block, or ``passwords`` names any
    authenticator."""

    secrets: tuple[Secret, ...] = ()
    """Secrets of 32 bytes or more for sessions and login state. The first one seals, all of them open: add a new secret
    at the end on every replica before you move it to the front. Absent: with SQLite, a file beside the database; with
    Redis they are required."""
    session: LoginSessionSettings = LoginSessionSettings()
    """Lifetime of sessions."""
    cookie: LoginCookieSettings = LoginCookieSettings()
    """The session cookie."""
    return_to: tuple[WebOrigin, ...] | None = None
    """Further origins to which a login may return. Absent: those of ``server.origins``. The origin of ``publicUrl`` is
    always among them."""
    origins: tuple[WebOrigin, ...] | None = None
    """Origins whose pages may send state-changing requests and open WebSockets with the session cookie. Absent: those
    of ``server.origins``. The origin of ``publicUrl`` is always among them."""
    api_paths: Names = ()
    """Path patterns, as in ``rules``, for which a request without a session is always answered 401 in JSON, never by a
    redirect."""
    skip_chooser: bool = True
    """With one provider, and without ``passwords``, redirect to it without showing the sign-in page."""
    passwords: Names = ()
    """Names of authenticators (``basic``, ``ldap``) whose users may sign in with user name and password on the sign-in
    page."""
    logout: LoginLogoutSettings = LoginLogoutSettings()
    """Signing out."""
    protect_pages: Literal["noStore", "off"] = "noStore"
    """``noStore``: in forward mode, HTML responses to requests with a session cookie get ``Cache-Control: no-store``,
    so that the button back does not show them after signing out. ``off``: they are sent as they are."""
    page: LoginPageSettings = LoginPageSettings()
    """Texts on the pages. Needs the extra ``pages``."""


class ActAsSettings(Model):
    """The Actor of the tokens that a client or a workload gets for itself."""

    bot: Annotated[str, Field(min_length=1, max_length=256)]
    """Name of a registered bot (``sidecar bots register``). It must be neither reserved nor an admin."""


class TokenExchangeSettings(Model):
    """Whose tokens a client may exchange, so that it acts for their owners."""

    providers: Annotated[tuple[str, ...], Field(min_length=1)]
    """Providers whose tokens may be exchanged; ``own``: issued tokens."""
    act: Literal["required"] = "required"
    """Exchanged tokens name the client as the acting party (``act``). Tokens that have ``act`` are rejected."""
    grant: bool = False
    """Grant the scopes of the client for a token that has no scopes. Otherwise such a token gets none."""


class TokenClientSettings(Model):
    """A confidential client of the token endpoint."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,127}$")]
    """``client_id``."""
    secret: Secret | None = None
    """Secret of 32 characters or more, for ``client_secret_basic`` and ``client_secret_post``."""
    jwks: Text = ""
    """File with the client's public keys (JWKS), ``file:/path``, for ``private_key_jwt``; read again when it
    changes."""
    jwks_url: Text = ""
    """The same, at a URL."""
    as_: ActAsSettings | None = Field(default=None, alias="as")
    """Whose tokens it gets with ``client_credentials``; absent: none."""
    exchange: TokenExchangeSettings | None = None
    """Whose tokens it may exchange; absent: none."""
    scopes: Names = ()
    """Scopes that its tokens may have."""
    audiences: Names = ()
    """Audiences that its tokens may have, from ``tokenEndpoint.audiences``. Absent: ``defaultAudience``."""
    lifetime: Annotated[Duration, Field(ge=60, le=3600)] | None = None
    """Lifetime of its tokens; absent: that of the audience or of ``tokenEndpoint``."""


class WorkloadSettings(Model):
    """A workload of another platform, whose token there is its credential at the token endpoint."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,127}$")]
    """Name of the rule, which is the ``client_id`` of the issued tokens."""
    provider: Annotated[str, Field(min_length=1)]
    """Provider of the platform, or an authenticator of type ``kubernetes``. Its ``audiences`` do not apply here."""
    audience: Text = ""
    """``aud`` of the platform's token, which must have exactly this one. Absent: the issuer of the token endpoint."""
    subject: Text = ""
    """Exact ``sub``."""
    subject_pattern: Text = ""
    """Pattern for ``sub``: ``*`` stands for one or more characters other than ``:``, ``/`` and ``@``; at most eight."""
    claims: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Path of a claim, and its accepted values. Text is compared exactly, a whole number by its decimal digits;
    nothing else matches."""
    as_: ActAsSettings = Field(alias="as")
    """Whose tokens it gets."""
    scopes: Names = ()
    """Scopes that its tokens may have."""
    audiences: Names = ()
    """Audiences that its tokens may have, from ``tokenEndpoint.audiences``. Absent: ``defaultAudience``."""
    lifetime: Annotated[Duration, Field(ge=60, le=3600)] | None = None
    """Lifetime of its tokens, as for clients."""
    per_minute: Annotated[int, Field(ge=1, le=10_000)] = 60
    """Maximum number of tokens per minute and process; further requests get 429."""
    reuse: bool | None = None
    """Whether a token of the platform may be presented more than once. Absent: true for ``kubernetes``, else false."""


class TokenBotsSettings(Model):
    """Bots as clients: the name of the bot is the ``client_id``, its token the secret."""

    audiences: Names = ()
    """Audiences that their tokens may have. Absent: ``defaultAudience``."""
    scopes: Names = ()
    """Scopes that their tokens may have."""


class TokenEndpointSettings(Model):
    """The token endpoint: short-lived tokens for clients, for workloads of other platforms, and for people's agents."""

    enabled: bool = False
    """Serve ``{prefix}/token``. Needs own keys and ``server.publicUrl``."""
    audiences: Names = ()
    """Every ``aud`` that issued tokens may have; at least one is required."""
    default_audience: Text = ""
    """``aud`` of tokens for which the request names none; issued tokens with it are accepted here. Absent: the only
    entry of ``audiences``; required if there are several."""
    lifetime: Annotated[Duration, Field(ge=60, le=3600)] = 900.0
    """Lifetime of issued tokens, at most 1h. A token never outlives the credential that it was issued for."""
    audience_lifetimes: Mapping[str, Annotated[Duration, Field(ge=60, le=3600)]] = Field(default_factory=dict)
    """Lifetime for single audiences."""
    clients: tuple[TokenClientSettings, ...] = ()
    """Confidential clients."""
    workloads: tuple[WorkloadSettings, ...] = ()
    """Workloads of other platforms. The first rule that matches decides; without a match there is no token."""
    bots: TokenBotsSettings | None = None
    """Bots as clients; absent: bots are no clients."""


_TOPIC = r"^[A-Za-z0-9._-]{1,249}$"


class KafkaActorSettings(Model):
    """The Actor of every record of a topic."""

    type: Literal["USER", "SERVICE"] = "SERVICE"
    """Its type."""
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._@+-]{1,255}$")]
    """Its name."""


class KafkaBatchSettings(Model):
    """How many records one transaction has at most."""

    records: Annotated[int, Field(ge=1, le=10_000)] = 500
    """Number of records."""
    delay: Annotated[Duration, Field(ge=0.005, le=5)] = 0.1
    """How long a batch waits for further records."""
    bytes: Annotated[Size, Field(ge=1024)] = 4 * 1024 * 1024
    """Size of the records; a larger record is a transaction of its own."""


class KafkaRuleSettings(Model):
    """A requirement on the Actors that write."""

    require: RequireSettings = RequireSettings()
    """Requirements on the Actor."""


class KafkaGateSettings(Model):
    """One gate: it reads ``from``, checks the credential of each record, and writes accepted records to ``to``."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    """Its name in logs and metrics. Consumer group and transactional ids are ``auth-sidecar-<name>``."""
    from_: Annotated[str, Field(alias="from", pattern=_TOPIC)]
    """Inbound topic, to which clients write."""
    to: Annotated[str, Field(pattern=_TOPIC)]
    """Protected topic. It needs as many partitions as ``from``; only the gate should have the permission to write."""
    dead_letter: Annotated[str, Field(pattern=_TOPIC)]
    """Topic of refused records: their key and the reason, never their value or credential."""
    format: Literal["raw"] = "raw"
    """``raw``: values are copied unchanged; the Actor is in record headers."""
    identity: Literal["header", "topic"] = "header"
    """``header``: each record has a credential in a record header. ``topic``: all records are those of ``actor``; the
    ACLs of ``from`` must let only this Actor write."""
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "authorization"
    """Record header of the credential, such as ``Bearer <token>``; compared without case."""
    actor: KafkaActorSettings | None = None
    """The Actor of ``identity: topic``."""
    audience: Text | None = None
    """What tokens must have in ``aud``, instead of the audiences of the providers. Then only JWTs of the providers and
    issued tokens are accepted. Absent: ``kafka:<from>``. Empty: the audiences of the providers, and all authenticators;
    needs ``allowUnboundAudience``."""
    allow_unbound_audience: bool = False
    """Accept tokens that are not made for this topic. Readers of ``from`` can use such a token elsewhere."""
    max_lag: Annotated[Duration, Field(le=43200)] = 3600.0
    """If the timestamps of ``from`` are those of the broker (``message.timestamp.type=LogAppendTime``), ``exp`` and
    ``nbf`` are compared with the time at which a record was appended, up to this long ago; otherwise with the current
    time. Everything else, revocations included, is checked when the record is read. At most 12 hours: revocations of
    tokens that have expired are kept for a day."""
    max_token_lifetime: Duration | None = 900.0
    """Maximum ``exp - iat`` of a token with ``audience``."""
    batch: KafkaBatchSettings = KafkaBatchSettings()
    """Transactions."""
    max_record_bytes: Annotated[Size, Field(ge=1024, le=64 * 1024 * 1024)] = 5 * 1024 * 1024
    """Maximum size of a record that is written to ``to``, with the headers of the Actor."""
    on_refuse: Literal["deadLetter", "stop"] = "deadLetter"
    """``stop``: a refused record stops its partition, and is checked again at intervals."""
    on_unreadable: Literal["pause", "skip"] = "pause"
    """For batches of ``from`` that cannot be decompressed or are damaged. ``skip``: they are passed over, logged and
    counted. ``pause``: their partition stops."""
    default: Literal["refuse", "allow"]
    """Whether records are accepted where no entry of ``rules`` applies."""
    rules: tuple[KafkaRuleSettings, ...] = ()
    """Requirements on Actors; the first that applies decides. With ``format: raw`` each applies to all records."""

    @property
    def expected_audience(self) -> str:
        """``audience``, or its default."""
        return f"kafka:{self.from_}" if self.audience is None else self.audience


class KafkaSettings(Model):
    """Kafka clusters are reached with librdkafka, of the extra ``auth-sidecar[kafka]``."""

    bootstrap: Annotated[str, Field(min_length=1)]
    """Addresses of brokers: ``host:port``, separated by commas."""
    client: Mapping[str, Secret] = Field(default_factory=dict)
    """Properties of librdkafka about security and connections, such as ``security.protocol``, ``sasl.mechanism`` or
    ``ssl.ca.location``. The values may be ``file:``, ``env:`` or ``secret:`` references."""
    gates: tuple[KafkaGateSettings, ...] = ()
    """Gates, which ``sidecar kafka gate`` runs."""


class ImportSettings(Model):
    """Configuration files of the products, from which the blocks about authentication are imported."""

    openmetadata: Text = ""
    """Path of an ``openmetadata.yaml``."""
    datahub: Text = ""
    """Path of an ``application.yaml`` of DataHub's metadata service."""


def _unquoted(value: object) -> object:
    """OpenMetadata's charts pass values with quotes, which are not part of the value."""
    if value is None:
        return ""
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def _unquoted_or_absent(value: object) -> object:
    text = _unquoted(value)
    return None if text == "" else text


QuotedText = Annotated[str, BeforeValidator(_unquoted)]
QuotedSecret = Annotated[Secret | None, BeforeValidator(_unquoted_or_absent)]


class SecretsManagerParameters(Model):
    """How the secrets manager is reached. Values may be in quotes, as OpenMetadata's charts write them."""

    vault_name: QuotedText = ""
    """Azure Key Vault: its name; the address is ``https://<vaultName>.vault.azure.net``."""
    tenant_id: QuotedText = ""
    """Azure Key Vault: tenant of the client secret. With ``tenantId``, ``clientId`` and ``clientSecret`` the client
    secret is used; with ``clientId`` alone the managed identity of that id; with none of them the environment, the
    workload identity or the managed identity of the machine, in this order."""
    client_id: QuotedText = ""
    """Azure Key Vault: id of the application or of the user-assigned managed identity."""
    client_secret: QuotedSecret = None
    """Azure Key Vault: secret of the application."""
    vault_url: Text = ""
    """Azure Key Vault: address, for other clouds and private names; instead of ``vaultName``."""
    authority: Text = ""
    """Azure Key Vault: host of the authority; absent: that of the cloud of ``vaultUrl``."""
    bao_address: QuotedText = ""
    """OpenBao, HashiCorp Vault: address, such as ``https://bao.example.com:8200``."""
    bao_mount: QuotedText = "secret"
    """OpenBao: mount of the key-value engine, version 2."""
    bao_namespace: QuotedText = ""
    """OpenBao: namespace."""
    bao_auth_method: Annotated[Literal["token", "approle", "kubernetes"], BeforeValidator(_unquoted)] = "token"
    """OpenBao: login with ``baoToken``, with ``baoRoleId`` and ``baoSecretId``, or with the token of the pod's service
    account for the role ``baoRole``."""
    bao_token: QuotedSecret = None
    """OpenBao: token."""
    bao_role_id: QuotedText = ""
    """OpenBao: role id of AppRole."""
    bao_secret_id: QuotedSecret = None
    """OpenBao: secret id of AppRole."""
    bao_role: QuotedText = ""
    """OpenBao: role of the Kubernetes login."""
    bao_auth_path: QuotedText = ""
    """OpenBao: mount of the login method; absent: ``approle`` or ``kubernetes``."""
    bao_ca_cert_path: QuotedText = ""
    """OpenBao: CA bundle; absent: ``caFile``."""
    bao_skip_tls_verify: Annotated[bool, BeforeValidator(lambda v: _unquoted(v) or False)] = False
    """OpenBao: must be false; the certificate is always verified."""
    namespace: Annotated[QuotedText, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] = "default"
    """Kubernetes: namespace of the Secrets."""
    api_server: Text = "https://kubernetes.default.svc"
    """Kubernetes: address of the API server."""
    token_file: Text = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    """Kubernetes, and the Kubernetes login of OpenBao: token of the pod's service account; read for each login."""
    kubeconfig_path: QuotedText = ""
    """Kubernetes: not supported; use ``apiServer``, ``caFile`` and ``tokenFile``."""
    ca_file: Text = ""
    """CA bundle of the secrets manager. Absent: for Kubernetes that of the pod, else that of ``outbound``."""
    in_cluster: Unused = Field(default=None, description=UNUSED)
    bao_connect_timeout_ms: Unused = Field(default=None, description=UNUSED)
    bao_read_timeout_ms: Unused = Field(default=None, description=UNUSED)
    region: Unused = Field(default=None, description=UNUSED)
    access_key_id: Unused = Field(default=None, description=UNUSED)
    secret_access_key: Unused = Field(default=None, description=UNUSED)
    project_id: Unused = Field(default=None, description=UNUSED)
    rate_limit_permits_per_second: Unused = Field(default=None, description=UNUSED)
    expires_after_days: Unused = Field(default=None, description=UNUSED)
    enabled: Unused = Field(default=None, description=UNUSED)


class SecretsManagerConfiguration(Model):
    """OpenMetadata's block: the secrets manager that holds the values of ``secret:<id>``. It is not contacted unless a
    setting refers to it, or tokens of bots are written to it."""

    secrets_manager: Annotated[str, BeforeValidator(lambda v: _unquoted(v) or "db")] = "db"
    """``azure-kv`` (Azure Key Vault), ``openbao`` (OpenBao, HashiCorp Vault) or ``kubernetes`` (Secrets); ``db`` and
    ``noop``: none. ``managed-azure-kv`` and ``managed-openbao`` may also be written to, as ``kubernetes``. Other
    managers of OpenMetadata are an error here; from an imported file or a variable they are only an error if a setting
    needs them."""
    prefix: QuotedText = ""
    """Prefix of the ids that are built here. It is joined to ``clusterName`` without a separator, as OpenMetadata does;
    write ``acme-`` for ids that begin with ``acme-<clusterName>-``."""
    tags: Names = ()
    """Tags of secrets that are written, ``key:value``; at most 15."""
    parameters: SecretsManagerParameters = SecretsManagerParameters()
    """How it is reached."""
    refresh: Annotated[Duration, Field(ge=0)] = 300.0
    """How often the values are read again; 0: only on a reload. Values that changed take effect through a reload."""
    timeout: Annotated[Duration, Field(gt=0, le=60)] = 5.0
    """Time for one call that reads, with its retry; calls that write have six times as long."""
    start_deadline: Annotated[Duration, Field(ge=0, le=600)] = 60.0
    """How long the start retries while the secrets manager is unreachable or overloaded."""


class Settings(Model):
    """The whole configuration."""

    server: ServerSettings = ServerSettings()
    """The two listeners."""
    upstream: UpstreamSettings | None = None
    """The upstream; absent: check mode only."""
    store: StoreSettings = StoreSettings()
    """Where token records and revocations are stored."""
    keys: KeyFetchSettings = KeyFetchSettings()
    """How the keys of providers are fetched."""
    outbound: OutboundSettings = OutboundSettings()
    """Outgoing requests: proxy and CA bundle."""
    authentication_configuration: AuthenticationConfiguration = AuthenticationConfiguration()
    """Issuers whose tokens are accepted."""
    authorizer_configuration: AuthorizerConfiguration = AuthorizerConfiguration()
    """Admins and domains."""
    jwt_token_configuration: JwtTokenConfiguration = JwtTokenConfiguration()
    """Signing keys and issuer of issued tokens."""
    authentication: AuthenticationSettings = AuthenticationSettings()
    """The authentication chain."""
    tokens: TokenSettings = TokenSettings()
    """Issued tokens, and the cache of verified tokens."""
    rules: tuple[RuleSettings, ...] = ()
    """Route rules; the first match decides; without a match the caller must be authenticated."""
    resources: tuple[ResourceSettings, ...] = ()
    """Protected resources, such as MCP servers. They need ``server.publicUrl``."""
    signals: SignalSettings = SignalSettings()
    """Ends of sessions and accounts that identity providers report."""
    cors: CorsSettings = CorsSettings()
    """Cross-origin requests."""
    revocation: RevocationSettings = RevocationSettings()
    """Maximum age of the local copy of the revocation list."""
    identity_headers: IdentityHeaderSettings = IdentityHeaderSettings()
    """Identity headers for the upstream."""
    login: LoginSettings = LoginSettings()
    """Browser login."""
    token_endpoint: TokenEndpointSettings = TokenEndpointSettings()
    """Short-lived tokens for clients, workloads and agents."""
    kafka: KafkaSettings | None = None
    """Gates before Kafka topics; absent: none."""
    logging: LoggingSettings = LoggingSettings()
    """JSON lines on standard error."""
    tracing: TracingSettings | None = None
    """Spans for OpenTelemetry; absent: none."""
    secrets_manager_configuration: SecretsManagerConfiguration = SecretsManagerConfiguration()
    """OpenMetadata's block."""
    import_: ImportSettings = Field(default=ImportSettings(), alias="import")
    """Configuration files of the products."""
    cluster_name: QuotedText = "openmetadata"
    """OpenMetadata's: name of the cluster, which is part of the ids of secrets."""
    allow_published_secrets: bool = False
    """Accept well-known default keys and secrets of the products. For demonstrations only."""
