"""Typical mistakes of people who come from oauth2-proxy, Envoy, OpenMetadata, DataHub, or to this for the first time.

Each message names the place and says what to write instead.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from sidecar.app.datahub import datahub_setup
from sidecar.authn.registry import build_specs, validate
from sidecar.config.load import load
from sidecar.errors import Misconfigured, Problem

LISTED = (
    "authenticationConfiguration: {{providers: [{{name: corp, issuer: 'https://idp.example.com', "
    "audiences: [x]{}}}]}}\n"
)
CORP = LISTED.format("")
FLAT = (
    "authenticationConfiguration: {{authority: '{}', clientId: om, publicKeyUrls: ['https://idp.example.com/k']{}}}\n"
)
PROVIDERS = "authenticationConfiguration.providers"
CLASSES = "com.datahub.authentication.authenticator."
ENTRA = "https://login.microsoftonline.com"


class Mistake(NamedTuple):
    """``text`` is the file; ``place`` the setting that is blamed; ``mend`` what the message says to do."""

    text: str
    place: str
    mend: str
    environ: Mapping[str, str] = {}
    fatal: bool = True


def provider(more: str, mend: str, key: str) -> Mistake:
    return Mistake(LISTED.format(f", {more}"), f"{PROVIDERS}[0].{key}", mend)


def issuer(text: str, mend: str) -> Mistake:
    listed = f"authenticationConfiguration: {{providers: [{{name: corp, issuer: '{text}', audiences: [x]}}]}}"
    return Mistake(listed, f"{PROVIDERS}[0].issuer", mend)


def ours(text: str, place: str, mend: str, *, fatal: bool = True) -> Mistake:
    return Mistake(CORP + text, place, mend, fatal=fatal)


OAUTH2_PROXY = [
    ours("cookie_secret: abc", "cookie_secret", "remove it"),
    ours("client-secret: abc", "client-secret", "remove it"),
    ours("redirect_url: 'https://x'", "redirect_url", "remove it"),
    Mistake("oidc_issuer_url: https://idp.example.com", "oidc_issuer_url", f"write issuer in an entry of {PROVIDERS}"),
    ours("oidc_jwks_url: x", "oidc_jwks_url", "write publicKeyUrls"),
    ours("upstreams: ['http://127.0.0.1:8585']", "upstreams", "did you mean upstream?"),
    ours("upstream: http://127.0.0.1:8585", "upstream", "such as upstream: {url: ...}"),
    ours("http_address: 0.0.0.0:4180", "http_address", "write server.listen"),
    ours("metrics_address: 0.0.0.0:4181", "metrics_address", "write server.adminListen"),
    ours("email_domains: ['*']", "email_domains", "allowedDomains"),
    ours("allowed_groups: [a]", "allowed_groups", "require: {groups: [...]}"),
    ours("skip_auth_routes: ['GET=^/health$']", "skip_auth_routes", "access: public"),
    ours("reverse_proxy: true", "reverse_proxy", "write server.trustedProxies"),
    ours("trusted_ips: [10.0.0.1]", "trusted_ips", "access: public"),
    ours("pass_authorization_header: true", "pass_authorization_header", "credentials: passthrough"),
    ours("set_xauthrequest: true", "set_xauthrequest", "always set"),
    ours("redis_connection_url: redis://x", "redis_connection_url", "write store.url"),
    ours("proxy_prefix: /oauth2", "proxy_prefix", "write server.prefix"),
    Mistake("http_address = 'x'\n", "", "such as server: or upstream:"),
    issuer("https://idp.example.com/.well-known/openid-configuration", "write https://idp.example.com"),
    ours("rules: [{path: '^/api/.*$', access: public}]", "rules[0].path", "without regular expressions"),
    ours("rules: [{path: 'GET=/api', access: public}]", "rules[0].path", "begins with /"),
]
ENVOY = [
    provider("remote_jwks: {http_uri: {uri: 'https://x'}}", "write publicKeyUrls", "remote_jwks"),
    provider("jwksUri: 'https://x'", "write publicKeyUrls", "jwksUri"),
    provider("forward: true", "credentials: passthrough", "forward"),
    provider("from_headers: [{name: X}]", "write authentication.tokenHeaders", "from_headers"),
    provider("from_params: [token]", "send them in Authorization", "from_params"),
    provider("claim_to_headers: []", "cannot be renamed", "claim_to_headers"),
    provider("clock_skew_seconds: 60", "write clockSkew", "clock_skew_seconds"),
    Mistake(CORP.replace("[x]", "x"), f"{PROVIDERS}[0].audiences", "a list, such as [one, two]"),
    ours(
        "server: {trustedProxies: [0.0.0.0/0]}", "server.trustedProxies[0]", "list the proxy's addresses", fatal=False
    ),
    ours("server: {trustedProxies: [nginx]}", "server.trustedProxies[0]", "names of hosts are not resolved"),
    ours("server: {trustedProxies: [10.0.0.5/8]}", "server.trustedProxies[0]", "write 10.0.0.0/8 for the network"),
    ours("server: {trustedProxies: 10.0.0.0/8}", "server.trustedProxies", "a list, such as"),
]
OPENMETADATA = [
    Mistake(FLAT.format(f"{ENTRA}/common", ""), "authenticationConfiguration.authority", "one provider per tenant"),
    Mistake(FLAT.format(f"{ENTRA}/corp.com", ""), "authenticationConfiguration.authority", "<tenant id>"),
    Mistake(FLAT.format("http://idp.corp", ""), "authenticationConfiguration.authority", "use https"),
    Mistake(FLAT.format("${AUTH}", ""), "authenticationConfiguration.authority", "write the issuer"),
    issuer(f"{ENTRA}/{{tenant}}/v2.0", "write the issuer"),
    Mistake(
        FLAT.format("https://idp.example.com", ", jwtPrincipalClaims: email"),
        "authenticationConfiguration.jwtPrincipalClaims",
        "a list, such as [one, two]",
    ),
    Mistake(
        FLAT.format("https://idp.example.com", ", jwtPrincipalClaimsMapping: [username=sub]"),
        "authenticationConfiguration.jwtPrincipalClaimsMapping[0]",
        "username:<claim>",
    ),
    Mistake(
        "authenticationConfiguration: {authority: 'https://idp.example.com', publicKeyUrls: '${KEYS}'}",
        "authenticationConfiguration.publicKeyUrls",
        "the value of the environment variable KEYS",
        {"KEYS": "https://a.example/k,https://b.example/k"},
    ),
    Mistake(
        "authenticationConfiguration: {authority: 'https://idp.example.com', publicKeyUrls: ['https://idp.example.com/k']}",
        "authenticationConfiguration.clientId",
        "set clientId",
        fatal=False,
    ),
    Mistake(
        f"{FLAT.format('https://idp.example.com', '')}authorizerConfiguration: {{adminPrincipals: [sam@corp.com]}}",
        "authorizerConfiguration.adminPrincipals[0]",
        "write sam",
        fatal=False,
    ),
    ours(
        "authorizerConfiguration: {enforcePrincipalDomain: true}",
        "authorizerConfiguration.enforcePrincipalDomain",
        "needs principalDomain or allowedDomains",
    ),
    ours(
        "authorizerConfiguration: {principalDomain: '@corp.com'}",
        "authorizerConfiguration.principalDomain",
        "such as example.com",
    ),
    ours(
        "jwtTokenConfiguration: {rsaprivateKeyFilePath: b, jwtissuer: x}",
        "jwtTokenConfiguration.rsapublicKeyFilePath",
        "go together",
    ),
    ours("upstream: {url: 'http://h:1', credentials: openmetadata}", "upstream.credentials", "sidecar keys generate"),
    Mistake("import: {openmetadata: absent.yaml}", "import.openmetadata", "No such file"),
    Mistake("import: openmetadata.yaml", "import", "such as import: {openmetadata: ...}"),
    Mistake("import: {openmetadata: compose.yaml}", "import.openmetadata", "name the server's openmetadata.yaml"),
]
DATAHUB = [
    Mistake(
        f"authentication: {{authenticators: [{{type: {CLASSES}DataHubTokensAuthenticator}}]}}",
        "authentication.authenticators[0].type",
        f"did you mean {CLASSES}DataHubTokenAuthenticator?",
    ),
    Mistake(
        "authentication: {authenticators: [{type: datahubb}]}", "authentication.authenticators[0].type", "datahub?"
    ),
    Mistake(
        "authentication: {authenticators: [{type: basic, config: {}}]}",
        "authentication.authenticators[0].config",
        "did you mean configs?",
    ),
    Mistake(
        "authentication: {tokenService: {key: x}}", "authentication.tokenService.key", "known here: signingKey, salt"
    ),
    Mistake("authentication: {systemClientSecret: abc}", "authentication.systemClientSecret", "openssl rand -hex 32"),
    Mistake(
        "authentication: {}",
        "authentication.systemClientSecret",
        "value of environment DATAHUB_SYSTEM_CLIENT_SECRET",
        {"DATAHUB_SYSTEM_CLIENT_SECRET": "JohnSnowKnowsNothing"},
    ),
    ours(
        "upstream: {url: 'http://h:1', credentials: datahub}",
        "authentication.tokenService.signingKey",
        "set DATAHUB_TOKEN_SERVICE_SIGNING_KEY here and at DataHub",
    ),
    Mistake("import: {datahub: compose.yaml}", "import.datahub", "name the application.yaml"),
]
OWN = [
    ours("upsteam: {url: 'http://127.0.0.1:1'}", "upsteam", "did you mean upstream?"),
    Mistake("providers: [{name: a}]", "providers", "belongs below authenticationConfiguration"),
    Mistake("", "authenticationConfiguration", "write an entry of providers", fatal=False),
    ours("server: {prefix: /oauth2/}", "server.prefix", "no / at its end"),
    ours("server: {listen: 4180}", "server.listen", "must be host:port, [v6]:port, *:port"),
    ours("server: {listen: '::1:4180'}", "server.listen", "[::1]:4180"),
    ours("server: {listen: '127.0.0.1:1', adminListen: '127.0.0.1:1'}", "server.adminListen", "a port of its own"),
    ours("server: {publicUrl: meta.example.com}", "server.publicUrl", "such as https://metadata.example.com"),
    ours("server: {checkDeadline: 0}", "server.checkDeadline", "more than 0s"),
    ours("server: {workers: two}", "server.workers", "a whole number"),
    ours("server: {reloadOnChange: maybe}", "server.reloadOnChange", "true or false"),
    ours("server: {tls: {certFile: /x}}", "server.tls.keyFile", "write it"),
    ours("server: {listen: 'unix:/x', socketMode: '888'}", "server.socketMode", "such as 0660"),
    ours("store: {url: 'sqlite:///x.db'}", "store.url", "four slashes"),
    ours("store: {url: 'postgresql://x'}", "store.url", "redis://host:port/db"),
    ours("store: {url: 'env:NOPE'}", "store.url", "environment variable NOPE, which is not set"),
    ours("store: {url: 'file:/absent'}", "store.url", "file /absent, which cannot be read"),
    ours("keys: {refresh: 10 minutes}", "keys.refresh", "such as 30s, 10m"),
    ours("tokens: {cacheBytes: 64 megabytes}", "tokens.cacheBytes", "such as 4096, 512KiB"),
    ours("tokens: {maxLifetime: 1d, allowNeverExpiring: true}", "tokens.maxLifetime", "keep one of the two"),
    ours("upstream: {url: '127.0.0.1:8585'}", "upstream.url", "http://host:port"),
    ours("upstream: {url: 'http://u:p@h:1'}", "upstream.url", "must not hold a user name"),
    ours("upstream: {url: 'http://h:1', credentials: openmeta}", "upstream.credentials", "'passthrough', 'none'"),
    ours("rules: [{path: /**}, {path: /a, access: public}]", "rules[1]", "rules[0] matches everything", fatal=False),
    ours("rules: [{path: /a, access: public, require: {admin: true}}]", "rules[0].require", "access: authenticated"),
    ours("rules: [{path: '/a/*b'}]", "rules[0].path", "one whole segment"),
    ours("rules: [{path: /a, require: {group: a}}]", "rules[0].require.group", "did you mean groups?"),
    ours("rules: [{path: /a, methods: [get]}]", "rules[0].methods[0]", "in capitals"),
    ours("rules: [{host: a.example, path: /a}]", "rules[0].host", "run one for each"),
    ours("rules: [{path: /a, require: {providers: [crop]}}]", "rules[0].require.providers[0]", "corp?", fatal=False),
    ours("rules: {path: /a}", "rules", "a list, such as"),
    ours("cors: {origins: ['*'], credentials: true}", "cors.origins", "list the origins"),
    ours("cors: {origins: ['https://a.example/']}", "cors.origins[0]", "without a path"),
    ours(
        "authentication: {tokenHeaders: [{name: Authorization}]}",
        "authentication.tokenHeaders[0].name",
        "the token alone",
    ),
    ours("identityHeaders: {strip: ['X Foo']}", "identityHeaders.strip[0]", "one header name"),
    provider("algorithms: [HS256]", "'RS256'", "algorithms[0]"),
    provider("groupsClaim: 'a..b'", "names with dots are quoted", "groupsClaim"),
    issuer("env:ISSUER", "use ${NAME}"),
    issuer("idp.example.com", "an http or https URL"),
    Mistake(
        CORP.replace("]}]", "]}, {name: two, issuer: 'https://idp.example.com/', audiences: [x]}]"),
        f"{PROVIDERS}[1].issuer",
        "but for the final slash",
    ),
    Mistake(
        CORP.replace("]}]", "]}, {name: corp, issuer: 'https://b.example', audiences: [x]}]"),
        f"{PROVIDERS}[1].name",
        "each needs its own",
    ),
    Mistake("server:\n\tprefix: /a\n", "", "indent with spaces"),
    Mistake("server: {prefix: /a}\nserver: {prefix: /b}\n", "server", "keep one"),
    Mistake("server: {prefix: /a\n", "", "never closed"),
    Mistake("server: prefix: /a\n", "", "put text with a colon in quotes"),
    Mistake("server:\n  prefix:/a\n", "server", "such as server: {"),
]


def found(mistake: Mistake) -> list[Problem]:
    Path("compose.yaml").write_text("services: {web: {image: x}}\n", encoding="utf-8")
    Path("c.yaml").write_text(f"{mistake.text}\n", encoding="utf-8")
    try:
        loaded = load(["c.yaml"], mistake.environ, validate)
        datahub_setup(loaded, build_specs(loaded.authenticators))
    except Misconfigured as error:
        return error.problems
    return list(loaded.warnings)


@pytest.mark.parametrize("mistake", [*OAUTH2_PROXY, *ENVOY, *OPENMETADATA, *DATAHUB, *OWN])
def test_message_names_place_and_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Mistake) -> None:
    monkeypatch.chdir(tmp_path)
    problems = found(mistake)
    about = [problem for problem in problems if problem.path == mistake.place and problem.fatal is mistake.fatal]
    said = [str(problem) for problem in about]
    assert any(mistake.mend in line for line in said), list(map(str, problems))
    assert all(line.isprintable() for line in said)
    assert any(problem.fatal for problem in problems) is mistake.fatal


def test_there_are_enough_of_them() -> None:
    assert all(len(group) >= least for group, least in ((OAUTH2_PROXY, 20), (ENVOY, 12), (OPENMETADATA, 12), (OWN, 40)))
