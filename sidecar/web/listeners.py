"""Sockets: where the two listeners are bound, and how many connections there may be files for."""

import logging
import resource

from aiohttp import web

from sidecar.config.settings import Limits
from sidecar.errors import Misconfigured, Problem

_log = logging.getLogger("sidecar")
_BACKLOG = 1024
# Open files for everything but callers and what is forwarded for them: operations, store, keys, logs, libraries.
_OTHER_FILES = 64


def affordable(limits: Limits, *, forwards: bool) -> Limits:
    """``limits``, with fewer connections where this process may not open files enough for so many.

    The soft limit on open files is raised to the hard one first. Without files left nothing could be reached any more,
    neither the service behind nor, by a probe, the operations listener. ``forwards``: requests need a second socket.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard):
        return limits
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    spare = hard - _OTHER_FILES
    most = max(1, max(spare - limits.max_in_flight, spare // 2) if forwards else spare)
    if most >= limits.max_connections:
        return limits
    _log.warning("fewer connections than maxConnections: too few open files allowed", extra={"connections": most})
    return limits.model_copy(update={"max_connections": most})


async def bind(runner: web.BaseRunner, address: str, setting: str) -> None:
    """Listen with ``runner`` on ``address`` (``host:port``, ``[v6]:port`` or ``unix:/path``).

    Raises Misconfigured naming ``setting`` when the address cannot be had.
    """
    site: web.BaseSite
    if address.startswith("unix:"):
        site = web.UnixSite(runner, address.removeprefix("unix:"), backlog=_BACKLOG)
    else:
        host, _, port = address.rpartition(":")
        site = web.TCPSite(runner, host.strip("[]"), int(port), backlog=_BACKLOG)
    try:
        await site.start()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Misconfigured([Problem(setting, f"cannot listen on {address}: {reason}")]) from error
