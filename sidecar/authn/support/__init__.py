"""What several authenticators share: credential caches, dependency probes, password checks, token parsing."""
