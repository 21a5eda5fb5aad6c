"""Sets the demonstration up: provider and service in this process, the sidecar as the real command beside it."""

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
from sidecar.demo.identity_provider import IdentityProvider
from sidecar.demo.issuer import AUDIENCE, DemoIssuer
from sidecar.demo.upstream import application as upstream_application
from sidecar.errors import SidecarError

HOST = "127.0.0.1"
PORTS = 4
"""How many ports a demonstration takes."""
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0
# A variable of the caller's shell must not change what the demonstration shows.
_INHERITED_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True)
class Environment:
    """A running demonstration. ``ended`` ends when the sidecar does, which it should not."""

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
    """Start everything: on ``port`` the sidecar, on the next ones its operations, the issuers and the service.

    Raises SidecarError when a port is taken or a part does not start. Leaves nothing behind.
    """
    _require_free(*range(port, port + PORTS))
    url, admin_url, provider_url, upstream_url = (f"http://{HOST}:{port + number}" for number in range(PORTS))
    folder = Path(tempfile.mkdtemp(prefix="auth-sidecar-demo-"))  # mode 0700: tokens and a private key live here
    try:
        issuers = _issuers(provider_url)
        provider = IdentityProvider(issuers, SystemClock()).application()
        async with _served(provider, port + 2), _served(upstream_application(), port + 3):
            config = folder / "sidecar.yaml"
            own_keys = await _run("keys", "generate", "--dir", str(folder / "keys"), "--kid", "demo")
            config.write_text(_configuration(folder, port, upstream_url, provider_url) + _pasted(own_keys))
            bot_token = await _run(
                "token", "create", "--config", str(config), "--kind", "bot", "--name", "ingestion-bot"
            )
            _write_headers(folder, issuers, bot_token.strip())
            log = folder / "sidecar.log"
            async with _sidecar(config, log, port + 1) as ended:
                yield Environment(folder, url, admin_url, provider_url, log, ended)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_free(*ports: int) -> None:
    for port in ports:
        try:
            socket.create_server((HOST, port)).close()
        except OSError as error:
            raise SidecarError(
                f"port {port} cannot be used ({error.strerror}): choose another with --port N"
            ) from error


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
    - name: globex
      issuer: {provider_url}/globex
      audiences: [{AUDIENCE}]
      jwtPrincipalClaims: [preferred_username]
      groupsClaim: realm_access.roles
      principalNamespace: provider        # another company's alice is not ours
authorizerConfiguration:
  principalDomain: example.com
  adminPrincipals: [acme/root]          # globex/root would be somebody else
rules:
  - {{path: /health, access: public}}
  - {{path: /admin/**, require: {{groups: [admins]}}}}
"""


def _pasted(printed: str) -> str:
    """The configuration block at the end of what ``keys generate`` printed, its issuer filled in."""
    start = printed.find("jwtTokenConfiguration:")
    if start < 0:
        raise SidecarError("keys generate printed no jwtTokenConfiguration block")
    return printed[start:]


def _write_headers(folder: Path, issuers: dict[str, DemoIssuer], bot_token: str) -> None:
    """One file per credential, for ``curl -H @file``: keeps the lines short and tokens out of the process list."""
    now = SystemClock.now()
    acme, globex = issuers["acme"], issuers["globex"]
    stranger = DemoIssuer("https://idp.stranger.example", "RS256", {"alice": {"email": "alice@example.com"}})
    tokens = {
        "alice": acme.mint("alice", now),
        "carol": acme.mint("carol", now),
        "root": acme.mint("root", now),
        "boris": globex.mint("boris", now),
        "bot": bot_token,
        "expired": acme.mint("alice", now - 7200, 3600),
        "foreign": stranger.mint("alice", now),
        "forged": globex.mint("alice", now, issuer=acme.url),
    }
    for name, token in tokens.items():
        (folder / name).write_text(f"Authorization: Bearer {token}\n")


@asynccontextmanager
async def _served(application: web.Application, port: int) -> AsyncIterator[None]:
    """Serve ``application`` on a loopback port."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _sidecar(config: Path, log: Path, admin_port: int) -> AsyncIterator["asyncio.Task[int]"]:
    """``sidecar serve`` as a process of its own; ready when entered, gone when left."""
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
        await _until_ready(admin_port, ended, log)
        yield ended
    finally:
        if not ended.done():
            process.terminate()
        try:
            await asyncio.wait_for(asyncio.shield(ended), _STOP_TIMEOUT)
        except TimeoutError:
            process.kill()
            await ended


async def _until_ready(admin_port: int, ended: "asyncio.Task[int]", log: Path) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_TIMEOUT
    while loop.time() < deadline and not ended.done():
        if await asyncio.to_thread(_is_ready, admin_port):
            return
        await asyncio.wait([ended], timeout=0.1)
    raise SidecarError(f"the sidecar did not get ready:\n{_tail(log)}")


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
    """Standard output of a ``sidecar`` command. Raises SidecarError with its own words when it fails."""
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
    # -P: a folder named sidecar in the current directory is not this program
    return [sys.executable, "-P", "-m", "sidecar", *arguments]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    return kept | {"PYTHONPATH": str(Path(sidecar.__file__).parent.parent)}


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
