"""Who is asking: authenticators, and the chain that asks them in order."""
