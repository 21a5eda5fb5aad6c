"""Applies the settings of ``outbound``: the proxy of each URL, and the CA bundle of each connection."""

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from sidecar.config.settings import Settings
from sidecar.egress import VARIABLE, Egress, read_egress, unread_variables
from sidecar.errors import Problem

_UNREAD = (
    f"is not read, and {VARIABLE} is not set: all calls are direct; set {VARIABLE} or outbound.proxy to use a proxy, "
    "outbound.proxy: none to use none"
)


def egress_of(settings: Settings, environ: Mapping[str, str]) -> tuple[Egress, list[Problem]]:
    """Which calls go through which proxy. What is wrong with a variable is said of the variable."""
    written = settings.outbound.proxy.reveal().strip()
    egress, faults = read_egress(written, environ, _always_direct(settings))
    problems = []
    for name, message in faults:
        unset = "" if name == "outbound.proxy" else "; correct or unset it, or set outbound.proxy: none"
        problems.append(Problem(name, f"{message}{unset}"))
    if written == "environment" and egress.proxy is None and not faults:
        problems += [Problem(name, _UNREAD, fatal=False) for name in unread_variables(environ)]
    return egress, problems


def _always_direct(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.upstream is not None:
        yield _host(settings.upstream.url), "the upstream is always direct"
    bots = settings.authentication_configuration.bot_token_check
    if bots is not None:
        yield _host(bots.url), "the upstream is always direct"


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def with_ca_file(settings: Settings) -> Settings:
    """``settings``; connections without a CA bundle of their own get that of ``outbound``."""
    file = settings.outbound.ca_file
    if not file:
        return settings
    changed: dict[str, object] = {}
    if not settings.keys.ca_file:
        changed["keys"] = settings.keys.model_copy(update={"ca_file": file})
    if settings.upstream is not None and not settings.upstream.ca_file:
        changed["upstream"] = settings.upstream.model_copy(update={"ca_file": file})
    if not settings.store.tls.ca_file:
        tls = settings.store.tls.model_copy(update={"ca_file": file})
        changed["store"] = settings.store.model_copy(update={"tls": tls})
    return settings.model_copy(update=changed)
