"""Browser sessions: records in the store, what they contain, and the rules for their time and their requests.

A session is a record of kind ``browser``. The record holds the digest of the cookie's value and, sealed, the claims of
the person who has logged in; the value itself is never stored.
"""
