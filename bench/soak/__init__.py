"""The sidecar under mixed traffic while everything around it fails; every answer is compared with what it should be."""
