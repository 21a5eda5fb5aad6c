"""The JSON API on the public listener, below the reserved prefix."""
