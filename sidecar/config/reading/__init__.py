"""From files and environment variables to typed values: YAML, placeholders, units, URLs."""
