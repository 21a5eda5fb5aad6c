"""The authenticators: one module for each type in ``authentication.authenticators``."""
