"""HTTP Basic authentication against an LDAP directory: search for the user, bind as that user, then search for groups.

The LDAP library is pure Python and blocking, so it runs in threads. Names are always escaped in filters.
"""

import asyncio
import queue
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from sidecar.authn.base import Abstained, Accepted, AuthenticatorContext, Outcome, Rejected
from sidecar.authn.support.basic_credential import wrong_password_error
from sidecar.authn.support.dependency_probe import DependencyProbe
from sidecar.authn.support.password import PasswordAuthenticator, PasswordOptions
from sidecar.config.providers import member_issuer
from sidecar.config.reading.units import Duration
from sidecar.config.settings import Text
from sidecar.errors import Cause, Misconfigured, Problem, Unavailable
from sidecar.hosts import is_loopback
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import make_actor
from sidecar.secrets.value import Secret
from sidecar.tls import client_context

T = TypeVar("T")
_ATTRIBUTE = r"^[A-Za-z][A-Za-z0-9;-]{0,63}$"
_MAX_GROUPS = 1000


def _directory_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("ldap", "ldaps") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("must be ldap://host:port or ldaps://host:port")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not contain a user name or password")
    return text


def _filter_validator(name: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text.count(name) != 1 or not re.fullmatch(r"\(.+\)", text) or text.count("(") != text.count(")"):
            raise ValueError(f"must be a filter in parentheses that contains {name} once")
        return text

    return check


class LdapOptions(PasswordOptions):
    """The directory, and how users and their groups are found in it."""

    url: Annotated[str, AfterValidator(_directory_url)]
    """``ldaps://host:port`` or ``ldap://host:port``."""
    tls: Literal["verify", "none"] = "verify"
    """``verify``: ``ldap`` is upgraded by StartTLS and the certificate is verified. ``none``: allowed on loopback only.
    """
    ca_file: Text = ""
    """CA bundle; absent: that of ``outbound``."""
    bind_dn: Text = ""
    """DN of the account that searches; absent: anonymous."""
    bind_password: Secret | None = None
    """Password of the search account."""
    user_base: Annotated[str, Field(min_length=1)]
    """Base DN of users."""
    user_filter: Annotated[str, AfterValidator(_filter_validator("{user}"))] = "(uid={user})"
    """Filter that finds the user; ``{user}`` is the presented name, escaped."""
    name_attribute: Annotated[str, Field(pattern=_ATTRIBUTE)] = "uid"
    """Attribute that provides the Actor's name."""
    mail_attribute: Annotated[str, Field(pattern=r"^([A-Za-z][A-Za-z0-9;-]{0,63})?$")] = "mail"
    """Attribute that provides the e-mail address; empty: none."""
    group_base: Text = ""
    """Base DN of groups; absent: no groups."""
    group_filter: Annotated[str, AfterValidator(_filter_validator("{dn}"))] = "(member={dn})"
    """Filter that finds a user's groups; ``{dn}`` is the user's DN, escaped."""
    group_attribute: Annotated[str, Field(pattern=_ATTRIBUTE)] = "cn"
    """Attribute that provides a group's name."""
    within: Annotated[Duration, Field(gt=0, le=30)] = 3.0
    """Time limit of each directory operation."""
    connections: Annotated[int, Field(ge=1, le=32)] = 4
    """Number of threads, and of search connections kept open."""
    failures_per_user: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Wrong passwords per user and minute before further attempts are rejected; set it below the directory's own limit.
    """


@dataclass(frozen=True, slots=True)
class LdapEntry:
    """A user entry of the directory."""

    dn: str
    name: str
    mail: str
    groups: tuple[str, ...] = ()


class NotFoundError(Exception):
    """No entry or more than one entry matches."""


class WrongPasswordError(Exception):
    """The directory rejected the bind."""


class DirectoryError(Exception):
    """The directory did not answer, or answered with an error; the text is for the log."""


class Directory:
    """Blocking directory operations; call them from threads only."""

    def __init__(self, options: LdapOptions, ca_file: str = "") -> None:
        """``ca_file`` applies where ``options`` name none.

        Raises ImportError if ldap3 is not installed, OSError if the CA bundle cannot be read.
        """
        with warnings.catch_warnings():  # ldap3 uses deprecated names of its ASN.1 library
            warnings.simplefilter("ignore", DeprecationWarning)
            import ldap3

        self._ldap = ldap3
        self._options = options
        parts = urlsplit(options.url)
        secure = parts.scheme == "ldaps"
        self._start_tls = not secure and options.tls == "verify"
        context = client_context(options.ca_file or ca_file)

        class StrictTls(ldap3.Tls):  # type: ignore[misc] # ldap3 has no types
            """Wraps sockets with our TLS context: ldap3 checks host names itself and verifies nothing by default."""

            def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
                connection.socket = context.wrap_socket(
                    connection.socket, server_hostname=parts.hostname, do_handshake_on_connect=do_handshake
                )

        # one Server per connection: a shared one records failures and then refuses to connect for seconds
        self._server: Callable[[], Any] = lambda: ldap3.Server(
            parts.hostname,
            port=parts.port or (636 if secure else 389),
            use_ssl=secure,
            tls=StrictTls() if secure or self._start_tls else None,
            connect_timeout=options.within,
            get_info=ldap3.NONE,
        )
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue(options.connections)

    def find(self, user: str) -> LdapEntry:
        """The single matching user, without groups. Raises NotFoundError, DirectoryError."""
        return self._map_errors(lambda: self._find(user))

    def bind(self, entry: LdapEntry, password: str) -> LdapEntry:
        """Bind as ``entry`` and return it with its groups. Raises WrongPasswordError, DirectoryError."""
        return self._map_errors(lambda: self._bind_entry(entry, password))

    def probe(self) -> None:
        """Search the user base with the search account. Raises DirectoryError."""
        self._map_errors(lambda: self._search(self._options.user_base, "(objectClass=*)", [], "BASE", 1))

    def close(self) -> None:
        """Close idle connections."""
        while True:
            try:
                self._drop(self._idle.get_nowait())
            except queue.Empty:
                return

    def _map_errors(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except self._ldap.core.exceptions.LDAPException as error:
            raise DirectoryError(type(error).__name__) from error
        except (OSError, ValueError) as error:
            raise DirectoryError(type(error).__name__) from error

    def _find(self, user: str) -> LdapEntry:
        options = self._options
        attributes = [options.name_attribute, *filter(None, [options.mail_attribute])]
        search_filter = options.user_filter.replace("{user}", self._escape(user))
        found = self._search(options.user_base, search_filter, attributes, "SUBTREE", 2)
        if len(found) != 1:
            raise NotFoundError
        entry = found[0]
        dn, values = str(entry["dn"]), entry["attributes"]
        if not dn:  # a bind without a DN is anonymous and always succeeds
            raise NotFoundError
        name = _first(values.get(options.name_attribute))
        mail = _first(values.get(options.mail_attribute)) if options.mail_attribute else ""
        return LdapEntry(dn, name, mail)

    def _bind_entry(self, entry: LdapEntry, password: str) -> LdapEntry:
        self._bind_as(entry.dn, password)
        return replace(entry, groups=self._groups(entry.dn))

    def _groups(self, dn: str) -> tuple[str, ...]:
        options = self._options
        if not options.group_base:
            return ()
        search_filter = options.group_filter.replace("{dn}", self._escape(dn))
        found = self._search(options.group_base, search_filter, [options.group_attribute], "SUBTREE", _MAX_GROUPS)
        names = (_first(entry["attributes"].get(options.group_attribute)) for entry in found)
        return tuple(sorted(filter(None, names)))

    def _escape(self, text: str) -> str:
        from ldap3.utils.conv import escape_filter_chars

        return str(escape_filter_chars(text))

    def _bind_as(self, dn: str, password: str) -> None:
        if not password:  # RFC 4513 section 5.1.2: a bind without a password is unauthenticated
            raise WrongPasswordError
        connection = self._open_connection(dn, password)
        try:
            _, result, _, _ = connection.bind()
            if result["result"] == self._ldap.core.results.RESULT_SUCCESS:
                return
            if result["result"] in (49, 48, 50, 53, 19):  # wrong password, bind not allowed, locked, expired
                raise WrongPasswordError
            raise DirectoryError(f"the bind ended in {result['description']}")
        finally:
            self._drop(connection)

    def _search(self, base: str, search_filter: str, attributes: list[str], scope: str, size_limit: int) -> list[Any]:
        """Entries, found over an idle connection; one that the directory closed in the meantime is replaced once."""
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            return self._search_on(self._bind_search_account(), base, search_filter, attributes, scope, size_limit)
        try:
            return self._search_on(connection, base, search_filter, attributes, scope, size_limit)
        except (self._ldap.core.exceptions.LDAPException, OSError):
            return self._search_on(self._bind_search_account(), base, search_filter, attributes, scope, size_limit)

    def _search_on(
        self, connection: Any, base: str, search_filter: str, attributes: list[str], scope: str, size_limit: int
    ) -> list[Any]:
        try:
            _, result, response, _ = connection.search(
                base, search_filter, search_scope=scope, attributes=attributes or None, size_limit=size_limit,
                time_limit=max(1, int(self._options.within)),
            )  # fmt: skip
        except BaseException:
            self._drop(connection)
            raise
        self._return_connection(connection)
        results = self._ldap.core.results
        if result["result"] not in (results.RESULT_SUCCESS, results.RESULT_SIZE_LIMIT_EXCEEDED):
            raise DirectoryError(f"the search ended in {result['description']}")
        return [entry for entry in response or [] if entry.get("type") == "searchResEntry"]

    def _bind_search_account(self) -> Any:
        options = self._options
        secret = options.bind_password.reveal() if options.bind_password else None
        connection = self._open_connection(options.bind_dn or None, secret if options.bind_dn else None)
        _, result, _, _ = connection.bind()
        if result["result"] != self._ldap.core.results.RESULT_SUCCESS:
            self._drop(connection)
            raise DirectoryError(f"the search account cannot bind: {result['description']}")
        return connection

    def _open_connection(self, dn: str | None, password: str | None) -> Any:
        """An open connection, encrypted (where configured) before any credentials are sent."""
        connection = self._ldap.Connection(
            self._server(),
            user=dn,
            password=password,
            client_strategy=self._ldap.SAFE_SYNC,
            auto_referrals=False,
            read_only=True,
            receive_timeout=max(1, ceil(self._options.within)),  # the library takes whole seconds only
            raise_exceptions=False,
            check_names=False,
        )
        try:
            connection.open()
            if self._start_tls and not connection.start_tls(read_server_info=False)[0]:
                raise DirectoryError("the directory rejected StartTLS")
        except BaseException:
            self._drop(connection)
            raise
        return connection

    def _return_connection(self, connection: Any) -> None:
        try:
            self._idle.put_nowait(connection)
        except queue.Full:
            self._drop(connection)

    def _drop(self, connection: Any) -> None:
        with suppress(self._ldap.core.exceptions.LDAPException, OSError):  # it may already be closed
            connection.unbind()
        if connection.socket is not None:
            connection.socket.close()


def _first(value: Any) -> str:
    """The value of a single-valued attribute; empty if it has no value or several."""
    values = value if isinstance(value, list) else [value]
    found = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in values]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else ""


class Ldap(PasswordAuthenticator):
    """Authenticates the users of an LDAP directory."""

    Options = LdapOptions
    options: LdapOptions

    def __init__(self, options: LdapOptions, surroundings: AuthenticatorContext) -> None:
        super().__init__(options, surroundings, threads=options.connections)
        if options.tls == "none" and not is_loopback(urlsplit(options.url).hostname or ""):
            raise Misconfigured(
                [self._problem("tls: none is allowed on loopback only: passwords would be sent in clear text")]
            )
        if bool(options.bind_dn) != bool(options.bind_password):
            raise Misconfigured([self._problem("set both bindDn and bindPassword, or neither")])
        try:
            self._directory = Directory(options, surroundings.ca_file)
        except ImportError as error:
            text = "needs a package that is not installed: pip install auth-sidecar[ldap]"
            raise Misconfigured([self._problem(text)]) from error
        except OSError as error:
            raise Misconfigured([self._problem(f"caFile cannot be used: {error.strerror}")]) from error
        self._probe = DependencyProbe(self.name, self._check_directory)

    def _problem(self, text: str) -> Problem:
        return Problem(f"authenticator {self.name}", text)

    @classmethod
    def describe(cls, options: LdapOptions) -> str:
        """The credentials that this authenticator decides on."""
        return f"Basic user and password of the users below {options.user_base} at {options.url}"

    @property
    def unavailable_reason(self) -> str:
        """Why the directory could not be used by the last probe."""
        return self._probe.problem

    async def check(self) -> Sequence[str]:
        """Check that the search account can search."""
        try:
            return await self._check_directory()
        finally:
            await self.stop()

    async def _check_directory(self) -> Sequence[str]:
        try:
            # not in the thread pool, where requests may be queued
            await asyncio.to_thread(self._directory.probe)
        except DirectoryError as error:
            return [f"{self.options.url} cannot be used: {error}"]
        return []

    async def stop(self) -> None:
        """Close the connections. An operation in progress ends at its time limit."""
        await super().stop()
        await self._probe.aclose()
        self._directory.close()

    async def verify_password(self, user: str, password: str) -> Outcome:
        """Search for the user, then bind with the password."""
        counted_names = [user.lower()]
        self._limiter.attempt(counted_names[0])
        try:
            found = await self.run_in_thread(lambda: self._directory.find(user))
            # directories ignore case, spaces and Unicode forms, so one user can be presented under many names
            self._limiter.alias(found.dn)
            counted_names.append(found.dn)
            bound = await self.run_in_thread(lambda: self._directory.bind(found, password))
        except NotFoundError:
            return Abstained(wrong_password_error())
        except WrongPasswordError:
            return Rejected(wrong_password_error(), self.name)
        except DirectoryError as error:
            self._limiter.success(*counted_names)
            self._probe.report_failure()
            raise Unavailable(Cause.DIRECTORY_UNAVAILABLE, str(error)) from error
        self._limiter.success(*counted_names)
        return self._accepted(bound)

    def _accepted(self, entry: LdapEntry) -> Accepted:
        policy = self.surroundings.policy
        claims = {"iss": member_issuer(self.name), "sub": entry.name, "groups": list(entry.groups)}
        if entry.mail:
            claims["email"] = entry.mail
            policy = replace(policy, username_claim=ClaimPath("sub"), email_claim=ClaimPath("email"))
        return Accepted(make_actor(claims, policy))
