"""TLS on the public listener: certificate files that are read again when they change."""

import asyncio
import logging
import ssl
from contextlib import suppress
from pathlib import Path

from sidecar.config.settings import ServerTls
from sidecar.errors import Misconfigured, Problem

_log = logging.getLogger("sidecar.tls")
_POLL_INTERVAL = 5.0
_Signature = tuple[tuple[int, int, int] | None, ...]


class CertificateFiles:
    """The context that handshakes use. New handshakes use what the files held when they last made sense."""

    def __init__(self, settings: ServerTls) -> None:
        """Raises Misconfigured for files that cannot be used."""
        self._settings = settings
        self._seen = self._signature()
        self.context = self._made()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Watch the files until :meth:`aclose`."""
        self._task = asyncio.create_task(self._watch(), name="certificate files of the public listener")

    async def aclose(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def refresh(self) -> bool:
        """Take up files that have changed; whether they were. What cannot be used is logged, and nothing changes."""
        signature = self._signature()
        if signature == self._seen:
            return False
        self._seen = signature
        try:
            self._made()  # half a pair must not get into the context in use
            self._load(self.context)
        except Misconfigured as error:
            _log.error(
                "changed certificate files unusable; keeping the current certificate",
                extra={"event": "certificate_reload_failed", "problems": [str(p) for p in error.problems]},
            )
            return False
        _log.info(
            "certificate files reloaded",
            extra={"event": "certificate_reloaded", "file": self._settings.cert_file},
        )
        return True

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_POLL_INTERVAL)
            await asyncio.to_thread(self.refresh)

    def _made(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        settings = self._settings
        try:
            # an encrypted key would have the process ask for a password
            context.load_cert_chain(settings.cert_file, settings.key_file, password=_no_password)
        except (OSError, ValueError) as error:
            message = f"{settings.cert_file} with the key {settings.key_file} cannot be used: {_why(error)}"
            raise Misconfigured([Problem("server.tls.certFile", message)]) from error
        if settings.client_ca_file:
            try:
                context.load_verify_locations(settings.client_ca_file)
            except (OSError, ValueError) as error:
                message = f"{settings.client_ca_file} cannot be used: {_why(error)}"
                raise Misconfigured([Problem("server.tls.clientCaFile", message)]) from error
            context.verify_mode = ssl.CERT_OPTIONAL

    def _signature(self) -> _Signature:
        settings = self._settings
        return tuple(map(_facts, (settings.cert_file, settings.key_file, settings.client_ca_file)))


def _no_password() -> str:
    raise ValueError("the key is encrypted, and no password can be given")


def _why(error: Exception) -> str:
    """The system's words, or what the library found; never a part of a file."""
    if isinstance(error, ssl.SSLError):
        return {"KEY_VALUES_MISMATCH": "the key belongs to another certificate"}.get(error.reason or "", "no PEM of it")
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)


def _facts(name: str) -> tuple[int, int, int] | None:
    try:
        facts = Path(name).stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns, facts.st_size
