"""The public listener: check endpoints, the forwarding proxy, identity headers."""
