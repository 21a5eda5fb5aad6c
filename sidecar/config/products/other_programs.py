"""Names of settings of oauth2-proxy and Envoy, and what has their meaning here: for messages about unknown names."""

from collections.abc import Mapping

_NO_LOGIN = "it belongs to a login, and tokens are verified with public keys only; remove it"
_HEADERS = "the identity headers are always set and cannot be renamed; remove it"
_PROVIDERS = "authenticationConfiguration.providers"

# In lower case, without underscores and hyphens.
INSTEAD: Mapping[str, str] = {
    "oidcissuerurl": f"write issuer in an entry of {_PROVIDERS}",
    "extrajwtissuers": f"write an entry of {_PROVIDERS} for each issuer",
    "skipjwtbearertokens": "tokens are always accepted; remove it",
    "oidcjwksurl": f"write publicKeyUrls in an entry of {_PROVIDERS}",
    "jwksurl": f"write publicKeyUrls in an entry of {_PROVIDERS}",
    "jwksuri": f"write publicKeyUrls in an entry of {_PROVIDERS}",
    "remotejwks": f"write publicKeyUrls in an entry of {_PROVIDERS}",
    "localjwks": f"write publicKeyUrls: [file:/path] in an entry of {_PROVIDERS}",
    "jwtproviders": f"write {_PROVIDERS}",
    "oidcgroupsclaim": f"write groupsClaim in an entry of {_PROVIDERS}",
    "oidcemailclaim": f"write emailClaim in an entry of {_PROVIDERS}",
    "oidcextraaudiences": f"write audiences in an entry of {_PROVIDERS}",
    "userclaim": f"write jwtPrincipalClaims in an entry of {_PROVIDERS}",
    "useridclaim": f"write jwtPrincipalClaims in an entry of {_PROVIDERS}",
    "insecureoidcallowunverifiedemail": f"write emailVerified: absentIsVerified in an entry of {_PROVIDERS}",
    "insecureoidcskipissuerverification": "the issuer is always verified; remove it",
    "clockskewseconds": f"write clockSkew in an entry of {_PROVIDERS}",
    "clientsecret": _NO_LOGIN,
    "clientsecretfile": _NO_LOGIN,
    "cookiesecret": _NO_LOGIN,
    "cookiename": _NO_LOGIN,
    "cookiedomains": _NO_LOGIN,
    "cookieexpire": _NO_LOGIN,
    "cookierefresh": _NO_LOGIN,
    "cookiesecure": _NO_LOGIN,
    "redirecturl": _NO_LOGIN,
    "codechallengemethod": _NO_LOGIN,
    "whitelistdomains": _NO_LOGIN,
    "emaildomains": "write authorizerConfiguration: {allowedDomains: [...], enforcePrincipalDomain: true}",
    "emaildomain": "write authorizerConfiguration: {allowedDomains: [...], enforcePrincipalDomain: true}",
    "allowedgroups": "write rules: [{path: /**, require: {groups: [...]}}]",
    "allowedroles": "write rules: [{path: /**, require: {roles: [...]}}]",
    "skipauthroutes": "write rules: [{path: /path, methods: [GET], access: public}]",
    "skipauthregex": "write rules: [{path: /path, access: public}]",
    "skipauthpreflight": "write cors: {preflight: public}",
    "apiroutes": "every refusal is JSON without a redirect; remove it",
    "reverseproxy": "write server.trustedProxies with the addresses of the proxy",
    "trustedips": "addresses are no credentials; write access: public for the paths that need none",
    "trustedproxyips": "write server.trustedProxies with the addresses of the proxy",
    "realclientipheader": "write server.trustedProxies; the address is then read from X-Forwarded-For",
    "httpaddress": "write server.listen",
    "httpsaddress": "write server.listen and server.tls",
    "tlscertfile": "write server.tls",
    "metricsaddress": "write server.adminListen",
    "proxyprefix": "write server.prefix",
    "pingpath": "health checks are /livez and /readyz of server.adminListen; remove it",
    "upstreamtimeout": "write upstream.responseTimeout",
    "passhostheader": "the Host of the request is always forwarded; remove it",
    "redisconnectionurl": "write store.url",
    "sessionstoretype": "write store.url",
    "passauthorizationheader": "write upstream.credentials: passthrough",
    "setauthorizationheader": "write upstream.credentials: passthrough",
    "passaccesstoken": "write upstream.credentials: passthrough",
    "forward": "write upstream.credentials: passthrough to forward tokens",
    "setxauthrequest": _HEADERS,
    "passuserheaders": _HEADERS,
    "injectrequestheaders": _HEADERS,
    "injectresponseheaders": _HEADERS,
    "claimtoheaders": _HEADERS,
    "fromheaders": "write authentication.tokenHeaders",
    "fromparams": "tokens in queries are not accepted; send them in Authorization",
    "providercafiles": "write outbound.caFile",
    "sslinsecureskipverify": "certificates are always verified; write outbound.caFile",
    "requestlogging": "write logging.access",
    "standardlogging": "write logging.level",
    "authlogging": "refusals are always logged; remove it",
    "host": "one sidecar serves one host; run one for each",
    "hosts": "one sidecar serves one host; run one for each",
}


def instead_of(name: str) -> str:
    """What has the meaning of ``name`` here; empty: it is no name of these programs."""
    return INSTEAD.get(name.replace("_", "").replace("-", "").lower(), "")
