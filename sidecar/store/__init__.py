"""Persistent state: token records and revocation entries in one store with one change log, and its local replica.

- ``base``: the contract (``Store``), and the values that it exchanges. ``record``: a token record or bot name.
  ``revocation_entry``: an entry of the revocation list. ``timestamps``: RFC 3339. ``open``: selects the store.
- ``sqlite/``, ``redis/``: the two implementations.
- ``replica/``: the copy in memory that requests are decided by.

A change is written as one ``Batch``, which appends to the log. Each process follows the log: it loads ``snapshot`` and
then calls ``follow`` from its position. A reader whose position left the log gets ``GapError`` and loads a new
snapshot. Requests read the replica only; its age is checked by the revocation gate.

What every change has to keep:

- A batch is written completely or not at all. Writing it again is harmless, so a caller may retry after a time-out.
- ``write`` returns after the data is durable. A revocation that was confirmed is not lost.
- Both implementations pass the same contract tests. Each method has a time limit.
- Entries that cannot be decoded are skipped and counted: a newer version may run against the same store.
- Records contain a hash of the token, never the token.
"""
