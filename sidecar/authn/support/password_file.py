"""Password files: ``htpasswd`` (bcrypt, argon2), and the JAAS ``user.props`` of DataHub (plain text)."""

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

PasswordMatcher = Callable[[str], bool]
"""Whether a password is correct; may take a fraction of a second."""


@dataclass(frozen=True, slots=True)
class User:
    """One line: its password matcher and its roles."""

    matches: PasswordMatcher = field(repr=False)
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PasswordFile:
    """The users of a file. ``dummy_hash`` is compared for unknown users, so that a rejection takes as long."""

    users: Mapping[str, User]
    dummy_hash: PasswordMatcher = field(repr=False)


class PasswordFileError(Exception):
    """The file cannot be used. The text names line numbers, never their content."""


def read_htpasswd(path: Path) -> PasswordFile:
    """Read ``path``. Raises PasswordFileError, also if a package for its hashes is not installed."""
    return parse_htpasswd(read_text(path))


def parse_htpasswd(content: str) -> PasswordFile:
    """The users in ``content``, lines of ``user:hash``. Raises as :func:`read_htpasswd`."""
    users = {name: User(_hash_matcher(text, number)) for number, name, text in _parse_lines(content, ":", "#")}
    return _password_file(users)


def read_user_props(path: Path, *, allow_published: bool) -> PasswordFile:
    """Read ``path``, lines of ``user: password[, role ...]``. Raises PasswordFileError."""
    users: dict[str, User] = {}
    for number, name, text in _parse_lines(read_text(path), ":=", "#!"):
        password, *roles = (part.strip() for part in text.split(","))
        if not password:
            raise PasswordFileError(f"line {number} has no password")
        if re.match(r"(OBF|MD5|CRYPT|ADM):", password):
            raise PasswordFileError(f"line {number} contains a hashed password; use an htpasswd file for hashes")
        if (name, password) == _WELL_KNOWN and not allow_published:
            raise PasswordFileError(f"line {number} is DataHub's published default user; remove it")
        users[name] = User(_plain_matcher(password), tuple(filter(None, roles)))
    return _password_file(users)


def _password_file(users: dict[str, User]) -> PasswordFile:
    if not users:
        raise PasswordFileError("contains no user")
    return PasswordFile(users, next(iter(users.values())).matches)


def read_text(path: Path) -> str:
    """The content of a password file. Raises PasswordFileError."""
    try:
        if path.is_fifo():  # opening a pipe without a writer would block
            raise PasswordFileError("is a pipe")
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise PasswordFileError(f"cannot be read: {error.strerror or type(error).__name__}") from error
    except UnicodeDecodeError as error:
        raise PasswordFileError("is not UTF-8") from error
    if len(content) > _MAX_BYTES:
        raise PasswordFileError("is larger than 8 MiB")
    return text


def _parse_lines(content: str, separators: str, comments: str) -> Iterator[tuple[int, str, str]]:
    """Line number, user and the rest. Two users that map to the same Actor are rejected."""
    seen: dict[str, int] = {}
    for number, line in enumerate(content.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped[0] in comments:
            continue
        parts = re.split(f"[{separators}]", stripped, maxsplit=1)
        name = parts[0].strip()
        if len(parts) != 2 or not name:
            raise PasswordFileError(f"line {number} is not of the form user and password")
        actor = name.lower().partition("@")[0]
        if actor in seen:
            raise PasswordFileError(f"lines {seen[actor]} and {number} map to the same Actor")
        seen[actor] = number
        yield number, name, parts[1].strip()


def _hash_matcher(text: str, number: int) -> PasswordMatcher:
    bcrypt_hash = _BCRYPT.fullmatch(text)
    if bcrypt_hash is not None:
        if int(bcrypt_hash[1]) > _MAX_BCRYPT_COST:
            raise PasswordFileError(f"line {number}: the cost of its hash is above {_MAX_BCRYPT_COST}")
        return _bcrypt_matcher(text.encode("ascii"))
    argon2_hash = _ARGON2.fullmatch(text)
    if argon2_hash is None:
        raise PasswordFileError(f"line {number} is neither bcrypt (htpasswd -B) nor argon2")
    if any(int(part) > most for part, most in zip(argon2_hash.groups(), _MAX_ARGON2, strict=True)):
        raise PasswordFileError(f"line {number}: the cost of its hash is too high")
    return _argon2_matcher(text)


def _bcrypt_matcher(expected: bytes) -> PasswordMatcher:
    try:
        import bcrypt
    except ImportError:
        raise _missing_package() from None

    def matches(password: str) -> bool:
        try:
            return bcrypt.checkpw(password.encode("utf-8"), expected)
        except ValueError:  # longer than the 72 bytes that bcrypt reads, or with NUL
            return False

    return matches


def _argon2_matcher(expected: str) -> PasswordMatcher:
    try:
        from argon2 import PasswordHasher
        from argon2.exceptions import Argon2Error, InvalidHashError
    except ImportError:
        raise _missing_package() from None
    hasher = PasswordHasher()

    def matches(password: str) -> bool:
        try:
            return hasher.verify(expected, password)
        except (Argon2Error, InvalidHashError):
            return False

    return matches


def _missing_package() -> PasswordFileError:
    return PasswordFileError("needs packages that are not installed: pip install auth-sidecar[htpasswd]")


def _plain_matcher(password: str) -> PasswordMatcher:
    key = urandom(32)
    expected = _keyed_hash(key, password)
    return lambda presented: hmac.compare_digest(_keyed_hash(key, presented), expected)


def _keyed_hash(key: bytes, text: str) -> bytes:
    """A digest of fixed length, so that the comparison reveals nothing about the length of the text."""
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), sha256).digest()
