"""``python -m bench``: compares the sidecar with Envoy's jwt_authn, each on one core, in interleaved rounds."""
