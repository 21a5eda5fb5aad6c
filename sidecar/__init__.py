"""auth-sidecar: the authentication sidecar for metadata servers."""

__version__ = "0.1.0"
