"""``python -m tests.model``: search every state that the protocol can come to, within bounds, for a broken promise.

``--quick`` is what ``make test`` does too. The whole takes some minutes.
"""

import argparse
import sys
import time

from tests.model.search import QUICK, WHOLE, search


def main() -> int:
    """Exit code 0: every promise held in every state."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller bounds")
    options = parser.parse_args()
    for name, bounds in (QUICK if options.quick else WHOLE).items():
        started = time.monotonic()
        states, found = search(bounds)
        sys.stdout.write(f"{name}: {states} states, {time.monotonic() - started:.0f} s: {found or 'all right'}\n")
        sys.stdout.flush()
        if found:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
