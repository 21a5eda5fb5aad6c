"""The one door to the JOSE library for tokens: has this key signed, sign with this key. Nothing else is asked of it."""

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
    """The library's registry narrowed to one algorithm.

    Its list of allowed names would be ignored or replaced in several ways; here there is nothing to choose from.
    ``b64`` (RFC 7797 7) and the header's size are decided where tokens are read.
    """

    default_header_registry: ClassVar[HeaderRegistryDict] = {  # type: ignore[misc]  # the library forgot ClassVar
        name: parameter for name, parameter in JWSRegistry.default_header_registry.items() if name != "b64"
    }

    def __init__(self, name: str) -> None:
        super().__init__(algorithms=[name], strict_check_header=False)
        self._model = JWSRegistry.algorithms[name]

    def get_alg(self, name: str) -> Any:
        if name != self._model.name:
            raise ValueError("another algorithm than the one asked for")
        return self._model


# HS256 is DataHub's: no other key is ever bound to it, so it is never tried with one.
_NAMES = (*ASYMMETRIC_ALGORITHMS, "HS256")
_REGISTRIES = {name: _OneAlgorithm(name) for name in _NAMES}
_MODELS = {name: JWSRegistry.algorithms[name] for name in _NAMES}


def verify_signature(key: Key, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is that of ``key`` over ``signing_input`` with ``algorithm``. Never raises.

    The library's algorithm is asked itself: what its outer layers add is to read the token once more.
    """
    try:
        model = _MODELS[algorithm]
        model.check_key(key)
        return model.verify(signing_input, signature, key)
    except Exception:  # noqa: BLE001 - hostile input ends in many classes of error; all of them mean "not signed"
        return False


def sign(header: Mapping[str, Any], claims: Mapping[str, Any], key: Key) -> str:
    """The compact JWS of ``claims`` under ``header`` (``alg`` fits the private or shared ``key``)."""
    payload = json.dumps(claims, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return serialize_compact(dict(header), payload, key, registry=_REGISTRIES[header["alg"]])
