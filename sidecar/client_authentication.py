"""How the sidecar authenticates as an OAuth client at the endpoints of a provider (RFC 6749 section 2.3, RFC 7523)."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import time
from typing import Any
from urllib.parse import quote_plus

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc7523 import PrivateKeyJWT

_ASSERTION_LIFETIME = 60


def encode_basic(
    client: Any, method: str, uri: str, headers: dict[str, str], body: str
) -> tuple[str, dict[str, str], str]:
    """RFC 6749 section 2.3.1: client id and secret are form-encoded first, which authlib omits."""
    pair = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}"
    return uri, {**headers, "Authorization": f"Basic {b64encode(pair.encode()).decode()}"}, body


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """A client's registration. ``secret`` is the text of a secret, or for ``private_key_jwt`` a private key whose
    algorithm is ``algorithm``.
    """

    client_id: str
    method: str
    secret: Any = field(default="", repr=False)
    algorithm: str = ""

    def sign_request(self, url: str, issuer: str, body: str) -> tuple[Mapping[str, str], str]:
        """Header fields and body of a form POST to ``url`` with this client's authentication.

        The audience of an assertion is ``issuer`` and nothing else, so that no other provider can use it.
        """
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        method: Any = self.method
        if method == "client_secret_basic":
            method = encode_basic
        elif method == "private_key_jwt":
            # made anew for each request: the library keeps the id of the assertion in the claims that it is given
            method = PrivateKeyJWT(issuer, {"exp": int(time()) + _ASSERTION_LIFETIME}, alg=self.algorithm)
        _, sent, content = ClientAuth(self.client_id, self.secret, method).prepare("POST", url, headers, body)
        return sent, content
