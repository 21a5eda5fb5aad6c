"""Old names and words that readers have to translate do not come back.

The project uses the terms of the RFCs, OpenID Connect, Envoy and Kubernetes, and one word for one thing.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Files and folders with text of the project.
_TREES = (".ci", "bench", "deploy", "docs", "examples", "helm", "sidecar", "tests")
_FILES = ("Dockerfile", "Makefile", "README.md", "mkdocs.yml", "pyproject.toml")
_SUFFIXES = frozenset(
    {"", ".conf", ".css", ".html", ".json", ".lua", ".md", ".py", ".sh", ".toml", ".tpl", ".txt", ".yaml", ".yml"}
)

# Where old words may stand: the record of changes, decisions of their time, and old names that still work.
_RECORDS = (
    "docs/decisions",
    "sidecar/old_names.py",
    "tests/unit/test_old_names.py",
    "tests/test_words.py",
)
# Input of tests: bytes that parsers have to survive.
_DATA = ("tests/fuzz/corpus", "tests/vectors")
# Words and what to write instead. They are compared in lower case, with identifiers split at underscores and capitals.
_WORDS = {
    r"(?:no|some|any|every)bod(?:y|ys|ies)": "no caller, a caller, any client, all users",
    r"whoever|whomever|whosever": "the caller, the client, a user who",
    r"he|him|his|himself": "it, its; a person: the user, their",
    r"who (?:asks|is asked)|asked in vain": "the caller; the authentication chain",
    r"(?:service|server)s? behind(?! a proxy)": "upstream",
    r"octets?": "byte, bytes",
    r"(?:is|are|was|were|be) told|told of|tells? of": "reports, receives, the message says",
    r"hears? of": "applies, receives",
    r"den(?:ial|ials)(?! id)": "revocation entry; refusal",
    r"deny list": "revocation list",
    r"usual way|under way": "in flight, in progress",
    r"goodbye|farewell|last words": "close frame, end of the log",
    r"the mends?|mended": "fix",
    r"call(?:ed)? off": "cancel",
}
# Names that were replaced, and their successors.
_NAMES = {
    "Beginner": "StreamingHandler",
    "Begun": "InFlightRequest",
    "Denial": "RevocationEntry",
    "DenyList": "RevocationList",
    "DenyRule": "RetentionPolicy",
    "DenyWish": "RevocationRequest",
    "ForeignAcceptor": "ProviderPrincipalMapper",
    "FrameBorders": "FrameBoundaryTracker",
    "Guarded": "IsolatedAuthenticator",
    "NobodyError": "NotFound",
    "NotAdmittedError": "AuthenticationFailed",
    "OwnAcceptor": "IssuedTokenResolver",
    "Planned": "AuthenticatorSpec",
    "RequestView": "RequestContext",
    "ShortLived": "TokenCache",
    "Surroundings": "AuthenticatorContext",
    "Tally": "Counter",
    "TimeTally": "Histogram",
    "UnderWay": "InFlightRequest",
    "WrittenMember": "AuthenticatorConfig",
    "facts_of": "revocation_keys",
}
# Public texts that keep an old word: fields of log lines, and a line of check that scripts read.
_KEPT = re.compile(r"without credentials everybody is|\bdenial_id\b")
# Names in the data of stores, which older versions have written and still read.
_STORED = re.compile(r"\bdenials(?=\b|_by_)")
_STORES = ("sidecar/store/redis/store.py", "sidecar/store/sqlite", "tests/contract/test_store_faults.py")

_OLD_WORDS = {re.compile(rf"\b(?:{word})\b"): instead for word, instead in _WORDS.items()}
_OLD_NAMES = {re.compile(rf"\b{name}\b"): instead for name, instead in _NAMES.items()}
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def _is_below(path: str, parents: tuple[str, ...]) -> bool:
    return any(path == parent or path.startswith(f"{parent}/") for parent in parents)


def _files(top: Path) -> Iterator[Path]:
    for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
        name = str(path.relative_to(ROOT))
        is_text = path.is_file() and path.suffix in _SUFFIXES and {"__pycache__", "node_modules"}.isdisjoint(path.parts)
        if is_text and path.name != "package-lock.json" and not _is_below(name, (*_RECORDS, *_DATA)):
            yield path


def old_words(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, word and replacement of each old word in ``text``, in file contents as in names of files."""
    for number, line in enumerate(text.splitlines(), 1):
        kept = _KEPT.sub("", line)
        for pattern, instead in _OLD_NAMES.items():
            yield from ((number, found[0], instead) for found in pattern.finditer(kept))
        plain = _CAPITAL.sub(" ", kept.replace("_", " ")).lower().replace("-", " ")
        for pattern, instead in _OLD_WORDS.items():
            yield from ((number, found[0], instead) for found in pattern.finditer(plain))


def _found(path: Path) -> list[str]:
    name = str(path.relative_to(ROOT))
    text = f"{name}\n{path.read_text(encoding='utf-8', errors='replace')}"
    if _is_below(name, _STORES):
        text = _STORED.sub("", text)
    return [f"{name}:{line - 1}: {word}: write {instead}" for line, word, instead in old_words(text)]


@pytest.mark.parametrize("top", [*_TREES, *_FILES])
def test_old_words_do_not_come_back(top: str) -> None:
    files = list(_files(ROOT / top))
    assert files, "a folder of the list has moved"
    found = [line for path in files for line in _found(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nobody has told of what is told a denial", ["nobody", "told of", "is told", "denial"]),
        ("def test_whoever_comes_is_heard(octets):", ["whoever", "octets"]),
        ("class DenyList: ...", ["DenyList", "deny list"]),
        ("the service\tbehind", []),
        ('extra={"denial_id": entry.id}', []),
        ("the upstream receives the bytes; this and the other", []),
    ],
)
def test_words_are_found_in_prose_and_in_names(text: str, words: list[str]) -> None:
    assert sorted(word for _, word, _ in old_words(text)) == sorted(words)
