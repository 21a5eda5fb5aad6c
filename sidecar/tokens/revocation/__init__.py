"""The revocation list: entries for tokens of any issuer, and how long each entry is kept."""
