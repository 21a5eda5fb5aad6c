"""nginx, Envoy, Caddy and Traefik running with the files of ``deploy/``; only addresses in them are replaced.

``mints``: the lines that a file keeps for a sidecar which says what credential to present are no comments.
``login``: those for a browser login are none.
``changes``: further replacements, for what the guides tell to change.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.support.http_client import answers
from tests.support.ports import answers_on, free_port
from tests.support.process import running
from tests.support.tools import ROOT

DEPLOY = ROOT / "deploy"
NO_CHANGES: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Addresses:
    """``host:port`` of the sidecar and of the upstream."""

    sidecar: str
    upstream: str


class Start(Protocol):
    """Run ``binary`` with its manifests in ``folder``; the block gets its base URL."""

    def __call__(
        self, binary: Path, folder: Path, addresses: Addresses, /, *, login: bool = ...
    ) -> AbstractContextManager[str]: ...


class StartProxy(Protocol):
    """As :class:`Start`, with a shipped file that has lines for a minted credential, and ``changes`` to it."""

    def __call__(
        self,
        binary: Path,
        folder: Path,
        addresses: Addresses,
        /,
        *,
        mints: bool = ...,
        login: bool = ...,
        resources: bool = ...,
        changes: Mapping[str, str] = ...,
    ) -> AbstractContextManager[str]: ...


_KEPT = re.compile(r"(?<=what to present:\n)(?:[ \t]*# .*\n)+")
_LOGIN = re.compile(r"(# With a browser login.*:\n)((?:[ \t]*#(?: .*)?\n)+)")
_REPLACED = "instead of the next line:\n"
_RESOURCES = re.compile(r"(?<=without a check:\n)(?:[ \t]*# .*\n)+")
_COMMENT = re.compile(r"^[ \t]*#.*\n", re.MULTILINE)


def with_login(text: str) -> str:
    """``text`` of a file of ``deploy/`` as the guide tells for a browser login: its lines for that are no comments."""

    def written(block: re.Match[str]) -> str:
        return block[1] + re.sub(r"^([ \t]*)# ?", r"\1", block[2], flags=re.MULTILINE)

    text, count = _LOGIN.subn(written, text)
    assert count, "no lines for a browser login"
    if _REPLACED in text:
        head, _, rest = text.partition(_REPLACED)
        block, _, rest = rest.partition("\n\n")
        return f"{head}{_REPLACED}{block}\n{rest.partition(chr(10))[2]}"
    return text


def shipped(
    name: str, replacements: Mapping[str, str], *, mints: bool = False, login: bool = False, resources: bool = False
) -> str:
    """A file of ``deploy/`` with its addresses replaced; each must stand there exactly once, besides in comments.

    ``mints``, ``login`` and ``resources``: with the lines that it keeps in a comment for minted credentials, a browser
    login and the metadata of protected resources.
    """
    text = (DEPLOY / name).read_text(encoding="utf-8")
    for old in replacements:
        count = text.count(old) if old.startswith((" ", "\t")) else _COMMENT.sub("", text).count(old)
        assert count == 1, f"{old!r} stands {count} times in {name}"
    if login:
        text = with_login(text)
    if mints:
        text, count = _KEPT.subn(lambda lines: lines[0].replace("# ", ""), text)
        assert count == 1, f"{name} keeps no such lines"
    if resources:
        text, count = _RESOURCES.subn(lambda lines: lines[0].replace("# ", ""), text)
        assert count > 0, f"{name} keeps no such lines"
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


@contextmanager
def nginx(
    binary: Path,
    folder: Path,
    addresses: Addresses,
    *,
    file: str = "auth_request.conf",
    ask_by: str = "1.1",
    remember: str = "5s",
    mints: bool = False,
    login: bool = False,
    resources: bool = False,
    changes: Mapping[str, str] = NO_CHANGES,
) -> Iterator[str]:
    """nginx, asking the sidecar with the HTTP version ``ask_by``. ``remember``: for how long the caching file does."""
    port = free_port()
    replacements = {
        "127.0.0.1:4180": addresses.sidecar,
        "127.0.0.1:8585": addresses.upstream,
        "listen 8080": f"listen 127.0.0.1:{port}",
    }
    if ask_by == "1.0":
        replacements["proxy_http_version 1.1;\n        proxy_pass_request_body off;"] = (
            "proxy_http_version 1.0;\n        proxy_pass_request_body off;"
        )
    if file == "auth_request_cached.conf":
        replacements |= {"/dev/shm/nginx-auth-sidecar": f"{folder}/cache", "200 5s;": f"200 {remember};"}
    (folder / "site.conf").write_text(
        shipped(f"nginx/{file}", {**changes, **replacements}, mints=mints, login=login, resources=resources),
        encoding="utf-8",
    )
    with running_nginx(binary, folder, port) as url:
        yield url


@contextmanager
def nginx_snippets(
    binary: Path,
    folder: Path,
    addresses: Addresses,
    *,
    mints: bool = False,
    login: bool = False,
    resources: bool = False,
    changes: Mapping[str, str] = NO_CHANGES,
) -> Iterator[str]:
    """nginx with a server of its own that includes the three snippets. ``changes`` are about that of the location."""
    port = free_port()
    texts = {
        "http": shipped("nginx/auth_sidecar_http.conf", {"127.0.0.1:4180": addresses.sidecar}),
        "server": shipped("nginx/auth_sidecar_server.conf", {}, login=login, resources=resources),
        "location": shipped("nginx/auth_sidecar_location.conf", changes, mints=mints, login=login),
    }
    for name, text in texts.items():
        (folder / f"auth_sidecar_{name}.conf").write_text(text, encoding="utf-8")
    (folder / "site.conf").write_text(
        f"include {folder}/auth_sidecar_http.conf;\n"
        f"server {{\nlisten 127.0.0.1:{port};\ninclude {folder}/auth_sidecar_server.conf;\n"
        f"location / {{\ninclude {folder}/auth_sidecar_location.conf;\nproxy_pass http://{addresses.upstream};\n}}\n}}\n",
        encoding="utf-8",
    )
    with running_nginx(binary, folder, port) as url:
        yield url


@contextmanager
def running_nginx(binary: Path, folder: Path, port: int, modules: Sequence[Path] = ()) -> Iterator[str]:
    """nginx with the ``site.conf`` of a folder, which listens on ``port``."""
    loaded = "".join(f"load_module {module};\n" for module in modules)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"{loaded}pid {folder}/nginx.pid;\nerror_log stderr;\ndaemon off;\nmaster_process off;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}include {folder}/site.conf;\n}}\n",
        encoding="utf-8",
    )
    (folder / "logs").mkdir(exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    command = [binary, "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf"]
    with running(command, log=folder / "nginx.log", ready=lambda: answers(url)):
        yield url


@contextmanager
def envoy(
    binary: Path,
    folder: Path,
    addresses: Addresses,
    *,
    mints: bool = False,
    login: bool = False,
    resources: bool = False,
    changes: Mapping[str, str] = NO_CHANGES,
) -> Iterator[str]:
    """Envoy with one worker."""
    port = free_port()
    file = folder / "envoy.yaml"
    replacements = {
        "address: 0.0.0.0, port_value: 8080": f"address: 127.0.0.1, port_value: {port}",
        "port_value: 4180": f"port_value: {addresses.sidecar.rpartition(':')[2]}",
        "port_value: 8585": f"port_value: {addresses.upstream.rpartition(':')[2]}",
    }
    text = shipped("envoy/ext_authz.yaml", {**changes, **replacements}, mints=mints, login=login, resources=resources)
    file.write_text(text, encoding="utf-8")
    url = f"http://127.0.0.1:{port}"
    # Hot restarts need shared memory, which would outlive the program.
    options = ["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    with running([binary, "-c", file, *options], log=folder / "envoy.log", ready=lambda: answers_on(port)):
        yield url


@contextmanager
def caddy(
    binary: Path,
    folder: Path,
    addresses: Addresses,
    *,
    mints: bool = False,
    login: bool = False,
    resources: bool = False,
    changes: Mapping[str, str] = NO_CHANGES,
) -> Iterator[str]:
    """Caddy, its own state kept in ``folder``."""
    port = free_port()
    file = folder / "Caddyfile"
    replacements = {
        "127.0.0.1:4180": addresses.sidecar,
        "127.0.0.1:8585": addresses.upstream,
        "http://:8080": f"http://127.0.0.1:{port}",
    }
    text = shipped("caddy/Caddyfile", {**changes, **replacements}, mints=mints, login=login, resources=resources)
    file.write_text(text, encoding="utf-8")
    url = f"http://127.0.0.1:{port}"
    environment = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = [binary, "run", "--config", file, "--adapter", "caddyfile"]
    with running(command, log=folder / "caddy.log", ready=lambda: answers(url), environment=environment):
        yield url


@contextmanager
def traefik(
    binary: Path,
    folder: Path,
    addresses: Addresses,
    *,
    believes: bool = False,
    mints: bool = False,
    login: bool = False,
    resources: bool = False,
    changes: Mapping[str, str] = NO_CHANGES,
) -> Iterator[str]:
    """Traefik with both of its files. ``believes``: it trusts X-Forwarded-* of every peer, as behind a proxy.

    ``changes`` are about the file of routers.
    """
    port = free_port()
    listen = f"address: 127.0.0.1:{port}"
    if believes:
        listen += "\n    forwardedHeaders: {insecure: true}"
    static = {"address: :8080": listen, "filename: dynamic.yaml": f"filename: {folder}/dynamic.yaml"}
    (folder / "traefik.yaml").write_text(shipped("traefik/traefik.yaml", static), encoding="utf-8")
    dynamic = {"127.0.0.1:4180": addresses.sidecar, "127.0.0.1:8585": addresses.upstream}
    (folder / "dynamic.yaml").write_text(
        shipped("traefik/dynamic.yaml", {**changes, **dynamic}, mints=mints, login=login, resources=resources),
        encoding="utf-8",
    )
    url = f"http://127.0.0.1:{port}"
    command = [binary, f"--configFile={folder / 'traefik.yaml'}"]
    # Until its routers are read it answers 404 to everything.
    with running(command, log=folder / "traefik.log", ready=lambda: answers(url) and not answers(url, 404)):
        yield url
