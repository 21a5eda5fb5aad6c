"""Reports which outgoing calls use a proxy, for the log at start and ``sidecar check``."""

import logging
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from sidecar.authn.registry import AuthenticatorSpec, build_specs
from sidecar.config.load import Loaded
from sidecar.config.reading.urls import is_file

_log = logging.getLogger("sidecar.outbound")


def outgoing_urls(loaded: Loaded, specs: Iterable[AuthenticatorSpec]) -> Iterator[str]:
    """The http and https URLs in the configuration that the sidecar calls."""
    for provider in loaded.providers:
        yield from (url for url in (*provider.key_urls, *provider.candidate_urls) if not is_file(url))
        if provider.discovery and provider.issuer:
            yield provider.issuer
    bots = loaded.settings.authentication_configuration.bot_token_check
    if bots is not None:
        yield bots.url
    for spec in specs:
        url = getattr(spec.options, "url", "")
        if isinstance(url, str) and url.startswith(("http:", "https:")):
            yield url
    if loaded.settings.tracing is not None:
        yield loaded.settings.tracing.endpoint


def routes(loaded: Loaded, specs: Iterable[AuthenticatorSpec]) -> dict[str, str]:
    """For each host: the proxy, or why the connection is direct. Empty without a proxy."""
    if loaded.egress.proxy is None:
        return {}
    found: dict[str, str] = {}
    for url in outgoing_urls(loaded, specs):
        route = loaded.egress.route(url)
        parts = urlsplit(url)
        way = f"direct ({route.reason})" if route.proxy is None else f"proxy {route.proxy}"
        found[f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"] = way
    return found


def log_routes(loaded: Loaded) -> None:
    """Log once which hosts are reached through the proxy, if there is one."""
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
