"""The composition root: Settings in, running listeners out. The only part that knows everyone."""
