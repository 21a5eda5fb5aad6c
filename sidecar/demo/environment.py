"""Starts the demo: identity provider and upstream in this process, the sidecar as a child process."""

import asyncio
import http.client
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

import sidecar
from sidecar.clock import SystemClock
from sidecar.demo.identity_provider import CLIENT_ID, IdentityProvider
from sidecar.demo.issuer import AUDIENCE, DemoIssuer
from sidecar.demo.upstream import application as upstream_application
from sidecar.errors import SidecarError

HOST = "127.0.0.1"
PORTS = 4
"""Number of ports that the demo uses."""
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0
# Other variables of the calling shell could change the results.
_INHERITED_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True)
class Environment:
    """A running demo. ``ended`` completes if the sidecar exits unexpectedly."""

    folder: Path
    public_url: str
    admin_url: str
    provider_url: str
    log: Path
    ended: "asyncio.Task[int]"

    def log_tail(self) -> str:
        """The end of the sidecar's log."""
        return _tail(self.log)


@asynccontextmanager
async def start_environment(port: int) -> AsyncIterator[Environment]:
    """Start everything: the sidecar on ``port``, then its operations listener, the issuers and the upstream.

    Raises SidecarError if a port is in use or a part does not start. Removes all files on exit.
    """
    _require_free(*range(port, port + PORTS))
    url, admin_url, provider_url, upstream_url = (f"http://{HOST}:{port + number}" for number in range(PORTS))
    folder = Path(tempfile.mkdtemp(prefix="auth-sidecar-demo-"))  # mode 0700: it has tokens and a private key
    try:
        issuers = _issuers(provider_url)
        provider = IdentityProvider(issuers, SystemClock(), f"{url}/oauth2").application()
        async with _serve(provider, port + 2), _serve(upstream_application(), port + 3):
            config = folder / "sidecar.yaml"
            own_keys = await _run("keys", "generate", "--dir", str(folder / "keys"), "--kid", "demo")
            config.write_text(_configuration(folder, port, upstream_url, provider_url) + _config_block(own_keys))
            bot_token = await _run(
                "token", "create", "--config", str(config), "--kind", "bot", "--name", "ingestion-bot"
            )
            _write_headers(folder, issuers, bot_token.strip())
            log = folder / "sidecar.log"
            async with _run_sidecar(config, log, port + 1) as ended:
                yield Environment(folder, url, admin_url, provider_url, log, ended)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_free(*ports: int) -> None:
    for port in ports:
        try:
            socket.create_server((HOST, port)).close()
        except OSError as error:
            raise SidecarError(f"port {port} cannot be used ({error.strerror}): choose another with --port") from error


def _issuers(url: str) -> dict[str, DemoIssuer]:
    alice = {"email": "alice@example.com", "email_verified": True, "groups": ["engineering"]}
    carol = {"email": "carol@example.com", "email_verified": True, "groups": ["engineering"]}
    root = {"email": "root@example.com", "email_verified": True, "groups": ["engineering", "admins"]}
    boris = {"realm_access": {"roles": ["analyst"]}}
    return {
        "acme": DemoIssuer(f"{url}/acme", "RS256", {"alice": alice, "carol": carol, "root": root}),
        "globex": DemoIssuer(f"{url}/globex", "ES256", {"boris": boris, "alice": {}}),
    }


def _configuration(folder: Path, port: int, upstream_url: str, provider_url: str) -> str:
    return f"""\
server:
  listen: {HOST}:{port}
  adminListen: {HOST}:{port + 1}
  publicUrl: http://{HOST}:{port}
  trustedProxies: [{HOST}/32]
  drainDelay: 0s
  drainTimeout: 2s
upstream:
  url: {upstream_url}
store:
  url: sqlite:///{folder}/sidecar.db
authenticationConfiguration:
  providers:
    - name: acme
      issuer: {provider_url}/acme
      audiences: [{AUDIENCE}]
      groupsClaim: groups
      login: {{clientId: {CLIENT_ID}, displayName: Acme}}
    - name: globex
      issuer: {provider_url}/globex
      audiences: [{AUDIENCE}]
      jwtPrincipalClaims: [preferred_username]
      groupsClaim: realm_access.roles
      principalNamespace: provider        # globex/alice is not acme's alice
      login: {{clientId: {CLIENT_ID}, displayName: Globex}}
authorizerConfiguration:
  principalDomain: example.com
  adminPrincipals: [acme/root]          # globex/root is a different user
rules:
  - {{path: /health, access: public}}
  - {{path: /admin/**, require: {{groups: [admins]}}}}
"""


def _config_block(printed: str) -> str:
    """The configuration block at the end of the output of ``keys generate``."""
    start = printed.find("jwtTokenConfiguration:")
    if start < 0:
        raise SidecarError("keys generate printed no jwtTokenConfiguration block")
    return printed[start:]


def _write_headers(folder: Path, issuers: dict[str, DemoIssuer], bot_token: str) -> None:
    """Write one file per credential, for ``curl -H @file``: keeps tokens out of the process list."""
    now = SystemClock.now()
    acme, globex = issuers["acme"], issuers["globex"]
    unknown = DemoIssuer("https://idp.stranger.example", "RS256", {"alice": {"email": "alice@example.com"}})
    tokens = {
        "alice": acme.mint("alice", now),
        "carol": acme.mint("carol", now),
        "root": acme.mint("root", now),
        "boris": globex.mint("boris", now),
        "bot": bot_token,
        "expired": acme.mint("alice", now - 7200, 3600),
        "foreign": unknown.mint("alice", now),
        "forged": globex.mint("alice", now, issuer=acme.url),
    }
    for name, token in tokens.items():
        (folder / name).write_text(f"Authorization: Bearer {token}\n")


@asynccontextmanager
async def _serve(application: web.Application, port: int) -> AsyncIterator[None]:
    """Serve ``application`` on a loopback port."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _run_sidecar(config: Path, log: Path, admin_port: int) -> AsyncIterator["asyncio.Task[int]"]:
    """Run ``sidecar serve`` as a child process: ready on entry, stopped on exit."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *_command("serve", "--config", str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(),
        )
    ended = asyncio.create_task(process.wait())
    try:
        await _wait_ready(admin_port, ended, log)
        yield ended
    finally:
        if not ended.done():
            process.terminate()
        try:
            await asyncio.wait_for(asyncio.shield(ended), _STOP_TIMEOUT)
        except TimeoutError:
            process.kill()
            await ended


async def _wait_ready(admin_port: int, ended: "asyncio.Task[int]", log: Path) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_TIMEOUT
    while loop.time() < deadline and not ended.done():
        if await asyncio.to_thread(_is_ready, admin_port):
            return
        await asyncio.wait([ended], timeout=0.1)
    raise SidecarError(f"the sidecar did not become ready:\n{_tail(log)}")


def _is_ready(admin_port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, admin_port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


async def _run(*arguments: str) -> str:
    """Standard output of a ``sidecar`` command. Raises SidecarError with its error output if it fails."""
    process = await asyncio.create_subprocess_exec(
        *_command(*arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise SidecarError(f"sidecar {' '.join(arguments[:2])} failed: {errors.decode(errors='replace').strip()}")
    return output.decode()


def _command(*arguments: str) -> list[str]:
    # -P: do not import a folder named sidecar in the current directory
    return [sys.executable, "-P", "-m", "sidecar", *arguments]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    return kept | {"PYTHONPATH": str(Path(sidecar.__file__).parent.parent)}


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
