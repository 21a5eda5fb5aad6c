"""Names of secrets in a secrets manager: which ids are valid, and how OpenMetadata builds an id.

One table for all managers. An id comes from the configuration or a command, never from a request. It is checked before
anything is sent, so that it cannot become a path, a query or the request for a list.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class VaultKind(StrEnum):
    """The supported secrets managers. The text is the name in messages."""

    AZURE = "Azure Key Vault"
    OPENBAO = "OpenBao"
    KUBERNETES = "Kubernetes"


@dataclass(frozen=True, slots=True)
class Manager:
    """What a value of ``secretsManagerConfiguration.secretsManager`` means. ``writes``: it may also be written to."""

    kind: VaultKind
    writes: bool


MANAGERS: Mapping[str, Manager] = {
    "azure-kv": Manager(VaultKind.AZURE, writes=False),
    "managed-azure-kv": Manager(VaultKind.AZURE, writes=True),
    "openbao": Manager(VaultKind.OPENBAO, writes=False),
    "managed-openbao": Manager(VaultKind.OPENBAO, writes=True),
    "kubernetes": Manager(VaultKind.KUBERNETES, writes=True),
}
NO_MANAGER = ("db", "noop")
"""Values that mean: there is no secrets manager."""


@dataclass(frozen=True, slots=True)
class _Ids:
    """Ids of one manager: what is valid, in words and as a pattern; how OpenMetadata joins the parts of an id."""

    pattern: re.Pattern[str]
    words: str
    separator: str
    leading: bool
    removed: re.Pattern[str]
    replacement: str


_IDS: Mapping[VaultKind, _Ids] = {
    VaultKind.AZURE: _Ids(
        re.compile(r"[A-Za-z0-9-]{1,127}"),
        "1 to 127 letters, digits and hyphens",
        "-",
        leading=False,
        removed=re.compile(r"[^A-Za-z0-9-]"),
        replacement="",
    ),
    VaultKind.OPENBAO: _Ids(
        re.compile(r"(?=.{1,512}\Z)/?[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*"),
        "segments of letters, digits, _ and -, joined by /, at most 512 characters",
        "/",
        leading=True,
        removed=re.compile(r"[^A-Za-z0-9/_-]"),
        replacement="_",
    ),
    VaultKind.KUBERNETES: _Ids(
        re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"),
        "the name of a Secret: at most 253 lower-case letters, digits, hyphens and dots",
        "-",
        leading=False,
        removed=re.compile(r"[^A-Za-z0-9-]"),
        replacement="-",
    ),
}
_MAX_KUBERNETES = 253


def id_problem(kind: VaultKind, secret_id: str) -> str:
    """What is wrong with ``secret_id`` as an id of ``kind``; empty: nothing."""
    ids = _IDS[kind]
    if ids.pattern.fullmatch(secret_id):
        return ""
    if not secret_id:
        return f"has no id; write secret:<id>, where an id of {kind} is {ids.words}"
    return f"is not an id of {kind}: an id is {ids.words}"


def openmetadata_id(kind: VaultKind, prefix: str, cluster: str, *parts: str) -> str:
    """The id that OpenMetadata builds for ``parts`` (kind of entity, its name, then one part per nested field).

    ``prefix`` and ``cluster`` are joined without a separator, except in managers whose ids begin with one; a prefix
    such as ``acme-`` brings its own. Raises ValueError if the result is not a valid id.
    """
    ids = _IDS[kind]
    lead = ids.separator if ids.leading else ""
    built = f"{lead}{prefix}" if prefix else ""
    built += f"{lead}{cluster}"
    for part in parts:
        built += f"{ids.separator}{part}"
    built = ids.removed.sub(ids.replacement, built.lower())
    if kind is VaultKind.KUBERNETES:
        built = re.sub("-{2,}", "-", built).strip("-")[:_MAX_KUBERNETES].strip("-")
    if problem := id_problem(kind, built):
        raise ValueError(f"{built!r} {problem}")
    return built


def bot_token_id(kind: VaultKind, prefix: str, cluster: str, bot: str) -> str:
    """The id of the token of ``bot``, from which OpenMetadata's ingestion reads it.

    Raises ValueError, also for a name of which no character is left: all such names would have one id.
    """
    if not re.search("[a-z0-9]", bot.lower()):
        raise ValueError(f"{bot!r} has no letter or digit of ASCII, so that its id would not be its own")
    return openmetadata_id(kind, prefix, cluster, "bot", bot, "config", "jwttoken")
