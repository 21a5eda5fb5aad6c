"""Keys: verification keys of other issuers (fetched, cached, refreshed), and this sidecar's signing keys.

- ``keyset``: parses a JWKS document into ``VerificationKey`` objects, each bound to its algorithms; ``KeyIndex`` finds
  candidates. ``document`` reads JSON strictly, ``weak_rsa`` and ``well_known`` recognise unsafe keys.
- ``discovery``: OpenID Connect discovery. ``url_keys``: the key set behind one URL or in a file.
  ``jwks_cache``: all key sets of one provider. ``refresher``: when to fetch. ``disk``: copies that survive a restart.
- ``signing``: the signing keys, published as JWKS. ``key_files`` and ``key_folder`` read and write them,
  ``rotation`` replaces them.

Verification asks a ``KeySource`` for candidates by key id and algorithm, from memory. Only if none is known does it
call ``refetch``, which waits for at most one fetch per cool-down. All other fetches run in the background.

What every change has to keep:

- A key set that was fetched is complete: keys that it no longer lists are withdrawn (``live`` becomes False), which
  invalidates every cached token that they verified. A failed fetch changes nothing until ``keys.maxStale`` has passed.
- "No such key" (401) and "keys unavailable" (503) are different results.
- One bad entry of a key set does not affect the others; only public numbers are kept.
- A key verifies only with its own algorithms. Keys whose private half is published are not used.
- A new signing key is published before it signs, and a retired key stays published while its tokens are valid.
"""
