"""The configuration for people and tools: effective values, JSON Schema, reference pages."""
