"""Imports go downwards only, foreign libraries stay in their rooms, and every module stands alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sidecar"
BASICS = (
    "errors",
    "budget",
    "client_authentication",
    "clock",
    "logs",
    "metrics",
    "counters",
    "concurrency",
    "lru",
    "tls",
    "hosts",
    "files",
    "old_names",
)

# Whom each part may import besides itself and the basics. A name stands for the module and all below it.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "budget": ("errors",),
    "clock": (),
    "old_names": (),
    "concurrency": (),
    "lru": (),
    "counters": (),
    "tls": (),
    "hosts": (),
    "files": (),
    "environment": (),
    "client_authentication": (),
    "core_dumps": (),
    "metrics": ("counters",),
    "logs": ("errors",),
    "identity": ("errors", "old_names"),
    "secrets": ("errors",),
    "egress": ("secrets.value",),
    "outbound": (*BASICS, "egress"),
    "config": (*BASICS, "egress", "secrets"),
    "vaults": (*BASICS, "secrets", "egress", "outbound", "config.settings"),
    "keys": (*BASICS, "config.settings", "config.providers", "config.reading.urls", "secrets", "outbound"),
    "store": (*BASICS, "identity", "config.settings", "config.reading.store_url"),
    "tokens": (
        *BASICS,
        "keys",
        "store",
        "identity",
        "secrets.value",
        "config.settings",
        "config.providers",
        "config.reading.units",
        "config.reading.subject_pattern",
    ),
    "sessions": (*BASICS, "identity", "secrets.value", "store"),
    "authn": (
        *BASICS,
        "sessions",
        "secrets",
        "tokens",
        "store",
        "keys",
        "identity",
        "outbound",
        "config.settings",
        "config.providers",
        # the options of its members
        "config.reading.decode",
        "config.authenticators",
        "config.reading.references",
        "config.reading.tree",
        "config.reading.units",
    ),
    "access": (
        *BASICS,
        "authn.base",
        "authn.chain",
        "authn.guest",
        "identity",
        "config.settings",
        "config.products.presets",
    ),
    "web": (*BASICS, "access.decide", "access.rules", "identity", "config.settings", "egress"),
    # authn.base for the value that an allowing verdict carries
    "dataplane": (*BASICS, "web", "access", "authn.base", "identity", "config.settings"),
    # authn.base as above
    "api": (
        *BASICS,
        "web",
        "access",
        "authn.base",
        "tokens",
        "sessions",
        "store",
        "keys",
        "identity",
        "config.settings",
    ),
    "admin": (*BASICS, "web", "config.settings"),
    # authn.base as above
    "login": (
        *BASICS,
        "web",
        "api.body",
        "access.decide",
        "access.paths",
        "access.rules",
        "authn.base",
        "authn.support.basic_credential",
        "sessions",
        "tokens.jwt",
        "store",
        "keys",
        "identity",
        "outbound",
        "secrets.value",
        "config.settings",
        "config.providers",
    ),
    "pages": (*BASICS, "web", "api", "access.decide", "login", "sessions", "tokens", "store", "identity"),
    # normal names and values of headers
    "kafka": (*BASICS, "authn.base", "dataplane.identity_headers", "identity", "store.timestamps", "config.settings"),
    "signals": (
        *BASICS,
        "web",
        "api.body",
        "access.decide",
        "tokens.jwt",
        "tokens.revocation",
        "store",
        "keys",
        "secrets.value",
    ),
    "demo": (*BASICS,),
}
# Inside a part: what a folder may import of its own part. Modules beside the folders may import all of it.
INSIDE: dict[str, tuple[str, ...]] = {
    "config.reading": (),
    "config.products": ("config.reading", "config.settings"),
    "config.output": ("config",),
    "store.redis": ("store.base", "store.merge", "store.record", "store.revocation_entry", "store.timestamps"),
    "store.sqlite": ("store.base", "store.merge", "store.record", "store.revocation_entry", "store.timestamps"),
    "store.replica": ("store.base", "store.merge", "store.record", "store.revocation_entry", "store.timestamps"),
    "tokens.jwt": (),
    "tokens.issued": ("tokens.jwt", "tokens.datahub", "tokens.submitted"),
    "tokens.revocation": ("tokens.jwt", "tokens.issued", "tokens.submitted"),
    "tokens.exchange": ("tokens.jwt", "tokens.issued"),
    "tokens.upstream": ("tokens.jwt", "tokens.issued", "tokens.datahub"),
    "authn.support": ("authn.base",),
    "authn.authenticators": ("authn.base", "authn.support"),
    "dataplane.proxy": ("dataplane.identity_headers", "dataplane.login"),
}
KNOW_EVERYONE = ("app", "cli", "__main__")

# Where a foreign library may be imported. ``aiohttp.web`` and ``aiohttp`` are distinguished by the imported names.
ROOMS: dict[str, tuple[str, ...]] = {
    "aiohttp server": ("web", "dataplane", "api", "admin", "login", "pages", "signals", "app", "demo"),
    "aiohttp client": ("outbound", "dataplane.proxy", "demo", "vaults.azure"),
    "azure": ("vaults.azure",),
    "joserfc": ("keys", "tokens", "demo"),
    "authlib": ("authn.authenticators.introspection", "client_authentication"),
    "sqlite3": ("store.sqlite.database", "store.sqlite.store"),
    "redis": ("store.redis.client", "store.redis.failures"),
    "jinja2": ("pages.rendering",),
    "ldap3": ("authn.authenticators.ldap",),
    "confluent_kafka": ("kafka",),
    "bcrypt": ("authn.support.password_file",),
    "argon2": ("authn.support.password_file",),
    "opentelemetry": ("web.spans",),
    "shtab": ("cli.completion",),
    "pydantic": ("config", "secrets.value", "authn", "cli.secrets"),
    "yaml": ("config", "cli", "demo", "keys.key_folder", "api.openapi"),
}
CLIENT_NAMES = ("Client", "TCPConnector", "UnixConnector", "TraceConfig", "DummyCookieJar", "CookieJar", "request")


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement's target: ``name`` is the dotted module, with the imported name for ``from`` imports."""

    module: str
    name: str
    line: int
    only_for_types: bool


def _is_type_checking(node: ast.If) -> bool:
    return "TYPE_CHECKING" in ast.dump(node.test)


def _imports(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and _is_type_checking(node)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, alias.name, node.lineno, id(node) in for_types)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            assert node.module
            for alias in node.names:
                yield Import(node.module, f"{node.module}.{alias.name}", node.lineno, id(node) in for_types)


def _module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(part + ".") for part in allowed)


SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = [_module_name(path) for path in SOURCES]


def _library(item: Import) -> str:
    top = item.module.partition(".")[0]
    if top != "aiohttp":
        return top
    imported = item.name.removeprefix("aiohttp.")
    if imported.startswith("web"):
        return "aiohttp server"
    return "aiohttp client" if imported == "aiohttp" or imported.startswith(CLIENT_NAMES) else "aiohttp"


@pytest.mark.parametrize("path", SOURCES, ids=MODULES)
def test_imports_go_downwards_only(path: Path) -> None:
    """A part imports the parts in its row of the table, and no others."""
    module = _module_name(path)
    part = module.partition(".")[0]
    if part in ("", *KNOW_EVERYONE):
        return
    assert part in MAY_IMPORT, f"{module} stands in no row of the table"
    folder = ".".join(module.split(".")[:2])
    allowed = (*((folder, *INSIDE[folder]) if folder in INSIDE else (part,)), *MAY_IMPORT[part])
    wrong = [
        f"{path.name}:{item.line} {item.name}"
        for item in _imports(path)
        if item.name.startswith("sidecar.")
        # every part may import the version
        and item.name != "sidecar.__version__"
        and not _within(item.name.removeprefix("sidecar."), allowed)
    ]
    assert not wrong


@pytest.mark.parametrize("path", SOURCES, ids=MODULES)
def test_foreign_libraries_stay_in_their_rooms(path: Path) -> None:
    """One part speaks to each library; the rest of the program does not depend on it."""
    module = _module_name(path)
    wrong = [
        f"{path.name}:{item.line} {item.name}"
        for item in _imports(path)
        if (library := _library(item)) in ROOMS and not item.only_for_types and not _within(module, ROOMS[library])
    ]
    assert not wrong


# Runs in an interpreter of its own: the libraries once, then a fork for each module, which finds none of ours loaded.
# The time is bounded for each module, since the whole takes as long as the machine is busy.
IMPORT_EACH_ALONE = """
import importlib, os, signal, socket, sys, traceback
import aiohttp.web, cryptography.x509, joserfc.jwt, orjson, prometheus_client, pydantic, redis.asyncio, sqlite3, uvloop
import yaml

def refuse(*_):
    raise AssertionError("a connection while importing")

socket.socket.connect = socket.socket.connect_ex = refuse
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        try:
            importlib.import_module(name)
        except BaseException:
            print(name, traceback.format_exc(limit=-1), flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        print(name, "ended by", signal.Signals(os.WTERMSIG(status)).name, flush=True)
"""


def test_every_module_can_be_imported_alone() -> None:
    """No module counts on another having been imported before it, and importing opens no connection."""
    names = [f"sidecar.{module}".rstrip(".") for module in MODULES if module != "__main__"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_EACH_ALONE, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
