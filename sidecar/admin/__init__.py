"""The operations listener: health, metrics, effective configuration. Read-only."""
