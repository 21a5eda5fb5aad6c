"""Authentication: from the credential of a request to an Actor.

- ``base``: the protocol of authenticators (built-in and plugins), and the outcomes.
- ``registry``: resolves the configured types and decodes their options, before start.
- ``lifecycle``: builds, starts and stops the authenticators.
- ``isolation``: puts a time limit around each authenticator and turns its faults into 503.
- ``chain``: asks the authenticators in order, then the gates.
- ``gates``, ``usage_gate``: checks on every use of an accepted credential.
- ``authenticators/``: one module per type. ``support/``: what several of them share.

A request passes through ``Chain``. Each authenticator is asked in the configured order, first for a cached result
(``recall``, never waits), then to verify (``authenticate``). It returns ``Accepted``, ``Rejected`` or ``Abstained``, or
raises ``Unavailable``. The first that does not abstain decides. An accepted credential then passes the gates:
certificate binding, revocation list, token record, reserved names. Only then the access decision sees the Actor.

What every change has to keep:

- Accepted, rejected, abstained and unavailable are four outcomes. A failure of a dependency is 503, never 401.
- An authenticator that recognises a credential decides on it. A bad credential never falls through to another
  authenticator or to the guest.
- Caches contain facts, not verdicts. The gates run on every use, for cached and new credentials alike.
- ``recall`` and the gates never wait. Every query to another server has a time limit and is bounded in number.
- No credential, and no claim of a rejected token, appears in an answer, a log line or a metric.
"""
