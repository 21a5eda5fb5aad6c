"""Verify an X-Auth-Assertion: python verify.py JWKS_URL ISSUER AUDIENCE < assertion. Needs joserfc."""

import json
import sys
from typing import Any
from urllib.request import urlopen

from joserfc import jwt
from joserfc.jwk import KeySet


def verify(assertion: str, key_set: KeySet, issuer: str, audience: str) -> dict[str, Any]:
    """The claims. Raises joserfc.errors.JoseError, or ValueError for a token of another type."""
    token = jwt.decode(assertion, key_set, algorithms=["ES256"])
    if token.header.get("typ") != "auth-assertion+jwt":
        raise ValueError("not an assertion")
    rules = jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": issuer},
        aud={"essential": True, "value": audience},
        exp={"essential": True},
        sub={"essential": True},
    )
    rules.validate(token.claims)
    return token.claims


if __name__ == "__main__":
    url, expected_issuer, expected_audience = sys.argv[1:]
    with urlopen(url, timeout=5) as response:  # noqa: S310 - the URL is the operator's; keep the set for minutes
        keys = KeySet.import_key_set(json.load(response))
    claims = verify(sys.stdin.read().strip(), keys, expected_issuer, expected_audience)
    sys.stdout.write(f"{claims['sub']} {','.join(claims['actor'].get('groups', ()))}\n")
