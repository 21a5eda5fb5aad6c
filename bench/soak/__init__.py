"""The sidecar under mixed traffic while its dependencies fail; every response is compared with the expected ones."""
