"""The public listener: check endpoints, the forwarding proxy, identity headers.

- ``routes``: the route table. Paths are compared byte for byte.
- ``check``: the check endpoints. ``dialects``: the original request in the headers of nginx, Envoy, Traefik and Caddy.
- ``identity_headers``: names and encoding of the headers for the upstream, and which headers are removed.
- ``proxy/``: forward mode.

The way of a check: ``CheckEndpoint`` reads the original request with its dialect, gets the verdict of the ``Decider``,
and returns the encoded identity headers, or the refusal in a status that the proxy passes on.

The way of a forwarded request: ``Forwarder`` gets the verdict. If it allows the request, ``relay`` sends it without a
task over an idle connection of the ``pool`` and forwards the response, if it arrives in one piece. All others are
finished in a task: ``exchange`` sends the body and reads the response in pieces, ``tunnel`` passes on WebSockets, and
``stream_watch`` ends streams whose credential is revoked. ``heads`` and ``hop_headers`` create the heads of both
messages.

What every change has to keep:

- The bytes that were checked are the bytes that are forwarded.
- Only an allowing verdict carries an identity. Identity headers of the caller are removed on every path.
- Forwarding headers are read from trusted peers only, and each dialect reads its own.
- Unread data on an upstream connection never becomes the response to another request.
"""
