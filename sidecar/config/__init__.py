"""YAML in, frozen Settings out. Runs at startup and on reload, never during a request."""
