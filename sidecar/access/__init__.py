"""The decision: request in, verdict out.

- ``paths``: the readings of a request path. ``rules``: the configured rules, compiled once.
- ``conditions``: conditions in the query of a check.
- ``decide``: the ``Decider``, which combines rules and authentication chain.

The way of a decision: ``Decider.decide`` reads the credential, finds the rule for the method and every reading of the
path, and counts the credentials. Exactly one credential goes to the chain (``sidecar.authn.chain``); its Actor must
then meet the requirements of the rule. The verdict is ``Allow`` or ``Deny``. It is an awaitable if an authenticator has
to wait: only then the deadline of the decision applies, and the budget of requests without a verdict.

What every change has to keep:

- Only ``Allow`` carries an identity. Every other outcome of the chain is ``Deny``, except on public paths, where the
  request passes without an identity and without its credential.
- If a path has several readings, the strictest verdict applies.
- A bad credential never becomes a guest. Two credentials are rejected; none of them is chosen.
- A request that needs no waiting is decided also if the budget is used up.
"""
