"""Browser login: the OpenID Connect client, its endpoints, and the answers to browsers without a session.

A login is a chain of steps. :class:`~sidecar.login.flow.LoginFlow` decides which step is next and returns it as a
value; :mod:`sidecar.login.responses` makes it an HTTP response. Before a person has logged in nothing is stored: the
state of a login is in the browser's cookie and, sealed, in the provider's redirect.
"""
