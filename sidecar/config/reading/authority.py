"""Derives the issuer from ``authority``: an issuer, a host, an authorize endpoint, a discovery URL, an Entra tenant.

OpenMetadata does not verify the value and its documentation shows all of these, so working installations have values
that are not issuers. Here it is the issuer whose tokens are accepted.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sidecar.config.reading.urls import split_url

_BARE_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*\.)+[A-Za-z]{2,}(?::[0-9]{1,5})?(?:/[!-~]*)?")
_PLACEHOLDER = re.compile(r"[<>{}]")
# Suffixes of URLs that are copied from a provider's console; the longest match is removed.
_SUFFIXES = (
    "/.well-known/openid-configuration",
    "/.well-known/oauth-authorization-server",
    "/.well-known/jwks.json",
    "/protocol/openid-connect/auth",
    "/protocol/openid-connect/token",
    "/protocol/openid-connect/certs",
    "/protocol/openid-connect",
    "/oauth2/v2.0/authorize",
    "/oauth2/v2.0/token",
    "/oauth2/v2.0",
    "/o/oauth2/v2/auth",
    "/connect/authorize",
    "/v1/authorize",
    "/oauth2/authorize",
    "/oauth2/token",
    "/authorize",
)
_OKTA_ORGANISATION = "/oauth2"
_OKTA_HOSTS = (".okta.com", ".oktapreview.com", ".okta-emea.com")
_INSERTED = "/.well-known/oauth-authorization-server/"
# Issuers of Entra ID by login host: version 1 tokens have an issuer on another host.
_ENTRA_V1_HOSTS = {
    "login.microsoftonline.com": "sts.windows.net",
    "login.windows.net": "sts.windows.net",
    "login.microsoft.com": "sts.windows.net",
    "sts.windows.net": "sts.windows.net",
    "login.microsoftonline.us": "sts.windows.net",
    "login.partner.microsoftonline.cn": "sts.chinacloudapi.cn",
    "login.chinacloudapi.cn": "sts.chinacloudapi.cn",
    "sts.chinacloudapi.cn": "sts.chinacloudapi.cn",
}
_ENTRA_V2_HOSTS = {
    "login.windows.net": "login.microsoftonline.com",
    "login.microsoft.com": "login.microsoftonline.com",
    "sts.windows.net": "login.microsoftonline.com",
    "login.chinacloudapi.cn": "login.partner.microsoftonline.cn",
    "sts.chinacloudapi.cn": "login.partner.microsoftonline.cn",
}
_SHARED = frozenset({"common", "organizations", "consumers"})
_TENANT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_ENTRA_KEYS = re.compile(r"/(?P<tenant>[^/]+)(?P<rest>/discovery(?:/v2\.0)?/keys)")


@dataclass(frozen=True, slots=True)
class Authority:
    """The issuer. ``aliases`` are further exact issuers of the same owner.

    ``entra`` is the host of a tenant of Entra ID, whose issuers and key URLs are known without discovery; ``tenant`` is
    its id. ``fault``: why there is no issuer; empty if there is one.
    """

    issuer: str
    aliases: tuple[str, ...] = ()
    entra: str = ""
    tenant: str = ""
    fault: str = ""

    @property
    def default_key_urls(self) -> tuple[str, ...]:
        """Where a tenant of Entra ID publishes its keys, for tokens of version 1 and 2; empty for other issuers."""
        if not self.entra:
            return ()
        base = f"https://{self.entra}/{self.tenant}/discovery"
        return f"{base}/keys", f"{base}/v2.0/keys"

    def own_key_url(self, url: str) -> str:
        """The Entra ID key URL ``url`` in the form with the tenant; empty: not a key URL of this tenant.

        The key sets of ``common`` and ``organizations`` also hold keys of personal accounts, which must not sign for a
        tenant; that of the tenant has only the keys that may.
        """
        parts = split_url(url)
        if not self.entra or parts is None or parts.scheme != "https" or parts.query or parts.port not in (None, 443):
            return ""
        found = _ENTRA_KEYS.fullmatch(parts.path)
        host = (parts.hostname or "").lower()
        if found is None or _ENTRA_V2_HOSTS.get(host, host) != self.entra:
            return ""
        tenant = found["tenant"].lower()
        return f"https://{self.entra}/{self.tenant}{found['rest']}" if tenant in {*_SHARED, self.tenant} else ""


def read_authority(text: str, issuers: Iterable[str] = ()) -> Authority:
    """The issuer that ``text`` names. Text that is one of ``issuers``, configured elsewhere, is used unchanged."""
    if not text or text in frozenset(issuers):
        return Authority(text)
    name = text.strip()
    if name[:1] + name[-1:] == "{}":
        name = name[1:-1].strip()
    if _PLACEHOLDER.search(name):
        return Authority(
            text, fault=f"is {text}, which contains a placeholder from the documentation; write the issuer"
        )
    if "://" not in name and _BARE_HOST.fullmatch(name):
        name = f"https://{name}"
    parts = split_url(name)
    if parts is None:
        return Authority(text)
    host = (parts.hostname or "").lower()
    name = name.partition("?")[0]
    if host in _ENTRA_V1_HOSTS:
        return _entra(text, host, parts.path)
    return Authority(_issuer(name, host))


def _issuer(url: str, host: str) -> str:
    """``url`` without suffixes of endpoints and documents."""
    if _INSERTED in url:  # RFC 8414 section 3.1: the path of the issuer follows the well-known path
        base, _, path = url.partition(_INSERTED)
        return f"{base}/{path}"
    bare = url.rstrip("/")
    suffix = max((one for one in _SUFFIXES if bare.endswith(one)), key=len, default="")
    if not suffix:
        return url
    issuer = bare.removesuffix(suffix)
    # endpoints of an Okta organisation stand below /oauth2, its issuer is the host
    if suffix == "/v1/authorize" and host.endswith(_OKTA_HOSTS):
        issuer = issuer.removesuffix(_OKTA_ORGANISATION)
    return issuer


def _entra(text: str, host: str, path: str) -> Authority:
    tenant = path.strip("/").partition("/")[0].lower()
    if not tenant or tenant in _SHARED:
        shared = tenant or "no tenant"
        fault = (
            f"is {text}, which names {shared}: tokens of every tenant would be accepted. Write one provider per tenant "
            "(authenticationConfiguration.providers), each with "
            "issuer: https://login.microsoftonline.com/<tenant id>/v2.0"
        )
        return Authority(text, fault=fault)
    if not _TENANT_ID.fullmatch(tenant):
        fault = (
            f"is {text}, which names the tenant by a domain: iss of its tokens has the tenant's id; write "
            f"https://{_ENTRA_V2_HOSTS.get(host, host)}/<tenant id>"
        )
        return Authority(text, fault=fault)
    signs_in = _ENTRA_V2_HOSTS.get(host, host)
    v1, v2 = f"https://{_ENTRA_V1_HOSTS[host]}/{tenant}/", f"https://{signs_in}/{tenant}/v2.0"
    return Authority(v2, (v1,), signs_in, tenant)
