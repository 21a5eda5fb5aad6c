"""OpenMetadata's and DataHub's own configuration files, variables and rule presets."""
