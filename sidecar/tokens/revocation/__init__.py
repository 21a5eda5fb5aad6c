"""The revocation list, managed: entries for the tokens of any issuer, and how long each is kept."""
