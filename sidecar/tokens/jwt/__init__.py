"""Any JWT: parse, verify, cache. Pure: no I/O, no store."""
