"""Default secrets published in a product's sources. Only their digests are stored here."""

from hashlib import sha256

from sidecar.secrets.value import Secret

# SHA-256 of the text.
_WELL_KNOWN = frozenset(
    {
        "5280a435dc3fb7246d8bdc5557a4d255f8b422555d0b1267c2d5a7e71099ad93",  # DataHub's old signing key
        "ef05ec9d6f1e915d93072f63a053d549fbd5469789cd3836377a5125edd450b0",  # DataHub's old salt
        "cc4dd5d1c3bfcfab30725f22ab4b57d57014985c79cdda32e8a7c3f631a67349",  # DataHub's old system secret
    }
)


def is_well_known(secret: Secret) -> bool:
    """Whether ``secret`` is a published default."""
    return sha256(secret.reveal().encode("utf-8", "surrogatepass")).hexdigest() in _WELL_KNOWN
