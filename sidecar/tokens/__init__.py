"""Tokens: read, verify, remember, mint, record."""
