"""Lines of ``sidecar check`` about the network: listeners, forwarded headers, token sources, origins."""

from collections.abc import Iterator

from sidecar.config.origins import cors_origins, websocket_origins
from sidecar.config.settings import Settings

_FAMILY = {"0.0.0.0": "IPv4", "[::]": "IPv6"}  # noqa: S104 - compared, not bound


def network_lines(settings: Settings) -> Iterator[str]:
    """One line for each enabled part, and for each part that accepts fewer requests than expected."""
    server = settings.server
    for name, address in (("server.listen", server.listen), ("server.adminListen", server.admin_listen)):
        host, _, port = address.rpartition(":")
        if host in _FAMILY:
            yield f"{name} {address}: {_FAMILY[host]} only; *:{port} listens on IPv4 and IPv6."
    if server.tls is not None:
        certificates = "no client certificates"
        if server.tls.client_ca_file:
            certificates = (
                f"client certificates of the CAs in {server.tls.client_ca_file} (a CA that is removed there is trusted "
                "until a restart)"
            )
        yield f"TLS on {server.listen}: {server.tls.cert_file}, read again when it changes; {certificates}."
    yield from _forwarded_lines(settings)
    yield from _token_lines(settings)
    yield from _origin_lines(settings)


def _forwarded_lines(settings: Settings) -> Iterator[str]:
    """The forwarded headers that the upstream receives."""
    if settings.upstream is None or not settings.upstream.url:
        return
    server = settings.server
    ours = server.public_url
    if not server.trusted_proxies:
        says = ours or f"{'https' if server.tls else 'http'} and the request's Host"
        hint = "" if ours else "; behind an ingress, set server.trustedProxies or server.publicUrl"
        yield f"X-Forwarded-Proto and -Host: {says} for every caller (server.trustedProxies is empty){hint}."
    else:
        proxies = ", ".join(server.trusted_proxies)
        yield f"X-Forwarded-*: from {proxies} unchanged, with the peer added to X-Forwarded-For; otherwise replaced."


def _token_lines(settings: Settings) -> Iterator[str]:
    block = settings.authentication
    if not block.enabled:
        if block.token_headers or block.websocket_tokens.subprotocol:
            yield "authentication.tokenHeaders and websocketTokens are disabled: authentication.enabled is false."
        return
    for header in block.token_headers:
        whose = f"tokens of {', '.join(header.providers)}" if header.providers else "tokens of every provider"
        order = "ignored if there is Authorization" if header.ambient else "rejected if there is Authorization"
        fate = "forwarded unchanged" if header.forward else "removed before forwarding"
        yield f"Tokens in {header.name}: {whose}; {order}; {fate}."
    if block.websocket_tokens.subprotocol:
        yield "Tokens in Sec-WebSocket-Protocol of WebSocket requests: bearer.<token>; removed before forwarding."
    if (block.token_headers or block.websocket_tokens.subprotocol) and settings.server.trusted_proxies:
        yield "In check mode the proxy must send these headers with the check and remove them from the request."


def _origin_lines(settings: Settings) -> Iterator[str]:
    origins = cors_origins(settings)
    if origins:
        yield f"Pages that may read refusals (CORS): {', '.join(origins)}."
    sockets = websocket_origins(settings)
    if sockets is not None:
        yield f"Pages that may open WebSockets: {', '.join(sockets) or 'none'}."
