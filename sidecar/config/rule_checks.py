"""Checks of route rules: other spellings of a path that bypass a rule, and rules that cannot apply to checks."""

import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

from sidecar.config.products.presets import RouteRule, expand_presets
from sidecar.config.reading.finding import Finding, FindingId, finding
from sidecar.config.reading.urls import upstream_base_path
from sidecar.config.settings import RequireSettings, Settings
from sidecar.hosts import is_loopback

_PARAMETERS = re.compile(r";[^/]*")
_STRICTNESS = {"public": 0, "guest": 1, "authenticated": 2}
_ENCODED_MARKS = ("%2f", "%5c", "%3b")


def check_spellings(settings: Settings) -> Iterator[Finding]:
    """Rules that a path in other letter case, or decoded, bypasses."""
    rules = tuple(expand_presets(settings.rules))
    for index, written in enumerate(settings.rules):
        if written.path is None:
            continue
        rule = RouteRule(written.path, written.methods, written.access, written.require, of_preset=False)
        path = ("rules", index, "path")
        other = "/".join(_other_letters(segment) for segment in _example(rule.path))
        weaker = _weaker(rule, other, rules) if other.swapcase() != other else None
        if weaker is not None:
            message = (
                f"is case-sensitive: {other} gets {weaker}. OpenMetadata and DataHub are case-sensitive too; "
                "for a server that is not, make the later rule as strict"
            )
            yield finding(FindingId.RULE_LETTER_CASE, path, message)
        if any(mark in rule.path.lower() for mark in _ENCODED_MARKS):
            decoded = _PARAMETERS.sub("", unquote("/".join(_example(rule.path)))).replace("\\", "/")
            weaker = _weaker(rule, decoded, rules)
            if weaker is not None:
                message = (
                    f"matches the encoded path only: {decoded}, which many servers treat as the same path, gets "
                    f"{weaker}; add a rule for that path too"
                )
                yield finding(FindingId.RULE_ENCODED, path, message)


def check_untrusted_checks(settings: Settings) -> Iterator[Finding]:
    """Rules that cannot be applied to checks, because no proxy is trusted."""
    server = settings.server
    forwards = settings.upstream is not None and bool(settings.upstream.url)
    if forwards or server.trusted_proxies or not requires_something(settings) or _is_near(server.listen):
        return
    message = (
        "is empty, and a rule has a require: checks are refused with 403 (peer_untrusted); list the addresses of the "
        "proxies"
    )
    yield finding(FindingId.CHECKS_UNTRUSTED, ("server", "trustedProxies"), message)


def requires_something(settings: Settings) -> bool:
    """Whether a configured rule can reject an authenticated caller."""
    return any(rule.require != RequireSettings() for rule in settings.rules)


def check_base_paths(settings: Settings) -> Iterator[Finding]:
    """A base path that is configured twice."""
    upstream_path = upstream_base_path(settings.upstream.url) if settings.upstream is not None else ""
    for index, rule in enumerate(settings.rules):
        if upstream_path and rule.base_path == upstream_path:
            message = (
                f"is {rule.base_path}, which upstream.url already prepends to every request, so the server "
                f"gets requests for {upstream_path}{rule.base_path}; keep it in one of the two"
            )
            yield finding(FindingId.UPSTREAM_BASE_PATH, ("rules", index, "basePath"), message)


def _is_near(listen: str) -> bool:
    return listen.startswith("unix:") or is_loopback(listen.rpartition(":")[0].strip("[]"))


def _example(pattern: str) -> list[str]:
    """A path that ``pattern`` matches, as segments. Wildcards become segments without letters."""
    segments = pattern.split("/")
    return [("0" if segment in {"*", "**"} else segment) for segment in segments]


def _other_letters(segment: str) -> str:
    """``segment`` with the case of each letter swapped, except in percent-encodings."""
    parts = segment.split("%")
    return "%".join([parts[0].swapcase(), *(part[:2] + part[2:].swapcase() for part in parts[1:])])


def _weaker(rule: RouteRule, path: str, rules: Sequence[RouteRule]) -> str | None:
    """The access that ``rules`` give ``path`` for a method of ``rule``, if it is less strict than ``rule``."""
    methods = rule.methods or tuple(dict.fromkeys(("GET", *(method for other in rules for method in other.methods))))
    for method in methods:
        found = next((other for other in rules if _covers(other, method, path)), None)
        access = found.access if found else "authenticated"
        lacks_requirement = rule.require != RequireSettings() and (found is None or found.require != rule.require)
        if _STRICTNESS[access] < _STRICTNESS[rule.access] or lacks_requirement:
            return f"access: {access}"
    return None


def _covers(rule: RouteRule, method: str, path: str) -> bool:
    if rule.methods and method not in rule.methods and not (method == "HEAD" and "GET" in rule.methods):
        return False
    pattern, segments = rule.path.split("/"), path.split("/")
    if not rule.without.isdisjoint(path.lower().split("/")):
        return False
    if pattern[-1] == "**":
        pattern, segments = pattern[:-1], segments[: len(pattern) - 1]
    return len(pattern) == len(segments) and all(
        one == other or (one == "*" and other != "") for one, other in zip(pattern, segments, strict=True)
    )
