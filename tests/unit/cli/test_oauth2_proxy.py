"""The translation of oauth2-proxy's configuration: what is translated, what is left out, what is never opened."""

from pathlib import Path
from typing import Any

import pytest

from sidecar.authn.registry import validate
from sidecar.cli import oauth2_proxy
from sidecar.cli.main import main
from sidecar.cli.oauth2_proxy import Translation, read_oauth2_proxy
from sidecar.config.load import load
from sidecar.errors import Misconfigured
from tests.support.tools import ROOT

# Every option of oauth2-proxy 7.15's documentation and code.
OPTIONS = """
acr_values allow_query_semicolons allowed_groups allowed_roles api_routes approval_prompt auth-request-response-mode
 auth_logging auth_logging_format auth_request_response_mode authenticated_emails_file
azure_graph_group_field azure_tenant backend_logout_url banner basic_auth_password bearer_token_login_fallback
bitbucket_repository bitbucket_team client_id client_secret client_secret_file code_challenge_method
cookie_csrf_expire cookie_csrf_per_request cookie_csrf_per_request_limit cookie_csrf_samesite cookie_domains
cookie_expire cookie_httponly cookie_name cookie_path cookie_refresh cookie_samesite cookie_secret
cookie_secret_file cookie_secure custom_sign_in_logo custom_templates_dir disable_keep_alives
display_htpasswd_form email_domains encode_state entra_id_allowed_tenants entra_id_federated_token_auth
errors_to_info_log exclude_logging_paths extra_jwt_issuers flush_interval footer force_code_challenge_method
force_https force_json_errors gcp_healthchecks github_org github_repo github_team github_token github_users
gitlab_groups gitlab_projects google_admin_api_user_scope google_admin_email google_group google_groups
google_service_account_json google_target_principal google_use_application_default_credentials
google_use_organization_id htpasswd_file htpasswd_user_groups http_address https_address
insecure_oidc_allow_unverified_email insecure_oidc_skip_issuer_verification insecure_oidc_skip_nonce jwt_key
jwt_key_file keycloak_groups logging_compress logging_filename logging_local_time logging_max_age
logging_max_backups logging_max_size login_url metrics_address metrics_secure_address metrics_tls_cert_file
metrics_tls_key_file oidc_audience_claims oidc_email_claim oidc_enabled_signing_algs oidc_extra_audiences
oidc_groups_claim oidc_issuer_url oidc_jwks_url oidc_public_key_files pass_access_token
pass_authorization_header pass_basic_auth pass_host_header pass_user_headers ping_path ping_user_agent
prefer_email_to_user profile_url prompt provider provider_ca_files provider_display_name proxy_prefix
proxy_websockets pubjwk_url ready_path real_client_ip_header redeem_url redirect_url redis_ca_path
redis_cluster_connection_urls redis_connection_idle_timeout redis_connection_url redis_insecure_skip_tls_verify
redis_password redis_sentinel_connection_urls redis_sentinel_master_name redis_sentinel_password
redis_use_cluster redis_use_sentinel redis_username relative_redirect_url request_id_header request_logging
request_logging_format resource reverse_proxy scope session_cookie_minimal session_store_type
set_authorization_header set_basic_auth set_xauthrequest show_debug_on_error signature_key silence_ping_logging
skip_auth_preflight skip_auth_regex skip_auth_routes skip_auth_strip_headers skip_claims_from_profile_url
skip_jwt_bearer_tokens skip_oidc_discovery skip_provider_button ssl_insecure_skip_verify
ssl_upstream_insecure_skip_verify standard_logging standard_logging_format tls_cert_file tls_cipher_suites
tls_key_file tls_min_version trusted_ips trusted_proxy_ips upstream_timeout upstreams use_system_trust_store
user_id_claim validate_url whitelist_domains
""".split()  # noqa: SIM905 - one name a word is easier to compare
USUAL = """
provider = "oidc"
oidc_issuer_url = "https://idp.example.com/realms/corp"
client_id = "metadata"
client_secret = "not-copied-anywhere"
cookie_secret = "neither"
email_domains = ["*"]
upstreams = ["http://127.0.0.1:8585/"]
"""


def translated(text: str, folder: Path, *dropped: str) -> Translation:
    """The translation of a file with this text."""
    path = folder / "oauth2-proxy.cfg"
    path.write_text(text, encoding="utf-8")
    return read_oauth2_proxy(str(path), "idp", dropped)


def problems(text: str, folder: Path, *dropped: str) -> list[str]:
    """What is wrong with a file, option by option."""
    with pytest.raises(Misconfigured) as error:
        translated(text, folder, *dropped)
    return [f"{one.path}: {one.message}" for one in error.value.problems]


def provider(document: dict[str, Any]) -> dict[str, Any]:
    """Its first provider."""
    first: dict[str, Any] = document["authenticationConfiguration"]["providers"][0]
    return first


def test_every_option_of_oauth2_proxy_is_known() -> None:
    """In exactly one place, and in the table of the guide."""
    places = [*oauth2_proxy.TRANSLATED, *oauth2_proxy._SENTENCES, *oauth2_proxy.RESTRICTING]
    assert set(OPTIONS) <= set(places)
    assert len(places) == len(set(places))
    page = (ROOT / "docs" / "guides" / "oauth2-proxy.md").read_text(encoding="utf-8")
    assert oauth2_proxy.option_table() in page


def test_each_translated_option_is_read() -> None:
    """An option of the table is taken out of the file by a handler, not by the rest."""
    source = Path(oauth2_proxy.__file__).read_text(encoding="utf-8")
    tenants = set(oauth2_proxy._TENANTS)
    assert not [name for name in oauth2_proxy.TRANSLATED if f'("{name}")' not in source and name not in tenants]


def test_a_usual_file_becomes_a_configuration_without_its_secrets(tmp_path: Path) -> None:
    """Issuer, audience, names and upstream; the line about login says what is left out."""
    result = translated(USUAL, tmp_path)
    assert provider(result.document) == {
        "name": "idp",
        "issuer": "https://idp.example.com/realms/corp",
        "audiences": ["metadata"],
        "principal": "verbatim",
        "jwtPrincipalClaims": ["sub"],
        "groupsClaim": "groups",
    }
    assert result.document["upstream"] == {"url": "http://127.0.0.1:8585", "credentials": "none"}
    assert "not-copied" not in str(result)
    assert "neither" not in str(result)
    assert any(note.startswith("cookie_secret: browser login") for note in result.notes)


@pytest.mark.parametrize(
    ("lines", "path", "expected"),
    [
        ('http_address = "0.0.0.0:4180"', "server.listen", "0.0.0.0:4180"),
        ('http_address = "http://:4180"', "server.listen", "*:4180"),
        ('metrics_address = "127.0.0.1:9100"', "server.adminListen", "127.0.0.1:9100"),
        ('proxy_prefix = "/auth"', "server.prefix", "/auth"),
        ('trusted_proxy_ips = "10.0.0.0/8"', "server.trustedProxies", ["10.0.0.0/8"]),
        ('tls_cert_file = "/c"\ntls_key_file = "/k"', "server.tls", {"certFile": "/c", "keyFile": "/k"}),
        ("skip_auth_preflight = true", "cors", {"preflight": "public"}),
        ("request_logging = true", "logging", {"access": True}),
        ('upstream_timeout = "30s"', "upstream.responseTimeout", "30s"),
        ('htpasswd_file = "/p"', "authentication.authenticators", [
            {"type": "jwt"}, {"type": "basic", "configs": {"htpasswd": "/p"}}]),
        ('allowed_groups = ["a", "b"]', "rules", [{"path": "/**", "require": {"groups": ["a", "b"]}}]),
    ],
)  # fmt: skip
def test_options_and_their_settings(lines: str, path: str, expected: object, tmp_path: Path) -> None:
    """One by one."""
    found: Any = translated(USUAL + lines, tmp_path).document
    for name in path.split("."):
        found = found[name]
    assert found == expected


@pytest.mark.parametrize(
    ("lines", "name", "expected"),
    [
        ('oidc_jwks_url = "https://k.example.com/keys"', "publicKeyUrls", ["https://k.example.com/keys"]),
        ('oidc_extra_audiences = ["more"]', "audiences", ["metadata", "more"]),
        ('oidc_enabled_signing_algs = ["ES256"]', "algorithms", ["ES256"]),
        ('oidc_email_claim = "upn"', "emailClaim", "upn"),
        ("prefer_email_to_user = true", "jwtPrincipalClaims", ["email"]),
        ('oidc_groups_claim = "roles"', "groupsClaim", "roles"),
    ],
)
def test_options_of_the_provider(lines: str, name: str, expected: object, tmp_path: Path) -> None:
    """One by one."""
    assert provider(translated(USUAL + lines, tmp_path).document)[name] == expected


def test_bearer_tokens_that_oauth2_proxy_did_not_accept_are_mentioned(tmp_path: Path) -> None:
    """The only way in which the result accepts more; not if it was on before."""
    line = "skip_jwt_bearer_tokens: is off there"
    assert any(note.startswith(line) for note in translated(USUAL, tmp_path).notes)
    assert not any(
        note.startswith(line) for note in translated(f"{USUAL}skip_jwt_bearer_tokens = true", tmp_path).notes
    )


def test_domains_are_enforced(tmp_path: Path) -> None:
    """By the address that then names the caller; also for further issuers."""
    text = USUAL.replace('["*"]', '["example.com"]') + 'extra_jwt_issuers = "https://b.example.com=api"\n'
    result = translated(text, tmp_path)
    first, second = result.document["authenticationConfiguration"]["providers"]
    for one in (first, second):
        assert one["jwtPrincipalClaims"] == ["email"]
        assert one["allowedDomains"] == ["example.com"]
        assert one["enforcePrincipalDomain"] is True
    assert (second["issuer"], second["audiences"]) == ("https://b.example.com", ["api"])
    assert second["principalNamespace"] == "provider"


@pytest.mark.parametrize(
    ("route", "rule"),
    [
        ("^/healthz$", {"path": "/healthz", "access": "public"}),
        ("GET=^/probe", {"path": "/probe/**", "methods": ["GET"], "access": "public"}),
        ("^/static/.*", {"path": "/static/**", "access": "public"}),
        ("^/static(/.*)?$", {"path": "/static/**", "access": "public"}),
        ("^/favicon\\\\.ico$", {"path": "/favicon.ico", "access": "public"}),
    ],
)
def test_open_paths_that_are_translated(route: str, rule: dict[str, Any], tmp_path: Path) -> None:
    """A path or a prefix of whole segments: never more than the expression matches."""
    result = translated(f'{USUAL}skip_auth_routes = ["{route}"]', tmp_path)
    assert result.document["rules"] == [rule]


@pytest.mark.parametrize("route", ["^/", ".*", "/metrics", "!=^/private", "GET!=^/x", "^/(a|b)$", "^/a[0-9]", "^/.*"])
def test_open_paths_that_stay_closed(route: str, tmp_path: Path) -> None:
    """What a path pattern cannot express needs a token, and a line says so."""
    result = translated(f'{USUAL}skip_auth_routes = ["{route}"]', tmp_path)
    assert "rules" not in result.document
    assert any(note.startswith(f"skip_auth_routes: {route} is not translated") for note in result.notes)


@pytest.mark.parametrize("name", oauth2_proxy.RESTRICTING)
def test_a_restriction_is_never_lost_in_silence(name: str, tmp_path: Path) -> None:
    """An error, until it is dropped by name; then a line."""
    text = f'{USUAL}{name} = "x"'
    assert any(f"--drop {name}" in problem for problem in problems(text, tmp_path))
    assert f"{name}: dropped" in "".join(translated(text, tmp_path, name).notes)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "oidc_issuer_url: is missing"),
        ('provider = "github"\nclient_id = "x"', "provider: is github"),
        (USUAL.replace('client_id = "metadata"', ""), "client_id: is missing"),
        (USUAL + 'oidc_audience_claims = ["azp"]', "reads the audience from aud only"),
        (USUAL + 'email_domain = "x"', "email_domain: is not an option"),
        (USUAL + "skip_auth_routes = 3", "skip_auth_routes: must be text or a list"),
        (USUAL + 'request_logging = "yes"', "request_logging: must be true or false"),
        (USUAL + 'extra_jwt_issuers = "https://x"', "which is not issuer=audience"),
        (USUAL + 'provider_ca_files = ["/a", "/b"]', "join them in one file"),
        (USUAL.replace("8585/", '8585/", "http://127.0.0.1:1'), "several servers"),
        (USUAL.replace('["*"]', '[".example.com"]'), "--drop email_domains"),
        (USUAL + 'azure_tenant = "8f3c1d1e"', "must name that one tenant"),
        ("a = [", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(text: str, part: str, tmp_path: Path) -> None:
    """With the option, and what to do."""
    assert part in "\n".join(problems(text, tmp_path))


def test_a_yaml_file_is_named_as_such(tmp_path: Path) -> None:
    """The alpha configuration."""
    path = tmp_path / "alpha.yaml"
    path.write_text("providers:\n- id: x\n", encoding="utf-8")
    with pytest.raises(Misconfigured, match="alpha configuration"):
        read_oauth2_proxy(str(path), "idp")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * (1024 * 1024 + 1)])
def test_a_file_that_cannot_be_text(content: bytes, tmp_path: Path) -> None:
    """No traceback."""
    path = tmp_path / "x.cfg"
    path.write_bytes(content)
    with pytest.raises(Misconfigured):
        read_oauth2_proxy(str(path), "idp")
    with pytest.raises(Misconfigured, match="cannot be read"):
        read_oauth2_proxy(str(tmp_path / "none"), "idp")


def test_init_writes_what_check_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every option that is translated at once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").write_text("", encoding="utf-8")
    (tmp_path / "ca.pem").write_text("", encoding="utf-8")
    text = (
        USUAL.replace('["*"]', '["example.com"]')
        + f"""
allowed_groups = ["staff"]
allowed_roles = ["user"]
skip_auth_routes = ["GET=^/healthz$", "^/static/"]
extra_jwt_issuers = "https://b.example.com=api"
htpasswd_file = "{tmp_path}/p"
reverse_proxy = true
trusted_proxy_ips = ["10.0.0.0/8"]
skip_auth_preflight = true
pass_authorization_header = true
set_xauthrequest = true
http_address = "127.0.0.1:4180"
cookie_secure = true
"""
    )
    (tmp_path / "oauth2-proxy.cfg").write_text(text, encoding="utf-8")
    assert main(["init", "--from", "oauth2-proxy.cfg", "--offline"]) == 0
    said = capsys.readouterr().out
    assert "cookie_secure: browser login" in said
    loaded = load(["sidecar.yaml"], {}, validate)
    assert [one.name for one in loaded.providers] == ["idp", "idp-2"]
    assert [rule.path for rule in loaded.settings.rules] == ["/healthz", "/static/**", "/**"]
    assert main(["init", "--from", "oauth2-proxy.cfg", "--issuer", "https://x", "--offline", "--dir", "/"]) == 2
    assert "exclude each other" in capsys.readouterr().err
