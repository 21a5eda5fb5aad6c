"""The environment of ``sidecar demo``: an identity provider and an echo upstream around a real sidecar."""
