"""The ``sidecar`` command.

``main`` selects the command and imports only its module. Each module has ``register(subparsers)``, which adds its
parser and sets ``run``, a function from the parsed options to the exit code.

- ``serve`` runs the sidecar; ``demo`` runs it with an identity provider and an upstream.
- ``check`` validates the configuration and runs ``probes`` of its dependencies; ``config`` prints the configuration or
  its schema; ``health`` queries a running sidecar.
- ``token``, ``bots``, ``keys`` and ``revocations`` work on the store and the key folder directly and need no running
  sidecar. ``explain`` runs the validation of one token step by step.
- ``options``, ``output``, ``parser``, ``problems`` and ``table`` are shared by the commands.

Exit codes: 0 success, 1 rejected or failed, 2 usage or configuration.

To keep:

- A command prints its result to standard output, and problems and audit lines to standard error. A failure is one
  sentence that says what to do, never a traceback.
- A result that cannot be printed again, such as a new token, is printed with ``output.print_durably``. If that fails,
  the command undoes what it did.
- Text from tokens and stores is escaped before it reaches a terminal.
- An option that is renamed keeps its old name for one minor version: ``sidecar.old_names.add_option``.
"""

from sidecar.cli.main import main

__all__ = ["main"]
