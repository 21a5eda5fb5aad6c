"""Tokens in forms, and notices that one page leaves for the next."""

import hmac
import json
import os
from dataclasses import dataclass, field

from sidecar.clock import Clock
from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.request import HeaderView
from sidecar.sessions.sealing import Sealer, decode_base64url, encode_base64url

_NONCE_BYTES = 16
_PURPOSE = "notice"
_MAX_AGE = 60
_MAX_COOKIE = 3500
"""Browsers drop cookies of more than 4,096 bytes, name and attributes included."""
_NONE: list[str] = []


def form_token(secret: str, path: str) -> str:
    """A new token for a form of the page at ``path``, for the session of the cookie's value ``secret`` alone."""
    nonce = encode_base64url(os.urandom(_NONCE_BYTES))
    return f"{nonce}.{_mac(secret, path, nonce)}"


def check_form_token(token: str, secret: str, path: str) -> str:
    """The unique part of a form's token. Raises Refused(CROSS_SITE) for that of another page or session."""
    nonce, _, mac = token.partition(".")
    if not hmac.compare_digest(mac.encode(), _mac(secret, path, nonce).encode()) or decode_base64url(nonce) is None:
        raise Refused(
            Reason.CROSS_SITE, Cause.FORM_TOKEN, message="Forbidden: the form is not of this page and session"
        )
    return nonce


def _mac(secret: str, path: str, nonce: str) -> str:
    text = f"form\0{path}\0{nonce}".encode("utf-8", "surrogatepass")
    return encode_base64url(hmac.digest(secret.encode(), text, "sha256"))


def check_navigation(headers: HeaderView) -> None:
    """Raises Refused(CROSS_SITE) unless a whole window opens the page, as far as the browser says so.

    A script on another page of the origin could otherwise read the page, with the tokens of its forms.
    """
    modes, places = headers.getall("Sec-Fetch-Mode", _NONE), headers.getall("Sec-Fetch-Dest", _NONE)
    if modes not in ([], ["navigate"]) or places not in ([], ["document"]) or bool(modes) != bool(places):
        raise Refused(Reason.CROSS_SITE, Cause.ORIGIN, "no navigation", message="Forbidden: open the page in a window")


def check_own_form(headers: HeaderView, origin: str) -> None:
    """Raises Refused(CROSS_SITE) unless a page of ``origin`` sends the form."""
    check_navigation(headers)
    sites, origins = headers.getall("Sec-Fetch-Site", _NONE), headers.getall("Origin", _NONE)
    if sites not in ([], ["same-origin"]) or origins not in ([], [origin]) or not (sites or origins):
        raise Refused(Reason.CROSS_SITE, Cause.ORIGIN)


@dataclass(frozen=True, slots=True)
class Notice:
    """What the next page shows once: a sentence, and perhaps a new token with its name."""

    text: str
    name: str = ""
    token: str = field(default="", repr=False)


class Notices:
    """Notices travel in a cookie, encrypted for one session. The page that shows one deletes it."""

    def __init__(self, sealer: Sealer, clock: Clock) -> None:
        self._sealer = sealer
        self._clock = clock

    def seal(self, notice: Notice, session_id: str) -> str | None:
        """The cookie's value; None: it is too long for a cookie."""
        content = json.dumps([self._clock.now(), notice.text, notice.name, notice.token]).encode()
        sealed = self._sealer.seal(_PURPOSE, content, session_id)
        return sealed if len(sealed) <= _MAX_COOKIE else None

    def open(self, value: str, session_id: str) -> Notice | None:
        """The notice; None: it is of another session or too old."""
        opened = self._sealer.open(_PURPOSE, value, session_id)
        if opened is None:
            return None
        at, text, name, token = json.loads(opened.content)
        return Notice(text, name, token) if abs(self._clock.now() - at) <= _MAX_AGE else None


NOTICE_MAX_AGE = _MAX_AGE
"""Seconds for which a browser keeps the cookie."""
