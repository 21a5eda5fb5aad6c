"""Secrets: a value type that is never printed, and the sources of secrets."""
