"""The signing keys: the first active one signs, all verify, their public halves are published."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from joserfc.jwk import RSAKey

from sidecar.concurrency import cancel
from sidecar.config.settings import JwtTokenConfiguration
from sidecar.errors import Cause, Misconfigured, Problem, Unavailable
from sidecar.files import POLL_INTERVAL, FileWatcher
from sidecar.keys.key_files import (
    KeyFileError,
    algorithm_of,
    algorithms_of,
    read_private_key,
    read_public_key,
)
from sidecar.keys.key_folder import LIST_NAME, ListedKey, read_folder
from sidecar.keys.keyset import (
    JoseKey,
    KeyIndex,
    PublicKey,
    VerificationKey,
    public_jwk,
    to_jose_key,
    update_keys,
)
from sidecar.keys.private_set import parse_private_set, private_jose_key
from sidecar.keys.refresher import Wait
from sidecar.keys.well_known import WELL_KNOWN_KIDS, WELL_KNOWN_THUMBPRINTS

_BLOCK = "jwtTokenConfiguration"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key with the key id and algorithm for the header of what it signs."""

    kid: str
    algorithm: str
    key: JoseKey


@dataclass(frozen=True, slots=True)
class _KeySet:
    """One consistent state; a reload replaces it as a whole."""

    signing: tuple[SigningKey, ...]
    verification: tuple[VerificationKey, ...]
    index: KeyIndex
    document: bytes
    etag: str
    published: Mapping[str, PublicKey]


class SigningKeys:
    """A :class:`~sidecar.keys.keyset.KeySource` for the keys of ``jwtTokenConfiguration``.

    Raises Misconfigured if they cannot be used, or are published in a product's sources without ``allow_published``.
    """

    def __init__(
        self,
        configuration: JwtTokenConfiguration,
        *,
        allow_published: bool = False,
        earlier: Mapping[str, PublicKey] = MappingProxyType({}),
    ) -> None:
        """``earlier`` are keys that this process has published before, by id.

        Those that are missing from ``keySecret`` without having been removed stay published, and do not sign: a set
        that was replaced by an older one invalidates no token.
        """
        self._configuration = configuration
        self._allow_published = allow_published
        self._watcher = FileWatcher(lambda: _key_paths(configuration))
        self._earlier = earlier
        self._set = self._load(())
        self._watch_task: asyncio.Task[None] | None = None

    @property
    def issuer(self) -> str | None:
        """``iss`` of issued tokens."""
        return self._configuration.jwtissuer or None

    @property
    def signing(self) -> SigningKey:
        """The first active key. Raises Unavailable if the key set is disabled."""
        if not self._set.signing:
            raise Unavailable(Cause.KEYS_UNAVAILABLE, "the key set is disabled in the secrets manager")
        return self._set.signing[0]

    @property
    def has_rsa(self) -> bool:
        """Whether an RSA key signs, or may sign as soon as the key set is enabled."""
        return self.signing_rsa is not None or (
            not self._set.signing and any(isinstance(key.key, RSAKey) for key in self._set.verification)
        )

    @property
    def published(self) -> Mapping[str, PublicKey]:
        """The public keys by id, if they come from ``keySecret``: for ``earlier`` of the next configuration."""
        return self._set.published

    @property
    def signing_rsa(self) -> SigningKey | None:
        """The first active RSA key, for servers that support no other type."""
        return next((key for key in self._set.signing if isinstance(key.key, RSAKey)), None)

    def public_key_set(self) -> tuple[bytes, str]:
        """The public key set (RFC 7517, public members only) and its entity tag, quotes included."""
        return self._set.document, self._set.etag

    def candidates(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Keys that may have made a signature."""
        return self._set.index.find(kid, algorithm)

    async def refetch(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """The same: files are watched, requests do not cause them to be read."""
        return self.candidates(kid, algorithm)

    def reload(self) -> None:
        """Load changed files. Raises Misconfigured and keeps the current keys if they cannot be used."""
        self._watcher.mark()
        self._set = self._load(self._set.verification)

    async def start(self, wait: Wait = asyncio.sleep) -> None:
        """Start watching the files. ``wait`` sleeps for that many seconds."""
        self._watch_task = asyncio.create_task(self._poll(wait))

    async def aclose(self) -> None:
        """Stop watching."""
        await cancel(self._watch_task)

    async def _poll(self, wait: Wait) -> None:
        while True:
            await wait(POLL_INTERVAL)
            if not await asyncio.to_thread(self._watcher.changed):
                continue
            try:
                self.reload()
            except Misconfigured as error:
                _log.error(
                    "changed key files unusable; keeping the current keys",
                    extra={"event": "signing_keys_reload_failed", "detail": str(error)},
                )
            else:
                _log.info(
                    "signing keys reloaded",
                    extra={
                        "event": "signing_keys_reloaded",
                        "kid": self.signing.kid,
                        "keys": self._set.index.size,
                    },
                )

    def _load(self, old: Iterable[VerificationKey]) -> _KeySet:
        path = f"{_BLOCK}.{_setting(self._configuration)}"
        try:
            listed, is_disabled = self._listed()
            if not self._allow_published:
                _reject_well_known(listed)
        except KeyFileError as error:
            raise Misconfigured([Problem(path, str(error))]) from error
        signing = tuple(
            SigningKey(key.kid, algorithm_of(key.public), private_jose_key(key.private))
            for key in listed
            if key.state == "active" and key.private is not None and not is_disabled
        )
        if not signing and not is_disabled:
            raise Misconfigured([Problem(path, "no key is active; set the state of one key to active")])
        verification = update_keys(old, [_verification_key(key) for key in listed])
        document = _document(verification, {key.kid: algorithm_of(key.public) for key in listed})
        etag = f'"{hashlib.sha256(document).hexdigest()[:32]}"'
        is_secret = self._configuration.key_secret is not None
        published = {key.kid: key.public for key in listed} if is_secret else {}
        return _KeySet(signing, verification, KeyIndex(verification), document, etag, published)

    def _listed(self) -> tuple[list[ListedKey], bool]:
        """The keys, and whether signing is disabled. Raises KeyFileError."""
        secret = self._configuration.key_secret
        if secret is None:
            return keys_in_files(self._configuration), False
        found = parse_private_set(secret.reveal())
        known = {*found.removed, *(key.kid for key in found.keys)}
        missing = [ListedKey(kid, "retired", public, None) for kid, public in self._earlier.items() if kid not in known]
        for key in missing:
            _log.warning(
                "signing key is missing in the key set; it stays published until it is removed by sidecar keys retire",
                extra={"event": "signing_key_missing", "kid": key.kid},
            )
        return [*found.keys, *missing], found.disabled


def key_thumbprint(public: PublicKey) -> str:
    """RFC 7638 thumbprint: the default ``kid``."""
    return to_jose_key(public).thumbprint()


def _setting(configuration: JwtTokenConfiguration) -> str:
    """The setting that the keys come from."""
    if configuration.key_secret is not None:
        return "keySecret"
    return "keyDir" if configuration.key_dir else "rsaprivateKeyFilePath"


def keys_in_files(configuration: JwtTokenConfiguration) -> list[ListedKey]:
    """The keys in ``keyDir``, or the pair of files. Raises KeyFileError."""
    if configuration.key_dir:
        return read_folder(Path(configuration.key_dir))
    if not configuration.rsaprivate_key_file_path:
        raise KeyFileError("a public key alone cannot sign; set the private key file too")
    private = read_private_key(Path(configuration.rsaprivate_key_file_path))
    public = private.public_key()
    if configuration.rsapublic_key_file_path:
        public = read_public_key(Path(configuration.rsapublic_key_file_path))
        if public != private.public_key():
            raise KeyFileError(
                f"{configuration.rsapublic_key_file_path} is not the public half of "
                f"{configuration.rsaprivate_key_file_path}"
            )
    return [ListedKey(configuration.key_id or key_thumbprint(public), "active", public, private)]


def _reject_well_known(listed: list[ListedKey]) -> None:
    for key in listed:
        if key.kid in WELL_KNOWN_KIDS:
            raise KeyFileError(f"the key id {key.kid} is a product's published default; choose another")
        if key_thumbprint(key.public) in WELL_KNOWN_THUMBPRINTS:
            raise KeyFileError(
                f"the key {key.kid} is published in a product's sources; generate a new one: sidecar keys generate"
            )


def load_client_key(path: Path) -> tuple[JoseKey, str]:
    """A private key with which the sidecar authenticates as a client, and its algorithm. Raises KeyFileError."""
    private = read_private_key(path)
    return private_jose_key(private), algorithm_of(private.public_key())


def _verification_key(key: ListedKey) -> VerificationKey:
    return VerificationKey(key.kid, algorithms_of(key.public), to_jose_key(key.public))


def _document(keys: Iterable[VerificationKey], algorithms: dict[str, str]) -> bytes:
    entries = [public_jwk(key, algorithms[key.kid or ""]) for key in keys]
    return json.dumps({"keys": entries}, separators=(",", ":"), sort_keys=True).encode()


def _key_paths(configuration: JwtTokenConfiguration) -> list[Path]:
    """The key files, and with a directory its list."""
    if configuration.key_secret is not None:
        return []  # a changed secret is a changed configuration
    if configuration.key_dir:
        folder = Path(configuration.key_dir)
        return [folder / LIST_NAME, *folder.glob("*.pem")]
    files = (configuration.rsaprivate_key_file_path, configuration.rsapublic_key_file_path)
    return [Path(name) for name in files if name]
