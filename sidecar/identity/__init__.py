"""Actors, claims and the request context: pure values and the rules that create them. No I/O."""
