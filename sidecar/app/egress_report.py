"""Which outgoing call goes through which proxy, for the start's log and ``sidecar check``."""

import logging
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from sidecar.authn.registry import AuthenticatorSpec, build_specs
from sidecar.config.load import Loaded
from sidecar.config.reading.urls import is_file

_log = logging.getLogger("sidecar.outbound")


def outgoing_urls(loaded: Loaded, planned: Iterable[AuthenticatorSpec]) -> Iterator[str]:
    """The http and https URLs that this configuration asks, as far as it names them."""
    for provider in loaded.providers:
        yield from (url for url in (*provider.key_urls, *provider.candidate_urls) if not is_file(url))
        if provider.discovery and provider.issuer:
            yield provider.issuer
    bots = loaded.settings.authentication_configuration.bot_token_check
    if bots is not None:
        yield bots.url
    for member in planned:
        url = getattr(member.options, "url", "")
        if isinstance(url, str) and url.startswith(("http:", "https:")):
            yield url
    if loaded.settings.tracing is not None:
        yield loaded.settings.tracing.endpoint


def routes(loaded: Loaded, planned: Iterable[AuthenticatorSpec]) -> dict[str, str]:
    """For each host that is asked: the proxy, or why there is none. Empty without a proxy."""
    if loaded.egress.proxy is None:
        return {}
    found: dict[str, str] = {}
    for url in outgoing_urls(loaded, planned):
        route = loaded.egress.route(url)
        parts = urlsplit(url)
        way = f"direct ({route.reason})" if route.proxy is None else f"proxy {route.proxy}"
        found[f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"] = way
    return found


def log_routes(loaded: Loaded) -> None:
    """Say once which proxy each host is reached through, where there is a proxy."""
    proxy = loaded.egress.proxy
    if proxy is None:
        return
    ways = routes(loaded, build_specs(loaded.authenticators))
    _log.info(
        "outgoing calls use a proxy",
        extra={
            "event": "outbound_proxy",
            "proxy": str(proxy),
            "origin": proxy.origin,
            "routes": [f"{host}: {way}" for host, way in ways.items()],
        },
    )
