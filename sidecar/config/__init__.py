"""YAML in, frozen Settings out. Start-up only: nothing in here runs while a request waits."""
