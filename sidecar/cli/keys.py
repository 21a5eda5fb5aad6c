"""``sidecar keys generate``: a key pair in files, and the configuration that uses it."""

import argparse
import json
import re
from pathlib import Path

from sidecar.keys.key_files import KEY_TYPES, generate, write_pair
from sidecar.keys.signing import thumbprint

_KID = re.compile(r"[\x21-\x7e]{1,128}")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    keys = subparsers.add_parser("keys", help="own signing keys").add_subparsers(metavar="ACTION", required=True)
    parser = keys.add_parser("generate", help="make a key pair and print the configuration block to paste")
    parser.add_argument("--dir", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)")
    parser.add_argument("--type", choices=KEY_TYPES, default="RS256", help="algorithm (default: RS256)")
    parser.add_argument("--kid", type=_kid, default=None, help="key id (default: the key's thumbprint)")
    parser.set_defaults(run=run_generate)


def run_generate(options: argparse.Namespace) -> int:
    """Write the four files. What is printed is YAML as a whole: the paths are comments, the block is to paste."""
    key = generate(options.type)
    paths = write_pair(options.dir.resolve(), key)
    for path in paths.values():
        print(f"# {path}")
    print(
        "jwtTokenConfiguration:\n"
        f"  rsapublicKeyFilePath: {json.dumps(str(paths['public_key.der']))}\n"
        f"  rsaprivateKeyFilePath: {json.dumps(str(paths['private_key.der']))}\n"
        '  jwtissuer: "auth-sidecar"   # iss of your tokens: choose a name of your own\n'
        f"  keyId: {json.dumps(options.kid or thumbprint(key.public_key()))}"
    )
    return 0


def _kid(text: str) -> str:
    if not _KID.fullmatch(text):
        raise argparse.ArgumentTypeError("must be 1 to 128 visible ASCII characters")
    return text
