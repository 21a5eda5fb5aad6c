"""Secrets: a value that prints nowhere, and the sources it can come from."""
