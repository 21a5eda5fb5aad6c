"""Security events of identity providers (OpenID Shared Signals Framework 1.0), delivered by push (RFC 8935).

- ``security_event``: verifies a security event token (RFC 8417). ``mapping``: the revocation that an event asks for.
- ``receiver``: the endpoint. It acknowledges an event only after its revocation is stored.
"""
