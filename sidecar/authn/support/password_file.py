"""Files of user names and passwords: ``htpasswd`` (bcrypt, argon2) and the JAAS ``user.props`` of DataHub (plain)."""

import hmac
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from os import urandom
from pathlib import Path

_MAX_BYTES = 8 * 1024 * 1024
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_ARGON2 = re.compile(r"\$argon2id?\$v=19\$m=(\d{1,7}),t=(\d{1,3}),p=(\d{1,2})\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
_MAX_BCRYPT_COST = 15
_MAX_ARGON2 = (1024 * 1024, 16, 16)
_WELL_KNOWN = ("datahub", "datahub")

Matches = Callable[[str], bool]
"""Whether a password is the right one; may take a fraction of a second."""


@dataclass(frozen=True, slots=True)
class User:
    """One line: how its password is compared, and the roles it names."""

    matches: Matches = field(repr=False)
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PasswordFile:
    """The users of a file. ``dummy_hash`` stands for whoever is not in it: it takes as long to say no."""

    users: Mapping[str, User]
    dummy_hash: Matches = field(repr=False)


class PasswordFileError(Exception):
    """A file cannot be used. The text names lines, never what stands in them."""


def read_htpasswd(path: Path) -> PasswordFile:
    """Read ``path``. Raises PasswordFileError, also when a package that its hashes need is not installed."""
    users = {name: User(_hash(text, number)) for number, name, text in _lines(path, ":", "#")}
    return _checked(users)


def read_user_props(path: Path, *, allow_published: bool) -> PasswordFile:
    """Read ``path``, lines of ``user: password[, role ...]``. Raises PasswordFileError."""
    users: dict[str, User] = {}
    for number, name, text in _lines(path, ":=", "#!"):
        password, *roles = (part.strip() for part in text.split(","))
        if not password:
            raise PasswordFileError(f"line {number} has no password")
        if re.match(r"(OBF|MD5|CRYPT|ADM):", password):
            raise PasswordFileError(f"line {number} holds no plain password; use an htpasswd file for hashes")
        if (name, password) == _WELL_KNOWN and not allow_published:
            raise PasswordFileError(f"line {number} is DataHub's published default user; remove it")
        users[name] = User(_plain(password), tuple(filter(None, roles)))
    return _checked(users)


def _checked(users: dict[str, User]) -> PasswordFile:
    if not users:
        raise PasswordFileError("names no user")
    return PasswordFile(users, next(iter(users.values())).matches)


def _lines(path: Path, separators: str, comments: str) -> Iterator[tuple[int, str, str]]:
    """Line number, user and the rest; two users who would be one Actor are refused."""
    try:
        if path.is_fifo():  # without a writer it would keep its reader, and the exit, waiting
            raise PasswordFileError("is a pipe")
        with path.open("rb") as stream:
            octets = stream.read(_MAX_BYTES + 1)
        text = octets.decode("utf-8")
    except OSError as error:
        raise PasswordFileError(f"cannot be read: {error.strerror or type(error).__name__}") from error
    except UnicodeDecodeError as error:
        raise PasswordFileError("is not UTF-8") from error
    if len(octets) > _MAX_BYTES:
        raise PasswordFileError("is larger than 8 MiB")
    seen: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped[0] in comments:
            continue
        parts = re.split(f"[{separators}]", stripped, maxsplit=1)
        name = parts[0].strip()
        if len(parts) != 2 or not name:
            raise PasswordFileError(f"line {number} is not user and password")
        actor = name.lower().partition("@")[0]
        if actor in seen:
            raise PasswordFileError(f"lines {seen[actor]} and {number} would be the same Actor")
        seen[actor] = number
        yield number, name, parts[1].strip()


def _hash(text: str, number: int) -> Matches:
    bcrypt_hash = _BCRYPT.fullmatch(text)
    if bcrypt_hash is not None:
        if int(bcrypt_hash[1]) > _MAX_BCRYPT_COST:
            raise PasswordFileError(f"line {number}: the cost of its hash is above {_MAX_BCRYPT_COST}")
        return _bcrypt(text.encode("ascii"))
    argon2_hash = _ARGON2.fullmatch(text)
    if argon2_hash is None:
        raise PasswordFileError(f"line {number} is neither bcrypt (htpasswd -B) nor argon2")
    if any(int(part) > most for part, most in zip(argon2_hash.groups(), _MAX_ARGON2, strict=True)):
        raise PasswordFileError(f"line {number}: the cost of its hash is too high")
    return _argon2(text)


def _bcrypt(expected: bytes) -> Matches:
    try:
        import bcrypt
    except ImportError:
        raise _missing() from None

    def matches(password: str) -> bool:
        try:
            return bcrypt.checkpw(password.encode("utf-8"), expected)
        except ValueError:  # longer than the 72 bytes that bcrypt reads, or with NUL
            return False

    return matches


def _argon2(expected: str) -> Matches:
    try:
        from argon2 import PasswordHasher
        from argon2.exceptions import Argon2Error, InvalidHashError
    except ImportError:
        raise _missing() from None
    hasher = PasswordHasher()

    def matches(password: str) -> bool:
        try:
            return hasher.verify(expected, password)
        except (Argon2Error, InvalidHashError):
            return False

    return matches


def _missing() -> PasswordFileError:
    return PasswordFileError("needs packages that are not installed: pip install auth-sidecar[htpasswd]")


def _plain(password: str) -> Matches:
    key = urandom(32)
    expected = _keyed(key, password)
    return lambda presented: hmac.compare_digest(_keyed(key, presented), expected)


def _keyed(key: bytes, text: str) -> bytes:
    """Of one length whatever the text's, so that comparing tells nothing about it."""
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), sha256).digest()
