"""HTTP Basic authentication (RFC 7617) against a password file.

Password hashes are slow to compute on purpose, so they are compared in threads, not on the event loop.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import model_validator

from sidecar.authn.base import Abstained, Accepted, AuthenticatorContext, Outcome, Rejected
from sidecar.authn.support.basic_credential import wrong_password_error
from sidecar.authn.support.password import PasswordAuthenticator, PasswordOptions
from sidecar.authn.support.password_file import (
    PasswordFile,
    PasswordFileError,
    User,
    parse_htpasswd,
    read_htpasswd,
    read_user_props,
)
from sidecar.config.providers import member_issuer
from sidecar.config.settings import Text
from sidecar.errors import Cause, Misconfigured, Problem, Unavailable
from sidecar.identity.claims import make_actor
from sidecar.secrets.value import Secret

_log = logging.getLogger("sidecar.authn")
_THREADS = 2
_POLL_INTERVAL = 2.0


class BasicOptions(PasswordOptions):
    """Where the users are."""

    htpasswd: Text = ""
    """Path of a file with ``user:hash`` lines, bcrypt or argon2 (``htpasswd -B``)."""
    htpasswd_secret: Secret | None = None
    """Alternative: the content of such a file, as a secret: ``secret:<id>``, ``env:NAME``, ``file:/path``."""
    user_props: Text = ""
    """Alternative: path of a JAAS ``user.props`` file with plain passwords, as DataHub uses it."""

    @model_validator(mode="after")
    def _one_file(self) -> "BasicOptions":
        if sum(map(bool, (self.htpasswd, self.htpasswd_secret, self.user_props))) != 1:
            raise ValueError("needs htpasswd, htpasswdSecret or userProps, one of them")
        return self


class Basic(PasswordAuthenticator):
    """Authenticates the users listed in its password file."""

    Options = BasicOptions
    options: BasicOptions

    def __init__(self, options: BasicOptions, surroundings: AuthenticatorContext) -> None:
        super().__init__(options, surroundings, threads=_THREADS)
        # the content of a secret changes with the configuration only
        file = options.htpasswd or options.user_props
        self._path = Path(file) if file else None
        self._source = file or "htpasswdSecret"
        self._file: PasswordFile | None = None
        self._last_signature: tuple[int, int, int] | None = None
        self._degraded_reason = ""
        self._watch_task: asyncio.Task[None] | None = None

    @classmethod
    def describe(cls, options: BasicOptions) -> str:
        """The credentials that this authenticator decides on."""
        plain = " (plain passwords)" if options.user_props else ""
        source = options.htpasswd or options.user_props or "htpasswdSecret"
        return f"Basic user and password of the users in {source}{plain}"

    @property
    def degraded_reason(self) -> str:
        """Why the current file was rejected; the users of the last valid file remain in use."""
        return self._degraded_reason

    async def check(self) -> Sequence[str]:
        """Report why the file cannot be used."""
        try:
            await asyncio.to_thread(self._load_file)
        except PasswordFileError as error:
            return [f"{self._source} {error}"]
        return []

    async def start(self) -> None:
        """Load the file and start watching it."""
        try:
            self._last_signature = self._signature()
            self._file = await asyncio.to_thread(self._load_file)
        except PasswordFileError as error:
            raise Misconfigured([Problem(f"authenticator {self.name}", f"{self._source} {error}")]) from error
        if self.options.user_props:
            _log.warning(
                "the password file has plain-text passwords",
                extra={
                    "event": "plain_text_passwords",
                    "authenticator": self.name,
                    "file": str(self._path),
                },
            )
        if self._path is not None:
            self._watch_task = asyncio.create_task(self._poll_files())

    async def stop(self) -> None:
        """Stop watching the file. A password comparison in progress runs to its end."""
        if self._watch_task is not None:
            self._watch_task.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch_task
        await super().stop()

    async def verify_password(self, user: str, password: str) -> Outcome:
        """Look up ``user`` and compare the password. An unknown user takes as long as a known one."""
        file = self._file
        if file is None:
            raise Unavailable(Cause.MEMBER_BROKEN, "not started")
        self._limiter.attempt(user)
        entry = file.users.get(user)
        matches = file.dummy_hash if entry is None else entry.matches
        is_right = await self.run_in_thread(lambda: matches(password))
        if entry is None:
            return Abstained(wrong_password_error())
        if not is_right:
            return Rejected(wrong_password_error(), self.name)
        self._limiter.success(user)
        return self._accepted(user, entry)

    def _accepted(self, user: str, entry: User) -> Accepted:
        policy = self.surroundings.policy
        claims = {"iss": member_issuer(self.name), "sub": user, "roles": list(entry.roles)}
        return Accepted(make_actor(claims, policy))

    def _load_file(self) -> PasswordFile:
        if self._path is None:
            return parse_htpasswd("" if self.options.htpasswd_secret is None else self.options.htpasswd_secret.reveal())
        if self.options.htpasswd:
            return read_htpasswd(self._path)
        return read_user_props(self._path, allow_published=self.surroundings.allow_published)

    def _signature(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    async def _poll_files(self) -> None:
        while True:
            await asyncio.sleep(_POLL_INTERVAL)
            await self.poll()

    async def poll(self) -> None:
        """Reload the file if it changed, or if the last attempt failed. On failure, keep the previous users and log an
        error.

        A failed file is retried even when unchanged: the cause (for example, permissions on a parent folder) may leave
        no trace on the file itself.
        """
        signature = await asyncio.to_thread(self._signature)
        if signature == self._last_signature and not self._degraded_reason:
            return
        self._last_signature = signature
        try:
            self._file = await asyncio.to_thread(self._load_file)
        except PasswordFileError as error:
            self._log_state(f"{self._source} {error}")
            return
        self._degraded_reason = ""
        self._cache.clear()
        _log.info("password file reloaded", extra={"event": "password_file_reloaded", "authenticator": self.name})

    def _log_state(self, problem: str) -> None:
        if problem != self._degraded_reason:
            _log.error(
                "password file unusable; keeping the last one read",
                extra={"event": "password_file_unusable", "authenticator": self.name, "problem": problem},
            )
        self._degraded_reason = problem
