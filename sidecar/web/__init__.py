"""The HTTP server: connections, requests, responses. All use of aiohttp's server is here and in the handlers.

- ``server``: connections of both listeners. ``listeners``, ``server_tls``: sockets and certificates.
- ``dispatcher``: calls the handler of each request of the public listener; capacity, metrics, access log.
- ``in_flight``: requests whose answer is not known yet, and the work that is left.
- ``request``: framing checks, request ids, the context for the decision.
- ``client_address``, ``trace_context``, ``cors``: headers.
- ``response``, ``error_responses``: answers as bytes; refusals and their log lines.
- ``spans``: OpenTelemetry, imported only if tracing is configured.

The way of a request: ``Connection.data_received`` parses the head with aiohttp's parser. If the request has no body and
is the only one on an idle connection, ``Dispatcher.handle_head`` checks its framing, finds its handler and calls it.
The handler returns an answer, which is written at once, or a ``Work``. Work begins without a task if it can
(``Work.start``); otherwise aiohttp creates a request, and ``Dispatcher.__call__`` does the work in the task of the
connection (``Work.run``). aiohttp does the same with all other requests, for which ``Dispatcher.__call__`` calls the
handler itself.

What every change has to keep:

- Answers are written in the order of their requests. A request in progress is promoted to a task before anything else
  on the connection is handled.
- A request keeps the configuration that it began with. Each one is counted once, and every slot is released.
- An exception of a handler becomes a refusal, never an answer that lets the request pass.
- Neither answers nor log lines contain what the parser rejected, a credential, or the text of a foreign exception.
"""
