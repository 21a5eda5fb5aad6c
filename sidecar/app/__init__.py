"""Composition root: builds a running sidecar from settings.

This is the only package besides the commands that may import every other one. It has no request logic: it creates
objects, connects them, and closes them in reverse order. To find out how a part gets its collaborators, look here.

- ``serve`` runs a service until a signal stops it. It starts ``running.run_sidecar`` in this process, or
  ``workers.supervisor.supervised`` with several processes.
- ``running.Sidecar`` owns the listeners and the current configuration. ``reload`` reads the configuration again and
  replaces it; in-flight requests finish under the configuration they started with.
- ``generation.build`` turns one configuration into a ``ConfigGeneration``, in this order: ``issuers`` (keys, store,
  mirror), ``authentication`` (the authenticators, the chain, the rules), ``management`` (minting and revoking),
  ``public_routes`` (checks, forwarding, API), ``health``. ``datahub``, ``naming``, ``tracing``, ``upstream_start`` and
  ``egress_report`` are steps of it.
- ``shared_resources`` keeps what consecutive generations have in common, such as key sets and the store connection.
  ``process_context`` has what lives as long as the process.

A request does not pass through this package. The dispatcher in ``sidecar.web`` calls the routes that were built here.

To keep:

- A generation is complete before it is activated, and immutable afterwards. A reload replaces all of it or nothing.
- Every resource is on the exit stack of its generation, every task has an owner that cancels it.
- Starting must not need an identity provider. Parts that cannot work yet report it through ``health``.
"""
