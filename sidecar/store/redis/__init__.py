"""The store in Redis: client, scripts, encoding."""
