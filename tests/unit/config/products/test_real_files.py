"""Keys, variables and defaults of OpenMetadata's file in each version, with the variables of each login provider."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from sidecar.config.load import Loaded, load
from sidecar.errors import Misconfigured

OWN = "open-metadata.org"
TENANT = "26c1aa90-3e3c-4df0-8dc8-66a97018fb32"
PUBLISHED = "Gb389a-9f76-gdjs-a92j-0242bk94356"


def variable(key: str, name: str, default: str) -> str:
    return f"  {key}: ${{{name}:-{default}}}\n"


def openmetadata_yaml(version: str) -> str:
    """The four blocks as the file of ``version`` (0.12, 0.13, 1.0, 1.5, 1.12) has them, in words of our own."""
    number = tuple(map(int, version.split(".")))
    domain = "open-metadata.org" if number >= (1, 5) else "openmetadata.org"
    path = "/api/v1/system/config/jwks" if number >= (1, 0) else "/api/v1/config/jwks"
    keys = "https://www.googleapis.com/oauth2/v3/certs" if number < (0, 13) else f"http://localhost:8585{path}"
    text = "clusterName: ${OPENMETADATA_CLUSTER_NAME:-openmetadata}\n"
    if number >= (1, 9):
        text += "basePath: ${BASE_PATH:-/}\n"
    text += "authorizerConfiguration:\n"
    text += variable("className", "AUTHORIZER_CLASS_NAME", "some.Authorizer")
    text += variable("containerRequestFilter", "AUTHORIZER_REQUEST_FILTER", "some.Filter")
    text += variable("adminPrincipals", "AUTHORIZER_ADMIN_PRINCIPALS", "[admin]")
    if number < (0, 13):
        text += variable("botPrincipals", "AUTHORIZER_INGESTION_PRINCIPALS", "[ingestion-bot]")
    else:
        text += variable("allowedEmailRegistrationDomains", "AUTHORIZER_ALLOWED_REGISTRATION_DOMAIN", '["all"]')
    text += variable("principalDomain", "AUTHORIZER_PRINCIPAL_DOMAIN", f'"{domain}"')
    text += variable("enforcePrincipalDomain", "AUTHORIZER_ENFORCE_PRINCIPAL_DOMAIN", "false")
    text += variable("enableSecureSocketConnection ", "AUTHORIZER_ENABLE_SECURE_SOCKET", "false")
    if number >= (1, 5):
        text += variable("useRolesFromProvider", "AUTHORIZER_USE_ROLES_FROM_PROVIDER", "false")
    if number >= (1, 9):
        text += variable("allowedDomains", "AUTHORIZER_ALLOWED_DOMAINS", "[]")
    text += "authenticationConfiguration:\n"
    text += variable("provider", "AUTHENTICATION_PROVIDER", "no-auth" if number < (0, 13) else "basic")
    text += variable("providerName", "CUSTOM_OIDC_AUTHENTICATION_PROVIDER_NAME", '""')
    text += variable("publicKeyUrls", "AUTHENTICATION_PUBLIC_KEYS", f"[{keys}]")
    text += variable("authority", "AUTHENTICATION_AUTHORITY", "https://accounts.google.com")
    text += variable("clientId", "AUTHENTICATION_CLIENT_ID", '""')
    text += variable("callbackUrl", "AUTHENTICATION_CALLBACK_URL", '""')
    text += variable("jwtPrincipalClaims", "AUTHENTICATION_JWT_PRINCIPAL_CLAIMS", "[email,preferred_username,sub]")
    if number >= (1, 5):
        text += variable("clientType", "AUTHENTICATION_CLIENT_TYPE", "public")
        text += variable("tokenValidationAlgorithm", "AUTHENTICATION_TOKEN_VALIDATION_ALGORITHM", '"RS256"')
        text += variable("jwtPrincipalClaimsMapping", "AUTHENTICATION_JWT_PRINCIPAL_CLAIMS_MAPPING", "[]")
        text += '  oidcConfiguration:\n    id: ${OIDC_CLIENT_ID:-""}\n    customParams: ${OIDC_CUSTOM_PARAMS:-}\n'
        text += '  samlConfiguration:\n    idp:\n      idpX509Certificate: ${SAML_IDP_CERTIFICATE:-""}\n'
    if number >= (1, 0):
        text += "  ldapConfiguration:\n    host: ${AUTHENTICATION_LDAP_HOST:-}\n"
    text += "jwtTokenConfiguration:\n"
    for kind in ("public", "private"):
        default = '""' if number < (0, 13) else f'"./conf/{kind}_key.der"'
        text += variable(f"rsa{kind}KeyFilePath", f"RSA_{kind.upper()}_KEY_FILE_PATH", default)
    text += variable("jwtissuer", "JWT_ISSUER", f'"{OWN}"')
    text += variable("keyId", "JWT_KEY_ID", f'"{PUBLISHED}"')
    text += "secretsManagerConfiguration:\n"
    text += variable(
        "secretsManager", "SECRET_MANAGER", "local" if number < (0, 13) else "noop" if number < (1, 5) else "db"
    )
    return text


def sso(keys: str, authority: str, provider: str) -> Mapping[str, str]:
    """Variables as the documentation's page of that provider sets them: the server's public address comes first."""
    return {
        "AUTHENTICATION_PROVIDER": provider,
        "AUTHENTICATION_PUBLIC_KEYS": f"[https://om.example.com/api/v1/system/config/jwks,{keys}]",
        "AUTHENTICATION_AUTHORITY": authority,
        "AUTHENTICATION_CLIENT_ID": "om",
        "AUTHENTICATION_CALLBACK_URL": "https://om.example.com/callback",
    }


ENTRA = "https://login.microsoftonline.com"
GOOGLE = "https://accounts.google.com"
KEYCLOAK = "https://kc.example.com/realms/data"
COGNITO = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_DL8xfTzj8"
CASES: Mapping[str, tuple[Mapping[str, str], set[str]]] = {
    "basic": ({}, {OWN}),
    "ldap": ({"AUTHENTICATION_PROVIDER": "ldap", "AUTHENTICATION_LDAP_HOST": "ldap"}, {OWN}),
    "saml": ({"AUTHENTICATION_PROVIDER": "saml"}, {OWN}),
    "chart": ({"AUTHENTICATION_PUBLIC_KEYS": '["http://openmetadata:8585/api/v1/system/config/jwks"]'}, {OWN}),
    "google": (sso("https://www.googleapis.com/oauth2/v3/certs", GOOGLE, "google"), {OWN, GOOGLE}),
    "azure": (sso(f"{ENTRA}/common/discovery/keys", f"{ENTRA}/{TENANT}", "azure"), {OWN, f"{ENTRA}/{TENANT}/v2.0"}),
    "okta": (
        sso("https://x.okta.com/oauth2/default/v1/keys", "https://x.okta.com/oauth2/default", "okta"),
        {OWN, "https://x.okta.com/oauth2/default"},
    ),
    "auth0": (
        sso("https://x.eu.auth0.com/.well-known/jwks.json", "x.eu.auth0.com", "auth0"),
        {OWN, "https://x.eu.auth0.com"},
    ),
    "keycloak": (
        sso(f"{KEYCLOAK}/protocol/openid-connect/certs", f"{{{KEYCLOAK}}}", "custom-oidc"),
        {OWN, KEYCLOAK},
    ),
    "cognito": (sso(f"{COGNITO}/.well-known/jwks.json", COGNITO, "aws-cognito"), {OWN, COGNITO}),
}


def imported(folder: Path, version: str, environ: Mapping[str, str]) -> Loaded:
    (folder / "openmetadata.yaml").write_text(openmetadata_yaml(version), encoding="utf-8")
    ours = "import: {openmetadata: openmetadata.yaml}\nupstream: {url: 'http://127.0.0.1:8585'}\n"
    (folder / "c.yaml").write_text(f"{ours}rules: [{{preset: openmetadata}}]\n", encoding="utf-8")
    return load([str(folder / "c.yaml")], environ)


@pytest.mark.parametrize("version", ["0.13", "1.0", "1.5", "1.12"])
@pytest.mark.parametrize("case", CASES)
def test_a_file_works_as_it_is(tmp_path: Path, version: str, case: str) -> None:
    """With the variables of its login provider: the issuers are the provider's and the server's own."""
    environ, issuers = CASES[case]
    loaded = imported(tmp_path, version, environ)
    assert {provider.issuer for provider in loaded.providers} == issuers
    assert [provider.issuer for provider in loaded.providers if provider.is_own] == [OWN]
    assert not loaded.settings.jwt_token_configuration.rsaprivate_key_file_path


def test_a_file_of_0_12_accepts_googles_tokens_for_any_client_and_says_so(tmp_path: Path) -> None:
    loaded = imported(tmp_path, "0.12", {})
    assert [provider.issuer for provider in loaded.providers] == [GOOGLE]
    assert any("clientId" in problem.path and "audience" in problem.message for problem in loaded.warnings)
    assert any("botPrincipals" in problem.path for problem in loaded.warnings)


def test_entra_without_a_tenant_is_an_error_that_names_the_variable(tmp_path: Path) -> None:
    environ = sso(f"{ENTRA}/common/discovery/keys", f"{ENTRA}/common", "azure")
    with pytest.raises(Misconfigured, match=r"one provider per tenant.*AUTHENTICATION_AUTHORITY"):
        imported(tmp_path, "1.12", environ)
