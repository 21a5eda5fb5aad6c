"""What ``sidecar demo`` puts around a real sidecar: an identity provider and a service that shows what it is told."""
