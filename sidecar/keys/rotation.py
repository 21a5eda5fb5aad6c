"""Rotation of signing keys: a new key is published before it signs, an old one stays published while its tokens live.

What changes is computed from the list of keys alone (:func:`rotated` and its siblings), for the folder of
:mod:`sidecar.keys.key_folder` and for the key set of :mod:`sidecar.keys.private_set`. A folder is changed under a lock,
so that two replicas that rotate concurrently rotate once. Every step leaves a readable folder: files of new keys are
written before the list contains them, and files of removed keys are deleted after the list no longer contains them.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sidecar.errors import SidecarError
from sidecar.keys.key_files import KEY_TYPES, algorithm_of, encode_private_key, generate
from sidecar.keys.key_folder import LIST_NAME, ListedKey, encode_key_list, read_folder
from sidecar.keys.signing import key_thumbprint

_LOCK_NAME = ".lock"


class RotationError(SidecarError):
    """The keys cannot be changed; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class RotationResult:
    """The steps that were taken, a sentence each; empty: none, and ``note`` may give the reason."""

    steps: tuple[str, ...]
    keys: tuple[ListedKey, ...]
    note: str = ""


Change = Callable[[Sequence[ListedKey]], RotationResult]
"""Computes the keys after a change from those before. Raises RotationError."""


def rotated(
    keys: Sequence[ListedKey],
    now: datetime,
    *,
    publish_lead_time: float,
    algorithm: str | None,
    is_obsolete: Callable[[ListedKey], bool],
) -> RotationResult:
    """The next key becomes active and a new next key is added, if the next key was published for ``publish_lead_time``.

    ``publish_lead_time`` is in seconds: how long others may keep a key set. A key that was published for a shorter time
    stays the next key, so a second rotation changes nothing. ``algorithm`` is one of KEY_TYPES, None: that of the
    active key. ``is_obsolete`` is true for a retired key that no token needs any more: it is removed. Raises
    RotationError.
    """
    steps: list[str] = []
    remaining = _without_obsolete(keys, is_obsolete, steps)
    key_type = algorithm or _algorithm_in_use(remaining)
    waiting = next((key for key in remaining if key.state == "next"), None)
    if not any(key.state == "active" for key in remaining):
        remaining = [_new_key("active", key_type, now, steps), *remaining]
    elif waiting is not None:
        published = float("inf") if waiting.since is None else (now - waiting.since).total_seconds()
        if published < publish_lead_time:
            seconds = f"{published:.0f} s; it can sign after {publish_lead_time:.0f} s"
            note = f"{waiting.kid} has been published for {seconds}"
            return RotationResult(tuple(steps), tuple(remaining), note)
        if waiting.private is None:
            raise RotationError(f"the next key {waiting.kid} has no private key, so it cannot sign")
        remaining = _promoted(remaining, waiting, now, steps)
        waiting = None
    if waiting is None:
        remaining.append(_new_key("next", key_type, now, steps))
    return RotationResult(tuple(steps), tuple(remaining))


def retired(keys: Sequence[ListedKey], kid: str, now: datetime) -> RotationResult:
    """The key ``kid`` does not sign any more; it stays published for the tokens that it has signed.

    Raises RotationError if it is unknown or the only active key.
    """
    key = _find(keys, kid)
    if key.state == "retired":
        return RotationResult((), tuple(keys))
    _check_another_signs(keys, kid)
    return RotationResult((f"{kid} is retired",), tuple(_retired(one, now) if one.kid == kid else one for one in keys))


def removed(keys: Sequence[ListedKey], kid: str) -> RotationResult:
    """The key ``kid`` is gone, and every token that it has signed is invalid.

    Raises RotationError if it is unknown or the only active key.
    """
    _find(keys, kid)
    _check_another_signs(keys, kid)
    return RotationResult((f"{kid} is removed",), tuple(key for key in keys if key.kid != kid))


def without_obsolete(keys: Sequence[ListedKey], is_obsolete: Callable[[ListedKey], bool]) -> RotationResult:
    """The retired keys for which ``is_obsolete`` is true are gone."""
    steps: list[str] = []
    remaining = _without_obsolete(keys, is_obsolete, steps)
    return RotationResult(tuple(steps), tuple(remaining))


def rotate(
    folder: Path,
    now: datetime,
    *,
    publish_lead_time: float,
    algorithm: str | None,
    is_obsolete: Callable[[ListedKey], bool],
) -> RotationResult:
    """:func:`rotated` in ``folder``, which need not exist. Raises RotationError and KeyFileError."""

    def change(keys: Sequence[ListedKey]) -> RotationResult:
        return rotated(keys, now, publish_lead_time=publish_lead_time, algorithm=algorithm, is_obsolete=is_obsolete)

    return change_folder(folder, change, may_be_new=True)


def retire(folder: Path, kid: str, now: datetime) -> RotationResult:
    """:func:`retired` in ``folder``. Raises RotationError and KeyFileError."""
    return change_folder(folder, lambda keys: retired(keys, kid, now))


def remove(folder: Path, kid: str) -> RotationResult:
    """:func:`removed` in ``folder``. Raises RotationError and KeyFileError."""
    return change_folder(folder, lambda keys: removed(keys, kid))


def remove_obsolete(folder: Path, is_obsolete: Callable[[ListedKey], bool]) -> RotationResult:
    """:func:`without_obsolete` in ``folder``. Raises RotationError and KeyFileError."""
    return change_folder(folder, lambda keys: without_obsolete(keys, is_obsolete))


def change_folder(folder: Path, change: Change, *, may_be_new: bool = False) -> RotationResult:
    """Apply ``change`` to the keys of ``folder`` under its lock. ``may_be_new``: it may have no keys yet.

    Raises as ``change``, RotationError if the folder cannot be written, and KeyFileError.
    """
    with _locked(folder):
        is_new = may_be_new and not (folder / LIST_NAME).exists()
        before = [] if is_new else read_folder(folder)
        result = change(before)
        if result.steps:
            _write(folder, before, result.keys)
        return result


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the exclusive lock of ``folder``; waits for other processes."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _write_failed(folder, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_failed(folder: Path, error: OSError) -> RotationError:
    return RotationError(
        f"{folder} cannot be written: {error.strerror}. If it is a mounted Secret, copy its files to a writable folder,"
        " run this command there, and update the Secret from that folder; running sidecars reload the files"
    )


def _without_obsolete(
    keys: Sequence[ListedKey], is_obsolete: Callable[[ListedKey], bool], steps: list[str]
) -> list[ListedKey]:
    ended = [key.kid for key in keys if key.state == "retired" and is_obsolete(key)]
    steps += [f"{kid} is removed: all its tokens have expired" for kid in ended]
    return [key for key in keys if key.kid not in ended]


def _algorithm_in_use(keys: Sequence[ListedKey]) -> str:
    in_use = next((algorithm_of(key.public) for key in keys if key.state == "active"), KEY_TYPES[0])
    if in_use not in KEY_TYPES:
        raise RotationError(f"keys of type {in_use} cannot be generated; choose another type with --type")
    return in_use


def _new_key(state: str, algorithm: str, now: datetime, steps: list[str]) -> ListedKey:
    private = generate(algorithm)
    kid = f"{now:%Y%m%d}-{key_thumbprint(private.public_key())[:10]}"
    steps.append(f"{kid} is new: {'it signs' if state == 'active' else 'published, to sign after the next rotation'}")
    return ListedKey(kid, state, private.public_key(), private, since=now)


def _promoted(keys: Sequence[ListedKey], waiting: ListedKey, now: datetime, steps: list[str]) -> list[ListedKey]:
    """``waiting`` as the active key, the former active keys retired."""
    steps.append(f"{waiting.kid} signs from now on")
    others = []
    for key in keys:
        if key.kid == waiting.kid:
            continue
        if key.state == "active":
            steps.append(f"{key.kid} is retired")
        others.append(_retired(key, now) if key.state == "active" else key)
    return [replace(waiting, state="active", since=None), *others]


def _retired(key: ListedKey, now: datetime) -> ListedKey:
    return replace(key, state="retired", retired_at=now, since=None)


def _find(keys: Sequence[ListedKey], kid: str) -> ListedKey:
    for key in keys:
        if key.kid == kid:
            return key
    raise RotationError("there is no key with that id; see: sidecar keys list")


def _check_another_signs(keys: Sequence[ListedKey], kid: str) -> None:
    if not any(key.state == "active" and key.kid != kid for key in keys):
        raise RotationError(f"{kid} is the only key that signs; rotate first: sidecar keys rotate")


def _write(folder: Path, before: Sequence[ListedKey], after: Sequence[ListedKey]) -> None:
    """Write the files of new keys, the list ``after``, and then delete the files of keys that it does not contain."""
    known = {key.kid for key in before}
    for key in after:
        if key.kid not in known and key.private is not None:
            _write_file(folder / f"{key.kid}.pem", encode_private_key(key.private))
    _write_file(folder / LIST_NAME, encode_key_list(after), mode=0o644)
    left = {key.kid for key in after}
    for key in before:
        if key.kid not in left:
            with contextlib.suppress(OSError):
                (folder / f"{key.kid}.pem").unlink()


def _write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` atomically; the content is on disk on return."""
    draft = path.with_name(f".{path.name}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise _write_failed(path.parent, error) from error


def utc_now() -> datetime:
    """The current time in whole seconds, as in the list."""
    return datetime.now(UTC).replace(microsecond=0)
