"""Applies the settings of ``outbound``: the proxy of each URL, and the CA bundle of each connection."""

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from sidecar.config.settings import Settings
from sidecar.egress import Egress, read_egress
from sidecar.errors import Problem


def egress_of(settings: Settings, environ: Mapping[str, str]) -> tuple[Egress, list[Problem]]:
    """The proxy of each outgoing request. Raises findings about environment variables with the variable's name."""
    egress, faults = read_egress(settings.outbound.proxy.reveal().strip(), environ, _always_direct(settings))
    problems = []
    for name, message in faults:
        unset = "" if name == "outbound.proxy" else "; correct or unset it, or set outbound.proxy: none"
        problems.append(Problem(name, f"{message}{unset}"))
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
