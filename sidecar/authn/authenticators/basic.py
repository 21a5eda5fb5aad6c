"""HTTP Basic (RFC 7617) against a file of users. Hashing is slow on purpose, so it runs off the event loop."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import model_validator

from sidecar.authn.base import Abstained, Accepted, AuthenticatorContext, Outcome, Rejected
from sidecar.authn.support.basic_credential import wrong_password
from sidecar.authn.support.password import PasswordAuthenticator, PasswordOptions
from sidecar.authn.support.password_file import PasswordFile, PasswordFileError, User, read_htpasswd, read_user_props
from sidecar.config.providers import member_issuer
from sidecar.config.settings import Text
from sidecar.errors import Cause, Misconfigured, Problem, Unavailable
from sidecar.identity.claims import make_actor

_log = logging.getLogger("sidecar.authn")
_THREADS = 2
_POLL_INTERVAL = 2.0


class BasicOptions(PasswordOptions):
    """Where the users are."""

    htpasswd: Text = ""
    """File of ``user:hash`` lines, bcrypt or argon2 (``htpasswd -B``)."""
    user_props: Text = ""
    """Instead: a JAAS ``user.props`` of plain passwords, as DataHub's."""

    @model_validator(mode="after")
    def _one_file(self) -> "BasicOptions":
        if bool(self.htpasswd) == bool(self.user_props):
            raise ValueError("needs htpasswd or userProps, one of them")
        return self


class Basic(PasswordAuthenticator):
    """Knows the users in its file."""

    Options = BasicOptions
    options: BasicOptions

    def __init__(self, options: BasicOptions, surroundings: AuthenticatorContext) -> None:
        super().__init__(options, surroundings, threads=_THREADS)
        self._path = Path(options.htpasswd or options.user_props)
        self._file: PasswordFile | None = None
        self._seen: tuple[int, int, int] | None = None
        self._outdated = ""
        self._watch: asyncio.Task[None] | None = None

    @classmethod
    def describe(cls, options: BasicOptions) -> str:
        """Which credentials it decides on."""
        plain = " (plain passwords)" if options.user_props else ""
        return f"Basic user and password of the users in {options.htpasswd or options.user_props}{plain}"

    @property
    def degraded_reason(self) -> str:
        """Why the file as it is now is not in use; the one read before still is."""
        return self._outdated

    async def check(self) -> Sequence[str]:
        """Whether the file can be used."""
        try:
            await asyncio.to_thread(self._read)
        except PasswordFileError as error:
            return [f"{self._path} {error}"]
        return []

    async def start(self) -> None:
        """Read the file and watch it."""
        try:
            self._seen = self._signature()
            self._file = await asyncio.to_thread(self._read)
        except PasswordFileError as error:
            raise Misconfigured([Problem(f"authenticator {self.name}", f"{self._path} {error}")]) from error
        if self.options.user_props:
            _log.warning(
                "the password file has plain-text passwords",
                extra={
                    "event": "plain_text_passwords",
                    "authenticator": self.name,
                    "file": str(self._path),
                },
            )
        self._watch = asyncio.create_task(self._poll_files())

    async def stop(self) -> None:
        """Stop watching; a password that is being compared is left to its end."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await super().stop()

    async def compare(self, user: str, password: str) -> Outcome:
        """Look ``user`` up and compare; a stranger takes as long."""
        file = self._file
        if file is None:
            raise Unavailable(Cause.MEMBER_BROKEN, "not started")
        self._throttle.attempt(user)
        known = file.users.get(user)
        matches = file.dummy_hash if known is None else known.matches
        is_right = await self.in_thread(lambda: matches(password))
        if known is None:
            return Abstained(wrong_password())
        if not is_right:
            return Rejected(wrong_password(), self.name)
        self._throttle.success(user)
        return self._accepted(user, known)

    def _accepted(self, user: str, known: User) -> Accepted:
        policy = self.surroundings.policy
        claims = {"iss": member_issuer(self.name), "sub": user, "roles": list(known.roles)}
        return Accepted(make_actor(claims, policy))

    def _read(self) -> PasswordFile:
        if self.options.htpasswd:
            return read_htpasswd(self._path)
        return read_user_props(self._path, allow_published=self.surroundings.allow_published)

    def _signature(self) -> tuple[int, int, int] | None:
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
        """Read the file again when it has changed, or could not be used; the users are then as before, and it is told.

        What kept it from being read may go away without any trace on it.
        """
        signature = await asyncio.to_thread(self._signature)
        if signature == self._seen and not self._outdated:
            return
        self._seen = signature
        try:
            self._file = await asyncio.to_thread(self._read)
        except PasswordFileError as error:
            self._log_state(f"{self._path} {error}")
            return
        self._outdated = ""
        self._memory.clear()
        _log.info("password file reloaded", extra={"event": "password_file_reloaded", "authenticator": self.name})

    def _log_state(self, problem: str) -> None:
        if problem != self._outdated:
            _log.error(
                "password file unusable; keeping the last one read",
                extra={"event": "password_file_unusable", "authenticator": self.name, "problem": problem},
            )
        self._outdated = problem
