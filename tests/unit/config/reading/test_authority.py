"""``authority`` in every form that people write, and the issuer that each names."""

import pytest

from sidecar.config.reading.authority import read_authority

TENANT = "26c1aa90-3e3c-4df0-8dc8-66a97018fb32"
ENTRA = "https://login.microsoftonline.com"


@pytest.mark.parametrize(
    ("text", "issuer"),
    [
        ("https://idp.example.com", "https://idp.example.com"),
        ("https://idp.example.com/", "https://idp.example.com/"),
        ("idp.eu.auth0.com", "https://idp.eu.auth0.com"),
        ("idp.example.com:8443/realms/x", "https://idp.example.com:8443/realms/x"),
        ("https://idp.example.com/.well-known/openid-configuration", "https://idp.example.com"),
        ("https://h/.well-known/oauth-authorization-server/realms/x", "https://h/realms/x"),
        ("https://h/realms/x/protocol/openid-connect/auth", "https://h/realms/x"),
        ("https://h/auth/realms/x", "https://h/auth/realms/x"),
        ("{http://localhost:8080/realms/x}", "http://localhost:8080/realms/x"),
        ("https://x.okta.com/oauth2/default/v1/authorize", "https://x.okta.com/oauth2/default"),
        ("https://x.okta.com/oauth2/v1/authorize", "https://x.okta.com"),
        ("https://x.eu.auth0.com/authorize?client_id=1", "https://x.eu.auth0.com"),
        ("https://accounts.google.com/o/oauth2/v2/auth", "https://accounts.google.com"),
        ("https://fs.example.com/adfs/oauth2/authorize", "https://fs.example.com/adfs"),
        ("https://id.example.com/connect/authorize", "https://id.example.com"),
        ("corp", "corp"),
        ("", ""),
    ],
)
def test_the_issuer_that_each_form_names(text: str, issuer: str) -> None:
    assert (read_authority(text).issuer, read_authority(text).fault) == (issuer, "")


def test_what_is_written_elsewhere_as_an_issuer_is_taken_literally() -> None:
    assert read_authority("idp.example.com", ["idp.example.com"]).issuer == "idp.example.com"


@pytest.mark.parametrize("path", ["", "/", "/v2.0", "/v2.0/", "/oauth2/v2.0/authorize", "/oauth2/authorize", "/oauth2"])
@pytest.mark.parametrize("host", ["login.microsoftonline.com", "login.windows.net", "sts.windows.net"])
def test_a_tenant_of_entra_has_both_issuers_and_both_key_sets(host: str, path: str) -> None:
    """Tokens of version 1 and 2 name different issuers; which an application gets is set at the application."""
    found = read_authority(f"https://{host}/{TENANT}{path}")
    assert {found.issuer, *found.aliases} == {f"{ENTRA}/{TENANT}/v2.0", f"https://sts.windows.net/{TENANT}/"}
    assert found.default_key_urls == (f"{ENTRA}/{TENANT}/discovery/keys", f"{ENTRA}/{TENANT}/discovery/v2.0/keys")


@pytest.mark.parametrize("tenant", ["common", "organizations", "consumers", "Common", ""])
def test_an_authority_of_all_tenants_is_an_error(tenant: str) -> None:
    fault = read_authority(f"{ENTRA}/{tenant}").fault
    assert "one provider per tenant" in fault
    assert f"{ENTRA}/{tenant}" in fault


def test_a_tenant_named_by_its_domain_is_an_error() -> None:
    """``iss`` has the id, and nothing here knows it."""
    assert "tenant id" in read_authority(f"{ENTRA}/contoso.onmicrosoft.com").fault


@pytest.mark.parametrize("text", ["https://<your domain>/realms/x", "https://{tenant}.okta.com"])
def test_a_placeholder_of_the_documentation_is_an_error(text: str) -> None:
    assert "placeholder" in read_authority(text).fault


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        (f"{ENTRA}/common/discovery/keys", f"{ENTRA}/{TENANT}/discovery/keys"),
        (f"{ENTRA}/organizations/discovery/v2.0/keys", f"{ENTRA}/{TENANT}/discovery/v2.0/keys"),
        (f"{ENTRA}/{TENANT}/discovery/v2.0/keys", f"{ENTRA}/{TENANT}/discovery/v2.0/keys"),
        (f"{ENTRA}/00000000-3e3c-4df0-8dc8-66a97018fb32/discovery/keys", ""),
        (f"http://login.microsoftonline.com/{TENANT}/discovery/keys", ""),
        (f"https://evil.example/{TENANT}/discovery/keys", ""),
        (f"{ENTRA}/common/discovery/keys?appid=1", ""),
    ],
)
def test_keys_of_other_accounts_never_sign_for_the_tenant(url: str, asked: str) -> None:
    """The common key sets also hold keys of personal accounts; the tenant's own set is read in their place."""
    assert read_authority(f"{ENTRA}/{TENANT}").own_key_url(url) == asked
