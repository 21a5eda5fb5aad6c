"""A client that sends the given header lines unchanged and returns the response unchanged."""

import base64
import http.client
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; ``headers`` in the order received, duplicates kept."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        """The body read as JSON."""
        return json.loads(self.body)


def request(
    url: str,
    method: str = "GET",
    *,
    target: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
    timeout: float = TIMEOUT,
    source: str = "",
) -> Reply:
    """One request on a connection of its own. ``target`` is sent byte for byte instead of the URL's path.

    ``source``: the address that the connection comes from.
    """
    parts = urlsplit(url)
    assert parts.hostname
    path = target if target is not None else parts.path + (f"?{parts.query}" if parts.query else "") or "/"
    sent = [("Host", parts.netloc), *headers, ("Connection", "close")]
    if body is not None:
        sent.append(("Content-Length", str(len(body))))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent), "", ""]
    bound = (source, 0) if source else None
    with socket.create_connection((parts.hostname, parts.port or 80), timeout, bound) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1") + (body or b""))
        with http.client.HTTPResponse(connection, method=method) as answer:
            answer.begin()
            return Reply(answer.status, tuple(answer.getheaders()), answer.read())


def answers(url: str, status: int | None = None) -> bool:
    """Whether something at ``url`` answers (with ``status``, when given)."""
    try:
        reply = request(url)
    except (OSError, http.client.HTTPException):
        return False
    return status is None or reply.status == status


def form(url: str, fields: dict[str, str], *, basic: tuple[str, str] | None = None) -> Any:
    """POST a form and read the JSON answer, which must be a success."""
    headers = [("Content-Type", "application/x-www-form-urlencoded")]
    if basic:
        headers.append(("Authorization", "Basic " + base64.b64encode(":".join(basic).encode()).decode()))
    reply = request(url, "POST", headers=headers, body=urlencode(fields).encode())
    assert reply.status == 200, reply
    return reply.json()
