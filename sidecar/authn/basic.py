"""HTTP Basic (RFC 7617) against a file of users. Hashing is slow on purpose, so it runs off the event loop."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from sidecar.authn.base import ABSTAINED, Abstained, Accepted, Member, Outcome, Rejected, Surroundings
from sidecar.authn.memory import Memory
from sidecar.authn.password import Throttle, read_password, wrong
from sidecar.authn.password_file import PasswordFile, PasswordFileError, User, read_htpasswd, read_user_props
from sidecar.config.settings import Model, Text
from sidecar.config.units import Duration
from sidecar.errors import Cause, Misconfigured, Problem, Refused, Unavailable
from sidecar.identity.claims import make_actor
from sidecar.identity.request import RequestView

_log = logging.getLogger("sidecar.authn")
_THREADS = 2
_MOST_WAITING = 64
_LOOK_EVERY = 2.0


class BasicOptions(Model):
    """Where the users are, and how often one may be guessed at."""

    htpasswd: Text = ""
    """File of ``user:hash`` lines, bcrypt or argon2 (``htpasswd -B``)."""
    user_props: Text = ""
    """Instead: a JAAS ``user.props`` of plain passwords, as DataHub's."""
    cache: Annotated[Duration, Field(ge=0, le=600)] = 60.0
    """How long a good pair is remembered, so that hashing is paid for once."""
    failures_per_user: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Wrong passwords for one user in a minute before nobody new is let in under that name."""
    failures: Annotated[int, Field(ge=1, le=100_000)] = 200
    """The same for all users together."""

    @model_validator(mode="after")
    def _one_file(self) -> "BasicOptions":
        if bool(self.htpasswd) == bool(self.user_props):
            raise ValueError("needs htpasswd or userProps, one of them")
        return self


class Basic(Member):
    """Decides on ``Basic`` credentials of the users in its file; those of others are for the members after it."""

    Options = BasicOptions
    options: BasicOptions

    def __init__(self, options: BasicOptions, surroundings: Surroundings) -> None:
        super().__init__(options, surroundings)
        self._path = Path(options.htpasswd or options.user_props)
        self._memory = Memory(surroundings.clock)
        self._throttle = Throttle(surroundings.clock, per_user=options.failures_per_user, in_all=options.failures)
        self._file: PasswordFile | None = None
        self._seen: tuple[int, int, int] | None = None
        self._problem = ""
        self._waiting = 0
        self._pool: ThreadPoolExecutor | None = None
        self._watch: asyncio.Task[None] | None = None

    @classmethod
    def recognises(cls, options: BasicOptions) -> str:
        """Which credentials it decides on."""
        plain = " (plain passwords)" if options.user_props else ""
        return f"Basic user and password of the users in {options.htpasswd or options.user_props}{plain}"

    @property
    def problem(self) -> str:
        """Why the file as it is now is not in use; the one read before still is."""
        return self._problem

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
                "passwords are kept in plain text", extra={"authenticator": self.name, "file": str(self._path)}
            )
        self._pool = ThreadPoolExecutor(_THREADS, "passwords")
        self._watch = asyncio.create_task(self._keep_reading())

    async def stop(self) -> None:
        """Stop watching; a password that is being compared is left to its end."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await self._memory.aclose()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def recall(self, view: RequestView) -> Accepted | None:
        """Who gave this very pair a moment ago."""
        try:
            pair = read_password(view.credential)
        except Refused:
            return None
        return None if pair is None else self._memory.get(self._memory.digest(*pair))

    async def authenticate(self, view: RequestView) -> Outcome:
        """Compare the password. Raises Unavailable(THROTTLED) after too many wrong ones, OVERLOAD."""
        try:
            pair = read_password(view.credential)
        except Refused as refusal:
            return Rejected(refusal, self.name)
        if pair is None:
            return ABSTAINED
        user, password = pair
        digest = self._memory.digest(user, password)
        return await self._memory.once(digest, lambda: self._judge(digest, user, password))

    async def _judge(self, digest: bytes, user: str, password: str) -> Outcome:
        file = self._file
        if file is None:
            raise Unavailable(Cause.MEMBER_BROKEN, "not started")
        self._throttle.begin(user)
        known = file.users.get(user)
        matches = await self._compare(file.stranger if known is None else known.matches, password)
        if known is None:
            return Abstained(wrong())
        if not matches:
            return Rejected(wrong(), self.name)
        self._throttle.good(user)
        try:
            accepted = self._accepted(user, known)
        except Refused as refusal:
            return Rejected(refusal, self.name)
        if file is self._file:  # else it was read anew while this went on
            self._memory.put(digest, accepted, self.options.cache)
        return accepted

    async def _compare(self, matches: Any, password: str) -> bool:
        if self._waiting >= _MOST_WAITING:
            raise Unavailable(Cause.OVERLOAD)
        self._waiting += 1
        try:
            return bool(await asyncio.get_running_loop().run_in_executor(self._pool, matches, password))
        finally:
            self._waiting -= 1

    def _accepted(self, user: str, known: User) -> Accepted:
        policy = self.surroundings.policy
        claims = {"iss": f"urn:auth-sidecar:{self.name}", "sub": user, "roles": list(known.roles)}
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

    async def _keep_reading(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            await self.look()

    async def look(self) -> None:
        """Read the file again when it has changed; a bad one leaves the users as they were, and is told."""
        signature = await asyncio.to_thread(self._signature)
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._file = await asyncio.to_thread(self._read)
        except PasswordFileError as error:
            self._problem = f"{self._path} {error}"
            _log.error("the password file cannot be used", extra={"authenticator": self.name, "problem": self._problem})
            return
        self._problem = ""
        self._memory.forget()
        _log.info("the password file has been read anew", extra={"authenticator": self.name})
