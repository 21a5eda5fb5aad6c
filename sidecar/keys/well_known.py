"""Keys whose private half is published in a product's sources, so that anyone can sign with them.

Only fingerprints are stored here: RFC 7638 thumbprints (SHA-256, base64url) of the public keys.
"""

OPENMETADATA_DEFAULT_KID = "Gb389a-9f76-gdjs-a92j-0242bk94356"
WELL_KNOWN_KIDS = frozenset({OPENMETADATA_DEFAULT_KID})
WELL_KNOWN_THUMBPRINTS = frozenset(
    {
        "Db0dhKG2UYMwVssQYb4_2XxUSyB2gmaXm-nOhX2Hvug",  # OpenMetadata's conf/public_key.der
    }
)
