"""The token endpoint without HTTP: clients, workloads of other platforms, grants, and the tokens that they get."""
