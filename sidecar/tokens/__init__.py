"""Tokens: verify any JWT, issue tokens, revoke tokens of any issuer, mint credentials for the upstream.

- ``jwt/``: parse, verify and cache JWTs of any issuer. Pure: no I/O and no store.
- ``issued/``: tokens that this sidecar issues: minting, records, lifetimes, last use, bot names.
- ``revocation/``: the revocation list: entries for tokens of any issuer, and how long each entry is kept.
- ``upstream/``: credentials and signed identity assertions that are sent to the upstream.
- ``datahub``: DataHub's token format. ``submitted``: a token in a request body, as the revocation list identifies it.

A presented token is parsed (``jwt.compact.parse``) into ``Unverified``, which only selects the issuer and its keys.
``jwt.verify.verify`` checks signature and claims against a ``ValidationPolicy`` and returns ``VerifiedClaims``. A token
of this sidecar's own issuer then needs its record (``issued.records``). The result is cached (``jwt.verified_cache``);
revocation is checked on every use by the gates of ``authn``.

What every change has to keep:

- Only ``jwt.jose`` calls the JOSE library. It answers one question: did this key sign these bytes?
- A document that two parsers could read differently is rejected. Required claims are checked for presence and type.
- The record of an issued token is on disk before its text is returned. Records contain a hash, never the token.
- A revocation entry is kept until no token that it matches can be valid, and no token text appears in logs.
- Minted upstream credentials carry a claim that makes this sidecar reject them as caller credentials.
"""
