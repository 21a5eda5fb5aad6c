"""Secrets managers: the values of ``secret:<id>`` settings, own keys and bot tokens.

``base`` has the contract of a secrets manager and the limits of every call. ``azure``, ``openbao`` and ``kubernetes``
implement it; ``open`` selects one. ``reader`` reads the secrets of a configuration, at the start with retries, later to
notice changes.

To keep:

- Ids come from the configuration and from commands, never from a request, and are checked before anything is sent.
- A value is used verbatim: a value that looks like a reference is not resolved.
- No error text of a library or a server is logged: it may quote a secret.
- A value that was read stays in force while the secrets manager fails.
"""
