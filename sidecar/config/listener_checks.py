"""Conditions between the settings of the public listener."""

from collections.abc import Iterator

from sidecar.config.reading.finding import Finding
from sidecar.config.settings import Settings

_ALL_MAY_CONNECT = 0o002


def check_sockets(settings: Settings) -> Iterator[Finding]:
    """Socket mode and group only for a Unix socket; no Unix socket that makes every local user a trusted proxy."""
    server = settings.server
    if not server.listen.startswith("unix:"):
        for name, value in (("socketMode", server.socket_mode), ("socketGroup", server.socket_group)):
            if value:
                message = f"has no effect: server.listen is {server.listen}, and only unix: addresses use it"
                yield Finding(("server", name), message, fatal=False)
        return
    mode = int(server.socket_mode or "0", 8)
    if mode & _ALL_MAY_CONNECT and "unix" in server.trusted_proxies:
        message = (
            f"is {server.socket_mode}: every local user can connect, and server.trustedProxies trusts all of them; "
            "write 0660 and the proxy's group in server.socketGroup"
        )
        yield Finding(("server", "socketMode"), message, fatal=False)


def check_server_tls(settings: Settings) -> Iterator[Finding]:
    """A source of client certificates that is configured."""
    server = settings.server
    has_client_ca = server.tls is not None and bool(server.tls.client_ca_file)
    if server.client_certificates == "tls" and not has_client_ca:
        message = "is tls, but no client certificate is requested; set server.tls.clientCaFile"
        yield Finding(("server", "clientCertificates"), message)
    if has_client_ca and server.client_certificates == "none":
        message = "has no effect: server.clientCertificates is none; set it to tls, or to the proxy's dialect"
        yield Finding(("server", "tls", "clientCaFile"), message, fatal=False)
