"""Tokens that this sidecar issues: mint, records, lifetimes, usage, bots."""
