"""Tokens for the upstream: credentials in its own format, and the identity assertion."""
