"""The operations listener: health, metrics, effective configuration. It reads states, it changes nothing."""
