"""Output of the configuration: effective values, JSON Schema, reference pages."""
