"""HTTP Basic against an LDAP directory: search for the user, then bind as him; groups by a second search.

The library is pure Python and blocks, so it runs in a few threads of its own. Names go into filters escaped only.
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
from sidecar.authn.support.basic_credential import wrong_password
from sidecar.authn.support.dependency_probe import DependencyProbe
from sidecar.authn.support.password import PasswordAuthenticator, PasswordOptions
from sidecar.config.providers import member_issuer
from sidecar.config.reading.units import Duration
from sidecar.config.settings import Text
from sidecar.errors import Cause, Misconfigured, Problem, Unavailable
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import make_actor
from sidecar.outbound import is_loopback
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
        raise ValueError("must not hold a user name or password")
    return text


def _member_name(name: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text.count(name) != 1 or not re.fullmatch(r"\(.+\)", text) or text.count("(") != text.count(")"):
            raise ValueError(f"must be a filter in parentheses that holds {name} once")
        return text

    return check


class LdapOptions(PasswordOptions):
    """The directory, and how people and their groups are found in it."""

    url: Annotated[str, AfterValidator(_directory_url)]
    """``ldaps://host:port`` or ``ldap://host:port``."""
    tls: Literal["verify", "none"] = "verify"
    """``verify``: ``ldap`` is upgraded by StartTLS and the certificate must be right. ``none``: on loopback only."""
    ca_file: Text = ""
    """CA bundle; absent: that of ``outbound``."""
    bind_dn: Text = ""
    """Who searches; absent: anonymously."""
    bind_password: Secret | None = None
    """The searching account's password."""
    user_base: Annotated[str, Field(min_length=1)]
    """Where people are."""
    user_filter: Annotated[str, AfterValidator(_member_name("{user}"))] = "(uid={user})"
    """Who is meant; ``{user}`` is what was presented, escaped."""
    name_attribute: Annotated[str, Field(pattern=_ATTRIBUTE)] = "uid"
    """Attribute that names the Actor."""
    mail_attribute: Annotated[str, Field(pattern=r"^([A-Za-z][A-Za-z0-9;-]{0,63})?$")] = "mail"
    """Attribute with the e-mail address; empty: none."""
    group_base: Text = ""
    """Where groups are; absent: no groups."""
    group_filter: Annotated[str, AfterValidator(_member_name("{dn}"))] = "(member={dn})"
    """Whose members people are; ``{dn}`` is the person's entry, escaped."""
    group_attribute: Annotated[str, Field(pattern=_ATTRIBUTE)] = "cn"
    """Attribute that names a group."""
    within: Annotated[Duration, Field(gt=0, le=30)] = 3.0
    """Time for each answer of the directory."""
    connections: Annotated[int, Field(ge=1, le=32)] = 4
    """Threads, and connections kept for searching."""
    failures_per_user: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Wrong passwords for one user in a minute before nobody new is let in under that name; below the directory's."""


@dataclass(frozen=True, slots=True)
class LdapEntry:
    """Somebody in the directory."""

    dn: str
    name: str
    mail: str
    groups: tuple[str, ...] = ()


class NotFoundError(Exception):
    """No such person, or more than one."""


class WrongPasswordError(Exception):
    """The directory refuses the bind."""


class DirectoryError(Exception):
    """The directory does not answer, or not as it should; the text is for the log."""


class Directory:
    """Blocking questions to the directory; called from threads only."""

    def __init__(self, options: LdapOptions, ca_file: str = "") -> None:
        """``ca_file`` counts where ``options`` name none.

        Raises ImportError without the package, OSError for a CA bundle that cannot be read.
        """
        with warnings.catch_warnings():  # it asks for names that the ASN.1 library has given new ones
            warnings.simplefilter("ignore", DeprecationWarning)
            import ldap3

        self._ldap = ldap3
        self._options = options
        parts = urlsplit(options.url)
        secure = parts.scheme == "ldaps"
        self._start_tls = not secure and options.tls == "verify"
        context = client_context(options.ca_file or ca_file)

        class StrictTls(ldap3.Tls):  # type: ignore[misc] # ldap3 has no types
            """The library's own way leaves the name in the certificate to itself, and verifies nothing by default."""

            def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
                connection.socket = context.wrap_socket(
                    connection.socket, server_hostname=parts.hostname, do_handshake_on_connect=do_handshake
                )

        # one for each connection: it remembers failures, of others too, and then does not connect for seconds
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
        """The one person who is meant, without groups. Raises NobodyError, DirectoryError."""
        return self._map_errors(lambda: self._find(user))

    def bind(self, person: LdapEntry, password: str) -> LdapEntry:
        """``person``, whose password this is, with groups. Raises WrongPasswordError, DirectoryError."""
        return self._map_errors(lambda: self._bind_entry(person, password))

    def probe(self) -> None:
        """Search for nobody, as for everybody. Raises DirectoryError."""
        self._map_errors(lambda: self._search(self._options.user_base, "(objectClass=*)", [], "BASE", 1))

    def close(self) -> None:
        """Close what is kept open."""
        while True:
            try:
                self._drop(self._idle.get_nowait())
            except queue.Empty:
                return

    def _map_errors(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except self._ldap.core.exceptions.LDAPException as error:
            raise DirectoryError(type(error).__name__) from error
        except (OSError, ValueError) as error:
            raise DirectoryError(type(error).__name__) from error

    def _find(self, user: str) -> LdapEntry:
        options = self._options
        attributes = [options.name_attribute, *filter(None, [options.mail_attribute])]
        wanted = options.user_filter.replace("{user}", self._escaped(user))
        found = self._search(options.user_base, wanted, attributes, "SUBTREE", 2)
        if len(found) != 1:
            raise NotFoundError
        entry = found[0]
        dn, values = str(entry["dn"]), entry["attributes"]
        if not dn:  # binding without a name is anonymous, and always works
            raise NotFoundError
        name = _first(values.get(options.name_attribute))
        mail = _first(values.get(options.mail_attribute)) if options.mail_attribute else ""
        return LdapEntry(dn, name, mail)

    def _bind_entry(self, person: LdapEntry, password: str) -> LdapEntry:
        self._bind_as(person.dn, password)
        return replace(person, groups=self._groups(person.dn))

    def _groups(self, dn: str) -> tuple[str, ...]:
        options = self._options
        if not options.group_base:
            return ()
        wanted = options.group_filter.replace("{dn}", self._escaped(dn))
        found = self._search(options.group_base, wanted, [options.group_attribute], "SUBTREE", _MAX_GROUPS)
        names = (_first(entry["attributes"].get(options.group_attribute)) for entry in found)
        return tuple(sorted(filter(None, names)))

    def _escaped(self, text: str) -> str:
        from ldap3.utils.conv import escape_filter_chars

        return str(escape_filter_chars(text))

    def _bind_as(self, dn: str, password: str) -> None:
        if not password:  # RFC 4513 section 5.1.2: that would be no authentication at all
            raise WrongPasswordError
        connection = self._opened(dn, password)
        try:
            _, result, _, _ = connection.bind()
            if result["result"] == self._ldap.core.results.RESULT_SUCCESS:
                return
            if result["result"] in (49, 48, 50, 53, 19):  # wrong, not allowed so, locked, expired
                raise WrongPasswordError
            raise DirectoryError(f"the bind ended in {result['description']}")
        finally:
            self._drop(connection)

    def _search(self, base: str, wanted: str, attributes: list[str], scope: str, most: int) -> list[Any]:
        """Entries, by a connection that is kept; one that the directory has closed meanwhile is replaced once."""
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            return self._search_on(self._bind_search_account(), base, wanted, attributes, scope, most)
        try:
            return self._search_on(connection, base, wanted, attributes, scope, most)
        except (self._ldap.core.exceptions.LDAPException, OSError):
            return self._search_on(self._bind_search_account(), base, wanted, attributes, scope, most)

    def _search_on(
        self, connection: Any, base: str, wanted: str, attributes: list[str], scope: str, most: int
    ) -> list[Any]:
        try:
            _, result, response, _ = connection.search(
                base, wanted, search_scope=scope, attributes=attributes or None, size_limit=most,
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
        connection = self._opened(options.bind_dn or None, secret if options.bind_dn else None)
        _, result, _, _ = connection.bind()
        if result["result"] != self._ldap.core.results.RESULT_SUCCESS:
            self._drop(connection)
            raise DirectoryError(f"the searching account cannot bind: {result['description']}")
        return connection

    def _opened(self, dn: str | None, password: str | None) -> Any:
        """A connection, encrypted where it has to be before anything is said on it."""
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
                raise DirectoryError("StartTLS was refused")
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
        with suppress(self._ldap.core.exceptions.LDAPException, OSError):  # it may not be open any more
            connection.unbind()
        if connection.socket is not None:
            connection.socket.close()


def _first(value: Any) -> str:
    """The one value of an attribute; several or none name nobody."""
    values = value if isinstance(value, list) else [value]
    found = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in values]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else ""


class Ldap(PasswordAuthenticator):
    """Knows the people in the directory."""

    Options = LdapOptions
    options: LdapOptions

    def __init__(self, options: LdapOptions, surroundings: AuthenticatorContext) -> None:
        super().__init__(options, surroundings, threads=options.connections)
        if options.tls == "none" and not is_loopback(urlsplit(options.url).hostname or ""):
            raise Misconfigured([self._fault("tls: none is for a directory on loopback; passwords would be readable")])
        if bool(options.bind_dn) != bool(options.bind_password):
            raise Misconfigured([self._fault("bindDn and bindPassword go together")])
        try:
            self._directory = Directory(options, surroundings.ca_file)
        except ImportError as error:
            text = "needs a package that is not installed: pip install auth-sidecar[ldap]"
            raise Misconfigured([self._fault(text)]) from error
        except OSError as error:
            raise Misconfigured([self._fault(f"caFile cannot be used: {error.strerror}")]) from error
        self._recovery = DependencyProbe(self.name, self._check_directory)

    def _fault(self, text: str) -> Problem:
        return Problem(f"authenticator {self.name}", text)

    @classmethod
    def describe(cls, options: LdapOptions) -> str:
        """Which credentials it decides on."""
        return f"Basic user and password of the people below {options.user_base} at {options.url}"

    @property
    def unavailable_reason(self) -> str:
        """Why the directory does not answer, as the last look at it has shown."""
        return self._recovery.problem

    async def check(self) -> Sequence[str]:
        """Whether the directory lets the account search."""
        try:
            return await self._check_directory()
        finally:
            await self.stop()

    async def _check_directory(self) -> Sequence[str]:
        try:
            # not in a thread of the pool, where callers may be waiting in a row
            await asyncio.to_thread(self._directory.probe)
        except DirectoryError as error:
            return [f"{self.options.url} cannot be used: {error}"]
        return []

    async def stop(self) -> None:
        """Close the connections; a question that is out is left to its time limit."""
        await super().stop()
        await self._recovery.aclose()
        self._directory.close()

    async def compare(self, user: str, password: str) -> Outcome:
        """Ask the directory who is meant, then whether it is his password."""
        names = [user.lower()]
        self._throttle.attempt(names[0])
        try:
            found = await self.in_thread(lambda: self._directory.find(user))
            # to a directory one person has many names: blanks, capitals and other forms of a letter make no difference
            self._throttle.alias(found.dn)
            names.append(found.dn)
            person = await self.in_thread(lambda: self._directory.bind(found, password))
        except NotFoundError:
            return Abstained(wrong_password())
        except WrongPasswordError:
            return Rejected(wrong_password(), self.name)
        except DirectoryError as error:
            self._throttle.success(*names)
            self._recovery.report_failure()
            raise Unavailable(Cause.DIRECTORY_UNAVAILABLE, str(error)) from error
        self._throttle.success(*names)
        return self._accepted(person)

    def _accepted(self, person: LdapEntry) -> Accepted:
        policy = self.surroundings.policy
        claims = {"iss": member_issuer(self.name), "sub": person.name, "groups": list(person.groups)}
        if person.mail:
            claims["email"] = person.mail
            policy = replace(policy, username_claim=ClaimPath("sub"), email_claim=ClaimPath("email"))
        return Accepted(make_actor(claims, policy))
