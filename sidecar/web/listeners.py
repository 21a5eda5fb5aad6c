"""Sockets: where the two listeners are bound."""

from aiohttp import web

from sidecar.errors import Misconfigured, Problem

_BACKLOG = 1024


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
