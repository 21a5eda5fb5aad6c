"""Several processes as one service: a supervisor, its workers, and the calls between them.

The supervisor (``supervisor``) starts ``server.workers`` processes (``process``). Each runs ``worker``: a sidecar
without an operations listener. Supervisor and worker share a private socket. Calls travel as pickled Python objects
(``rpc``) in length-prefixed messages (``framing``); responses are JSON.

The flow of control:

- Start: the supervisor opens the listening sockets, starts the workers, calls ``start`` in each, and assigns the
  sockets with ``accept``. They stay open in the supervisor, so that queued connections survive the death of a worker.
- Reload: ``prepare`` in all workers, then ``activate`` in all, or ``discard`` in all if one of them failed. A worker
  that does not activate is killed and restarted with the new configuration.
- Exit of a worker: its sockets are assigned to the next running worker immediately. The worker is restarted, after a
  growing pause if its uptime was short.
- Metrics: each scrape collects the metrics of all workers, and ``totals`` adds them up.
- Shutdown: ``drain`` in all workers; then the control sockets are closed, which ends the workers.

To keep:

- Pickle goes from the supervisor to the worker only. A compromised worker must not run code in the supervisor.
- Each method of ``worker.Worker`` is called by its name as a string: rename it in ``supervisor`` too.
- No total that a scrape has shown may decrease when a worker exits.
- A worker ends with its supervisor, also when the supervisor is killed.
"""
