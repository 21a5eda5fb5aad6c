"""The flat form and the list, as one list of providers."""

from typing import Any

import pytest

from sidecar.config.providers import Provider, is_own_jwks, providers
from sidecar.config.settings import JwtTokenConfiguration, ServerSettings, Settings

GOOGLE = "https://accounts.google.com"
GOOGLE_KEYS = "https://www.googleapis.com/oauth2/v3/certs"
OWN_JWKS = "http://localhost:8585/api/v1/system/config/jwks"


def found(flat: dict[str, Any], **sections: Any) -> dict[str, Provider]:
    result, findings = providers(Settings.model_validate({"authenticationConfiguration": flat, **sections}))
    assert not [finding for finding in findings if finding.fatal]
    return {provider.name: provider for provider in result}


def faults(flat: dict[str, Any], **sections: Any) -> list[str]:
    _, findings = providers(Settings.model_validate({"authenticationConfiguration": flat, **sections}))
    return [finding.message for finding in findings if finding.fatal]


def warnings(flat: dict[str, Any]) -> list[str]:
    _, findings = providers(Settings.model_validate({"authenticationConfiguration": flat}))
    return [finding.message for finding in findings if not finding.fatal]


def test_the_only_url_of_the_authoritys_origin_is_presumed_to_be_its_own() -> None:
    """Scheme, host and port; case and default port do not matter. clientId is its audience, RS256 the default."""
    urls = ["https://IDP.example.com/a", "https://idp.example.com:443/a"]
    provider = found({"authority": "https://idp.example.com/realms/x", "publicKeyUrls": urls, "clientId": "om"})[
        "default"
    ]
    assert provider.issuer == "https://idp.example.com/realms/x"
    assert provider.issuer_aliases == ("https://idp.example.com/realms/x/",)
    assert (provider.key_urls, provider.candidate_urls) == ((), tuple(urls))
    assert provider.presumed_url in urls
    assert (provider.audiences, provider.algorithms) == (frozenset({"om"}), frozenset({"RS256"}))
    assert provider.discovery
    assert provider.is_flat
    assert provider.require_expiry


def test_of_two_urls_on_the_authoritys_origin_none_is_presumed_to_be_its_own() -> None:
    """One host may serve many issuers; it is said that only one of the URLs can verify tokens."""
    flat = {"authority": "https://idp/realms/a", "publicKeyUrls": ["https://idp/realms/a/k", "https://idp/realms/b/k"]}
    provider = found(flat)["default"]
    assert (provider.key_urls, provider.presumed_url) == ((), "")
    assert provider.candidate_urls == tuple(flat["publicKeyUrls"])
    (told,) = (message for message in warnings(flat) if "at most one" in message)
    assert all(value in told for value in (*provider.candidate_urls, "https://idp/realms/a", "{url: ..., issuer: ...}"))


def test_a_url_that_belongs_to_another_issuer_is_not_presumed_to_be_the_authoritys() -> None:
    """Written twice, once with its issuer."""
    urls = ["https://idp/realms/b/k", {"url": "https://IDP/realms/b/k", "issuer": "https://idp/realms/b"}]
    result = found({"authority": "https://idp/realms/a", "publicKeyUrls": urls})
    assert result["default"].presumed_url == ""
    assert result["default-2"].key_urls == ("https://IDP/realms/b/k",)


def test_other_urls_wait_for_discovery() -> None:
    """They count only once the authority names them as its own."""
    provider = found({"authority": GOOGLE, "publicKeyUrls": [GOOGLE_KEYS, "https://accounts.google.com:444/x"]})[
        "default"
    ]
    assert (provider.key_urls, provider.presumed_url) == ((), "")
    assert provider.candidate_urls == (GOOGLE_KEYS, "https://accounts.google.com:444/x")
    assert provider.discovery


def test_a_file_of_keys_needs_its_issuer() -> None:
    """In the flat form; in a list entry the issuer is there."""
    urls = [{"url": "file:/keys/corp.json", "issuer": "https://corp"}]
    assert found({"publicKeyUrls": urls})["default-2"].key_urls == ("file:/keys/corp.json",)
    listed = {"name": "a", "issuer": "https://a", "publicKeyUrls": ["file:///keys/a.json"]}
    assert found({"providers": [listed]})["a"].key_urls == ("file:///keys/a.json",)
    (fault,) = faults({"authority": GOOGLE, "publicKeyUrls": ["file:/keys/corp.json"]})
    assert "write {url: file:/keys/corp.json, issuer:" in fault


@pytest.mark.parametrize("url", ["file:", "file:/", "file:keys.json", "file://host/keys.json", "file:/keys/", "file:a"])
def test_a_file_of_keys_has_a_whole_path(url: str) -> None:
    """Nothing relative, no other host, no folder."""
    listed = {"name": "a", "issuer": "https://a", "publicKeyUrls": [url]}
    assert faults({"providers": [listed]}) == ["must be file:/path, with the absolute path of a file"]


def test_discovery_is_never_a_file() -> None:
    """An issuer names a web server."""
    assert any("http" in fault for fault in faults({"providers": [{"name": "a", "issuer": "file:/keys/a.json"}]}))


def test_the_authority_alone_is_discovered() -> None:
    """No URL at all: OpenID Connect discovery."""
    provider = found({"authority": GOOGLE})["default"]
    assert (provider.key_urls, provider.candidate_urls, provider.discovery) == ((), (), True)


def test_openmetadatas_default_authority_is_not_trusted_by_accident() -> None:
    """Its file names Google even where only its own JWKS is used: no Google account comes in by that."""
    result = found({"authority": GOOGLE, "publicKeyUrls": [OWN_JWKS]}, jwtTokenConfiguration={"jwtissuer": "om"})
    assert list(result) == ["openmetadata"]
    own = result["openmetadata"]
    assert (own.issuer, own.key_urls, own.is_own, own.is_flat) == ("om", (OWN_JWKS,), True, False)
    assert (own.require_expiry, own.clock_skew, own.audiences) == (False, 0.0, frozenset())


def test_the_own_jwks_is_not_fetched_where_own_keys_are() -> None:
    """They are at hand."""
    jwt = {"jwtissuer": "om", "keyDir": "/keys"}
    assert found({"publicKeyUrls": [OWN_JWKS]}, jwtTokenConfiguration=jwt) == {}


def test_the_own_jwks_needs_the_issuers_name() -> None:
    """Only this setting has it."""
    assert len(faults({"publicKeyUrls": [OWN_JWKS]})) == 1


@pytest.mark.parametrize(
    ("url", "is_own"),
    [
        (OWN_JWKS, True),
        ("http://127.0.0.1:8585/api/v1/config/jwks", True),
        ("http://[::1]:8585/api/v1/config/jwks", True),
        ("https://om.example.com/api/v1/system/config/jwks", False),
        ("http://localhost:8585/api/v1/system/config/jwks/x", False),
        ("http://localhost:4180/oauth2/jwks", True),
        ("http://localhost:4180/keys", True),
        ("http://localhost:4181/keys", False),
        ("http://10.0.0.1:4180/keys", False),
        ("https://public.example.com/keys", True),
        ("https://public.example.com/other", False),
        ("not a url", False),
    ],
)
def test_recognising_the_own_jwks(url: str, is_own: bool) -> None:
    """The own listeners' paths, and OpenMetadata's two on loopback."""
    server = ServerSettings(listen="0.0.0.0:4180", public_url="https://public.example.com")
    assert is_own_jwks(url, server, JwtTokenConfiguration(jwks_paths=("/keys",))) is is_own


def test_a_url_may_name_its_issuer() -> None:
    """Each named issuer is a provider of its own; the authority's and the server's names are theirs."""
    urls = [
        {"url": "https://k.example.com/1", "issuer": "https://one"},
        {"url": "https://k.example.com/2", "issuer": "https://two"},
        {"url": "https://k.example.com/3", "issuer": GOOGLE},
        {"url": "https://om.example.com/api/v1/system/config/jwks", "issuer": "om"},
    ]
    result = found({"authority": GOOGLE, "publicKeyUrls": urls}, jwtTokenConfiguration={"jwtissuer": "om"})
    assert {name: (p.issuer, p.key_urls) for name, p in result.items()} == {
        "openmetadata": ("om", ("https://om.example.com/api/v1/system/config/jwks",)),
        "default": (GOOGLE, ("https://k.example.com/3",)),
        "default-2": ("https://one", ("https://k.example.com/1",)),
        "default-3": ("https://two", ("https://k.example.com/2",)),
    }
    assert [p.name for p in result.values() if p.is_flat] == ["default"]
    assert [p.name for p in result.values() if p.is_own] == ["openmetadata"]


def test_no_other_key_signs_for_the_issuer_of_the_own_keys() -> None:
    """Own keys and a fetched key set under one issuer: refused."""
    jwt = {"jwtissuer": "om", "keyDir": "/keys"}
    flat = {"publicKeyUrls": [{"url": "https://om.example.com/jwks", "issuer": "om"}]}
    assert "own keys" in faults(flat, jwtTokenConfiguration=jwt)[0]
    assert "own keys" in faults({"providers": [{"name": "a", "issuer": "om", "publicKeyUrls": ["https://a"]}]},
                                jwtTokenConfiguration=jwt)[0]  # fmt: skip


OUR_NAMES = [
    "urn:auth-sidecar:basic",
    "URN:Auth-Sidecar:people",
    "om/assertion",
    "om",
    "datahub-metadata-service",
    "auth-sidecar",
]


@pytest.mark.parametrize("name", OUR_NAMES)
def test_names_of_our_own_making_are_no_providers_issuers(name: str) -> None:
    """In no form; each fault names the issuer, whose it is, and what to write."""
    jwt = {"jwtissuer": "om"}
    flat = {"publicKeyUrls": [{"url": "https://k", "issuer": name}]}
    forms: list[dict[str, Any]] = [{"providers": [{"name": "a", "issuer": name, "publicKeyUrls": ["https://k"]}]}]
    if name != "om":  # the server's own key set may be named so
        forms += [flat, {"authority": name, "publicKeyUrls": [{"url": "https://k", "issuer": name}]}]
    for form in forms:
        (fault,) = (text for text in faults(form, jwtTokenConfiguration=jwt) if text.startswith(f"{name} is "))
        assert ("write {url: ..., issuer: om}" if name == "om" else "name the issuer") in fault


def test_the_own_issuer_is_not_called_as_a_member_of_the_chain() -> None:
    """Its tokens would belong to the people in a password file."""
    assert any(
        "urn:auth-sidecar:" in text for text in faults({}, jwtTokenConfiguration={"jwtissuer": "urn:auth-sidecar:x"})
    )


@pytest.mark.parametrize("authority", ["", "not-a-url"])
def test_a_url_without_issuer_is_refused(authority: str) -> None:
    """Unless the operator accepts every issuer that it signs for."""
    flat = {"authority": authority, "publicKeyUrls": [GOOGLE_KEYS]}
    assert any("belongs to no issuer" in fault for fault in faults(flat))
    result = found({**flat, "allowUnboundIssuers": True})
    assert {name: (p.issuer, p.key_urls) for name, p in result.items()} == {"unbound": (None, (GOOGLE_KEYS,))}


def test_unbound_keys_do_not_become_the_authoritys() -> None:
    """allowUnboundIssuers opens a door beside the authority, which stays bound to its own keys."""
    flat = {"authority": "https://a", "publicKeyUrls": ["https://a/k", "https://b/k"], "allowUnboundIssuers": True}
    result = found(flat)
    assert (result["default"].key_urls, result["default"].presumed_url) == ((), "https://a/k")
    assert result["default"].candidate_urls == ("https://a/k", "https://b/k")
    assert result["default"].candidates_are_shared
    assert (result["unbound"].issuer, result["unbound"].key_urls) == (None, ("https://a/k", "https://b/k"))
    assert not result["unbound"].is_flat


def test_the_flat_form_keeps_the_order_of_claims_and_its_one_algorithm() -> None:
    """Order decides who is meant."""
    flat = {
        "authority": "https://a",
        "jwtPrincipalClaims": ["sub", "email"],
        "jwtPrincipalClaimsMapping": ["email:mail", "username:https://x/name"],
        "tokenValidationAlgorithm": "ES256",
    }
    provider = found(flat)["default"]
    assert provider.principal_claims == ("sub", "email")
    assert (provider.username_claim, provider.email_claim) == ("https://x/name", "mail")
    assert provider.algorithms == {"ES256"}


def test_a_listed_provider() -> None:
    """Everything it says arrives."""
    listed = {
        "name": "corp",
        "issuer": "https://idp",
        "publicKeyUrls": ["https://idp/keys"],
        "audiences": ["a", "b"],
        "algorithms": ["EdDSA"],
        "groupsClaim": "realm_access.roles",
        "requiredClaims": {"azp": ["x", "y"]},
        "maxTokenLifetime": "24h",
        "clockSkew": "5s",
        "actorType": {"claim": "kind", "service": ["bot"]},
        "principalNamespace": "provider",
        "mayBeAdmin": "true",
        "allowMissingExpiry": "true",
    }
    provider = found({"providers": [listed]})["corp"]
    assert provider == Provider(
        name="corp",
        issuer="https://idp",
        key_urls=("https://idp/keys",),
        audiences=frozenset({"a", "b"}),
        algorithms=frozenset({"EdDSA", "Ed25519"}),
        principal_claims=("email", "preferred_username", "sub"),
        groups_claim="realm_access.roles",
        required_claims={"azp": frozenset({"x", "y"})},
        max_token_lifetime=86400.0,
        clock_skew=5.0,
        service_claim="kind",
        service_values=frozenset({"bot"}),
        namespaced=True,
        may_be_admin=True,
        needs_verified=True,
        require_expiry=False,
    )


def test_no_symmetric_algorithm_by_default() -> None:
    """And none can be asked for."""
    provider = found({"providers": [{"name": "a", "issuer": "https://a"}]})["a"]
    assert provider.discovery
    assert not any(name.startswith("HS") or name == "none" for name in provider.algorithms)


def test_issuers_and_names_have_one_owner() -> None:
    """Also across the two forms, and with either spelling of the authority."""
    one = {"name": "a", "issuer": "https://a"}
    assert len(faults({"providers": [one, {**one, "name": "b"}]})) == 1
    assert len(faults({"providers": [one, {**one, "issuer": "https://b"}]})) == 1
    assert len(faults({"authority": "https://a/", "providers": [one]})) == 1
    assert len(faults({"authority": "https://x", "providers": [{"name": "default", "issuer": "https://y"}]})) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example.com/keys",
        "ftp://idp.example.com/keys",
        "https:///keys",
        "https://user:pw@idp.example.com/keys",
        "https://idp.example.com/keys#x",
        "https://idp.example.com:99999/keys",
        "https://idp.example.com /keys",
        "https://[::1/keys",
        "https://169.254.169.254/latest",
        "https://[fe80::1]/keys",
        "https://[fd00:ec2::254]/keys",
        "https://[::ffff:169.254.169.254]/keys",
        "https://100.100.100.200/keys",
        "https://2852039166/keys",
        "https://0xa9fea9fe/keys",
        "https://0251.0376.0251.0376/keys",
        "https://metadata.google.internal/keys",
        "https://0.0.0.0/keys",
        "https://224.0.0.1/keys",
    ],
)
def test_dangerous_urls_are_refused_in_either_form(url: str) -> None:
    """As a listed key URL, as a listed issuer to discover, as flat URL and as authority."""
    assert len(faults({"providers": [{"name": "a", "issuer": "https://a", "publicKeyUrls": [url]}]})) == 1
    assert len(faults({"providers": [{"name": "a", "issuer": url}]})) == 1
    assert faults({"authority": url})
    assert faults({"authority": "https://a", "publicKeyUrls": [url]})


def test_plain_http_is_for_loopback_or_on_request() -> None:
    """allowInsecureUrls is per provider; metadata addresses stay refused."""
    assert found({"providers": [{"name": "a", "issuer": "http://127.0.0.1:1"}]})
    assert found({"providers": [{"name": "a", "issuer": "http://idp", "allowInsecureUrls": "true"}]})[
        "a"
    ].allow_insecure_urls
    assert found({"authority": "http://idp", "allowInsecureUrls": "true"})["default"].allow_insecure_urls
    assert faults({"providers": [{"name": "a", "issuer": "http://169.254.169.254", "allowInsecureUrls": "true"}]})


OWN_SERVER = {"publicKeyUrls": [OWN_JWKS]}
OWN_ISSUER = {"jwtTokenConfiguration": {"jwtissuer": "open-metadata.org"}}


def test_token_of_a_bot_is_not_sent_over_the_network_in_the_clear() -> None:
    def about(url: str, **more: Any) -> list[str]:
        return faults({**OWN_SERVER, "botTokenCheck": {"url": url}, **more}, **OWN_ISSUER)

    assert about("http://127.0.0.1:8585") == about("https://om.example.com") == []
    assert about("http://om.example.com")
    assert about("http://169.254.169.254/api")
    assert about("http://om.example.com", allowInsecureUrls=True) == []


def test_bot_check_without_effect_is_reported() -> None:
    _, findings = providers(
        Settings.model_validate(
            {"authenticationConfiguration": {"authority": GOOGLE, "botTokenCheck": {"url": "http://127.0.0.1:8585"}}}
        )
    )
    assert any("has no effect: it applies to bots" in finding.message and finding.idle for finding in findings)


@pytest.mark.parametrize("cache", ["121s", "1h"])
def test_answer_about_a_bot_is_believed_for_two_minutes_at_most(cache: str) -> None:
    with pytest.raises(ValueError, match="less than or equal to 120"):
        found({**OWN_SERVER, "botTokenCheck": {"url": "http://127.0.0.1:8585", "cache": cache}}, **OWN_ISSUER)


@pytest.mark.parametrize("name", ["own", "system", "datahub", "guest", "DataHub"])
def test_no_provider_has_the_name_of_another_origin(name: str) -> None:
    """``adminPrincipals: [datahub/sam]`` must mean one person."""
    provider = {"name": name, "issuer": "https://idp.example.com", "audiences": ["om"]}
    (fault,) = faults({"providers": [provider]})
    assert fault.startswith("is the name of ")


CORP = {"name": "corp", "issuer": "https://idp"}


def corp(block: dict[str, Any], sections: dict[str, Any] | None = None, **entry: Any) -> Provider:
    return found({"providers": [{**CORP, **entry}], **block}, **(sections or {}))["corp"]


def idle(block: dict[str, Any], **sections: Any) -> list[str]:
    _, findings = providers(Settings.model_validate({"authenticationConfiguration": block, **sections}))
    return [".".join(map(str, finding.path[1:])) for finding in findings if finding.idle]


def test_principal_settings_of_the_block_are_the_defaults_of_providers() -> None:
    """Written once for all, as an operator reads them; what a provider writes itself wins."""
    block = {"jwtPrincipalClaims": ["upn", "sub"], "emailClaim": "mail", "principal": "verbatim"}
    taken = corp(block)
    assert (taken.principal_claims, taken.address_claim, taken.principal) == (("upn", "sub"), "mail", "verbatim")
    own = corp(block, jwtPrincipalClaims=["sub"], emailClaim="email", principal="localPart")
    assert (own.principal_claims, own.address_claim, own.principal) == (("sub",), "email", "localPart")
    assert corp({}).principal_claims == ("email", "preferred_username", "sub")


def test_a_list_and_a_mapping_are_one_choice() -> None:
    """A provider that writes either takes neither from the block; a mapping that is empty is none."""
    block = {"jwtPrincipalClaimsMapping": ["username:upn", "email:mail"]}
    assert (corp(block).username_claim, corp(block).email_claim) == ("upn", "mail")
    assert corp(block, jwtPrincipalClaims=["sub"]).username_claim == ""
    assert corp(block, jwtPrincipalClaimsMapping=[]).username_claim == ""
    mapped = corp({"jwtPrincipalClaims": ["sub"]}, jwtPrincipalClaimsMapping=["username:a", "email:b"])
    assert (mapped.username_claim, mapped.email_claim) == ("a", "b")
    assert faults({"providers": [CORP], "jwtPrincipalClaimsMapping": ["username:upn"]})
    assert faults({"providers": [CORP], "jwtPrincipalClaims": []})


@pytest.mark.parametrize("key", ["mayBeAdmin", "audiences"])
def test_what_is_never_inherited_cannot_be_written_in_the_block(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        Settings.model_validate({"authenticationConfiguration": {key: ["x"]}})


def test_client_id_is_the_audience_of_the_authority_alone() -> None:
    result = found({"authority": GOOGLE, "clientId": "om", "providers": [CORP]})
    assert (result["default"].audiences, result["corp"].audiences) == (frozenset({"om"}), frozenset())


@pytest.mark.parametrize(
    ("credentials", "rule"),
    [("passthrough", "localPart"), ("none", "localPart"), ("datahub", "verbatim"), ("datahubHeader", "verbatim")],
)
def test_names_are_mapped_as_in_the_upstream(credentials: str, rule: str) -> None:
    """By default; the metadata server's own tokens name their users as OpenMetadata does in any case."""
    sections = {"upstream": {"url": "http://127.0.0.1:1", "credentials": credentials}, **OWN_ISSUER}
    result = found({"providers": [CORP], "authority": GOOGLE, "publicKeyUrls": [OWN_JWKS, GOOGLE_KEYS]}, **sections)
    assert {name: provider.principal for name, provider in result.items()} == {
        "corp": rule,
        "default": rule,
        "openmetadata": "localPart",
    }
    assert result["corp"].is_principal_written is (rule == "localPart")
    assert corp({"principal": "localPart"}, sections).is_principal_written
    assert corp({}, sections, principal="verbatim").is_principal_written


def test_email_must_be_verified_where_it_may_make_an_admin() -> None:
    """Unless it is written otherwise; where it is left to the default, a warning says what the provider must send."""
    assert not corp({}).needs_verified
    assert corp({}, mayBeAdmin=True).needs_verified
    assert not corp({}, mayBeAdmin=True, emailVerified="absentIsVerified").needs_verified
    assert corp({}, emailVerified="required").needs_verified

    def warned(**entry: Any) -> list[str]:
        sections = {"authorizerConfiguration": {"adminPrincipals": ["admin"], "principalDomain": "corp.test"}}
        _, findings = providers(
            Settings.model_validate({"authenticationConfiguration": {"providers": [{**CORP, **entry}]}, **sections})
        )
        return [finding.message for finding in findings if finding.path[-1] == "emailVerified"]

    (message,) = warned(mayBeAdmin=True)
    assert "write emailVerified: absentIsVerified" in message
    assert warned() == warned(mayBeAdmin=True, emailVerified="required") == []


def test_domains_of_a_provider_replace_those_of_the_block() -> None:
    block = {"authorizerConfiguration": {"principalDomain": "corp.test", "enforcePrincipalDomain": True}}
    inherited = corp({}, block)
    assert (inherited.principal_domain, inherited.allowed_domains, inherited.enforce_domain) == (None, None, None)
    own = corp({}, block, allowedDomains=["partner.test"], enforcePrincipalDomain=False)
    assert (own.allowed_domains, own.enforce_domain) == (("partner.test",), False)
    assert faults({"providers": [{**CORP, "enforcePrincipalDomain": True}]})
    assert faults({"providers": [{**CORP, "principalDomain": ""}]}, **block)


@pytest.mark.parametrize(
    ("block", "where"),
    [
        ({"clientId": "om"}, "clientId"),
        ({"clientId": "om", "publicKeyUrls": [{"url": "https://k/1", "issuer": "https://one"}]}, "clientId"),
        ({"tokenValidationAlgorithm": "RS512"}, "tokenValidationAlgorithm"),
        ({"allowInsecureUrls": True}, "allowInsecureUrls"),
        ({"allowUnboundIssuers": True}, "allowUnboundIssuers"),
        ({"botTokenCheck": {"url": "http://127.0.0.1:8585"}}, "botTokenCheck"),
        (
            {
                "providers": [
                    {**CORP, "jwtPrincipalClaims": ["sub"], "jwtPrincipalClaimsMapping": ["username:a", "email:b"]}
                ]
            },
            "providers.0.jwtPrincipalClaims",
        ),
        (
            {"providers": [{**CORP, "emailClaim": "mail"}], "jwtPrincipalClaimsMapping": ["username:a", "email:b"]},
            "providers.0.emailClaim",
        ),
    ],
)
def test_settings_without_effect_are_found(block: dict[str, Any], where: str) -> None:
    assert idle(block) == [where]
    assert faults(block)


def test_an_authority_that_is_no_issuer_is_a_warning() -> None:
    _, findings = providers(
        Settings.model_validate(
            {"authenticationConfiguration": {"authority": GOOGLE, "publicKeyUrls": [OWN_JWKS]}, **OWN_ISSUER}
        )
    )
    assert any("is not an issuer here" in finding.message and not finding.fatal for finding in findings)


def test_admins_that_no_address_can_make_are_a_warning() -> None:
    """Without a domain no bare name in ``adminPrincipals`` ever counts."""
    _, findings = providers(
        Settings.model_validate({"authenticationConfiguration": {"providers": [{**CORP, "mayBeAdmin": True}]}})
    )
    assert any(finding.path[-1] == "mayBeAdmin" and not finding.fatal for finding in findings)


def test_verbatim_names_for_an_openmetadata_server_are_a_warning() -> None:
    sections = {"upstream": {"url": "http://127.0.0.1:1", "credentials": "openmetadata"}}
    block = {"providers": [{**CORP, "principal": "verbatim"}]}
    _, findings = providers(Settings.model_validate({"authenticationConfiguration": block, **sections}))
    assert any(finding.path == ("upstream", "credentials") and not finding.fatal for finding in findings)


TENANT = "26c1aa90-3e3c-4df0-8dc8-66a97018fb32"
SERVER_JWKS = "/api/v1/system/config/jwks"


def test_an_entra_authority_is_one_provider_with_both_issuers() -> None:
    entra = "https://login.microsoftonline.com"
    flat = {"authority": f"{entra}/{TENANT}/oauth2/v2.0/authorize", "clientId": "om"}
    provider = found({**flat, "publicKeyUrls": [f"{entra}/common/discovery/keys"]})["default"]
    assert provider.issuer == f"{entra}/{TENANT}/v2.0"
    assert provider.issuer_aliases == (f"https://sts.windows.net/{TENANT}/",)
    assert provider.key_urls == (f"{entra}/{TENANT}/discovery/keys",)
    assert (provider.discovery, provider.is_flat) == (False, True)
    assert len(found(flat)["default"].key_urls) == 2
    assert any("per tenant" in text for text in faults({**flat, "authority": f"{entra}/common"}))
    other = {**flat, "publicKeyUrls": ["https://k.example.com/jwks"]}
    assert any(TENANT in text and "issuer:" in text for text in faults(other))


@pytest.mark.parametrize(
    ("written", "upstream", "asked"),
    [
        ("http://openmetadata:8585", "http://127.0.0.1:8585", "http://127.0.0.1:8585"),
        ("http://openmetadata.data.svc:8585", "http://localhost:8585", "http://localhost:8585"),
        ("https://om.example.com", "http://127.0.0.1:8585", "https://om.example.com"),
        ("https://om.example.com/base", "", "https://om.example.com/base"),
        ("http://localhost:8585", "http://127.0.0.1:9", "http://localhost:8585"),
    ],
)
def test_the_servers_key_set_by_any_address(written: str, upstream: str, asked: str) -> None:
    """The chart names it by the Service, the documentation by the public address; http stays on this machine."""
    flat = {"authority": GOOGLE, "publicKeyUrls": [f"{written}{SERVER_JWKS}", GOOGLE_KEYS]}
    result = found(flat, jwtTokenConfiguration={"jwtissuer": "om"}, upstream={"url": upstream})
    own = result["openmetadata"]
    assert (own.issuer, own.key_urls, own.is_own) == ("om", (f"{asked}{SERVER_JWKS}",), True)
    assert result["default"].candidate_urls == (GOOGLE_KEYS,)


def test_plain_http_to_the_server_is_an_error_that_names_its_issuer() -> None:
    flat = {"publicKeyUrls": [f"http://openmetadata:8585{SERVER_JWKS}"]}
    blocks = {"jwtTokenConfiguration": {"jwtissuer": "om"}, "upstream": {"url": "http://openmetadata:8585"}}
    (fault,) = faults(flat, **blocks)
    assert "issuer: om" in fault
    assert "allowInsecureUrls" in fault
    assert found({**flat, "allowInsecureUrls": True}, **blocks)["openmetadata"].is_own


def test_of_two_servers_none_is_taken_for_the_own_one() -> None:
    """Their tokens would count as the own server's: bots, and bare names in ``adminPrincipals``."""
    urls = [f"https://a.example.com{SERVER_JWKS}", f"https://b.example.com{SERVER_JWKS}"]
    texts = faults({"publicKeyUrls": urls}, jwtTokenConfiguration={"jwtissuer": "om"})
    assert [url in text and "issuer: om" in text for url, text in zip(urls, texts, strict=True)] == [True, True]
    upstream = {"url": "https://a.example.com"}
    assert len(faults({"publicKeyUrls": urls}, jwtTokenConfiguration={"jwtissuer": "om"}, upstream=upstream)) == 1


def test_own_keys_and_the_servers_have_two_issuers() -> None:
    jwt = {"keyDir": "/keys", "jwtissuer": "ours", "server": {"jwtissuer": "om"}}
    result = found({"publicKeyUrls": [OWN_JWKS, "http://localhost:4180/oauth2/jwks"]}, jwtTokenConfiguration=jwt)
    assert [(p.issuer, p.key_urls, p.is_own) for p in result.values()] == [("om", (OWN_JWKS,), True)]
    same = {**jwt, "jwtissuer": "om"}
    assert any("choose another for the issued tokens" in text for text in faults({}, jwtTokenConfiguration=same))
