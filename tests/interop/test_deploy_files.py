"""Every file of ``deploy/`` that a proxy reads is the one that the other tests here start that proxy with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.dataplane import identity_headers
from tests.interop.test_proxies import EVERY_NAME, PROXIES
from tests.support import proxies
from tests.support.proxies import DEPLOY, Addresses

# What is there besides proxies' files, each part with tests of its own.
NO_PROXIES = {"compose", "grafana", "kubernetes", "prometheus", "systemd"}


def test_every_shipped_file_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each of the proxies that the tests run says which files it reads."""
    read: set[Path] = set()
    shipped = proxies.shipped

    def noted(name: str, *replacements: Any, **options: Any) -> str:
        read.add(DEPLOY / name)
        return shipped(name, *replacements, **options)

    @contextmanager
    def not_running(*_: Any, **__: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(proxies, "shipped", noted)
    monkeypatch.setattr(proxies, "running", not_running)
    for name, (_, start) in PROXIES.items():
        folder = tmp_path / name
        folder.mkdir()
        with start(Path("nowhere"), folder, Addresses("127.0.0.1:1", "127.0.0.1:2")):
            pass
    there = {path for path in DEPLOY.rglob("*") if path.is_file()}
    assert {path for path in there if path.relative_to(DEPLOY).parts[0] not in NO_PROXIES} == read


def directives(text: str) -> list[str]:
    """The lines of an nginx file without comments, blank lines and indentation."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_the_snippets_of_nginx_are_the_parts_of_the_whole_file() -> None:
    """Put together around a location they have the same directives in the same order."""
    whole = directives((DEPLOY / "nginx" / "auth_request.conf").read_text(encoding="utf-8"))
    http, server, location = (
        directives((DEPLOY / "nginx" / f"auth_sidecar_{part}.conf").read_text(encoding="utf-8"))
        for part in ("http", "server", "location")
    )
    first = server.index("location = /_sidecar {")
    upstream = whole.index("upstream metadata {")
    together = [
        *http[:upstream],
        *("upstream metadata {", "server 127.0.0.1:8585;", "keepalive 32;", "}"),
        *http[upstream:],
        *("server {", "listen 8080;"),
        *server[:first],
        "location / {",
        *[*location[:-3], "proxy_pass http://metadata;", *location[-3:]],
        "}",
        *[*server[first:], "}"],
    ]
    assert together == whole


def test_the_proxy_tests_forge_every_name_that_forward_mode_removes() -> None:
    """What the sidecar itself removes in forward mode is what the proxies have to remove in check mode."""
    assert {name.lower() for name in EVERY_NAME} >= identity_headers._ALWAYS_STRIPPED
