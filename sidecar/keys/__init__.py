"""Keys: other issuers' (fetched, cached, refreshed) and our own (loaded, published)."""
