"""``python -m bench``: the sidecar beside Envoy's jwt_authn, each on one core, in interleaved rounds."""
