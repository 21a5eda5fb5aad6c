"""``sidecar config``: the schema of the configuration, and the effective configuration."""

import argparse
import json

from sidecar.cli.options import add_config_option, load_settings
from sidecar.config.output.schema import json_schema
from sidecar.config.output.show import as_yaml


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    actions = subparsers.add_parser("config", help="print the effective configuration or the schema").add_subparsers(
        metavar="ACTION", required=True
    )
    schema = actions.add_parser("schema", help="print the JSON Schema of the configuration file")
    schema.set_defaults(run=run_schema)
    show = actions.add_parser("show", help="print the effective configuration with sources; secrets are masked")
    add_config_option(show)
    show.set_defaults(run=run_show)


def run_schema(options: argparse.Namespace) -> int:
    """Print the JSON Schema."""
    print(json.dumps(json_schema(), indent=2))
    return 0


def run_show(options: argparse.Namespace) -> int:
    """Print the effective configuration as YAML."""
    print(as_yaml(load_settings(options)), end="")
    return 0
