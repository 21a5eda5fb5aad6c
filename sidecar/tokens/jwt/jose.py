"""The only module that calls the JOSE library for tokens: verify a signature, create a signature."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from joserfc.jwk import Key
from joserfc.jws import JWSRegistry, serialize_compact
from joserfc.registry import HeaderRegistryDict

from sidecar.config.settings import ASYMMETRIC_ALGORITHMS

ED25519_NAMES = frozenset({"EdDSA", "Ed25519"})
"""RFC 9864: with an Ed25519 key both names mean one algorithm."""


class _OneAlgorithm(JWSRegistry):
    """The library's registry, restricted to one algorithm.

    The library ignores or replaces its list of allowed names in several cases; here there is only one. ``b64`` (RFC
    7797 7) and the size of the header are checked when the token is parsed.
    """

    default_header_registry: ClassVar[HeaderRegistryDict] = {  # type: ignore[misc]  # the library forgot ClassVar
        name: parameter for name, parameter in JWSRegistry.default_header_registry.items() if name != "b64"
    }

    def __init__(self, name: str) -> None:
        super().__init__(algorithms=[name], strict_check_header=False)
        self._model = JWSRegistry.algorithms[name]

    def get_alg(self, name: str) -> Any:
        if name != self._model.name:
            raise ValueError("the registry has one algorithm only")
        return self._model


# HS256 is used by DataHub only: no other key is bound to it.
_NAMES = (*ASYMMETRIC_ALGORITHMS, "HS256")
_REGISTRIES = {name: _OneAlgorithm(name) for name in _NAMES}
_MODELS = {name: JWSRegistry.algorithms[name] for name in _NAMES}


def verify_signature(key: Key, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is that of ``key`` over ``signing_input`` with ``algorithm``. Never raises.

    Calls the library's algorithm directly: its outer layers would parse the token again.
    """
    try:
        model = _MODELS[algorithm]
        model.check_key(key)
        return model.verify(signing_input, signature, key)
    except Exception:  # noqa: BLE001 - malicious input raises many exception types; all of them mean "not signed"
        return False


def sign(header: Mapping[str, Any], claims: Mapping[str, Any], key: Key) -> str:
    """The compact JWS of ``claims`` with ``header``, whose ``alg`` fits the private or shared ``key``."""
    payload = json.dumps(claims, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return serialize_compact(dict(header), payload, key, registry=_REGISTRIES[header["alg"]])
