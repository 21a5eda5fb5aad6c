"""The authenticators: one file for each kind of credential."""
