"""Shared by several authenticators: credential caches, dependency probes, password checks, bearer tokens."""
