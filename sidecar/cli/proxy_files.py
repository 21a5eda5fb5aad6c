"""The configuration files for proxies that are shipped in ``deploy/``, with addresses of one installation."""

import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import sidecar
from sidecar.errors import Misconfigured, Problem

_SIDECAR, _UPSTREAM = "127.0.0.1:4180", "127.0.0.1:8585"
# For each proxy: the shipped file and the name under which it is written.
_FILES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "nginx": (("nginx/auth_request.conf", "auth-sidecar.nginx.conf"),),
    "envoy": (("envoy/ext_authz.yaml", "envoy.yaml"),),
    "traefik": (("traefik/traefik.yaml", "traefik.yaml"), ("traefik/dynamic.yaml", "dynamic.yaml")),
    "caddy": (("caddy/Caddyfile", "Caddyfile"),),
}
PROXIES = tuple(_FILES)
_PUBLIC_PORT = 8080
LISTENS_ON = f"port {_PUBLIC_PORT}"
"""Where the proxies of these files listen."""


@dataclass(frozen=True, slots=True)
class ProxyFile:
    """One file for a proxy."""

    name: str
    text: str


def file_names(proxy: str) -> tuple[str, ...]:
    """The names of the files that :func:`proxy_files` returns."""
    return tuple(name for _, name in _FILES[proxy])


def proxy_files(proxy: str, sidecar_address: str, upstream_url: str) -> list[ProxyFile]:
    """The files for ``proxy``. Raises Misconfigured for an address that the files cannot have."""
    upstream = _upstream_address(upstream_url)
    if sidecar_address.startswith("unix:"):
        raise _problem(f"server.listen is {sidecar_address}: the proxy's file needs host:port; write it by hand")
    return [
        ProxyFile(name, _with_addresses(_shipped_text(path), sidecar_address, upstream)) for path, name in _FILES[proxy]
    ]


def _upstream_address(url: str) -> str:
    """``host:port`` of an ``http`` URL without a path."""
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError as error:
        raise _problem(f"--upstream {url}: {error}") from error
    if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
        raise _problem(
            f"--upstream {url}: with --proxy, the proxy connects to the server, and its file needs http://host:port "
            "without a path; for https, edit the proxy's file"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}"


def _with_addresses(text: str, sidecar_address: str, upstream: str) -> str:
    for shipped, own in ((_SIDECAR, sidecar_address), (_UPSTREAM, upstream)):
        for form in (_plain, _as_socket_address):
            text = text.replace(form(shipped), form(own))
    return text


def _plain(address: str) -> str:
    return address


def _as_socket_address(address: str) -> str:
    """The address as Envoy writes it."""
    host, _, port = address.rpartition(":")
    quoted = host.strip("[]")
    shown = f'"{quoted}"' if ":" in quoted else quoted
    return f"address: {shown}, port_value: {port}"


def _shipped_text(path: str) -> str:
    """A file of ``deploy/``: installed with the package, or in the source tree beside it."""
    installed = Path(sysconfig.get_path("data"), "share", "auth-sidecar")
    source = Path(sidecar.__file__).resolve().parents[1] / "deploy"
    for folder in (source, installed):
        if (folder / path).is_file():
            return (folder / path).read_text(encoding="utf-8")
    raise _problem(f"{installed / path} is missing: install the wheel, or copy deploy/{path} of the source")


def _problem(message: str) -> Misconfigured:
    return Misconfigured([Problem("", message)])
