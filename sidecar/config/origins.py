"""Origins of pages: one list in ``server.origins`` is the default of the others."""

from collections.abc import Iterator

from sidecar.config.reading.finding import Finding
from sidecar.config.reading.units import ANY_ORIGIN, parse_web_origin
from sidecar.config.reading.urls import split_url
from sidecar.config.settings import ResourceSettings, Settings


def _own_origin(settings: Settings) -> tuple[str, ...]:
    """The origin of ``server.publicUrl``, which is in every list."""
    parts = split_url(settings.server.public_url)
    return () if parts is None else (parse_web_origin(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"),)


def websocket_origins(settings: Settings) -> tuple[str, ...] | None:
    """Origins whose pages may open WebSockets; None: all."""
    written = settings.server.websocket_origins
    listed = settings.server.origins if written is None else written
    return None if listed is None else tuple(dict.fromkeys((*listed, *_own_origin(settings))))


def resource_origins(settings: Settings, resource: ResourceSettings) -> frozenset[str] | None:
    """Origins whose pages may call ``resource``; None: all."""
    listed = settings.server.origins if resource.origins is None else resource.origins
    return None if listed is None else frozenset((*listed, *_own_origin(settings)))


def cors_origins(settings: Settings) -> tuple[str, ...]:
    """Origins whose pages may read refusals; empty: none."""
    written = settings.cors.origins
    listed = settings.server.origins if written is None else written
    return () if not listed else tuple(dict.fromkeys((*listed, *_own_origin(settings))))


def login_origins(settings: Settings) -> frozenset[str]:
    """Whose pages may act with the session cookie."""
    written = settings.login.origins
    listed = settings.server.origins if written is None else written
    return frozenset((*(listed or ()), *_own_origin(settings)))


def return_origins(settings: Settings) -> frozenset[str]:
    """Where a login may return to."""
    written = settings.login.return_to
    listed = settings.server.origins if written is None else written
    return frozenset((*(listed or ()), *_own_origin(settings)))


def check_origins(settings: Settings) -> Iterator[Finding]:
    """No wildcard origin with credentials, and preflights that can succeed."""
    cors = settings.cors
    if cors.origins is not None and ANY_ORIGIN in cors.origins and cors.credentials:
        message = (
            "holds * with credentials: true, so every page could read with its visitors' cookies; list the origins"
        )
        yield Finding(("cors", "origins"), message)
    if cors.credentials and not cors_origins(settings):
        yield Finding(("cors", "credentials"), "has no effect without cors.origins or server.origins", fatal=False)
    if cors.origins and cors.preflight != "public":
        message = (
            "is authenticated, and browsers send preflights without credentials: pages of cors.origins get no further "
            "with Authorization; write preflight: public if the upstream answers preflights"
        )
        yield Finding(("cors", "preflight"), message, fatal=False)
